"""Whether residuals scatter as their errors say."""

import math

from fitkit._format import number

# Five standard deviations: one false alarm in three million fits, as is the custom in physics.
SIGNIFICANT = 5.0
# Less than a hundredth of an error is of no consequence, however significant.
MATTERS = 0.01
# Where the scatter itself sets the errors, σ was known to be doubtful: twice what was said is not.
FAR = 2.0


def deviation(chi_square: float, freedom: float) -> float:
    """By how many standard deviations chi-square is off its expectation.

    The cube root of chi-square is nearly normal, for three degrees of freedom already (E. B.
    Wilson and M. M. Hilferty, Proc. Natl. Acad. Sci. 17, 684, 1931).

    >>> round(deviation(100.0, 100), 2), round(deviation(200.0, 100), 1)
    (0.05, 5.6)
    """
    variance = 2 / (9 * freedom)
    return (math.cbrt(chi_square / freedom) - (1 - variance)) / math.sqrt(variance)


def goodness_warning(
    chi_square: float, freedom: float, absolute_sigma: bool, with_priors: bool = False
) -> str | None:
    """Build the warning of a chi-square that its degrees of freedom do not explain, or None."""
    if freedom <= 0:
        return "there are no more residuals than parameters: chi-square says nothing"
    off = deviation(chi_square, freedom)
    reduced = chi_square / freedom
    factor = math.sqrt(reduced)
    if abs(off) <= SIGNIFICANT or abs(factor - 1) < MATTERS:
        return None
    beyond = (
        f"reduced chi-square is {number(reduced, 3)}, {number(abs(off), 2)} standard deviations "
        "from 1"
    )
    if absolute_sigma:
        cure = (
            f"it is about {number(factor, 3)} times what was given"
            if with_priors
            else "result(absolute_sigma=False) takes it from the scatter"
        )
        return f"{beyond}: either the model is wrong or σ is. If σ is unknown, {cure}"
    if factor <= FAR:
        return None
    return (
        f"{beyond}: errors are scaled up {number(factor, 3)} times. If the residuals were divided "
        "by about the right σ, the model is wrong or the fit is in a wrong minimum"
    )
