"""The linear model of residuals that a step of Gauss-Newton starts from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._fisher import has_reverse, real_residuals, transposed_jacobian
from fitkit._optimisers.iterative import is_stored
from fitkit._paths import ravel, spread


class Linear(NamedTuple):
    """Residuals at some parameters, and how they change with each.

    Attributes
    ----------
    residuals
        All of them, in one vector.
    rows
        Their Jacobian, transposed: one row for each element of the parameters, in the order of
        ``ravel_pytree``.
    """

    residuals: Float[Array, " m"]
    rows: Float[Array, "n m"]

    def gradient(self) -> Float[Array, " n"]:
        """Compute the gradient of half the sum of squares."""
        return jnp.matmul(self.rows, self.residuals, precision=jax.lax.Precision.HIGHEST)

    def without(self, frozen: PyTree, params: PyTree) -> "Linear":
        """Return the same for residuals that do not depend on some elements of the parameters."""
        held = spread(frozen, params)[:, None]
        return self._replace(rows=jnp.where(held, 0, self.rows))


class KnownLinear(NamedTuple):
    """A linear model, and of which residuals at which parameters: a wrapper may ask for others.

    Attributes
    ----------
    residuals, params
        Those which it is of.
    linear
        The model.
    compare
        Where its rows are not those of the residuals, but fewer with the same products: computes
        from (change of the parameters, size), in units of the size, by how much the sum of squares
        falls, and the distance of the residuals from the model, squared.
    """

    residuals: Callable[[PyTree], PyTree]
    params: PyTree
    linear: Linear
    compare: Callable[[PyTree, Array], tuple[Array, Array]] | None = None

    def is_of(self, residuals: Callable[[PyTree], PyTree], params: PyTree) -> bool:
        """Whether it is that of these residuals at these parameters."""
        return residuals is self.residuals and params is self.params


def linearised(function: Callable[[PyTree], PyTree], params: PyTree) -> Linear | None:
    """Linearise a function from parameters to residuals.

    Returns None where its Jacobian is not worth the memory, and products with it exist.
    """
    flat, unravel = ravel(params)

    def vector(flat: Float[Array, " n"]) -> Float[Array, " m"]:
        return ravel(real_residuals(function(unravel(flat)), "gauss_newton"))[0]

    count = jax.eval_shape(vector, flat).size
    # Products from both sides need reverse mode.
    if not is_stored(flat.size, count, flat.dtype.itemsize) and has_reverse(
        "gauss_newton", lambda x: jnp.sum(vector(x)), flat
    ):
        return None
    # XLA would compute them once for every use.
    return Linear(*jax.lax.optimization_barrier(transposed_jacobian(vector, flat, "gauss_newton")))
