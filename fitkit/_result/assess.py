"""One assessment of where a fit stands: at a minimum, or where else."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, PyTree

from fitkit._fisher import combination, simplest_basis, split_params
from fitkit._optimisers import Bounds
from fitkit._paths import Paths, match_paths, named_elements, named_leaves
from fitkit._result.assessment import Assessment, Kind
from fitkit._result.curvature import STRONG
from fitkit._result.derivatives import Derivatives
from fitkit._result.descend import descend
from fitkit._result.local_model import DENSE, NOISES, LocalModel, local_model
from fitkit._result.rounding import coarsest_eps

# Bates and Watts (Technometrics 23, 179, 1981): a minimum is reached when the step to it is a
# thousandth of a standard error, for which rounding the result does not matter any more.
CLOSE = 1e-3
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


def assess(
    residuals: Callable[[PyTree, Any], PyTree] | None = None,
    params: PyTree = None,
    args: Any = None,
    *,
    loss: Callable[[PyTree, Any], Any] | None = None,
    frozen: Paths = (),
    bounds: Bounds | None = None,
    gain: float | None = None,
) -> Assessment:
    """Find out where a fit stands, from the function, its derivatives and what the fit gained.

    A pure function that knows nothing of the optimiser; what it compiles it compiles once for a
    function object and shapes, and any thread may call it.

    Parameters
    ----------
    residuals, params, args, loss, frozen
        As for `fisher_matrix`.
    bounds
        Limits that the fit keeps to.
    gain
        By how much the loss is lower than where the fit first began; None if that is not known.
        Nothing else tells the unit of a loss.

    Raises
    ------
    TypeError, ValueError
        Of parameters that are no finite real numbers.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> assess(loss=lambda p, args: p["x"] * p["y"], params={"x": 0.0, "y": 0.0}).kind.value
    'saddle'
    """
    function: Any = residuals if loss is None else loss
    squares = loss is None
    if all_frozen(params, frozen):
        free, held = split_params(params, ())
        left_out = Derivatives(function, squares, free, held, args).no_data()
        return Assessment(Kind.FROZEN, left_out=int(left_out.sum()) if squares else 0)
    free, held = split_params(params, frozen)
    derivatives = Derivatives(function, squares, free, held, args)
    labels = named_elements(free)
    x = derivatives.x
    values, gradient = derivatives.at(x)
    if not (np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))):
        return Assessment(Kind.NONFINITE, step=np.zeros_like(x))
    left_out = int(derivatives.no_data().sum()) if squares else 0
    data = values.size - left_out if squares else 0

    lower, upper = limits_of(bounds, labels)
    unit = (float(values @ values) / max(data, 1)) ** 0.5 if squares else _unit_of_loss(gain)
    blocked = _blocked(x, gradient, lower, upper, CLOSE * (unit or 0.0))
    at_bound = tuple(label for label, hit in zip(labels, blocked, strict=True) if hit)
    still = np.zeros_like(x)
    if blocked.all():
        return Assessment(Kind.MINIMUM, 0.0, 0.0, still, at_bound, left_out=left_out)
    eps = float(coarsest_eps(function, free, held, args))
    model = local_model(derivatives, ~blocked, eps, data)
    if model is None:
        return Assessment(Kind.NONFINITE, step=still, at_bound=at_bound, left_out=left_out)

    if squares:
        unit = model.scatter
    elif gain is not None and gain <= NOISES * eps * abs(float(values.sum())):
        unit = None
    quadratic = model.quadratic
    moves = quadratic.vectors @ quadratic.newton
    step = still.copy()
    step[~blocked] = moves
    places = np.abs(x[~blocked])
    near = _is_near(model, moves, places, unit, eps)
    # So late that there is hardly anything left to gain, whatever its unit.
    late = near or (
        not squares and gain is not None and quadratic.decrement**2 <= CLOSE**2 * 2 * max(gain, 0)
    )
    ratio = _ratio(derivatives, ~blocked, model, lower, upper)
    kind = _kind(model, near, late, ratio, unit, squares)
    if squares and DEGENERATE < ratio <= RUNAWAY and _is_spent(model, values, gain, eps):
        kind = Kind.MET
    if kind is Kind.FLAT and _has_effect_elsewhere(derivatives, ~blocked, model, lower, upper):
        kind = Kind.PLATEAU
    names = tuple(label for label, hit in zip(labels, blocked, strict=True) if not hit)
    scale = model.spread if squares and not model.met else unit or 1.0
    distance = model.away / scale
    if kind in (Kind.DISTANT, Kind.CONCAVE, Kind.RUNAWAY) and FAR < distance and x.size <= DENSE:
        way = descend(derivatives, ~blocked, lower, upper, data)
        if way is not None:
            step, distance = way
    return Assessment(
        kind=kind,
        distance=distance,
        floor=model.floor / scale,
        step=step,
        at_bound=at_bound,
        flat=_flat(model, names, eps) if kind in (Kind.FLAT, Kind.MET) else (),
        coarse=tuple(
            name
            for name, fine in zip(names, model.stiffness * places * eps / 2 / scale, strict=True)
            if fine > COARSE
        )
        if kind is Kind.COARSE
        else (),
        left_out=left_out,
        unit_known=squares or unit is not None,
    )


def _kind(
    model: LocalModel,
    near: bool,
    late: bool,
    ratio: float,
    unit: float | None,
    squares: bool,
) -> Kind:
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


def _is_spent(
    model: LocalModel, values: Float[np.ndarray, " m"], gain: float | None, eps: float
) -> bool:
    """Whether residuals that go to zero, but not as at a parabola's end, have gone all the way.

    Such a zero is approached by a factor at every step and never reached: until what is left is
    the rounding of what there was. A Newton step takes away more than half of what is left, or
    it would not be going to zero.
    """
    left = float(values @ values)
    if gain is None or 2 * model.quadratic.decrement**2 < left:
        return False
    return left <= (NOISES * eps) ** 2 * (left + 2 * gain)


def _is_near(
    model: LocalModel,
    moves: Float[np.ndarray, " n"],
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
    blur = (quadratic.vectors[:, up] * (model.noise / quadratic.curvatures)[up]) ** 2
    digits = max(8 * eps, min(eps**0.5, DIGITS)) * places
    return bool(np.all(np.abs(moves) <= digits + NOISES * np.sqrt(blur.sum(axis=1))))


def _ratio(
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


def _has_effect_elsewhere(
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


def _flat(model: LocalModel, names: tuple[str, ...], eps: float) -> tuple[str, ...]:
    scale = np.where(model.stiffness > 0, model.stiffness, 1)
    rows = model.quadratic.vectors[:, model.quadratic.signs == 0].T * scale
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return tuple(combination(row, scale, names) for row in simplest_basis(rows, eps**0.5))


def _unit_of_loss(gain: float | None) -> float | None:
    """One standard error of a log-likelihood, or a fit that gained less is its own yardstick."""
    return None if gain is None or gain <= 0 else min(1.0, 2 * gain) ** 0.5


def _blocked(
    x: Float[np.ndarray, " n"],
    gradient: Float[np.ndarray, " n"],
    lower: Float[np.ndarray, " n"],
    upper: Float[np.ndarray, " n"],
    close: float,
) -> Bool[np.ndarray, " n"]:
    """Which elements a limit holds back: on it, or so near that all the gain is below a minimum's.

    Half the square of `close` is what a step to the minimum may still gain.
    """
    with np.errstate(invalid="ignore"):
        low = (x <= lower) | ((x - lower) * gradient <= close**2 / 2)
        high = (x >= upper) | ((x - upper) * gradient <= close**2 / 2)
    return (low & (gradient > 0)) | (high & (gradient < 0))


def limits_of(
    bounds: Bounds | None, labels: tuple[str, ...]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Lower and upper limits of the elements named."""
    if bounds is None:
        return np.full(len(labels), -np.inf), np.full(len(labels), np.inf)
    names = named_elements(bounds.lower)
    pairs = bounds.by_path().values()
    low, high = (np.concatenate([np.ravel(pair[i]) for pair in pairs]) for i in (0, 1))
    places = [names.index(label) for label in labels]
    return low[places].astype(float), high[places].astype(float)


def all_frozen(params: PyTree, frozen: Paths) -> bool:
    """Whether no parameter is left to estimate."""
    leaves = {path: leaf for path, leaf in named_leaves(params).items() if not callable(leaf)}
    patterns = tuple(frozen) if isinstance(frozen, set | frozenset) else frozen
    return bool(patterns) and len(match_paths(patterns, leaves, "result")) == len(leaves)
