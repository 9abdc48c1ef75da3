"""How coarsely a function computes: the precision that its values pass through, and its noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from fitkit._jaxprs import passed_through

# Distance of the points at which noise is measured, in units of rounding of the parameters: far
# enough that they are distinct, and near enough that curvature shows nothing (Moré and Wild,
# "Estimating computational noise", SIAM J. Sci. Comput. 33, 1292, 2011).
APART = 8
# Pairs of points: three differences average out luck, at the price of six evaluations.
PAIRS = 3
# The second difference of independent errors of size e is of size √(1 + 4 + 1) e.
SECOND_DIFFERENCE = 6**0.5


@eqx.filter_jit
def coarsest_eps(function: Callable, free: PyTree, held: PyTree, args: Any) -> Float[Array, ""]:
    """Find the unit of rounding of the coarsest dtype that a value made of `free` passes through.

    Read off the traced function, so that float32 inside a model with float64 parameters is seen.
    The dtype of the parameters themselves counts too. (Compiled, the walk is done once for a
    function and shapes.)
    """
    leaves, structure = jax.tree.flatten(free)

    def of_leaves(leaves: list) -> Any:
        return function(eqx.combine(jax.tree.unflatten(structure, leaves), held), args)

    found = {leaf.dtype for leaf in leaves} | passed_through(jax.make_jaxpr(of_leaves)(leaves))
    return jnp.asarray(max(float(jnp.finfo(dtype).eps) for dtype in found), float)


def measured_noise(
    at: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    x: Float[np.ndarray, " n"],
    steps: Float[np.ndarray, " n"],
) -> tuple[float, Float[np.ndarray, "pairs n"]]:
    """Measure rounding errors by second differences.

    Parameters
    ----------
    at
        Computes values and the gradient of the loss.
    x
        Where.
    steps
        One unit of rounding of every element.

    Returns
    -------
    values : float
        Length of the errors of the values.
    gradients : Float[np.ndarray, "pairs n"]
        Errors of the gradient, one row for a pair of points.
    """
    values, gradient = at(x)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (PAIRS, x.size))
    squares, rows = 0.0, []
    for sign in signs:
        (after, up), (before, down) = at(x + APART * sign * steps), at(x - APART * sign * steps)
        bent = np.nan_to_num(after - 2 * values + before) / SECOND_DIFFERENCE
        squares += float(bent @ bent) / PAIRS
        rows.append(np.nan_to_num(up - 2 * gradient + down) / SECOND_DIFFERENCE)
    return squares**0.5, np.stack(rows)
