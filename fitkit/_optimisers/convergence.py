"""Whether least squares have arrived: a test without units, at the level of rounding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitkit._fisher import quick_norm
from fitkit._optimisers.factor import Factor

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
    #: Of the units-free Fisher matrix, descending; before it is near, of a scaled one.
    eigenvalues: Float[Array, " n"]
    rank: Int[Array, ""]


def assess(
    factor: Factor,
    ratio: Float[Array, " n"],
    solved: Bool[Array, ""],
    extent: Float[Array, ""],
    eps: float,
    rtol: float,
) -> ConvergenceTest:
    """Test for convergence by a factorised Jacobian.

    On a plateau the angle between the two is far from a right one, however small the gradient.

    Parameters
    ----------
    factor, ratio
        As `factorised` takes and returns them, of residuals divided by their norm.
    solved
        Whether all residuals are zero.
    extent
        Norm of the changes of the residuals by each parameter's own size, over theirs.
    eps, rtol
        Unit of rounding; singular values below `rtol` of the largest count as zero.
    """
    noise = ROUNDINGS * eps * (1 + extent)
    cosine = quick_norm(factor.slopes)
    # By what each parameter still changes the residuals.
    remaining = quick_norm(ratio * ((factor.slopes / factor.singular_values) @ factor.right))
    settled = (remaining <= eps**CONDITION * noise) & jnp.any(factor.keep)
    done = settled & (cosine <= jnp.maximum(noise, eps**DONE))
    near = settled & (cosine <= eps**NEAR)
    # Until then the spectrum that is at hand will do.
    other = jnp.any((ratio > 0) & (ratio < 1 - eps**0.5))
    eigenvalues = jax.lax.cond(
        (near | solved) & other, factor.units_free, lambda: factor.eigenvalues
    )
    rank = jnp.sum(eigenvalues > rtol**2 * eigenvalues[0], dtype=jnp.int32)
    # A column that has shrunk may hide a slope.
    whole = rank <= jnp.sum(factor.keep, dtype=rank.dtype)
    return ConvergenceTest(
        done=(done & whole) | solved,
        near=(near & whole) | solved,
        noise=noise,
        eigenvalues=eigenvalues,
        rank=rank,
    )
