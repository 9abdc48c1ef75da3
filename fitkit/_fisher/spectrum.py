"""The spectrum of a Fisher matrix that is too large to store: its upper end, trace and density."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fisher.compute import Problem, prepared
from fitkit._fisher.eigen import is_traced
from fitkit._fisher.jacobian import residual_product
from fitkit._fisher.lanczos import lanczos
from fitkit._fisher.residuals import real_residuals
from fitkit._fisher.second_order import loss_product
from fitkit._format import number
from fitkit._input import LossFunction, named_arguments, outcome
from fitkit._paths import Paths, common_dtype, match_paths, named_leaves, ravel
from fitkit._sharding import to_host

# Up to so many elements for each eigenvalue that is wanted, and at least, all products are formed:
# Lanczos would need as many.
DENSE, FEWEST = 4, 64
# An eigenvalue is right to about the square of this over its gap to the next, so to nine digits
# where the spectrum falls by a thousandth from one to the next. Products in float32 have seven
# digits of the largest, and do not settle closer.
RTOL, SINGLE_RTOL = 1e-6, 1e-3
# Products after which the search ends with what has converged: minutes, if one takes 50 ms.
MOST_PRODUCTS = 3000
# Products with each random vector: the density is right in its first 2 × 32 moments.
STEPS = 32


class Ends(NamedTuple):
    """Eigenvalues, the largest first, their eigenvectors in rows, and norms of what is left."""

    eigenvalues: Float[np.ndarray, " k"]
    eigenvectors: Float[np.ndarray, "k n"]
    residual_norms: Float[np.ndarray, " k"]


class FisherSpectrum(eqx.Module):
    """The largest eigenvalues of a Fisher matrix, and what its other eigenvalues are like.

    Made by `fisher_spectrum`. The eigenvalues are those of the matrix itself, as
    `FisherMatrix.raw_eigenvalues` are: what they mean hangs on the units of the parameters.

    Attributes
    ----------
    size : int
        Number of elements, and so of eigenvalues.
    paths : tuple[str, ...]
        The parameters that the elements belong to.
    eigenvalues : Float[np.ndarray, " k"]
        The largest, descending.
    residual_norms : Float[np.ndarray, " k"]
        ``‖F v − λ v‖`` of each eigenvalue λ and its eigenvector v of unit length: the matrix has an
        eigenvalue no further than that from λ.
    trace, trace_error : float
        Sum of all eigenvalues, and its standard error from the scatter of the random vectors; NaN
        without any.
    levels, numbers : Float[np.ndarray, " p"]
        The density of the spectrum: about how many eigenvalues lie at which level, descending. The
        numbers sum to `size`, and the largest eigenvalues are levels of their own.
    """

    size: int
    paths: tuple[str, ...] = eqx.field(static=True)
    eigenvalues: Float[np.ndarray, " k"]
    residual_norms: Float[np.ndarray, " k"]
    trace: float
    trace_error: float
    levels: Float[np.ndarray, " p"]
    numbers: Float[np.ndarray, " p"]
    _vectors: Float[np.ndarray, "k n"]
    _free: PyTree

    def eigenvector(self, number: int) -> PyTree:
        """Return an eigenvector as a tree like the parameters, with None where they are frozen.

        It has unit length over all elements, in the units in which the eigenvalues are.

        Parameters
        ----------
        number
            Of the eigenvalue; 0 is the largest.
        """
        flat, unravel = ravel(self._free)
        return unravel(jnp.asarray(self._vectors[number], flat.dtype))

    def count_above(self, level: float) -> float:
        """Estimate how many eigenvalues are larger than `level`.

        To a tenth or two where they are many. Levels below a hundredth of the smallest eigenvalue
        that was found are blurred: 32 products do not tell them apart.

        In units in which the prior of every parameter has the width 1, those above 1 are what the
        data know better than the prior.
        """
        k = len(self.eigenvalues)
        above = self.levels > level
        if not above[:k].all() or len(self.levels) == self.size:
            return float(np.count_nonzero(above))
        # Half of what a level stands for lies above it.
        levels, numbers = self.levels[k:], self.numbers[k:]
        middle = np.cumsum(numbers) - numbers / 2
        return k + float(np.interp(-level, -levels, middle, left=0.0, right=float(numbers.sum())))

    @property
    def lowest(self) -> float:
        """The smallest level that was seen; the smallest eigenvalue is no larger, to rounding.

        Lanczos approaches the lower end from above, and slowly. A negative one proves that a loss
        curves downwards.
        """
        return float(self.levels.min())

    def __repr__(self) -> str:
        values, n = self.eigenvalues, len(self.eigenvalues)
        worst = float(np.max(self.residual_norms / np.maximum(np.abs(values), 1e-300)))
        lines = [
            f"FisherSpectrum of {self.size:,} elements",
            f"the {n} largest eigenvalues, {number(float(values[0]), 3)} to "
            f"{number(float(values[-1]), 3)}, right to {number(worst, 2)} of themselves",
        ]
        if np.isfinite(self.trace):
            share = 100 * float(values.sum()) / self.trace if self.trace else 0
            lines.append(
                f"trace {number(self.trace, 4)} ± {number(self.trace_error, 2)}, of which they are "
                f"{number(share, 3)} %; levels down to {number(self.lowest, 2)}"
            )
        return "\n".join(lines)


@named_arguments("fisher_spectrum", frozen="frozen", weights="weights")
def fisher_spectrum(
    residuals: Callable[[PyTree, Any], PyTree] | None = None,
    params: PyTree = None,
    args: Any = None,
    *,
    loss: LossFunction | None = None,
    weights: PyTree = None,
    frozen: Paths = (),
    units: Mapping[Paths, Any] | None = None,
    k: int = 20,
    rtol: float | None = None,
    probes: int = 8,
    callback: Callable[[], object] | None = None,
) -> FisherSpectrum:
    """Find the largest eigenvalues of a Fisher matrix that is too large to store.

    For 10⁵ parameters and more. All that is formed are products of the matrix with vectors:
    ``Jᵀ(J v)`` of residuals, J their Jacobian, and of a loss the Hessian times v. Where
    `fisher_matrix` is affordable, up to a few thousand elements, it says more.

    Parameters
    ----------
    residuals, params, args, loss, weights, frozen
        As for `fisher_matrix`.
    units
        By parameter path, in which unit the spectrum measures it, 1 by default: ``{"wfe": 1e-9}``
        for a parameter of nanometres in metres. A number, or an array like the parameter. Widths
        of priors are good ones, see `FisherSpectrum.count_above`.
    k
        How many eigenvalues.
    rtol
        How small ``‖F v − λ v‖`` is to be, as a part of λ; 1e-6 by default, and 1e-3 in float32.
    probes
        Random vectors from which trace and density are estimated, 32 products each; 0 leaves both
        out.
    callback
        Called before every product with a vector. It may wait, and what it raises ends the search.

    Returns
    -------
    FisherSpectrum

    Raises
    ------
    TypeError
        If parameters, residuals or loss are not real floating-point numbers, or values are not
        known, as under ``jit``.
    ValueError
        If not exactly one of `residuals` and `loss` is given, or the residuals, the loss or a
        product are not finite.
    RuntimeError
        If no eigenvalue has converged in 3000 products. Where only some have, those are returned.

    Notes
    -----
    Eigenvalues come from ARPACK through `scipy.sparse.linalg.eigsh`: implicitly restarted Lanczos,
    which goes on to a tolerance. Trace and density are stochastic Lanczos quadrature (S. Ubaru, J.
    Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 1075, 2017) of what is orthogonal to the
    eigenvectors found (as R. A. Meyer et al. do for the trace, "Hutch++", SOSA 2021, 142). It runs
    on the host; products are compiled once for a function object and shapes.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> sensitivity = 1 / jnp.arange(1.0, 1001.0)
    >>> def residuals(params, args):
    ...     return sensitivity * params["image"]
    >>> spectrum = fk.fisher_spectrum(residuals, {"image": jnp.zeros(1000)}, k=3)
    >>> spectrum.eigenvalues.round(4).tolist()
    [1.0, 0.25, 0.1111]
    """
    if is_traced(params, args, weights):
        raise TypeError("fisher_spectrum: values must be known, so it cannot be inside `jit`.")
    if k < 1 or probes < 0:
        raise ValueError(f"fisher_spectrum: k={k}, probes={probes}; must be 1 or more, and 0.")
    with prepared("fisher_spectrum", residuals, loss, params, args, weights, frozen) as problem:
        product, unit, eps = _product(problem, loss is not None, units, callback)
        size = len(unit)
        if size <= max(FEWEST, DENSE * k):
            every = _all(product, size)
            top, complete = Ends(*(part[:k] for part in every)), every.eigenvalues
            trace, error, levels = float(complete.sum()), 0.0, complete
            numbers = np.ones(size)
        else:
            single = eps > np.finfo(np.float64).eps
            top = _largest(product, size, k, rtol or (SINGLE_RTOL if single else RTOL))
            trace, error, levels, numbers = _density(product, size, top, probes, eps)
    return FisherSpectrum(
        size=size,
        paths=tuple(named_leaves(problem.free)),
        eigenvalues=top.eigenvalues,
        residual_norms=top.residual_norms,
        trace=trace,
        trace_error=error,
        levels=levels,
        numbers=numbers,
        _vectors=top.eigenvectors,
        _free=problem.free,
    )


def _product(
    problem: Problem,
    is_loss: bool,
    units: Mapping[Paths, Any] | None,
    callback: Callable[[], object] | None,
) -> tuple[Callable, Float[np.ndarray, " n"], float]:
    """Return the product with a vector on the host, the units of the elements, and eps."""
    function, free, rest, args, weights = problem
    shapes = outcome(
        "fisher_spectrum",
        "loss" if is_loss else "residuals",
        function,
        eqx.combine(free, rest),
        args,
    )
    if is_loss:
        shape: Any = getattr(shapes, "shape", None)
        dtype: Any = getattr(shapes, "dtype", None)
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"fisher_spectrum: loss must return one real number, got {dtype} of shape {shape}. "
                "Sum it; residuals go in as the first argument instead."
            )
    else:
        shapes = real_residuals(shapes, "fisher_spectrum")
    flat, _ = ravel(free)
    unit = _units(units, free)
    eps = float(jnp.finfo(common_dtype(flat, *jax.tree.leaves(shapes))).eps)

    def product(vector: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        if callback is not None:
            callback()
        along = jnp.asarray(np.ravel(vector) * unit, flat.dtype)
        if is_loss:
            values, _, curved = loss_product(function, free, rest, args, False, flat, along)
        else:
            values, curved = residual_product(function, free, rest, args, weights, along)
        there = to_host(curved).astype(float)
        if not np.all(np.isfinite(there)):
            raise ValueError(_not_finite(to_host(values), there, free))
        return there * unit

    return product, unit, eps


def _units(units: Mapping[Paths, Any] | None, free: PyTree) -> Float[np.ndarray, " n"]:
    leaves = named_leaves(free)
    of_leaf = {path: np.ones(leaf.shape) for path, leaf in leaves.items()}
    for pattern, unit in (units or {}).items():
        unit = np.asarray(unit, float)
        if not np.all((unit > 0) & (unit < np.inf)):
            raise ValueError(
                f"fisher_spectrum: the unit of '{pattern}' is {unit}; must be positive and finite."
            )
        for path in match_paths(pattern, leaves, "fisher_spectrum"):
            shape = leaves[path].shape
            if unit.shape not in ((), shape):
                raise ValueError(
                    f"fisher_spectrum: the unit of '{path}' has shape {unit.shape}; must be one "
                    f"number, or of shape {shape} like the parameter."
                )
            of_leaf[path] = np.broadcast_to(unit, shape)
    return np.concatenate([unit.ravel() for unit in of_leaf.values()])


def _not_finite(values: np.ndarray, product: Float[np.ndarray, " n"], free: PyTree) -> str:
    bad = np.count_nonzero(~np.isfinite(values))
    cure = "fitkit.find_nonfinite finds the line that made them."
    if bad:
        return f"fisher_spectrum: {bad} of {values.size} values are not finite here. {cure}"
    sizes = {path: leaf.size for path, leaf in named_leaves(free).items()}
    parts = np.split(product, np.cumsum([*sizes.values()])[:-1])
    names = [f"'{p}'" for p, part in zip(sizes, parts, strict=True) if not np.isfinite(part).all()]
    where = ", ".join(names[:5])
    return f"fisher_spectrum: derivatives are not finite with respect to {where}. {cure}"


def _all(product: Callable, size: int) -> Ends:
    matrix = np.stack([product(row) for row in np.eye(size)])
    matrix = (matrix + matrix.T) / 2
    values, vectors = np.linalg.eigh(matrix)
    return _ends(lambda vector: matrix @ vector, values, vectors)


def _largest(product: Callable, size: int, k: int, rtol: float) -> Ends:
    # Here, because it takes a fifth of a second to import.
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    basis, typed = max(2 * k + 1, 20), np.dtype(float)
    operator = LinearOperator((size, size), matvec=product, dtype=typed)  # pyright: ignore
    try:
        values, vectors = eigsh(
            operator,
            k,
            which="LA",
            ncv=basis,
            tol=rtol,  # pyright: ignore[reportArgumentType]
            v0=np.random.default_rng(0).normal(size=size),
            maxiter=-(-MOST_PRODUCTS // (basis - k)),
        )
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
        if not len(values):
            raise RuntimeError(
                f"fisher_spectrum: none of {k} eigenvalues has converged to {rtol} of itself in "
                f"{MOST_PRODUCTS} products: they lie too close together. A larger rtol accepts "
                "less, and probes alone show their density."
            ) from None
    return _ends(product, values, vectors)


def _ends(product: Callable, values: np.ndarray, vectors: np.ndarray) -> Ends:
    order = np.argsort(-values, kind="stable")
    values, rows = values[order], vectors.T[order]
    left = [product(row) - value * row for value, row in zip(values, rows, strict=True)]
    return Ends(values, rows, np.array([float(np.linalg.norm(one)) for one in left]))


def _density(
    product: Callable, size: int, top: Ends, probes: int, eps: float
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Estimate trace and density: the eigenvalues found, and what is orthogonal to them."""
    known, vectors = top.eigenvalues, top.eigenvectors
    if not probes:
        return np.nan, np.nan, known, np.ones(len(known))
    draw, rest = np.random.default_rng(1), size - len(known)

    def outside(vector: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return vector - vectors.T @ (vectors @ vector)

    levels, numbers, sums = [known], [np.ones(len(known))], []
    for _ in range(probes):
        start = outside(draw.choice([-1.0, 1.0], size))
        found = lanczos(lambda vector: outside(product(vector)), start, min(STEPS, rest), eps)
        values, coordinates = found.decomposed()
        shares = coordinates[0] ** 2
        levels.append(values)
        numbers.append(rest * shares / probes)
        # The mean of the sums is the trace: the levels of a probe have its Rayleigh quotient.
        sums.append(rest * float(values @ shares))
    error = float(np.std(sums, ddof=1) / probes**0.5) if probes > 1 else np.nan
    all_levels, all_numbers = np.concatenate(levels), np.concatenate(numbers)
    order = np.argsort(-all_levels, kind="stable")
    trace = float(known.sum() + np.mean(sums))
    return trace, error, all_levels[order], all_numbers[order]
