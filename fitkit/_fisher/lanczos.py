"""Lanczos's tridiagonal form of a symmetric matrix that is known by its products alone."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Tridiagonal(NamedTuple):
    """A symmetric matrix on the space of a vector and its first products.

    Attributes
    ----------
    diagonal, beside
        Of the tridiagonal matrix.
    basis
        One row for each of its coordinates.
    """

    diagonal: Float[np.ndarray, " k"]
    beside: Float[np.ndarray, " j"]
    basis: Float[np.ndarray, "k n"]

    def decomposed(self) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
        """Return Ritz values, the smallest first, and in columns their vectors in the basis."""
        matrix = np.diag(self.diagonal)
        matrix += np.diag(self.beside, 1) + np.diag(self.beside, -1)
        return np.linalg.eigh(matrix)


def lanczos(
    product: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]],
    start: Float[np.ndarray, " n"],
    size: int,
    eps: float,
) -> Tridiagonal:
    """Reduce a matrix to `size` coordinates, or fewer if the products span no more.

    A fixed number of products, each orthogonal to all others: for what no tolerance can decide, a
    sign or a density. `scipy.sparse.linalg.eigsh` converges to single eigenvalues.

    Parameters
    ----------
    product
        The matrix times a vector.
    start
        Where the space begins.
    size
        Number of products.
    eps
        Unit of rounding of the products.
    """
    basis = np.zeros((size, len(start)))
    diagonal, beside = np.zeros(size), np.zeros(size)
    vector = start / np.linalg.norm(start)
    for k in range(size):
        basis[k] = vector
        curved = product(vector)
        diagonal[k] = vector @ curved
        # Twice is enough to keep the basis orthogonal (Kahan; Parlett, 1980, section 6.9).
        for _ in range(2):
            curved = curved - basis[: k + 1].T @ (basis[: k + 1] @ curved)
        beside[k] = np.linalg.norm(curved)
        if beside[k] <= eps * np.max(np.abs(diagonal)):
            size = k + 1
            break
        vector = curved / beside[k]
    return Tridiagonal(diagonal[:size], beside[: size - 1], basis[:size])
