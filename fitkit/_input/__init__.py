"""What users pass: converted where that is right, and refused in plain words where not."""

from fitkit._input.beside_loss import LossFunction as LossFunction
from fitkit._input.beside_loss import check_aux as check_aux
from fitkit._input.beside_loss import split_aux as split_aux
from fitkit._input.data import converted as converted
from fitkit._input.data import is_traceable as is_traceable
from fitkit._input.data import shortened as shortened
from fitkit._input.keywords import named_arguments as named_arguments
from fitkit._input.on_disk import OnDisk as OnDisk
from fitkit._input.on_disk import is_on_disk as is_on_disk
from fitkit._input.on_disk import left_on_disk as left_on_disk
from fitkit._input.on_disk import read_whole as read_whole
from fitkit._input.on_disk import stand_ins as stand_ins
from fitkit._input.optimisers import OptaxLike as OptaxLike
from fitkit._input.optimisers import as_optax as as_optax
from fitkit._input.optimisers import check_optimiser as check_optimiser
from fitkit._input.parameters import checked_params as checked_params
from fitkit._input.parameters import split_args as split_args
from fitkit._input.slips import explained as explained
from fitkit._input.slips import outcome as outcome
from fitkit._input.user_code import FITKIT as FITKIT
from fitkit._input.user_code import NUMERICS as NUMERICS
from fitkit._input.user_code import is_user_file as is_user_file
from fitkit._input.user_code import package_of as package_of
from fitkit._input.user_code import place_text as place_text
from fitkit._input.user_code import shown_file as shown_file
