"""Where a NaN or an infinity was born."""

from fitkit._nonfinite._find import find_nonfinite as find_nonfinite
from fitkit._nonfinite._report import NonFiniteReport as NonFiniteReport
