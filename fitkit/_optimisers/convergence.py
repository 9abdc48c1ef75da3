"""Whether least squares have arrived: a test without units, at the level of rounding."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitkit._fisher import norm

# Rounding errors that a residual adds up to: in the parameter, in the model, in the subtraction of
# the data and in the division by their errors.
ROUNDINGS = 4

# The cosine of the angle between the residuals and what the parameters can change is the square
# root of the share of the sum of squares that a step would take away (Bates and Watts,
# Technometrics 23, 179, 1981, in units of the residuals). Below sqrt(eps) the sum does not show
# the step, and no better point can be found by it; slopes still do, so the test goes on to a
# tenth of the digits of sqrt(eps) further.
DONE = 0.55

# A model that loses a third of its digits by cancellation knows the sum of squares to eps^(2/3),
# and so the cosine to eps^(1/3). It counts only where no step lowers the residuals any more.
NEAR = 1 / 3

# Rounding alone makes a step as long as the noise times the condition number. Up to this power of
# eps (5e11 in float64, 2e5 in float32, a sixteenth and a third of what the rank resolves) a
# step is put down to that; a longer one leads along a weakly constrained eigenvector, and on.
CONDITION = -0.75


class ConvergenceTest(NamedTuple):
    """What the linear model at the present parameters says of the minimum."""

    #: Whether it is reached.
    done: Bool[Array, ""]
    #: Whether it is reached for all that rounding shows, if no step lowers the residuals.
    near: Bool[Array, ""]
    #: Relative size of what rounding does to the residuals.
    noise: Float[Array, ""]
    #: Of the units-free Fisher matrix, descending.
    eigenvalues: Float[Array, " n"]
    rank: Int[Array, ""]


def assess(
    columns: Float[Array, "k n"],
    target: Float[Array, " k"],
    extent: Float[Array, ""],
    eps: float,
    rtol: float,
) -> ConvergenceTest:
    """Test for convergence where the residuals are `target` and their Jacobian is `columns`.

    On a plateau the angle between the two is far from a right one, however small the gradient.

    Parameters
    ----------
    columns
        Jacobian with columns of unit length.
    target
        Residuals divided by their norm, or zero.
    extent
        Norm of the changes of the residuals by each parameter's own size, over theirs.
    eps, rtol
        Unit of rounding; singular values below `rtol` of the largest count as zero.
    """
    noise = ROUNDINGS * eps * (1 + extent)
    left, singular_values, _, keep = decomposed(columns, rtol)
    slopes = jnp.where(keep, target @ left, 0)
    cosine = norm(slopes)
    remaining = norm(slopes / jnp.where(keep, singular_values, 1))
    settled = (remaining <= eps**CONDITION * noise) & jnp.any(keep)
    solved = ~jnp.any(target != 0)
    return ConvergenceTest(
        done=(settled & (cosine <= jnp.maximum(noise, eps**DONE))) | solved,
        near=(settled & (cosine <= eps**NEAR)) | solved,
        noise=noise,
        eigenvalues=singular_values**2,
        rank=jnp.sum(keep, dtype=jnp.int32),
    )


def decomposed(
    columns: Float[Array, "k n"], rtol: float
) -> tuple[Float[Array, "k n"], Float[Array, " n"], Float[Array, "n n"], Bool[Array, " n"]]:
    """SVD with n singular values, and which of them are above `rtol` of the largest."""
    rows, n = columns.shape
    columns = jnp.pad(columns, ((0, max(n - rows, 0)), (0, 0)))
    left, singular_values, right = jnp.linalg.svd(columns, full_matrices=False)
    return left[:rows], singular_values, right, singular_values > rtol * singular_values[0]
