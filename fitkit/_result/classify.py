"""What kind of point it is: the tests that an assessment is made of."""

import numpy as np
from jaxtyping import Bool, Float

from fitkit._result.assessment import CLOSE, Kind
from fitkit._result.curvature import STRONG
from fitkit._result.derivatives import Derivatives
from fitkit._result.local_model import NOISES, LocalModel

# Rounding that moves the minimum by more than a tenth of a standard error adds to that error.
COARSE = 0.1
# The ratio of two successive Newton steps is 0 at an ordinary minimum, 1 - 1/(k - 1) at a zero of
# order k (2/3 for k = 4, or 1/2 where only JᵀJ steps, 1/3 between the two), 1 on an exponential
# tail and more on a power law.
DEGENERATE, RUNAWAY = 0.25, 0.9
# A slope that a Newton step takes down to this is no tail's: an exponential leaves 0.37, a fourth
# power 0.3, and 0.125 where only JᵀJ steps.
SHRUNK = 0.05
# Where a parameter without effect is looked at: nearer to 0, and on its other side.
ELSEWHERE = np.array([0.0, 1e-3, -1e-3, 0.1, -0.1, -1.0])
MOST_LOOKED_AT = 20
# Beyond, a Newton step may miss by more than a tenth (Nelson of NIST's problems is the worst).
FAR = 0.02
# Without any unit, half the digits of every parameter (six in single precision have no half).
DIGITS = 1e-6


def kind_of(
    model: LocalModel,
    near: bool,
    late: bool,
    ratio: float,
    unit: float | None,
    squares: bool,
) -> Kind:
    """Find the kind of a point.

    Parameters
    ----------
    model
        The loss around it.
    near, late
        Whether a Newton step changes nothing that matters; whether it gains next to nothing of
        what the fit has gained.
    ratio
        As `step_ratio` finds it.
    unit
        One standard error in the unit of the decrement; None where nothing tells.
    squares
        Whether the loss is made of residuals.
    """
    quadratic = model.quadratic
    if model.met:
        return Kind.MET
    down, level = quadratic.signs < 0, quadratic.signs == 0
    if down.any():
        slopes = np.where(model.significant, quadratic.slopes, 0)[down]
        aside = np.linalg.norm(slopes / np.sqrt(-quadratic.curvatures[down]))
        return Kind.SADDLE if near and aside <= CLOSE * (unit or 0.0) else Kind.CONCAVE
    if np.any(model.significant & level):
        return Kind.SLOPING
    if quadratic.proven and level.all():
        return Kind.PLATEAU
    if ratio > RUNAWAY and (late or unit is None or quadratic.decrement <= unit):
        return Kind.RUNAWAY
    if ratio > DEGENERATE and late:
        return Kind.DEGENERATE
    if not near:
        return Kind.DISTANT
    if unit is not None and model.floor > COARSE * (unit if squares else 1.0):
        return Kind.COARSE
    if not quadratic.proven:
        return Kind.SETTLED
    return Kind.FLAT if level.any() else Kind.MINIMUM


def is_spent(derivatives: Derivatives, model: LocalModel, gain: float | None, eps: float) -> bool:
    """Whether residuals that go to zero, but not as at a parabola's end, have gone all the way.

    Such a zero is approached by a factor at every step and never reached: until what is left is
    the rounding of what there was. A Newton step takes away more than half of what is left, or
    it would not be going to zero.
    """
    values, _ = derivatives.at(derivatives.x)
    left = float(values @ values)
    if gain is None or 2 * model.quadratic.decrement**2 < left:
        return False
    return left <= (NOISES * eps) ** 2 * (left + 2 * gain)


def is_near(
    model: LocalModel,
    places: Float[np.ndarray, " n"],
    unit: float | None,
    eps: float,
) -> bool:
    """Whether a Newton step changes nothing that matters or that rounding lets anyone see."""
    quadratic = model.quadratic
    if quadratic.decrement <= NOISES * model.floor:
        return True
    if unit is not None:
        return quadratic.decrement <= CLOSE * unit
    up = quadratic.signs > 0
    moves = quadratic.vectors @ quadratic.newton
    blur = (quadratic.vectors[:, up] * (model.noise[up] / quadratic.curvatures[up])) ** 2
    digits = max(8 * eps, min(eps**0.5, DIGITS)) * places
    return bool(np.all(np.abs(moves) <= digits + NOISES * np.sqrt(blur.sum(axis=1))))


def step_ratio(
    derivatives: Derivatives,
    movable: Bool[np.ndarray, " n"],
    model: LocalModel,
    lower: Float[np.ndarray, " n"],
    upper: Float[np.ndarray, " n"],
) -> float:
    """Length of the next Newton step relative to this one, along what a step leaves as it was.

    0 where nothing is left of the slopes beyond rounding, and where the step leads out of the
    domain.
    """
    quadratic, x = model.quadratic, derivatives.x

    def step_along(which: Bool[np.ndarray, " k"]) -> Float[np.ndarray, " n"]:
        step = np.zeros_like(x)
        step[movable] = quadratic.vectors @ np.where(which, quadratic.newton, 0)
        return step

    seen = model.significant & (quadratic.signs > 0)
    there = x + step_along(seen)
    if not seen.any() or np.any((there < lower) | (there > upper)):
        return 0.0
    slopes = derivatives.at(there)[1][movable] @ quadratic.vectors
    left = np.abs(slopes) > np.maximum(SHRUNK * np.abs(quadratic.slopes), NOISES * model.noise)
    if not np.any(seen & left):
        return 0.0
    # By themselves: what is left along a flat eigenvector may come of a step along a steep one.
    step = step_along(seen & left)
    there = x + step
    _, gradient, product = derivatives.product(there, step)
    slope, curvature = float(step @ gradient), float(step @ product)
    if derivatives.squares and quadratic.proven:
        # The next step by the same rule as this one: J alone, where it sets the curvature.
        changes = derivatives.jacobian(there)[1] @ step
        alone = float(changes @ changes)
        curvature = alone if alone >= STRONG * abs(curvature - alone) else curvature
    if not np.isfinite(slope + curvature) or slope >= 0:
        return 0.0
    return -slope / curvature if curvature > 0 else np.inf


def has_effect_elsewhere(
    derivatives: Derivatives,
    movable: Bool[np.ndarray, " n"],
    model: LocalModel,
    lower: Float[np.ndarray, " n"],
    upper: Float[np.ndarray, " n"],
) -> bool:
    """Whether a parameter without any effect here has one further off: a plateau, no minimum.

    An exponential that underflows has no derivative left, and looks like a parameter that is not
    in the model at all.
    """
    x = derivatives.x
    values = derivatives.at(x)[0]
    for j in np.flatnonzero(movable)[model.stiffness == 0][:MOST_LOOKED_AT]:
        for place in ELSEWHERE * max(abs(x[j]), 1.0):
            there = x.copy()
            there[j] = np.clip(place, lower[j], upper[j])
            if not np.array_equal(derivatives.at(there)[0], values):
                return True
    return False
