"""The residuals of one system and their derivatives, and the products of those that fits need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fitkit._fisher import transposed_jacobian
from fitkit._paths import common_dtype

# Up to so many rows their products are written out one by one: a batched matrix product, one call
# for every lane, takes longer for the 3 rows of two parameters and half as long for 9.
WRITTEN_OUT = 5


def linearised(
    function: Callable, x: Float[Array, " n"], weights: Float[Array, " m"] | None
) -> Float[Array, "n+1 m"]:
    """Compute the derivatives of the residuals by every element of `x`, and below them themselves.

    Both are multiplied by the roots of the weights. Under a weight of zero is no data, whatever
    stands there, so that both are zero.
    """
    values, rows = transposed_jacobian(function, x, "fit_many")
    rows = jnp.concatenate([rows, values[None].astype(rows.dtype)])
    rows = rows.astype(common_dtype(x, rows))
    if weights is None:
        return rows
    roots = jnp.sqrt(weights).astype(rows.dtype)[None]
    return jnp.where(roots > 0, rows * roots, 0)


def products(rows: Float[Array, "lanes k m"]) -> Float[Array, "k k lanes"]:
    """Compute all scalar products of the rows of every lane."""
    k = rows.shape[1]
    if k > WRITTEN_OUT:
        highest: Any = jax.lax.Precision.HIGHEST
        return jnp.moveaxis(jnp.einsum("wim,wjm->wij", rows, rows, precision=highest), 0, -1)
    known = {(i, j): jnp.sum(rows[:, i] * rows[:, j], axis=-1) for i in range(k) for j in range(i + 1)}
    return jnp.stack([jnp.stack([known[max(i, j), min(i, j)] for j in range(k)]) for i in range(k)])
