"""From a model to its Fisher matrix: by the Jacobian of residuals or the Hessian of a loss."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from fitkit._fisher.eigen import AnyArray, is_traced, matrix_rtol, rank_rtol, scaled_columns
from fitkit._fisher.gram import products, triangle
from fitkit._fisher.jacobian import loss_hessian, residual_derivatives, residual_rows
from fitkit._fisher.matrix import FisherMatrix, from_matrix, from_root, from_spectrum, root_of
from fitkit._input import LossFunction, converted, explained, named_arguments, split_aux
from fitkit._paths import (
    Paths,
    common_dtype,
    is_static,
    match_paths,
    named_elements,
    named_leaves,
    path_of,
)
from fitkit._sharding import (
    automatic,
    automatic_axes,
    find_mesh,
    held_by,
    relabelled,
    to_host,
    under,
)

# The Jacobian, the blocks that it is put together from, and, in single precision, as much again.
COPIES = 3
# Relative error that products may bring to the smallest eigenvalue: half of it comes to a standard
# error, of which eight digits are kept. Of single precision's own derivatives it is twice the
# rounding over the root of the eigenvalue, 1e-2 where the rank ends.
DIGITS, SINGLE_DIGITS = 1e-8, 1e-3


@named_arguments("fisher_matrix")
def fisher_matrix(
    residuals: Callable[[PyTree, Any], PyTree] | None = None,
    params: PyTree = None,
    args: Any = None,
    *,
    loss: LossFunction | None = None,
    weights: PyTree = None,
    frozen: Paths = (),
    rtol: float | None = None,
    memory: int = 2**29,
) -> FisherMatrix:
    """Fisher information of the data about the parameters, at `params`.

    From residuals it is ``JᵀJ``, J their Jacobian, decomposed by the singular values of J with
    columns scaled to unit length, which keeps the digits that forming JᵀJ would lose: with float32
    models the decomposition itself is done in double precision. From a loss it is the Hessian,
    which is the observed information, at the minimum.

    The functions are compiled once for every function object and shapes: pass the same function
    again, not a new ``lambda``, and a second call costs no compilation. Works under ``jit`` and
    ``vmap``, where values are not checked.

    Parameters
    ----------
    residuals
        ``residuals(params, args)`` -> pytree of arrays, (model - data)/σ. Complex ones count as
        two, their real and their imaginary part, which share their weight.
    params
        Pytree of real floating arrays.
    args
        What the function takes besides: model, data.
    loss
        In place of residuals: ``loss(params, args)`` -> the negative logarithm of a likelihood, a
        sum over the data and not a mean. For Poisson counts ``jnp.sum(mu - counts * jnp.log(mu))``.
        Of a pair ``(loss, aux)`` the loss.
    weights
        Multiplies the square of each residual: an array, or a pytree of which the residuals'
        tree is an extension. With a model in place of residuals, ``1/σ²``; for Poisson counts
        ``1/model(params, args)`` gives the expected information. Not with `loss`.
    frozen
        Paths, subtrees or globs of parameters that are known, as for `Fit.freeze`. The matrix is
        that of the others.
    rtol
        Eigenvalues of the units-free matrix below `rtol` times the largest count as zero. Default:
        what is rounding error. From residuals ``(16 eps)²`` in float32 and ``(512 eps)²`` in
        float64; where the matrix itself is formed, ``4 n eps``.
    memory
        Bytes that the Jacobian may take with its working copies. Where it needs more it is not
        stored: ``Jᵀ(JV)`` is formed for 16 columns at a time, and the answer's `squared` says so
        (in float32: products of column blocks in double precision, which lose nothing). Where
        even the residuals are too many, add up blocks of the data (see the notes).

    Returns
    -------
    FisherMatrix

    Raises
    ------
    TypeError
        If a parameter, the residuals or the loss are not real floating-point numbers.
    ValueError
        If not exactly one of `residuals` and `loss` is given; if a parameter, residuals,
        loss or a derivative are not finite, naming the parameters. (Under ``jit`` values are not
        checked.)

    Notes
    -----
    Information adds, so that data which do not fit are taken block by block, compiled once if all
    have one shape, and a Gaussian prior is one block more::

        sum(fk.fisher_matrix(residuals, params, block) for block in blocks)

    Nothing is lost by that: the blocks' triangular factors are stacked, not their products summed.

    Examples
    --------
    Only the sum of two of these three parameters shows in the data:

    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> x = jnp.linspace(0.0, 1.0, 11)
    >>> def residuals(params, args):
    ...     return (params["flux"] + params["sky"] + params["slope"] * x - 1.0) / 0.1
    >>> fk.fisher_matrix(residuals, {"flux": 0.6, "sky": 0.4, "slope": 0.0})
    FisherMatrix of 3 parameters, from singular values
    rank 2 of 3 (eigenvalues above ... of the largest)
    condition number inf
      flux   ± inf
      sky    ± inf
      slope  ± 0.0953
    flux - sky is unconstrained
    """
    with prepared("fisher_matrix", residuals, loss, params, args, weights, frozen) as problem:
        if loss is not None:
            return _from_loss(problem.function, problem.free, problem.rest, problem.args, rtol)
        return _from_residuals(*problem, rtol, memory)


class Problem(NamedTuple):
    """A function of parameters whose Fisher information is asked for; see `fisher_matrix`."""

    function: Any
    free: PyTree
    rest: PyTree
    args: Any
    weights: PyTree


@contextlib.contextmanager
def prepared(
    event: str,
    residuals: Callable | None,
    loss: Callable | None,
    params: PyTree,
    args: Any,
    weights: PyTree,
    frozen: Paths,
) -> Iterator[Problem]:
    """Check what users pass, and compute within on the mesh that the data are on."""
    if (residuals is None) == (loss is None):
        got = "neither" if loss is None else "both"
        raise ValueError(f"{event}: pass either residuals or loss=, got {got}.")
    if loss is not None and weights is not None:
        raise ValueError(f"{event}: weights belong to residuals; put them into the loss.")
    args = converted(args, event, "args")
    weights = converted(weights, event, "weights")
    function: Any
    kind, function = ("loss", loss) if residuals is None else ("residuals", residuals)
    with explained(event, kind, function, params, args):
        mesh = find_mesh(args, params, weights) or held_by(function, params, args)
        function = under(mesh, function if loss is None else _WithoutAux(function))
    with automatic_axes():
        if mesh is not None:
            params, weights = relabelled((params, weights), automatic(mesh))
        free, rest = split_params(params, frozen, event)
        with explained(event, kind, function, params, args):
            yield Problem(function, free, rest, args, weights)


@dataclass(frozen=True)  # Equal for one loss, so that what is compiled for it is found again.
class _WithoutAux:
    function: Callable

    def __call__(self, params: PyTree, args: Any) -> Any:
        return split_aux(self.function(params, args))[0]


def _from_residuals(
    residuals: Callable,
    free: PyTree,
    rest: PyTree,
    args: Any,
    weights: PyTree,
    rtol: float | None,
    memory: int,
) -> FisherMatrix:
    labels = named_elements(free)
    precision = common_dtype(*jax.tree.leaves(free))
    single = jnp.finfo(precision).bits < 64
    traced = is_traced(free, rest, args, weights)
    most = memory // (COPIES * 8)
    parts = residual_derivatives(residuals, free, rest, args, weights, most, traced or not single)
    if parts.transposed is not None:
        return fisher_of_jacobian(labels, parts.residuals, parts.transposed, rtol)
    _refuse_nonfinite(parts.residuals, "residuals")
    if parts.gram is not None:
        matrix = _host(parts.gram)
        _refuse_derivatives(matrix, labels)
        return from_matrix(
            labels, matrix, resolve_rtol(rtol, matrix_rtol(matrix.dtype, len(labels)))
        )

    # The products of a float32 Jacobian are exact enough in double precision only.
    count = max(1, most // (2 * parts.residuals.size))
    basis = jnp.eye(len(labels), dtype=precision)
    starts = range(0, len(labels), count)
    matrix: Any = np.empty((len(labels), len(labels)))
    for i in starts:
        rows = _host(residual_rows(residuals, free, rest, args, weights, basis[i : i + count]))
        _refuse_derivatives(rows, labels[i : i + count])
        for j in starts:
            if j < i:
                continue
            others = rows
            if j > i:
                others = residual_rows(residuals, free, rest, args, weights, basis[j : j + count])
            product = rows @ _host(others).T
            matrix[i : i + count, j : j + count] = product
            matrix[j : j + count, i : i + count] = product.T
    # In double precision the product is more exact than the float32 Jacobian it is made of.
    return from_root(labels, root_of(labels, matrix), resolve_rtol(rtol, rank_rtol(precision) ** 2))


def fisher_of_jacobian(
    labels: tuple[str, ...],
    residuals: Float[AnyArray, " m"],
    transposed: Float[AnyArray, "n m"],
    rtol: float | None = None,
) -> FisherMatrix:
    """Fisher matrix from the Jacobian of residuals, transposed."""
    _refuse_nonfinite(residuals, "residuals")
    cut = resolve_rtol(rtol, rank_rtol(transposed.dtype) ** 2)
    if is_traced(transposed):
        # Whether products would do is not known yet.
        return from_root(labels, _triangle(transposed.T.astype(float)), cut)
    return _from_rows(labels, transposed, cut)


def _from_rows(labels: tuple[str, ...], rows: Float[AnyArray, "n m"], rtol: float) -> FisherMatrix:
    """Take the products of the rows where they keep eight digits, and a QR decomposition where not.

    All in double precision, where the rows are: threads of NumPy's would fight those of JAX.
    """
    wanted = DIGITS if jnp.finfo(rows.dtype).bits >= 64 else SINGLE_DIGITS
    with jax.enable_x64(True):
        scale, matrix, values, vectors = map(to_host, _decomposed(rows))
        if not np.all(np.isfinite(scale)):
            _refuse_derivatives(to_host(rows), labels)
        scale = np.where(scale == 0, 1, scale)
        if matrix_rtol(np.float64, len(labels)) * values[0] <= wanted * values[-1]:
            return from_spectrum(labels, matrix, scale, values, vectors, rtol)
        return from_root(labels, to_host(_root(rows, scale)), rtol)


@jax.jit
def _decomposed(rows: Float[Array, "n m"]) -> tuple[Array, Array, Array, Array]:
    """Lengths of rows, products of the scaled ones, their eigenvalues and, in rows, eigenvectors.

    Eigenvalues descend; they are zero where a row is not finite.
    """
    scale, matrix = products(rows, float)
    values, vectors = jnp.linalg.eigh(jnp.where(jnp.all(jnp.isfinite(scale)), matrix, 0))
    return scale, matrix, values[::-1], vectors.T[::-1]


@jax.jit
def _root(rows: Float[Array, "n m"], scale: Float[Array, " n"]) -> Float[Array, "k n"]:
    return triangle(rows, scale) * scale[None, :]


def _from_loss(
    loss: Any, free: PyTree, rest: PyTree, args: Any, rtol: float | None
) -> FisherMatrix:
    labels = named_elements(free)
    value, hessian = loss_hessian(loss, free, rest, args)
    _refuse_nonfinite(value, "loss")
    matrix = _host(hessian)
    _refuse_derivatives(matrix, labels)
    return from_matrix(labels, matrix, resolve_rtol(rtol, matrix_rtol(hessian.dtype, len(labels))))


def _triangle(jacobian: Float[AnyArray, "m n"]) -> Float[AnyArray, "k n"]:
    """Reduce to at most n rows with the same ``JᵀJ``; column scaling keeps squares in range."""
    rows, columns = jacobian.shape
    if rows <= columns:
        return jacobian
    unit, scale = scaled_columns(jacobian)
    return jacobian.__array_namespace__().linalg.qr(unit, mode="r") * scale[None, :]


def _host(array: Any) -> Any:
    """Bring known values to the host in double precision, which JAX may have switched off."""
    return array.astype(float) if is_traced(array) else to_host(array).astype(np.float64)


def resolve_rtol(rtol: float | None, default: float) -> float:
    """Check a tolerance, or return the default."""
    if rtol is None:
        return default
    if not 0 <= rtol < 1:
        raise ValueError(f"fisher_matrix: rtol must be in [0, 1), got {rtol}.")
    return rtol


def split_params(
    params: PyTree, frozen: Paths, event: str = "fisher_matrix"
) -> tuple[PyTree, PyTree]:
    """Split into the free parameters and the rest (frozen, or no array); refuse what is bad.

    Both parts are trees like `params`, with None where the other has a leaf.
    """
    params = converted(params, event, "params")
    arrays = jax.tree.map(lambda leaf: None if is_static(leaf) else leaf, params)
    leaves = named_leaves(arrays)
    patterns = tuple(frozen) if isinstance(frozen, set | frozenset) else frozen
    paths = {*match_paths(patterns, leaves, event)} if patterns else set()
    if len(paths) == len(leaves):
        why = "all parameters are frozen." if leaves else "params hold no parameter."
        raise ValueError(f"{event}: {why}")
    for path, leaf in leaves.items():
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{event}: parameter '{path}' has dtype {dtype}; parameters are real "
                "floating-point numbers or arrays. Write it as one, or pass it through `args`."
            )
        if not is_traced(leaf) and not np.all(np.isfinite(np.asarray(leaf))):
            raise ValueError(f"{event}: parameter '{path}' is not finite: {leaf}.")

    def part(key_path: Any, leaf: Any, wanted: bool) -> Any:
        if is_static(leaf):
            return None if wanted else leaf
        if (path_of(key_path) in paths) == wanted:
            return None
        return jnp.asarray(leaf, None if hasattr(leaf, "dtype") else float)

    free = jax.tree_util.tree_map_with_path(lambda key, leaf: part(key, leaf, True), params)
    rest = jax.tree_util.tree_map_with_path(lambda key, leaf: part(key, leaf, False), params)
    return free, rest


def _refuse_nonfinite(values: Any, what: str) -> None:
    if is_traced(values):
        return
    bad = np.count_nonzero(~np.isfinite(to_host(values)))
    if bad:
        raise ValueError(
            f"fisher_matrix: {bad} of {values.size} values of the {what} are not finite at these "
            "params. fitkit.find_nonfinite finds the line that made them."
        )


def _refuse_derivatives(rows: Any, labels: tuple[str, ...]) -> None:
    if is_traced(rows):
        return
    # One infinite derivative times the zeros of other rows makes NaN of them: name it alone.
    bad = np.count_nonzero(np.isinf(rows), axis=1)
    if not bad.any():
        bad = np.count_nonzero(np.isnan(rows), axis=1)
    if bad.any():
        names = [f"'{labels[i]}' ({bad[i]} of {rows.shape[1]})" for i in np.nonzero(bad)[0]]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(
            f"fisher_matrix: derivatives are not finite with respect to {', '.join(names[:5])}"
            f"{more}. Typical causes are sqrt or a power at 0 and masked infinities; "
            "fitkit.find_nonfinite finds the line that made them."
        )
