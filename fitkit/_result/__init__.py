"""What a fit says, and whether it is true."""

from fitkit._result.assess import make_result as make_result
from fitkit._result.result import Result as Result
from fitkit._result.result import written as written
