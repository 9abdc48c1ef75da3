"""Many systems of one kind, fitted side by side."""

from fitkit._many.axes import axes_of as axes_of
from fitkit._many.completion import Completion as Completion
from fitkit._many.engine import Engine as Engine
from fitkit._many.fit_many import fit_many as fit_many
from fitkit._many.independent import Independence as Independence
from fitkit._many.independent import check_independent as check_independent
from fitkit._many.many import Many as Many
from fitkit._many.record import KINDS as KINDS
from fitkit._many.systems import Systems as Systems
from fitkit._many.systems import make_systems as make_systems
