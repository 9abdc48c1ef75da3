"""What a fit says, and whether it is true."""

from fitkit._result.assess import assess as assess
from fitkit._result.assessment import Assessment as Assessment
from fitkit._result.assessment import Kind as Kind
from fitkit._result.make_result import make_result as make_result
from fitkit._result.result import Result as Result
from fitkit._result.result import written as written
