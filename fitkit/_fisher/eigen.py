"""Spectra: the linear algebra of which eigenvectors the data constrain.

Everything here is a pure function of arrays, in units-free form: columns, or rows and columns,
are scaled to unit length first, so that no choice of units decides what counts as small.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Real

from fitkit._input import converted

# JAX's arrays or NumPy's, with its scalars, which its reductions return: each knows the namespace
# of its functions. To a static checker such a scalar is an array without axes.
if TYPE_CHECKING:
    AnyArray: TypeAlias = Array | np.ndarray
else:
    AnyArray = Array | np.ndarray | np.generic

# What a user may write for a matrix.
Matrix: TypeAlias = Real[Array | np.ndarray, "n n"] | Sequence[Sequence[float]]


class ScaledSVD(NamedTuple):
    """``jacobian = (left * singular_values) @ right * scale``."""

    left: Float[AnyArray, "m n"]
    singular_values: Float[AnyArray, " n"]
    right: Float[AnyArray, "n n"]
    scale: Float[AnyArray, " n"]


def scaled_svd(jacobian: Float[AnyArray, "m n"]) -> ScaledSVD:
    """Singular values of a Jacobian whose columns were scaled to unit length.

    The squares of the singular values are the eigenvalues of the units-free Fisher matrix, and
    the rows of `right` its eigenvectors, but without the loss of half the digits that forming
    ``JᵀJ`` costs. Works on JAX arrays (under ``jit`` and ``vmap`` too) and on NumPy arrays, and
    answers in kind.

    Parameters
    ----------
    jacobian
        Derivative of every residual (row) with respect to every parameter (column). There may be
        fewer rows than columns.

    Returns
    -------
    ScaledSVD
        `left` (m, n); `singular_values` (n,), descending, 0 to √n, zeros at the end where m < n;
        `right` (n, n) orthogonal, its rows belong to the singular values; `scale` (n,) the
        lengths of the columns, in 1/(unit of the parameter). A column of zeros has scale 1: it
        ends as a singular value of zero. A singular value below ``rank_rtol(dtype)`` times the
        largest is rounding error.

    Notes
    -----
    Scaling the columns to equal length comes within √n of the smallest condition number that any
    scaling can reach (van der Sluis, Numer. Math. 14, 14, 1969).

    Examples
    --------
    >>> svd = scaled_svd(jnp.array([[3.0, 0.0], [0.0, 0.5], [4.0, 0.0]]))
    >>> svd.singular_values.tolist(), svd.scale.tolist()
    ([1.0, 1.0], [5.0, 0.5])
    """
    xp = jacobian.__array_namespace__()
    rows, columns = jacobian.shape
    unit, scale = scaled_columns(jacobian)
    if rows < columns:
        unit = xp.concat([unit, xp.zeros((columns - rows, columns), unit.dtype)])
    left, singular_values, right = xp.linalg.svd(unit, full_matrices=False)
    return ScaledSVD(left[:rows], singular_values, right, scale)


def scaled_columns(
    matrix: Float[AnyArray, "m n"],
) -> tuple[Float[AnyArray, "m n"], Float[AnyArray, " n"]]:
    """Scale every column to unit length; a column of zeros stays, with scale 1.

    Divides by the largest entry first, so that no square overflows or vanishes.
    """
    xp = matrix.__array_namespace__()
    largest = _or_one(xp.max(xp.abs(matrix), axis=0, initial=0))
    relative = matrix / largest[None, :]
    length = _or_one(xp.sqrt(xp.sum(relative**2, axis=0)))
    return relative / length[None, :], largest * length


def rank_rtol(dtype: Any) -> float:
    """Singular values of a column-scaled Jacobian below this, relative to the largest, are noise.

    The singular values of columns of unit length come with a few units of rounding (Weyl's theorem
    and the backward error of the SVD), and so do the derivatives of a simple model: 16 units in
    all, 1.9e-6, in float32. In float64 there is room for models that lose up to two digits and a
    half more: 512 units, 1.1e-13.
    """
    info = jnp.finfo(dtype)
    return (512 if info.bits >= 64 else 16) * float(info.eps)


def matrix_rtol(dtype: Any, size: int) -> float:
    """Eigenvalues of a formed symmetric matrix below this, relative to the largest, are noise.

    ``4 n eps``: the backward error of ``eigh`` is a small multiple of n units of rounding.
    """
    return 4 * max(size, 1) * float(jnp.finfo(dtype).eps)


def decompose(
    matrix: Matrix, hermitian: bool = True, normalise: bool = False
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, descending, and eigenvectors, one per row; the signature is zodiax's.

    Parameters
    ----------
    matrix
        A square matrix, such as a Fisher matrix or a covariance.
    hermitian
        Whether the matrix is symmetric; its symmetric part is used then. Otherwise its
        eigenvalues must be real all the same.
    normalise
        Divide the eigenvalues by the largest. Where none is positive, by the largest magnitude,
        so that the order and the signs stay; a matrix of zeros keeps its zeros.

    Returns
    -------
    eigenvalues : Float[Array, " n"]
        In the unit of the matrix, or relative to the largest.
    eigenvectors : Float[Array, "n n"]
        Row i belongs to eigenvalue i.

    Raises
    ------
    ValueError
        If the matrix is not square, not finite, or its eigenvalues are complex. (Under ``jit``
        and ``vmap`` values are not known, and only the shape is checked.)

    Examples
    --------
    >>> import fitkit as fk
    >>> eigenvalues, eigenvectors = fk.decompose([[2.0, 0.0], [0.0, 8.0]])
    >>> eigenvalues.tolist()
    [8.0, 2.0]
    """
    matrix = _checked(matrix, "decompose", "matrix")
    if hermitian:
        eigenvalues, eigenvectors = jnp.linalg.eigh(matrix)
        eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors.T[::-1]
    else:
        eigenvalues, eigenvectors = jnp.linalg.eig(matrix)
        _refuse_complex(eigenvalues)
        order = jnp.argsort(eigenvalues.real)[::-1]
        eigenvalues, eigenvectors = eigenvalues.real[order], eigenvectors.real.T[order]
    if normalise and eigenvalues.size:
        magnitude = jnp.max(jnp.abs(eigenvalues))
        eigenvalues /= jnp.where(eigenvalues[0] > 0, eigenvalues[0], _or_one(magnitude))
    return eigenvalues, eigenvectors


