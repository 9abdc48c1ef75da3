"""Lengths of the columns of a Jacobian, which is not stored for them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fitkit._fisher.gram import lengths
from fitkit._fisher.modes import basis, first, jacobian_rows, mapped, transposed_push
from fitkit._fisher.norm import norm


def column_lengths(
    event: str, function: Callable[[Array], Array], flat: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Compute the length of every column of the Jacobian of a function of vectors.

    The square of a length is an element of the diagonal of the Fisher matrix. Columns are made some
    at a time, in forward mode if that exists.
    """

    def forward() -> Array:
        _, push = jax.linearize(function, flat)
        return mapped(lambda v: norm(push(v)), basis(flat))

    def columns() -> Array:
        _, push = transposed_push(function, flat)
        return mapped(lambda v: norm(push(v)), basis(flat))

    def rows() -> Array:
        _, matrix = jacobian_rows(function, flat, lambda row: row)
        return lengths(jnp.transpose(matrix))

    return first(event, function, flat, forward, columns, rows)
