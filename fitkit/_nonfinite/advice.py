"""A line of advice for every family of failure, without the cures that are in force already."""

import dataclasses
from typing import NamedTuple

from fitkit._format import number
from fitkit._nonfinite.report import NonFiniteReport


class InForce(NamedTuple):
    """What a fit does already against values that are not finite.

    Attributes
    ----------
    bounded
        Whether the parameter that caused it has a bound.
    on_bound
        The bound that its value sits on; None if it sits on none.
    limited
        Whether the optimiser limits the length of its step.
    """

    bounded: bool = False
    on_bound: float | None = None
    limited: bool = False


NOTHING = InForce()

_DOUBLE = ("float64", "complex128")

# What is wrong, and the cures.
_CURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sqrt at 0": (
        "the slope of sqrt is infinite at 0",
        (
            "keep the argument away from 0, as in sqrt(x**2 + eps**2)",
            "choose a safe argument with where before the sqrt",
        ),
    ),
    "sqrt of a negative number": (
        "keep the argument positive",
        ("fit its logarithm", "clip it", "choose a safe argument with where before the sqrt"),
    ),
    "log": (
        "the argument of the log reached 0 or less",
        (
            "fit the logarithm of the parameter instead",
            "keep it positive with softplus",
            "set a bound above 0",
        ),
    ),
    "division by zero": (
        "the denominator is 0",
        (
            "start elsewhere",
            "fit its logarithm",
            "choose a safe denominator with where before dividing",
        ),
    ),
    "where-trap": (
        "where hides the value but not its gradient (0 × inf is NaN)",
        (
            "choose a safe argument first, as in x = where(ok, x, 1), then compute with it, then "
            "mask with where again",
        ),
    ),
    "overflow": (
        "the result is larger than the dtype can hold",
        (
            "work with logarithms (logsumexp, log-likelihoods)",
            "rescale the units",
            "use float64",
        ),
    ),
    "power": (
        "a fractional power of a negative number is NaN",
        ("keep the base positive by fitting its logarithm", "set a bound of 0"),
    ),
    "power at 0": (
        "the slope of a power below 1 is infinite at 0",
        ("keep the base away from 0 by fitting its logarithm", "add a small constant"),
    ),
    "domain": (
        "the argument lies on or beyond the edge of the function's domain",
        (
            "map the parameter into the open interval with tanh or sigmoid",
            "clip the argument just inside it",
        ),
    ),
    "arctan2 at the origin": (
        "the angle has no slope at the origin",
        ("start elsewhere", "fit the real and imaginary part instead of the angle"),
    ),
    "degenerate eigenvalues": (
        "eigenvectors have no derivative where eigenvalues are equal",
        (
            "break the degeneracy with a small distinct diagonal",
            "use only functions of the eigenvalues",
        ),
    ),
    "singular matrix": (
        "the matrix is singular or not positive definite",
        ("add a small multiple of the identity", "constrain the parameters that make it so"),
    ),
    "data": (
        "mask or repair this element of the data before the fit, and choose a safe value with "
        "where before computing with it",
        (),
    ),
    "input": ("this input was not finite to begin with: repair it before calling", ()),
    "learning rate": (
        "the parameters have run away",
        ("lower the learning rate", "limit the step, and resume from the last finite state"),
    ),
    "without effect": (
        "the parameter has no effect on the loss, so its gradient is 0 and the optimiser divides "
        "by it",
        ("freeze the parameter", "give the optimiser its eps back"),
    ),
    "index": (
        "the index is out of bounds, where JAX fills in NaN",
        ("check it", "use mode='clip'"),
    ),
    "infinities": (
        "an infinity met another or a zero",
        ("find where it came from, and mask it there",),
    ),
    "derivative": (
        "the derivative is infinite or undefined here",
        ("start elsewhere", "rewrite the expression so that it is smooth at this point"),
    ),
    "other": ("look at the operands above, and keep them where the operation is defined", ()),
}

# Families in which a parameter on its bound is where the function ends.
_AT_AN_EDGE = {
    *("sqrt at 0", "log", "division by zero", "power at 0", "domain", "arctan2 at the origin"),
    "derivative",
}


def advice(family: str, dtype: str = "", in_force: InForce = NOTHING) -> str:
    """Write what to try, without what is done already.

    Parameters
    ----------
    family
        The kind of failure, as in a report.
    dtype
        That of the value that went bad.
    in_force
        What the fit does already.
    """
    wrong, cures = _CURES[family]
    kept = [cure for cure in cures if not _is_in_force(cure, dtype, in_force)]
    if family == "learning rate" and in_force.limited:
        kept = ["lower the learning rate", "lower the limit of the step, and resume from there"]
    if in_force.on_bound is not None and family in _AT_AN_EDGE:
        bound = number(in_force.on_bound)
        wrong = f"the parameter sits on its bound of {bound}, where the model ends"
        kept = ["move the bound a little inside", *(c for c in kept if "start" not in c)]
    if not kept:
        return wrong
    return f"{wrong}: {', '.join(kept[:-1])}{', or ' if len(kept) > 1 else ''}{kept[-1]}"


def advised(report: NonFiniteReport, in_force: InForce) -> NonFiniteReport:
    """Return a report with the advice for a fit that does some things already."""
    return dataclasses.replace(report, advice=advice(report.family, report.dtype, in_force))


def _is_in_force(cure: str, dtype: str, in_force: InForce) -> bool:
    return (cure == "use float64" and dtype in _DOUBLE) or (
        cure.startswith("set a bound") and in_force.bounded
    )
