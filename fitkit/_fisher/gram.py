"""Products of a Jacobian with itself, and what they lose: when to take them for a decomposition.

``JᵀJ`` costs half of a QR decomposition's arithmetic and a fifth of its time, and squares the
condition number. Its eigenvalues come with an error of some units of rounding of the largest, so
that the smallest tells how many digits are left. All here takes the Jacobian transposed, one row
per parameter, as forward mode makes it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Columns of a slice that is scaled and multiplied while it is in the cache (measured: from 1024
# to 4096 it makes no difference), and the width of the strips of which only the upper half of the
# product is made: 56 % of it with a thousand parameters.
SPAN = 2048
STRIP = 128
# Rows of a block of a QR decomposition: enough for the cache, and to make little of the triangle
# that each block is put below.
HEIGHT = 1600


def lengths(rows: Float[Array, "n m"]) -> Float[Array, " n"]:
    """Length of every row, over the whole range of numbers; not finite where an element is not."""
    largest = jnp.max(jnp.abs(rows), axis=1, initial=0)
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.sum(jnp.square(rows / safe[:, None]), axis=1)
    return jnp.where(jnp.isfinite(largest), safe * jnp.sqrt(squares), largest)


def gram(rows: Float[Array, "n m"], scale: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Products of all rows, each divided by its scale, in the precision of the scale.

    Slice by slice, so that no copy of the rows is made.
    """
    n, m = rows.shape
    total = jnp.zeros((n, n), scale.dtype)
    if m > SPAN:

        def add(k: Array, total: Array) -> Array:
            block = jax.lax.dynamic_slice(rows, (0, k * SPAN), (n, SPAN))
            return total + _products(_scaled(block, scale))

        total = jax.lax.fori_loop(0, m // SPAN, add, total)
    rest = rows[:, m // SPAN * SPAN :]
    return total + _products(_scaled(rest, scale))


def triangle(rows: Float[Array, "n m"], scale: Float[Array, " n"]) -> Float[Array, "k n"]:
    """Triangular factor of the scaled rows' transpose, block by block."""
    n, m = rows.shape
    height = max(HEIGHT, 4 * n)
    root = jnp.zeros((0, n), scale.dtype)
    if m > height:

        def add(k: Array, root: Array) -> Array:
            block = jax.lax.dynamic_slice(rows, (0, k * height), (n, height))
            return jnp.linalg.qr(jnp.concatenate([root, _scaled(block, scale).T]), mode="r")

        root = jax.lax.fori_loop(0, m // height, add, jnp.zeros((n, n), scale.dtype))
    rest = _scaled(rows[:, m // height * height :], scale).T
    return jnp.linalg.qr(jnp.concatenate([root, rest]), mode="r")


def _scaled(rows: Float[Array, "n m"], scale: Float[Array, " n"]) -> Float[Array, "n m"]:
    return rows.astype(scale.dtype) / scale[:, None]


def _products(rows: Float[Array, "n m"]) -> Float[Array, "n n"]:
    """Multiply rows with rows, only those of the upper half where there are many."""
    n = len(rows)
    if n <= 2 * STRIP:
        return _times(rows, rows)
    strips = [_times(rows[i : i + STRIP], rows[i:]) for i in range(0, n, STRIP)]
    upper = jnp.concatenate(
        [jnp.pad(strip, ((0, 0), (n - strip.shape[1], 0))) for strip in strips]
    )
    return jnp.triu(upper) + jnp.triu(upper, 1).T


def _times(a: Float[Array, "k m"], b: Float[Array, "n m"]) -> Float[Array, "k n"]:
    # GPUs multiply float32 with ten bits unless told.
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
