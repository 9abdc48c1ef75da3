"""Where the next minimum is, by a few damped Newton steps: how far a fit has still to go.

Some standard errors away the loss is no parabola any more, and the length of one Newton step may
be wrong by any factor. The length of the way to the minimum, by the errors there, is not.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fitkit._fisher import scaled_columns
from fitkit._result.curvature import from_hessian
from fitkit._result.derivatives import Derivatives

# Enough from five standard errors away on the problems of NIST; each costs one Jacobian.
MOST_STEPS = 40
# The way is known to a fiftieth then.
NEAR = 0.02
# Damping relative to the curvature of scaled parameters, and its changes (D. W. Marquardt, J.
# SIAM 11, 431, 1963).
FIRST, LESS, MORE = 1e-3, 0.1, 10.0


class _Around(NamedTuple):
    """The loss around a point, along k vectors."""

    loss: float
    vectors: Float[np.ndarray, "n k"]
    curvatures: Float[np.ndarray, " k"]
    slopes: Float[np.ndarray, " k"]
    unit: float


def descend(
    derivatives: Derivatives,
    movable: Bool[np.ndarray, " n"],
    lower: Float[np.ndarray, " n"],
    upper: Float[np.ndarray, " n"],
    data: int,
) -> tuple[Float[np.ndarray, " n"], float] | None:
    """Find the step to the next minimum, and its length in the standard errors there.

    Parameters
    ----------
    derivatives
        Of residuals or a loss, at the point where to start.
    movable
        Which elements move; the others are on a bound.
    lower, upper
        Bounds of all elements.
    data
        Number of residuals that are data.

    Returns
    -------
    tuple or None
        None if no minimum was reached.
    """
    start = place = derivatives.x
    damping = 0.0
    around = _around(derivatives, place, movable, data)
    for _ in range(MOST_STEPS):
        if around is None:
            return None
        curvatures = np.abs(around.curvatures)
        if np.any(curvatures == 0):
            return None
        way = place - start
        inside = np.linalg.solve(around.vectors, way[movable]) - around.slopes / curvatures
        length = float(np.sqrt(curvatures @ inside**2))
        left = float(np.sqrt(np.sum(around.slopes**2 / curvatures)))
        if left <= NEAR * length and np.all(around.curvatures > 0):
            way[movable] = around.vectors @ inside
            return way, length / around.unit
        step = np.zeros_like(place)
        step[movable] = -around.vectors @ (around.slopes / (curvatures + damping))
        there = np.clip(place + step, lower, upper)
        if _loss(derivatives, there) < around.loss:
            place, damping = there, damping * LESS
            around = _around(derivatives, place, movable, data)
        else:
            damping = max(damping * MORE, FIRST)
    return None


def _loss(derivatives: Derivatives, x: Float[np.ndarray, " n"]) -> float:
    values, _ = derivatives.at(x)
    return float(0.5 * values @ values if derivatives.squares else values.sum())


def _around(
    derivatives: Derivatives,
    x: Float[np.ndarray, " n"],
    movable: Bool[np.ndarray, " n"],
    data: int,
) -> _Around | None:
    if not derivatives.squares:
        values, gradient = derivatives.at(x)
        hessian = derivatives.hessian(x)
        if not np.all(np.isfinite(hessian)):
            return None
        model = from_hessian(gradient[movable], hessian[np.ix_(movable, movable)], 0.0)
        return _Around(float(values.sum()), model.vectors, model.curvatures, model.slopes, unit=1.0)
    values, jacobian = derivatives.jacobian(x)
    if not np.all(np.isfinite(jacobian)):
        return None
    columns: Any = jacobian[:, movable]
    unit, scale = scaled_columns(columns)
    left, sizes, right = np.linalg.svd(unit, full_matrices=False)
    along = values @ left
    freedom = data - len(scale)
    across = float(values @ values - along @ along)
    if freedom <= 0 or across <= 0 or len(sizes) < len(scale):
        return None
    return _Around(
        loss=float(0.5 * values @ values),
        vectors=right.T / scale[:, None],
        curvatures=sizes**2,
        slopes=sizes * along,
        unit=(across / freedom) ** 0.5,
    )
