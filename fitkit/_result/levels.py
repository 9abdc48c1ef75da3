"""Levels of confidence: how many standard errors, and by how much chi-square may rise."""

import math
from statistics import NormalDist


def deviations(level: float, event: str) -> float:
    """Return the number of standard errors of a level.

    Parameters
    ----------
    level
        The probability of a normal variable to lie within them, below 1; or their number.
    event
        Who asks, to open the error with.

    Raises
    ------
    ValueError
        If the level is not a positive number.

    Examples
    --------
    >>> deviations(2, "example"), round(deviations(0.9545, "example"), 3)
    (2.0, 2.0)
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < math.inf:
        raise ValueError(
            f"{event}: level={level!r}; must be a probability between 0 and 1, such as 0.9545, or "
            "a number of standard errors, such as 2."
        )
    return float(level) if level >= 1 else NormalDist().inv_cdf((1 + level) / 2)


def joint_rise(level: float, event: str) -> float:
    """Compute the rise of chi-square within which two parameters lie with a probability.

    The quantile of the chi-square distribution of two degrees of freedom; for one parameter it is
    the square of `deviations`. Parameters and errors are the same as there.

    Examples
    --------
    >>> round(joint_rise(0.6827, "example"), 3), round(joint_rise(2, "example"), 2)
    (2.296, 6.18)
    """
    outside = math.erfc(deviations(level, event) / math.sqrt(2))
    # Further out than 38 standard errors, this is less than the least of all numbers.
    return -2 * math.log(max(outside, 5e-324))
