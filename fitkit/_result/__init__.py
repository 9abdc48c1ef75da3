"""What a fit says, and whether it is true.

How an assessment decides, and where its thresholds come from; each is a constant with its value in
the file named.

*There* (`assessment.CLOSE`). Bates and Watts (Technometrics 23, 179, 1981) stop where the step to
the minimum, measured in standard errors, is a thousandth: no rounding of a printed result shows
more. The length of a Newton step in that unit is the root of twice what it gains, the Newton
decrement (Boyd and Vandenberghe, Convex Optimization, section 9.5), which no unit of a parameter
changes.

*The unit*. One standard error is a gain of 1/2 of a log-likelihood, or of χ²/2 divided by the
scatter of the residuals, where they have one (`local_model.TANGENT`: where the parameters can take
the residuals away there is none). A loss that may be in any unit is measured by what the fit has
gained. Without either, digits decide (`classify.DIGITS`): half of those of the dtype, because a
sum of squares is flat to rounding within the root of it.

*Rounding* (`local_model.ROUNDINGS`, `NOISES`; `rounding.APART`, `PAIRS`). A gradient of values that
are rounded once each is known to a few units of rounding times what is summed; the noise of the
function itself is measured by second differences (Moré and Wild, SIAM J. Sci. Comput. 33, 1292,
2011). Nothing is said of a number within three standard deviations of rounding. A floor above a
tenth of a standard error (`classify.COARSE`) makes a sum in quadrature longer by half a percent:
beyond it the dtype, and not the data, limits the fit.

*Curvature* (`curvature.STRONG`, `LEAST`, `SUM`). A sum of n products is known to n units of
rounding of its largest term (Higham, Accuracy and Stability, section 3.1); less is zero. J is
believed over the second derivatives of the residuals unless they outweigh it, which at a zero of
order k, on an exponential tail and on a power law happens at known ratios.

*Tails and degenerate minima* (`classify.DEGENERATE`, `RUNAWAY`, `SHRUNK`). Of Newton steps towards
a zero of order k each is 1 - 1/(k - 1) of the one before; on an exponential tail they are equal, on
a power law they grow. The thresholds lie between those values.

*Goodness* (`goodness.SIGNIFICANT`, `MATTERS`). Chi-square is as good as normal by its cube root
(Wilson and Hilferty, Proc. Natl. Acad. Sci. 17, 684, 1931), and five standard deviations are the
custom of physics; what changes an error by less than a hundredth is not worth a word.

*Size* (`local_model.DENSE`, `matrix_free`). Whole Hessians as long as they take seconds; above, a
decrement by conjugate gradients and the lowest eigenvalue by Lanczos, which find negative curvature
but do not prove that there is none.
"""

from fitkit._result.apart import LEAST_FREEDOM as LEAST_FREEDOM
from fitkit._result.apart import Priors as Priors
from fitkit._result.assess import assess as assess
from fitkit._result.assessment import CLOSE as CLOSE
from fitkit._result.assessment import CONVERGED as CONVERGED
from fitkit._result.assessment import Assessment as Assessment
from fitkit._result.assessment import Kind as Kind
from fitkit._result.classify import COARSE as COARSE
from fitkit._result.classify import RUNAWAY as RUNAWAY
from fitkit._result.derived import DerivedFunction as DerivedFunction
from fitkit._result.derived import check_derived as check_derived
from fitkit._result.levels import deviations as deviations
from fitkit._result.levels import joint_rise as joint_rise
from fitkit._result.local_model import DENSE as DENSE
from fitkit._result.local_model import NOISES as NOISES
from fitkit._result.local_model import ROUGH as ROUGH
from fitkit._result.local_model import ROUNDINGS as ROUNDINGS
from fitkit._result.make_result import make_result as make_result
from fitkit._result.mean_loss import is_mean as is_mean
from fitkit._result.result import Result as Result
