"""The loss around a point as a sum of parabolas, one along each of its eigenvectors.

From residuals the curvature is ``JᵀJ + Σ r ∇²r``. The first part comes from singular values of J,
never from the product; the second from products of the Hessian of ``w·r``, where w are the
residuals less what a Gauss-Newton step would take away. At a minimum they are the residuals; off
it, they have no part that would bend what is flat (a product of two parameters, say).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fitkit._fisher import rank_rtol, scaled_columns

# J sets the curvature along a singular vector unless what ∇²r adds or takes is far more. J²/(r r″)
# is k/(k - 1) at a zero of order k, 1 on an exponential and a/(a + 1) on a power a: 1/2 of 1/x.
STRONG = 0.4
# Standard errors are those of J unless the whole curvature is more than four times its square,
# where they would be wrong by more than a factor of two.
LEAST = 4.0
# Rounding of a sum of products, in units of eps times the lengths of both factors.
SUM = 4.0
# Ruiz' iteration halves the logarithm of what is left to scale: 2^-20 of twelve decades is 1e-5.
ROUNDS = 20
# Rows of one block of a QR decomposition; a block and its factors stay in the cache.
ROWS = 1600


@dataclass(frozen=True)
class Quadratic:
    """A quadratic model of the loss, in coordinates along the eigenvectors of its curvature.

    Attributes
    ----------
    vectors : Float[np.ndarray, "n k"]
        Change of the parameters for one unit of each coordinate.
    inverse : Float[np.ndarray, "k n"]
        Change of each coordinate with the parameters.
    curvatures, slopes : Float[np.ndarray, " k"]
        Second and first derivative of the loss by each coordinate; curvatures of order one.
    signs : Int[np.ndarray, " k"]
        Of the curvatures; 0 where rounding hides them.
    proven : bool
        Whether these are all the eigenvectors there are.
    """

    vectors: Float[np.ndarray, "n k"]
    inverse: Float[np.ndarray, "k n"]
    curvatures: Float[np.ndarray, " k"]
    slopes: Float[np.ndarray, " k"]
    signs: Int[np.ndarray, " k"]
    proven: bool

    @property
    def newton(self) -> Float[np.ndarray, " k"]:
        """Newton step along every eigenvector of positive curvature, in its coordinate."""
        up = self.signs > 0
        return np.where(up, -self.slopes / np.where(up, self.curvatures, 1), 0)

    @property
    def decrement(self) -> float:
        """Root of twice what a Newton step gains: the distance in units of one standard error."""
        return float(np.sqrt(np.sum(-self.newton * self.slopes)))


@dataclass(frozen=True)
class LeastSquares:
    """What a Jacobian says of residuals, in the basis of its singular vectors.

    Attributes
    ----------
    quadratic : Quadratic
    across : float
        Length of the residuals that no change of the parameters takes away, to first order.
    along : float
        Length of those that a Gauss-Newton step takes away.
    away : float
        Length of the Newton step by the errors that J alone implies; along what J leaves to ∇²r,
        by the whole curvature.
    rank : int
        Of J.
    strong : int
        Number of its singular vectors along which J rather than ∇²r sets the curvature.
    """

    quadratic: Quadratic
    across: float
    along: float
    away: float
    rank: int
    strong: int


def from_residuals(
    residuals: Float[np.ndarray, " m"],
    jacobian: Float[np.ndarray, "m n"],
    contracted: Callable[[Float[np.ndarray, " m"]], Float[np.ndarray, "n n"]],
    bending: Callable[[Float[np.ndarray, " n"], Float[np.ndarray, "k n"]], np.ndarray],
    eps: float,
) -> LeastSquares:
    """Build the quadratic model of half the sum of squares.

    Parameters
    ----------
    residuals, jacobian
        At the point, in double precision.
    contracted
        Computes ``Σ w ∇²r`` of weights w.
    bending
        Computes the lengths of the second derivatives of r along one vector and each of others.
    eps
        Unit of rounding of what they were computed in.
    """
    n = jacobian.shape[1]
    columns: Any = jacobian
    unit, scale = scaled_columns(columns)
    size = float(np.linalg.norm(residuals)) or 1.0
    triangle = _triangle(np.column_stack([unit, residuals / size]))
    triangle = np.pad(triangle, ((0, max(n - len(triangle), 0)), (0, 0)))
    left, values, right = np.linalg.svd(triangle[:, :-1], full_matrices=False)
    kept = values > _rank_cut(eps) * values[0]
    values = np.where(kept, values, 0)
    along = np.where(kept, size * (triangle[:, -1] @ left), 0)
    basis = right / scale  # rows: change of the parameters for one unit of each coordinate

    def bent(weights: np.ndarray) -> np.ndarray:
        matrix = basis @ contracted(weights) @ basis.T
        # Without a second derivative (a power of 1.5 at 0, say) J is all there is.
        return matrix / 2 + matrix.T / 2 if np.all(np.isfinite(matrix)) else np.zeros((n, n))

    extra = bent(residuals)
    strong = kept & (values**2 >= STRONG * np.abs(np.diag(extra)))
    across = residuals - unit @ (right[strong].T @ (along / np.where(kept, values, 1))[strong])
    if np.any(along[strong]):
        extra = bent(across)
    weak = np.flatnonzero(~strong)
    for i in weak:
        noise = SUM * eps * np.linalg.norm(across) * bending(basis[i], basis)
        hidden = np.abs(extra[i]) <= noise
        extra[i, hidden] = extra[hidden, i] = 0
    matrix = np.diag(values**2) + extra
    quadratic = _diagonal(matrix, values * along, eps, basis.T, right.T * scale[:, None])
    step = (right * scale) @ (quadratic.vectors @ quadratic.newton)
    whole = np.abs(np.diag(matrix))
    metric = np.where(LEAST * values**2 >= whole, values**2, whole)
    return LeastSquares(
        quadratic=quadratic,
        across=float(np.linalg.norm(across)),
        along=float(np.linalg.norm(along[strong])),
        away=float(np.sqrt(metric @ step**2)),
        rank=int(np.count_nonzero(kept)),
        strong=int(np.count_nonzero(strong)),
    )


def from_hessian(
    gradient: Float[np.ndarray, " n"], hessian: Float[np.ndarray, "n n"], eps: float
) -> Quadratic:
    """Build the quadratic model of a loss."""
    identity = np.eye(len(gradient))
    return _diagonal(hessian / 2 + hessian.T / 2, gradient, eps, identity, identity)


def _diagonal(
    matrix: Float[np.ndarray, "n n"],
    slopes: Float[np.ndarray, " n"],
    eps: float,
    vectors: Float[np.ndarray, "n n"],
    dual: Float[np.ndarray, "n n"],
) -> Quadratic:
    """Find the eigenvectors of a curvature after equilibration; units decide nothing.

    A scaling to a unit diagonal would not do: the saddle x·y has none.
    """
    scale = equilibrated(matrix)
    values, turned = np.linalg.eigh(matrix / scale[:, None] / scale)
    # The backward error of `eigh` is a small multiple of n units of rounding.
    hidden = np.abs(values) <= 4 * len(values) * eps * np.max(np.abs(values), initial=0)
    return Quadratic(
        vectors=vectors @ (turned / scale[:, None]),
        inverse=(turned * scale[:, None]).T @ dual.T,
        curvatures=values,
        slopes=turned.T @ (slopes / scale),
        signs=np.where(hidden, 0, np.sign(values)).astype(int),
        proven=True,
    )


def equilibrated(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Scale of every row and column that brings the largest entry of all rows near to 1.

    D. Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices",
    Rutherford Appleton Laboratory, RAL-TR-2001-034.
    """
    scale = np.ones(len(matrix))
    for _ in range(ROUNDS):
        rows = np.max(np.abs(matrix) / scale[:, None] / scale, axis=1, initial=0)
        scale *= np.sqrt(np.where(rows > 0, rows, 1))
    return scale


def _triangle(matrix: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "j k"]:
    """Triangular factor of a QR decomposition, block by block where the matrix is long."""
    rows, columns = matrix.shape
    height = max(ROWS, 2 * columns)
    if rows <= 2 * height:
        return np.asarray(np.linalg.qr(matrix, mode="r"))
    whole = rows // height * height
    blocks = np.asarray(np.linalg.qr(matrix[:whole].reshape(-1, height, columns), mode="r"))
    return _triangle(np.concatenate([blocks.reshape(-1, columns), matrix[whole:]]))


def _rank_cut(eps: float) -> float:
    """Relative size below which a singular value is rounding, as `rank_rtol` sets it for dtypes."""
    dtype = np.float64 if eps < 1e-12 else np.float32
    return rank_rtol(dtype) * eps / float(np.finfo(dtype).eps)
