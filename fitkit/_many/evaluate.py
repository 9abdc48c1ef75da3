"""The residuals of one system and their derivatives, and the products of those that fits need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fitkit._fisher import first, transposed_jacobian
from fitkit._paths import common_dtype

# A function is differentiated by one parameter after the other, which leaves out all that does not
# depend on it and costs half as much as all of them in one; the compiler computes what they share
# once, but not loops. Up to so many instructions, which take seconds to compile.
MOST_REPEATED = 2000
# Up to so many rows all their products are summed in one pass over the data, as far as possible in
# registers: a batched matrix product, one call for every lane, takes three times as long for 9 rows
# and less from 16.
ONE_PASS = 13
# So many data at least are summed one after the other, and then the sums: of 100,000 in a row
# float32 would keep four digits.
BLOCK = 256


def linearised(
    function: Callable[[list], Float[Array, " m"]],
    unravel: Callable[[Float[Array, " n"]], list],
    x: Float[Array, " n"],
    weights: Float[Array, " m"] | None,
) -> tuple[Float[Array, "_ m"], ...]:
    """Compute the derivatives of the residuals by every element of `x`, and below them themselves.

    Both are multiplied by the roots of the weights. Under a weight of zero is no data, whatever
    stands there, so that both are zero.

    Parameters
    ----------
    function
        The residuals, of the list of leaves that `unravel` makes of a vector.
    unravel, x
        How to make it, and of which vector.
    weights
        Of the squares of the residuals.

    Returns
    -------
    tuple
        The n + 1 rows in order, in pieces as they were computed.
    """
    pieces = _rows_and_values(function, unravel, x)
    dtype = common_dtype(x, *pieces)
    pieces = [piece.astype(dtype) for piece in pieces]
    if weights is None:
        return tuple(pieces)
    roots = jnp.sqrt(weights).astype(dtype)[None]
    return tuple(jnp.where(roots > 0, piece * roots, 0) for piece in pieces)


def _rows_and_values(function: Callable, unravel: Callable, x: Float[Array, " n"]) -> list[Array]:
    def of_vector(x: Float[Array, " n"]) -> Float[Array, " m"]:
        return function(unravel(x))

    def by_elements() -> list[Array]:
        leaves, rows = unravel(x), []
        for place, leaf in enumerate(leaves):

            def of_leaf(leaf: Array, place: int = place) -> Array:
                return function([*leaves[:place], leaf, *leaves[place + 1 :]])

            for index in np.ndindex(leaf.shape):
                along = np.zeros(leaf.shape, leaf.dtype)
                along[index] = 1
                rows.append(jax.jvp(of_leaf, (leaf,), (jnp.asarray(along),))[1][None])
        return [*rows, function(leaves)[None]]

    def together() -> list[Array]:
        values, rows = transposed_jacobian(of_vector, x, "fit_many")
        return [rows, values[None]]

    count, loops = _size(jax.make_jaxpr(of_vector)(x).jaxpr)
    if loops or count * x.size > MOST_REPEATED:
        return together()
    return first("fit_many", of_vector, x, by_elements, together)


def _size(jaxpr: Any) -> tuple[int, bool]:
    """Count the instructions of a function, and say whether it has loops."""
    count, loops = 0, False
    for equation in jaxpr.eqns:
        count += 1
        loops |= equation.primitive.name in ("scan", "while")
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                more, looped = _size(inner)
                count, loops = count + more, loops | looped
    return count, loops


def rows_of(pieces: tuple[Float[Array, "lanes _ m"], ...]) -> list[Float[Array, "lanes m"]]:
    """List the rows of `linearised`, for all lanes."""
    return [piece[:, i] for piece in pieces for i in range(piece.shape[1])]


def products(pieces: tuple[Float[Array, "lanes _ m"], ...]) -> Float[Array, "k k lanes"]:
    """Compute all scalar products of the rows of every lane."""
    k, m = sum(piece.shape[1] for piece in pieces), pieces[0].shape[2]
    if k > ONE_PASS:
        rows = jnp.concatenate(pieces, axis=1)
        highest: Any = jax.lax.Precision.HIGHEST
        return jnp.moveaxis(jnp.einsum("wim,wjm->wij", rows, rows, precision=highest), 0, -1)
    rows = rows_of(pieces)
    blocks = max(1, m // BLOCK)
    whole = m // blocks * blocks
    known = _products([row[:, :whole].reshape(-1, blocks, m // blocks) for row in rows]).sum(axis=2)
    if whole < m:
        known += _products([row[:, whole:] for row in rows])
    # Where the product of two rows stands among those of every row and the ones before it.
    i, j = np.maximum(*np.indices((k, k))), np.minimum(*np.indices((k, k)))
    return known[i * (i + 1) // 2 + j]


def _products(rows: list[Float[Array, "*lanes m"]]) -> Float[Array, "pairs *lanes"]:
    """Sum the products of every row with itself and those before it, in one pass."""
    pairs = [one * other for i, one in enumerate(rows) for other in rows[: i + 1]]
    zero = jnp.zeros((), pairs[0].dtype)
    sums = jax.lax.reduce(
        pairs,
        [zero] * len(pairs),
        lambda these, those: [a + b for a, b in zip(these, those, strict=True)],
        (pairs[0].ndim - 1,),
    )
    return jnp.stack(sums)


def data_of(pieces: tuple[Float[Array, "lanes _ m"], ...]) -> Float[Array, " lanes"]:
    """Count the residuals that are data: those are none that are zero, with derivatives of zero."""
    residuals = pieces[-1][:, -1]
    # As integers: to sum floating-point numbers along the last axis XLA calls a library on a CPU,
    # and compiles a loop without such calls as one function, which takes little
    # more than half as long.
    zero = jnp.sum(residuals == 0, axis=-1, dtype=jnp.int32)

    def dead() -> Int[Array, " lanes"]:
        none = jnp.all(jnp.stack([jnp.all(piece == 0, axis=1) for piece in pieces]), axis=0)
        return jnp.sum(none, axis=-1, dtype=jnp.int32)

    without = jax.lax.cond(jnp.any(zero > 0), dead, lambda: zero)
    return (residuals.shape[-1] - without).astype(residuals.dtype)
