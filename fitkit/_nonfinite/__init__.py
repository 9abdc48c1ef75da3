"""Where a NaN or an infinity came from."""

from fitkit._nonfinite.advice import ADVICE as ADVICE
from fitkit._nonfinite.checks import NonFiniteError as NonFiniteError
from fitkit._nonfinite.checks import debug_nan_check as debug_nan_check
from fitkit._nonfinite.checks import zero_nan_check as zero_nan_check
from fitkit._nonfinite.find import find_from as find_from
from fitkit._nonfinite.find import find_nonfinite as find_nonfinite
from fitkit._nonfinite.labels import name_inputs as name_inputs
from fitkit._nonfinite.report import NonFiniteReport as NonFiniteReport
