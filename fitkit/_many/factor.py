"""Cholesky factors of many small matrices at once; the number of the matrix is the last axis.

So every operation is one on vectors of all lanes, and what one lane holds touches no other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Written out column by column up to here: LAPACK, called for every matrix by itself, takes thirteen
# times as long for n = 2 and three times for n = 9. Beyond, writing out takes longer to compile
# and to run.
WRITTEN_OUT = 9


class Factor(NamedTuple):
    """Lower triangular factors ``L Lᵀ``.

    Attributes
    ----------
    lower
        L, with the inverse of the diagonal on its diagonal where it was written out.
    pivot
        The smallest square on the diagonal of L; not above 0 where there is no factor.
    """

    lower: Float[Array, "n n lanes"]
    pivot: Float[Array, " lanes"]


def factorised(matrix: Float[Array, "n n lanes"]) -> Factor:
    """Decompose symmetric matrices whose diagonals are of order one."""
    n = len(matrix)
    if n > WRITTEN_OUT:
        lower = jnp.moveaxis(jnp.linalg.cholesky(jnp.moveaxis(matrix, -1, 0)), 0, -1)
        pivots = jnp.diagonal(lower).T ** 2
        return Factor(lower, jnp.min(jnp.where(jnp.isnan(pivots), 0, pivots), axis=0))
    least = jnp.finfo(matrix.dtype).tiny
    columns, pivots, rest = [], [], matrix
    for j in range(n):
        pivots.append(rest[0, 0])
        inverse = jax.lax.rsqrt(jnp.maximum(rest[0, 0], least))
        below = rest[1:, 0] * inverse[None]
        columns.append(jnp.concatenate([jnp.zeros_like(matrix[:j, 0]), inverse[None], below]))
        rest = rest[1:, 1:] - below[:, None] * below[None]
    pivot = jnp.min(jnp.stack(pivots), axis=0)
    return Factor(jnp.stack(columns, axis=1), jnp.where(jnp.isnan(pivot), 0, pivot))


def forward(factor: Factor, right: Float[Array, "n k lanes"]) -> Float[Array, "n k lanes"]:
    """Solve ``L y = right``."""
    lower, n = factor.lower, len(factor.lower)
    if n > WRITTEN_OUT:
        return _by_lapack(lower, right, transposed=False)
    solved = []
    for i in range(n):
        row = right[i]
        for k in range(i):
            row = row - lower[i, k][None] * solved[k]
        solved.append(row * lower[i, i][None])
    return jnp.stack(solved)


def backward(factor: Factor, right: Float[Array, "n lanes"]) -> Float[Array, "n lanes"]:
    """Solve ``Lᵀ x = right``."""
    lower, n = factor.lower, len(factor.lower)
    if n > WRITTEN_OUT:
        return _by_lapack(lower, right[:, None], transposed=True)[:, 0]
    solved: list[Array] = [right[0]] * n
    for i in reversed(range(n)):
        row = right[i]
        for k in range(i + 1, n):
            row = row - lower[k, i] * solved[k]
        solved[i] = row * lower[i, i]
    return jnp.stack(solved)


def inverse_diagonal(factor: Factor) -> Float[Array, "n lanes"]:
    """Compute the diagonal of the inverse of ``L Lᵀ``."""
    n, _, lanes = factor.lower.shape
    identity = jnp.broadcast_to(jnp.eye(n, dtype=factor.lower.dtype)[..., None], (n, n, lanes))
    return jnp.sum(forward(factor, identity) ** 2, axis=0)


def _by_lapack(
    lower: Float[Array, "n n lanes"], right: Float[Array, "n k lanes"], *, transposed: bool
) -> Float[Array, "n k lanes"]:
    solved = jax.lax.linalg.triangular_solve(
        jnp.moveaxis(lower, -1, 0),
        jnp.moveaxis(right, -1, 0),
        left_side=True,
        lower=True,
        transpose_a=transposed,
    )
    return jnp.moveaxis(solved, 0, -1)
