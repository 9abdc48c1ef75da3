"""What is known of the loss around a point: its quadratic model, and the rounding in it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fitkit._result.curvature import LeastSquares, Quadratic, from_hessian, from_residuals
from fitkit._result.derivatives import Derivatives
from fitkit._result.matrix_free import from_products
from fitkit._result.rounding import measured_noise

# The whole Hessian up to here; beyond, its products with some vectors.
DENSE = 500
# Elements of a Jacobian that fits with its copies into half a gigabyte.
MOST_ENTRIES = 2**29 // (3 * 8)
# A number depends on values rounded once each, by half a unit: a few operations make it two whole
# ones, and as many again are for the function's own way of computing.
ROUNDINGS = 4.0
# Standard deviations of rounding beyond which a number is none of it.
NOISES = 3.0
# Residuals that rounding hides are met where that is little in units of the σ they were divided by.
# Else the parameters are too coarse for the data.
ROUGH = 0.1
# Curvature, of 1 at most, that is small enough to be looked at twice.
DOUBTFUL = 1e-2
MOST_DOUBTFUL = 20


@dataclass(frozen=True)
class LocalModel:
    """The loss around a point, by those elements that are free to move.

    Attributes
    ----------
    quadratic : Quadratic
        Its model.
    noise : Float[np.ndarray, " k"]
        Rounding errors of the slopes along the eigenvectors.
    stiffness : Float[np.ndarray, " n"]
        Root of the (positive) curvature by every element alone: 1/(its error, if all others were
        known).
    away : float
        Length of the Newton step by the standard errors that a `Result` states, before `scatter`.
    spread : float
        Root mean square of the residuals that a Newton step leaves, over the degrees of freedom;
        1 of a loss, and where none are left.
    scatter : float | None
        The same where it is more than a small part of the residuals, so that it tells what a
        standard error is; else None.
    met : bool
        Whether the residuals are rounding, all of them, and small.
    """

    quadratic: Quadratic
    noise: Float[np.ndarray, " k"]
    stiffness: Float[np.ndarray, " n"]
    away: float
    spread: float
    scatter: float | None
    met: bool

    @property
    def floor(self) -> float:
        """What rounding makes of the decrement."""
        up = self.quadratic.signs > 0
        return float(np.linalg.norm(self.noise[up] / np.sqrt(self.quadratic.curvatures[up])))

    @property
    def significant(self) -> Bool[np.ndarray, " k"]:
        """Along which eigenvectors the slope is more than rounding."""
        return np.abs(self.quadratic.slopes) > NOISES * self.noise


# Residuals that the parameters can take away but for the sine of this cosine (0.44) have no scatter
# by which to tell a standard error.
TANGENT = 0.9


def local_model(
    derivatives: Derivatives,
    movable: Bool[np.ndarray, " n"],
    eps: float,
    data: int,
) -> LocalModel | None:
    """Model the loss at the point; None where a derivative is not finite.

    Parameters
    ----------
    derivatives
        Of residuals or a loss.
    movable
        Which elements of the vector of parameters are free to move.
    eps
        Unit of rounding of the function.
    data
        Number of residuals that are data; 0 of a loss.
    """
    x = derivatives.x
    values, gradient = derivatives.at(x)
    n = int(movable.sum())
    squares = derivatives.squares

    def whole(part: np.ndarray) -> np.ndarray:
        vector = np.zeros((*part.shape[:-1], x.size))
        vector[..., movable] = part
        return vector

    least = None
    if squares and n <= DENSE and values.size * x.size <= MOST_ENTRIES:
        values, jacobian = derivatives.jacobian(x)
        if not np.all(np.isfinite(jacobian)):
            return None
        least = from_residuals(
            values,
            jacobian[:, movable],
            lambda w: derivatives.contracted(w)[np.ix_(movable, movable)],
            lambda v, others: derivatives.bending(whole(v), whole(others)),
            eps,
        )
        quadratic = least.quadratic
    elif n <= DENSE:
        hessian = derivatives.hessian(x)
        if not np.all(np.isfinite(hessian)):
            return None
        quadratic = from_hessian(gradient[movable], hessian[np.ix_(movable, movable)], eps)
        quadratic = _without_noise(quadratic, derivatives, whole, eps)
    else:
        quadratic = from_products(
            gradient[movable], lambda v: derivatives.product(x, whole(v))[2][movable], eps
        )
    size = float(np.linalg.norm(values))
    up = quadratic.signs > 0
    stiffness = np.sqrt((quadratic.inverse[up] ** 2).T @ quadratic.curvatures[up])
    spread, scatter = _scatter(least, quadratic, size, data) if squares else (1.0, None)

    unit = eps * np.abs(x[movable])
    wobble, errors = measured_noise(derivatives.at, x, whole(unit))
    measured = np.sqrt(np.mean((errors[:, movable] @ quadratic.vectors) ** 2, axis=0))
    moved = np.sqrt(quadratic.inverse**2 @ (ROUNDINGS * unit) ** 2) * np.abs(quadratic.curvatures)
    if squares:
        own = ROUNDINGS * eps * size * np.sqrt(np.abs(quadratic.curvatures))
    else:
        own = ROUNDINGS * eps * (np.abs(gradient[movable]) @ np.abs(quadratic.vectors))
    hidden = NOISES * float(np.hypot(wobble, ROUNDINGS * np.linalg.norm(stiffness * unit)))
    return LocalModel(
        quadratic=quadratic,
        noise=np.sqrt(measured**2 + moved**2 + own**2),
        stiffness=stiffness,
        away=quadratic.decrement if least is None else least.away,
        spread=spread,
        scatter=scatter,
        met=squares and size <= hidden <= ROUGH * data**0.5,
    )


def _scatter(
    least: LeastSquares | None, quadratic: Quadratic, size: float, data: int
) -> tuple[float, float | None]:
    n = quadratic.vectors.shape[0]
    if least is None:
        along, freedom = quadratic.decrement, data - n
        across = max(size**2 - along**2, 0.0) ** 0.5
    else:
        along, across = least.along, least.across
        # A square Jacobian that is nearly singular leaves a residual all the same.
        freedom = data - least.rank or data - least.strong
    if freedom <= 0 or across == 0:
        return 1.0, None
    spread = across / freedom**0.5
    return spread, None if along > TANGENT * size else spread


def _without_noise(
    quadratic: Quadratic, derivatives: Derivatives, whole: Callable, eps: float
) -> Quadratic:
    """Take for zero what a change of the parameters in their last digits changes in the sign."""
    signs = quadratic.signs.copy()
    order = np.argsort(np.abs(quadratic.curvatures), kind="stable")
    for k in order[:MOST_DOUBTFUL]:
        if signs[k] == 0 or abs(quadratic.curvatures[k]) > DOUBTFUL:
            continue
        vector = whole(quadratic.vectors[:, k])
        steps = 8 * eps * np.abs(derivatives.x)
        there = [
            float(vector @ derivatives.product(derivatives.x + side * steps, vector)[2])
            for side in (-1, 0, 1)
        ]
        if abs(quadratic.curvatures[k]) <= NOISES * (max(there) - min(there)):
            signs[k] = 0
    return dataclasses.replace(quadratic, signs=signs)
