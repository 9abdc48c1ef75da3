"""Steps of Gauss-Newton from products with a Jacobian that is too large to be stored."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float

from fitkit._fisher import norm
from fitkit._optimisers.convergence import NEAR, ROUNDINGS, ConvergenceTest

# Parameters up to which a step takes a decomposition: of three thousand it is a few seconds.
MOST_PARAMETERS = 3000
# Bytes that a Jacobian may take.
MEMORY = 2**29
# Vectors of random signs by which the columns are measured: to a quarter of their lengths, which
# is enough for a scale.
PROBES = 8
# Products that a step may take, and what they may leave of the gradient: so much nearer does each
# step come, as long as the linear model holds.
PRODUCTS, LEFT = 100, 1e-2


def is_stored(parameters: int, values: int, itemsize: int) -> bool:
    """Whether the Jacobian of so many values is worth its memory."""
    return parameters <= MOST_PARAMETERS and parameters * values * itemsize <= MEMORY


def estimated_lengths(
    pull: Callable[[Float[Array, " m"]], Float[Array, " n"]],
    residuals: Float[Array, " m"],
    probes: int = PROBES,
) -> Float[Array, " n"]:
    """Estimate the lengths of the columns of a Jacobian from products with random signs.

    C. Bekas, E. Kokiopoulou and Y. Saad, "An estimator for the diagonal of a matrix", Applied
    Numerical Mathematics 57, 1214 (2007).
    """

    def square(key: Array) -> Float[Array, " n"]:
        signs = jax.random.rademacher(key, residuals.shape, residuals.dtype)
        return jnp.square(pull(signs))

    squares = jax.lax.map(square, jax.random.split(jax.random.key(0), probes))
    return jnp.sqrt(jnp.mean(squares, axis=0))


def assess_gradient(
    gradient: Float[Array, " n"],
    columns: Float[Array, " n"],
    scale: Float[Array, " n"],
    solved: Bool[Array, ""],
    extent: Float[Array, ""],
    eps: float,
) -> ConvergenceTest:
    """Test by the angles between the residuals and each column, as MINPACK does.

    They say less than the angle to all of them together, so that they end nothing before the steps
    gain no more.

    Parameters
    ----------
    gradient
        By parameters in units of `scale`, of residuals divided by their norm.
    columns
        Lengths of the columns.
    solved, extent, eps
        As for `assess`.
    """
    cosines = jnp.abs(gradient) * scale / jnp.where(columns > 0, columns, 1)
    largest = jnp.max(jnp.where(columns > 0, cosines, 0))
    return ConvergenceTest(
        done=(largest <= eps) & jnp.any(columns > 0) | solved,
        near=(largest <= eps**NEAR) & jnp.any(columns > 0) | solved,
        noise=ROUNDINGS * eps * (1 + extent),
        eigenvalues=jnp.full_like(gradient, jnp.nan),
        rank=jnp.int32(0),
    )


def damped_by_products(
    push: Callable[[Float[Array, " n"]], Float[Array, " m"]],
    pull: Callable[[Float[Array, " m"]], Float[Array, " n"]],
    gradient: Float[Array, " n"],
    scale: Float[Array, " n"],
    radius: Float[Array, ""],
) -> tuple[Float[Array, " n"], Float[Array, ""], Float[Array, ""]]:
    """Minimise a damped linear model: the scaled step, its damping, and the reach to go on from.

    A damping of |gradient|/radius keeps every step within the radius, also one that conjugate
    gradients do not bring to the end.
    """
    size = norm(gradient)
    damping = jnp.where(size > 0, size / radius, 1)

    def product(step: Float[Array, " n"]) -> Float[Array, " n"]:
        return pull(push(step / scale)) / scale + damping * step

    step, _ = cg(product, -gradient, tol=LEFT, maxiter=PRODUCTS)
    return step, damping, radius
