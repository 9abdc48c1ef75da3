"""Many systems of one kind, fitted side by side."""

from fitkit._many.fit_many import fit_many as fit_many
from fitkit._many.many import Many as Many