def eigen_projection(fmat: Matrix | None = None, cov: Matrix | None = None) -> Float[Array, "n n"]:
    """Projection from latent coordinates, all of unit variance, to parameters; zodiax's signature.

    ``params = centre + projection @ latent``, where ``projection @ projection.T`` is the
    covariance: the inverse of `fmat`, or `cov` itself. The matrix is scaled to a unit diagonal
    before it is decomposed, so that units decide nothing.

    Parameters
    ----------
    fmat
        A Fisher matrix, in 1/(product of the parameters' units).
    cov
        A covariance matrix, in place of `fmat`.

    Returns
    -------
    Float[Array, "n n"]
        Row i in the unit of parameter i; columns from the largest eigenvalue of the scaled matrix
        to the smallest. An eigenvector without information (or without variance, for `cov`), whose
        eigenvalue is negative or below ``4 n eps`` of the largest, is cut: its column is zero, so
        ``(projection == 0).all(axis=0)`` marks them. `FisherMatrix.unconstrained` names them.

    Raises
    ------
    ValueError
        If neither or both are given, or if the matrix is not square or not finite. (Under ``jit``
        and ``vmap`` values are not known, and only the shape is checked.)

    Examples
    --------
    >>> import fitkit as fk
    >>> fk.eigen_projection(fmat=[[4.0, 0.0], [0.0, 0.0]]).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    if (fmat is None) == (cov is None):
        raise ValueError(
            "eigen_projection: pass either fmat or cov, "
            + ("and neither was given." if fmat is None else "not both: each implies the other.")
        )
    name, given = ("fmat", fmat) if fmat is not None else ("cov", cov)
    matrix = _checked(given, "eigen_projection", name)
    matrix = matrix / 2 + matrix.T / 2

    scale = _or_one(jnp.sqrt(jnp.abs(jnp.diag(matrix))))
    eigenvalues, eigenvectors = decompose(over_both(matrix, scale))
    rtol = matrix_rtol(matrix.dtype, len(matrix))
    keep = (eigenvalues > rtol * eigenvalues[:1]) & (eigenvalues > 0)
    root = jnp.sqrt(jnp.where(keep, eigenvalues, 1))
    columns = jnp.where(keep, root if fmat is None else 1 / root, 0)
    # A parameter of zeros mixes into the kept eigenvectors by rounding alone.
    rows = jnp.where(jnp.any(matrix != 0, axis=1), scale if fmat is None else 1 / scale, 0)
    return rows[:, None] * eigenvectors.T * columns[None, :]


def over_both(matrix: Float[AnyArray, "n n"], scale: Float[AnyArray, " n"]) -> AnyArray:
    """Divide rows and columns by their scales, one after the other: products may overflow."""
    return matrix / scale[:, None] / scale[None, :]


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is abstract, as under ``jit``, ``vmap`` or ``grad``, so has no value."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def _checked(matrix: Any, event: str, name: str) -> Float[Array, "n n"]:
    """Refuse what has no eigenvalues, before anything compiles."""
    if is_traced(matrix):
        _refuse_shape(jnp.shape(matrix), event, name)
    else:
        # In NumPy, because jax_debug_nans would stop at the first touch of a NaN, without a name.
        matrix = converted(matrix, event, name) if hasattr(matrix, "dtype") else matrix
        values = np.asarray(matrix)
        _refuse_shape(values.shape, event, name)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = map(int, bad[0])
            raise ValueError(
                f"{event}: {name}[{row}, {column}] is {values[row, column]}, and {len(bad)} of "
                f"{values.size} entries are not finite. Leave that parameter out, or find the "
                "line that made it with fitkit.find_nonfinite."
            )
    matrix = jnp.asarray(matrix)
    return matrix if jnp.issubdtype(matrix.dtype, jnp.floating) else matrix.astype(float)


def _refuse_shape(shape: tuple[int, ...], event: str, name: str) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"{event}: {name} must be square (n, n), got shape {shape}.")


def _refuse_complex(eigenvalues: Array) -> None:
    if is_traced(eigenvalues):
        return
    values = np.asarray(eigenvalues)
    # An exact double real eigenvalue splits into a complex pair √eps apart by rounding, times a
    # constant of the order of the size of the matrix.
    noise = 10 * np.sqrt(np.finfo(values.dtype).eps) * np.max(np.abs(values), initial=0)
    if np.max(np.abs(np.imag(values)), initial=0) > noise:
        raise ValueError(
            f"decompose: the matrix has complex eigenvalues ({values}), which cannot be put in "
            "descending order. A Fisher or covariance matrix is symmetric: check how it was made."
        )


def _or_one(values: Float[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    """Replace zeros (and NaN, which shows later, where it has a name) by one."""
    return values.__array_namespace__().where(values > 0, values, 1)
