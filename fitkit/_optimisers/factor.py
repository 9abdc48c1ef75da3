"""One factorisation of a Jacobian for all that a step of Gauss-Newton asks of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fitkit._fisher import lengths, products, triangle

# Relative error that n units of rounding in the products may bring to the smallest eigenvalue, and
# so to the step along its eigenvector: each step still comes a hundred times nearer. Slopes keep
# all the digits that the convergence test asks for: their error, a unit over the singular value, is
# 1.5e-9 where that is smallest.
PRECISE = 1e-2
# Of the products of a column that is empty. No eigenvalue of products comes near it, so that it
# tells the column apart from others that matter little.
EMPTY = -1.0


class Factor(NamedTuple):
    """The singular value decomposition of a Jacobian, and the residuals in its terms."""

    #: Descending; 1 where cut.
    singular_values: Float[Array, " n"]
    #: Residuals along the left singular vectors; 0 where cut.
    slopes: Float[Array, " n"]
    right: Float[Array, "n n"]
    #: Which singular values are more than rounding.
    keep: Bool[Array, " n"]
    #: Their squares, of those that are cut too.
    eigenvalues: Float[Array, " n"]
    #: Of the Jacobian with columns of unit length: a triangle, or the products of its columns.
    unit: Float[Array, "n n"]
    squared: Bool[Array, ""]

    def units_free(self) -> Float[Array, " n"]:
        """Eigenvalues of the products of columns of unit length, descending."""
        # Of products they are the eigenvalues.
        values = jnp.linalg.svd(self.unit, compute_uv=False)
        return jnp.where(self.squared, values, values**2)


def measured(
    rows: Float[Array, "n m"], dtype: Any
) -> tuple[Float[Array, " n"], Float[Array, "n n"] | None]:
    """Lengths of the rows, and the products of scaled rows where they may serve.

    Products in single precision know no eigenvalue below 1e-3 of the largest.
    """
    if jnp.finfo(dtype).bits < 64:
        return lengths(rows), None
    return products(rows, dtype)


def factorised(
    rows: Float[Array, "n m"],
    residuals: Float[Array, " m"],
    columns: Float[Array, " n"],
    unit: Float[Array, "n n"] | None,
    ratio: Float[Array, " n"],
    rtol: float,
) -> Factor:
    """Factorise a Jacobian by the products of its columns where they will do, and else by QR.

    Parameters
    ----------
    rows
        The Jacobian, transposed.
    residuals
        In the precision in which all is computed.
    columns, unit
        What is `measured` of it.
    ratio
        What each column has for its length in the Jacobian that is factorised; 0 for an empty one.
    rtol
        Singular values below this, relative to the largest, are cut.
    """
    scale = jnp.where(columns > 0, columns, 1)
    squared = jnp.array(False)

    def by_triangle() -> tuple[Array, ...]:
        # The triangle of the Jacobian with the residuals beside it holds all that follows in at
        # most n + 1 rows, and in the last of them nothing of the Jacobian.
        n = len(rows)
        both = jnp.concatenate([jnp.where(jnp.any(ratio > 0), rows, 0), residuals[None]])
        root = triangle(both, jnp.append(scale, 1))[:n]
        root = jnp.pad(root, ((0, n - len(root)), (0, 0)))
        left, values, right = jnp.linalg.svd(root[:, :-1] * ratio[None, :])
        return values, root[:, -1] @ left, right, root[:, :-1]

    if unit is None:
        values, slopes, right, matrix = by_triangle()
    else:
        empty = jnp.where(ratio > 0, 0, EMPTY)
        squares, vectors = jnp.linalg.eigh(unit * ratio[None, :] * ratio[:, None] + jnp.diag(empty))
        squares, vectors = squares[::-1], vectors.T[::-1]
        filled = squares > EMPTY / 2
        least = len(unit) * float(jnp.finfo(unit.dtype).eps) / PRECISE * squares[0]
        squared = jnp.all((squares >= least) | ~filled)

        def by_products() -> tuple[Array, ...]:
            values = jnp.sqrt(jnp.where(filled, squares, 0))
            slopes = vectors @ (rows @ residuals / scale * ratio) / jnp.where(filled, values, 1)
            return values, slopes, vectors, unit

        values, slopes, right, matrix = jax.lax.cond(squared, by_products, by_triangle)
    keep = values > rtol * values[0]
    return Factor(
        singular_values=jnp.where(keep, values, 1),
        slopes=jnp.where(keep, slopes, 0),
        right=right,
        keep=keep,
        eigenvalues=values**2,
        unit=matrix,
        squared=squared,
    )
