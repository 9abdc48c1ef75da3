"""Steps of Gauss-Newton on residuals that are seen in blocks, in the memory of one block.

Orthogonal matrices change no product of columns, so that the triangular factor of a Jacobian and
its residuals, side by side, is as good to a step as all their rows; and it comes from that of the
blocks before and the rows of the next (G. H. Golub and C. F. Van Loan, "Matrix Computations", 4th
edition, section 6.5.3). Unlike a sum of products ``JᵀJ`` it keeps all digits.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._fisher import NotDifferentiableError, first, transposed_jacobian
from fitkit._fit.problem import Params, Problem
from fitkit._optimisers import Linear, is_stored
from fitkit._paths import common_dtype, ravel
from fitkit._residuals import without_priors

Vector: TypeAlias = Callable[[Params], Float[Array, " m"]]

_EVENT = "gauss_newton"


def compressed(problem: Problem, params: Params, args: PyTree) -> Linear | None:
    """Linearise residuals, with one row for each parameter element and one for what is left.

    Returns None where the Jacobian of a block is not worth its memory, or does not exist in
    forward mode, without which residuals elsewhere cannot be compared with it.
    """
    flat, unravel = ravel(params)
    try:
        values = jax.eval_shape(lambda: _pushed(problem, params, args))
    except NotDifferentiableError:
        return None
    if not is_stored(flat.size, values.size, flat.dtype.itemsize):
        return None
    dtype = common_dtype(flat, values)

    def add(root: Float[Array, "k k"], residuals: Vector) -> Float[Array, "k k"]:
        values, rows = transposed_jacobian(lambda x: residuals(unravel(x)), flat, _EVENT)
        block = jnp.concatenate([rows.astype(dtype), values.astype(dtype)[None]])
        return jnp.linalg.qr(jnp.concatenate([root, block.T]), mode="r")

    root = problem.folded(add, jnp.zeros((flat.size + 1,) * 2, dtype), args)
    return Linear(root[:, -1], root[:, :-1].T)


def comparison(
    problem: Problem, params: Params, args: PyTree, seen: Callable[[Vector, Params], Array]
) -> Callable[[Params, Array], tuple[Float[Array, ""], Float[Array, ""]]]:
    """Build the `compare` of such a linear model.

    `seen` calls a function of the parameters with those that a candidate stands for.
    """

    def compare(change: Params, size: Float[Array, ""]) -> tuple[Array, Array]:
        moved = jax.tree.map(jnp.add, params, change)

        def add(sums: tuple[Array, Array], residuals: Vector) -> tuple[Array, Array]:
            of = lambda candidate: seen(residuals, candidate).astype(size.dtype) / size  # noqa: E731
            here, foretold = jax.jvp(of, (params,), (change,))
            there = of(moved)
            # (a - b)·(a + b) keeps the digits that a·a - b·b loses.
            gained = jnp.dot(here - there, here + there)
            return sums[0] + gained, sums[1] + jnp.sum(jnp.square(there - here - foretold))

        none = jnp.zeros_like(size)
        return problem.folded(add, (none, none), args)

    return compare


def _pushed(problem: Problem, params: Params, args: PyTree) -> Float[Array, " m"]:
    """Differentiate the residuals of one block in forward mode."""
    blocks = problem.blocks
    assert blocks is not None
    part, count = blocks.parts(without_priors(args))
    data = part(0, min(count, blocks.size))

    def residuals(params: Params) -> Array:
        return ravel(problem.residuals_of(params, data))[0]

    return first(_EVENT, residuals, params, lambda: jax.jvp(residuals, (params,), (params,))[1])
