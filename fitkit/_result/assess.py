"""One assessment of where a fit stands: at a minimum, or where else."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, PyTree

from fitkit._fisher import combination, simplest_basis, split_params
from fitkit._optimisers import Bounds, blocked
from fitkit._paths import Paths, is_static, match_paths, named_elements, named_leaves
from fitkit._result.assessment import CLOSE, Assessment, Kind
from fitkit._result.classify import (
    COARSE,
    DEGENERATE,
    FAR,
    RUNAWAY,
    has_effect_elsewhere,
    is_near,
    is_spent,
    kind_of,
    step_ratio,
)
from fitkit._result.derivatives import Derivatives
from fitkit._result.descend import descend
from fitkit._result.local_model import DENSE, NOISES, LocalModel, local_model
from fitkit._result.rounding import coarsest_eps

# Where there may be a minimum further on.
FOLLOWED = frozenset({Kind.DISTANT, Kind.CONCAVE, Kind.RUNAWAY})
# Where eigenvectors have no curvature.
LEVEL = frozenset({Kind.FLAT, Kind.MET, Kind.SLOPING, Kind.PLATEAU})


# Trial points may overflow, which shows in what comes of them.
@np.errstate(over="ignore", under="ignore", invalid="ignore")
def assess(
    residuals: Callable[[PyTree, Any], PyTree] | None = None,
    params: PyTree = None,
    args: Any = None,
    *,
    loss: Callable[[PyTree, Any], Any] | None = None,
    frozen: Paths = (),
    bounds: Bounds | None = None,
    gain: float | None = None,
    follow: bool = True,
    linearised: tuple[Any, Any] | None = None,
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
    follow
        Whether to follow the loss down to its minimum, for the distance of a point that is far
        from it: some Jacobians more. Else it is the length of one Newton step.
    linearised
        The residuals and their Jacobian, transposed, of the free elements; None: not known yet.

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
    derivatives = Derivatives(function, squares, free, held, args, linearised)
    labels = named_elements(free)
    x = derivatives.x
    values, gradient = derivatives.at(x)
    if not (np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))):
        return Assessment(Kind.NONFINITE, step=np.zeros_like(x))
    left_out = int(derivatives.no_data().sum()) if squares else 0
    data = values.size - left_out if squares else 0

    lower, upper = limits_of(bounds, labels)
    unit = (float(values @ values) / max(data, 1)) ** 0.5 if squares else _unit_of_loss(gain)
    held_back = _held_back(x, gradient, lower, upper, CLOSE * (unit or 0.0))
    at_bound = tuple(label for label, hit in zip(labels, held_back, strict=True) if hit)
    still = np.zeros_like(x)
    if held_back.all():
        return Assessment(Kind.MINIMUM, 0.0, 0.0, still, at_bound, left_out=left_out)
    eps = float(coarsest_eps(function, free, held, args))
    model = local_model(derivatives, ~held_back, eps, data)
    if model is None:
        return Assessment(Kind.NONFINITE, step=still, at_bound=at_bound, left_out=left_out)

    if squares:
        unit = model.scatter
    elif gain is not None and gain <= NOISES * eps * abs(float(values.sum())):
        unit = None
    kind = _kind(derivatives, model, ~held_back, (lower, upper), unit, gain, eps)

    names = tuple(label for label, hit in zip(labels, held_back, strict=True) if not hit)
    scale = unit or 1.0
    if squares:
        scale = 1.0 if model.met else model.spread
    step, distance = still.copy(), model.away / scale
    step[~held_back] = model.quadratic.vectors @ model.quadratic.newton
    if follow and kind in FOLLOWED and distance > FAR and x.size <= DENSE:
        way = descend(derivatives, ~held_back, lower, upper, data)
        step, distance = (step, distance) if way is None else way
    sloping = gradient[~held_back] if kind is Kind.SLOPING else None
    rounding = model.stiffness * np.abs(x[~held_back]) * eps / 2 / scale
    coarse = tuple(name for name, half in zip(names, rounding, strict=True) if half > COARSE)
    return Assessment(
        kind=kind,
        distance=distance,
        floor=model.floor / scale,
        step=step,
        at_bound=at_bound,
        flat=_in_words(model, names, eps, sloping) if kind in LEVEL else (),
        coarse=coarse if kind is Kind.COARSE else (),
        left_out=left_out,
        unit_known=squares or unit is not None,
    )


def _kind(
    derivatives: Derivatives,
    model: LocalModel,
    movable: Bool[np.ndarray, " n"],
    bounds: tuple[np.ndarray, np.ndarray],
    unit: float | None,
    gain: float | None,
    eps: float,
) -> Kind:
    """Classify the point, with the evaluations elsewhere that this takes."""
    squares = derivatives.squares
    near = is_near(model, np.abs(derivatives.x[movable]), unit, eps)
    # So late that there is hardly anything left to gain, whatever its unit.
    late = near
    if not squares and gain is not None:
        late = late or model.quadratic.decrement**2 <= CLOSE**2 * 2 * max(gain, 0.0)
    ratio = step_ratio(derivatives, movable, model, *bounds)
    kind = kind_of(model, near, late, ratio, unit, squares)
    if squares and DEGENERATE < ratio <= RUNAWAY and is_spent(derivatives, model, gain, eps):
        return Kind.MET
    if kind is Kind.FLAT and has_effect_elsewhere(derivatives, movable, model, *bounds):
        return Kind.PLATEAU
    return kind


def _in_words(
    model: LocalModel,
    names: tuple[str, ...],
    eps: float,
    gradient: Float[np.ndarray, " n"] | None,
) -> tuple[str, ...]:
    """Name the eigenvectors without curvature; with a gradient, those of them that slope."""
    level = model.quadratic.signs == 0
    if not level.any():
        return ()
    scale = np.where(model.stiffness > 0, model.stiffness, 1)
    rows = model.quadratic.vectors[:, level].T * scale
    rows = simplest_basis(rows / np.linalg.norm(rows, axis=1, keepdims=True), eps**0.5)
    if gradient is not None:
        parts = rows / scale * gradient
        rows = rows[np.abs(parts.sum(axis=1)) > 8 * eps * np.abs(parts).sum(axis=1)]
    return tuple(combination(row, scale, names) for row in rows)


def _unit_of_loss(gain: float | None) -> float | None:
    """One standard error of a log-likelihood, or a fit that gained less is its own yardstick."""
    return None if gain is None or gain <= 0 else min(1.0, 2 * gain) ** 0.5


def _held_back(
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
        near_low = ((x - lower) * gradient <= close**2 / 2) & (gradient > 0)
        near_high = ((x - upper) * gradient <= close**2 / 2) & (gradient < 0)
    return np.asarray(blocked(x, gradient, lower, upper)) | near_low | near_high


def limits_of(
    bounds: Bounds | None, labels: tuple[str, ...]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Lower and upper limits of the elements named."""
    if bounds is None:
        return np.full(len(labels), -np.inf), np.full(len(labels), np.inf)
    lower, upper = bounds.of_elements(labels)
    return lower.astype(float), upper.astype(float)


def all_frozen(params: PyTree, frozen: Paths) -> bool:
    """Whether no parameter is left to estimate."""
    leaves = {path: leaf for path, leaf in named_leaves(params).items() if not is_static(leaf)}
    patterns = tuple(frozen) if isinstance(frozen, set | frozenset) else frozen
    return bool(patterns) and len(match_paths(patterns, leaves, "result")) == len(leaves)
