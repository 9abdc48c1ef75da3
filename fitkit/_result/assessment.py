"""What an assessment of a fit says: a record."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from jaxtyping import Float

from fitkit._format import number


class Kind(StrEnum):
    """What a point is to the loss."""

    MINIMUM = "minimum"
    MET = "met"  # the data are, to rounding
    SETTLED = "settled"  # no slope and no negative curvature found, among too many to see all
    FLAT = "flat"  # a minimum but for eigenvectors without any effect
    DISTANT = "distant"  # from a minimum
    COARSE = "coarse"  # rounding hides where the minimum is
    SADDLE = "saddle"
    CONCAVE = "concave"
    SLOPING = "sloping"  # without curvature
    PLATEAU = "plateau"  # neither slope nor curvature
    RUNAWAY = "running away"
    DEGENERATE = "degenerate"  # flatter than any parabola
    NONFINITE = "non-finite"
    FROZEN = "frozen"  # all parameters are


# Bates and Watts (Technometrics 23, 179, 1981): a minimum is reached when the step to it is a
# thousandth of a standard error, for which rounding the result does not matter any more.
CLOSE = 1e-3
CONVERGED = frozenset({Kind.MINIMUM, Kind.MET, Kind.SETTLED, Kind.FLAT})


def _nothing() -> Float[np.ndarray, " n"]:
    return np.zeros(0)


@dataclass(frozen=True)
class Assessment:
    """Where a fit stands, whatever way it came there and why ever it stopped.

    Attributes
    ----------
    kind : Kind
        What the point is to the loss.
    distance : float
        Length of the Newton step in standard errors: the root of twice what it gains, over the
        scatter of the residuals; over 1, the σ of residuals or of a log-likelihood, where there
        is no scatter; and for a loss whose fit has gained less than a half, over the root of
        twice that. NaN where there is no such step.
    floor : float
        What rounding alone makes of `distance`.
    step : Float[np.ndarray, " n"]
        The Newton step in the parameters' units, of all elements that are not frozen; 0 on a
        bound.
    at_bound : tuple[str, ...]
        Elements on a bound that the loss pushes against.
    flat : tuple[str, ...]
        Eigenvectors without curvature, in words: without any effect, but where the loss slopes.
    coarse : tuple[str, ...]
        Elements whose unit of rounding is too coarse for their standard error.
    left_out : int
        Number of residuals that are no data: exactly zero, with derivatives of zero.
    unit_known : bool
        False for a loss on which the fit has gained nothing, and so says nothing of its unit.
    """

    kind: Kind
    distance: float = math.nan
    floor: float = math.nan
    step: Float[np.ndarray, " n"] = field(default_factory=_nothing)
    at_bound: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    coarse: tuple[str, ...] = ()
    left_out: int = 0
    unit_known: bool = True

    @property
    def converged(self) -> bool:
        """Whether the fit is at a minimum, as far as rounding shows."""
        return self.kind in CONVERGED

    @property
    def success(self) -> bool:
        """Whether it is, and every parameter that is not frozen has an effect."""
        return self.converged and not self.flat

    @property
    def message(self) -> str:
        """Where the fit stands, in a line."""
        # What is less is of no consequence, and its digits are those of rounding.
        close = self.distance < CLOSE
        away = f"{f'less than {CLOSE}' if close else number(self.distance, 2)} standard errors"
        match self.kind:
            case Kind.MINIMUM:
                return f"{away} from the minimum"
            case Kind.MET:
                return "the data are met to rounding"
            case Kind.SETTLED:
                return f"{away} from a point without slope, and no negative curvature found"
            case Kind.FLAT:
                count = len(self.flat)
                what = "one eigenvector" if count == 1 else f"{count} eigenvectors"
                return f"but the data leave {what} free"
            case Kind.DISTANT:
                return f"about {away} from the minimum"
            case Kind.COARSE:
                names = ", ".join(self.coarse) or "the model"
                return (
                    f"rounding of {names} hides the minimum: it is known to "
                    f"{number(self.floor, 2)} standard errors only"
                )
            case Kind.SADDLE:
                return "at a saddle point, from which the loss falls to two sides"
            case Kind.CONCAVE:
                return "where the loss curves downwards, no minimum is near"
            case Kind.SLOPING:
                names = ", ".join(self.flat)
                return f"the loss falls along {names} and does not curve: it has no minimum there"
            case Kind.PLATEAU:
                names = ", ".join(self.flat) or "no parameter"
                verb = "has no effect here and" if self.flat else "has an effect here, where it"
                return f"on a plateau: {names} {verb} may have one elsewhere"
            case Kind.RUNAWAY:
                return "the loss falls ever further out: there may be no minimum"
            case Kind.DEGENERATE:
                return "the loss is flatter than a parabola here, and errors have no meaning"
            case Kind.NONFINITE:
                return "the loss or its derivatives are not finite"
            case Kind.FROZEN:
                return "all parameters are frozen"
