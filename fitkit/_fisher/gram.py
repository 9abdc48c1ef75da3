"""Products of a Jacobian with itself, and what they lose: when to take them for a decomposition.

``JᵀJ`` costs half of a QR decomposition's arithmetic and a fifth of its time, and squares the
condition number. Its eigenvalues come with an error of some units of rounding of the largest, so
that the smallest tells how many digits are left. All here takes the Jacobian transposed, one row
per parameter, as forward mode makes it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Columns of a slice that is scaled and multiplied while it is in the cache (measured: from 1024
# to 4096 it makes no difference).
SPAN = 2048
# Rows up to which all of a symmetric product is made: one of a thousand rows takes three quarters
# of the time in blocks of this size, and nine tenths in strips of 128.
SQUARE = 260
# Elements of a Jacobian that is taken whole: a megabyte, which stays in the cache, and code for the
# slices and the rest would have to be compiled.
WHOLE = 2**17
# Rows of a block of a QR decomposition: enough for the cache, and to make little of the triangle
# that each block is put below.
HEIGHT = 1600


def lengths(rows: Float[Array, "n m"]) -> Float[Array, " n"]:
    """Length of every row, over the whole range of numbers; not finite where an element is not."""
    largest = _largest(rows)
    return largest * jnp.sqrt(jnp.sum(jnp.square(rows / largest[:, None]), axis=1))


def products(
    rows: Float[Array, "n m"], dtype: Any
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Lengths of all rows, and the products of the rows over their lengths.

    Slice by slice, so that no copy of the rows is made. Where there is anything not finite the
    length is not.
    """

    def by_largest() -> tuple[Array, Array]:
        largest = _largest(rows).astype(dtype)
        size, unit = _normalised(_gram(rows, largest, dtype))
        return largest * size, unit

    # What is read once more is cheap here, and a branch would have to be compiled.
    if rows.size <= WHOLE:
        return by_largest()
    plain = _gram(rows, None, dtype)
    squares = _diagonal(plain)
    info = jnp.finfo(dtype)
    # Squares that are lost below the smallest number are rounding in a sum above this.
    trusted = float(info.tiny) / float(info.eps) ** 2
    return jax.lax.cond(
        jnp.all(jnp.isfinite(squares) & (squares > trusted)),
        lambda: _normalised(plain),
        by_largest,
    )


def _normalised(gram: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Lengths of rows by their products, and the products of the rows over their lengths."""
    size = jnp.sqrt(_diagonal(gram))
    safe = jnp.where(size == 0, 1, size)
    return size, gram / safe[:, None] / safe[None, :]


def _diagonal(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    # `jnp.diagonal` compiles a branch.
    return jnp.einsum("ii->i", matrix)


def _largest(rows: Float[Array, "n m"]) -> Float[Array, " n"]:
    """Largest element of every row, by which its squares stay in the range of numbers; or 1."""
    largest = jnp.max(jnp.abs(rows), axis=1, initial=0)
    return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)


def _gram(
    rows: Float[Array, "n m"], scale: Float[Array, " n"] | None, dtype: Any
) -> Float[Array, "n n"]:
    n, m = rows.shape

    def of(block: Array) -> Array:
        block = block.astype(dtype)
        return _products(block if scale is None else block / scale[:, None])

    if m <= SPAN or rows.size <= WHOLE:
        return of(rows)

    def add(k: Array, total: Array) -> Array:
        return total + of(jax.lax.dynamic_slice(rows, (0, k * SPAN), (n, SPAN)))

    total = jax.lax.fori_loop(0, m // SPAN, add, jnp.zeros((n, n), dtype))
    return total + of(rows[:, m // SPAN * SPAN :]) if m % SPAN else total


def triangle(rows: Float[Array, "n m"], scale: Float[Array, " n"]) -> Float[Array, "k n"]:
    """Triangular factor of the scaled rows' transpose, block by block."""
    n, m = rows.shape
    height = max(HEIGHT, 4 * n)

    def scaled(block: Array) -> Array:
        return block.astype(scale.dtype) / scale[:, None]

    root = jnp.zeros((0, n), scale.dtype)
    if m > height and rows.size > WHOLE:

        def add(k: Array, root: Array) -> Array:
            block = jax.lax.dynamic_slice(rows, (0, k * height), (n, height))
            return jnp.linalg.qr(jnp.concatenate([root, scaled(block).T]), mode="r")

        root = jax.lax.fori_loop(0, m // height, add, jnp.zeros((n, n), scale.dtype))
        rows = rows[:, m // height * height :]
    return jnp.linalg.qr(jnp.concatenate([root, scaled(rows).T]), mode="r")


def _products(rows: Float[Array, "n m"]) -> Float[Array, "n n"]:
    """Multiply rows with rows; where there are many, what is the same twice is made once."""
    n = len(rows)
    if n <= SQUARE:
        return _times(rows, rows)
    first, second = rows[: n // 2], rows[n // 2 :]
    across = _times(first, second)
    return jnp.block([[_products(first), across], [across.T, _products(second)]])


def _times(a: Float[Array, "k m"], b: Float[Array, "n m"]) -> Float[Array, "k n"]:
    # GPUs multiply float32 with ten bits unless told.
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
