"""Fisher information: what the data constrain, how well, and what they do not."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from fitkit._fisher.combinations import combination, simplest_basis
from fitkit._fisher.eigen import AnyArray, is_traced, over_both, scaled_svd
from fitkit._format import html_table, number

# The error along such an eigenvector is a hundred times that of its parameters by themselves: two
# digits of what the data know are lost to it.
DEGENERATE = 1e-4
# Parameters of which a print shows the errors: a screenful.
SHOWN = 20


class FisherMatrix(eqx.Module):
    """The Fisher information of some data about n parameter elements, and what follows from it.

    Made by `fisher_matrix`. Information adds: ``fisher_a + fisher_b`` is that of two independent
    data sets (or of data and a Gaussian prior) about the same parameters.

    The spectrum is that of the *units-free* matrix, ``matrix[i, j] / (scale[i] scale[j])`` with a
    unit diagonal: an eigenvalue of 1 is a parameter as well known as if all others were known,
    one of 1e-4 an eigenvector with a hundred times that error. `rank` counts the eigenvalues above
    ``rtol`` times the largest. The rest are noise or, where negative, curve the wrong way; they
    are never dropped silently: errors that depend on them are infinite, and `unconstrained`
    names them.

    Attributes
    ----------
    labels : tuple[str, ...]
        Names of the n elements, ``"star.r2[1]"``, in the order of all arrays below.
    matrix : Float[AnyArray, "n n"]
        The Fisher matrix, in 1/(unit of parameter i × unit of parameter j).
    scale : Float[AnyArray, " n"]
        Square root of its diagonal, so 1/(error of a parameter if all others were known);
        1 where a parameter has no effect.
    eigenvalues : Float[AnyArray, " n"]
        Of the units-free matrix, descending. Those from residuals are squared singular values.
    eigenvectors : Float[AnyArray, "n n"]
        Of the units-free matrix; row i belongs to eigenvalue i.
    rtol : float
        The tolerance on eigenvalues, relative to the largest, at which the rank is cut.
    squared : bool
        Whether the matrix was formed before it was decomposed (from a Hessian, or where the
        Jacobian did not fit), so that its small eigenvalues carry the rounding of the largest.
    """

    labels: tuple[str, ...] = eqx.field(static=True)
    matrix: Float[AnyArray, "n n"]
    scale: Float[AnyArray, " n"]
    eigenvalues: Float[AnyArray, " n"]
    eigenvectors: Float[AnyArray, "n n"]
    rtol: float = eqx.field(static=True)
    squared: bool = eqx.field(static=True)

    @property
    def constrained(self) -> Bool[AnyArray, " n"]:
        """Which of the eigenvalues count: those above ``rtol`` times the largest."""
        return (self.eigenvalues > self.rtol * self.eigenvalues[:1]) & (self.eigenvalues > 0)

    @property
    def rank(self) -> int | Any:
        """Number of eigenvectors that the data constrain; an array under ``jit``."""
        return self._number(self.constrained.sum())

    @property
    def condition_number(self) -> float | Any:
        """Largest over smallest units-free eigenvalue; infinite below full rank."""
        xp = self._xp
        full = self.constrained.all()
        return self._number(
            xp.where(full, self.eigenvalues[0] / xp.where(full, self.eigenvalues[-1], 1), np.inf)
        )

    @property
    def raw_eigenvalues(self) -> Float[AnyArray, " n"]:
        """Eigenvalues of `matrix` itself, descending; their meaning hangs on the units."""
        return self._raw[0]

    @property
    def raw_eigenvectors(self) -> Float[AnyArray, "n n"]:
        """Eigenvectors of `matrix` itself; row i belongs to raw eigenvalue i."""
        return self._raw[1]

    @property
    def covariance(self) -> Float[AnyArray, "n n"]:
        """Covariance of the parameters: the inverse of `matrix`, or its limit below full rank.

        Infinite, with the sign of the correlation, between unconstrained elements;
        for all others their covariance with the unconstrained eigenvectors left out.
        """
        xp = self._xp
        kept, free = self._inverse
        coupled = self._involved[:, None] & self._involved[None, :] & (xp.abs(free) > self._noise)
        infinite = coupled | (self._involved[None, :] & np.eye(len(self.labels), dtype=bool))
        limit = xp.where(free < 0, -np.inf, np.inf)
        return over_both(xp.where(infinite, limit, kept), self.scale)

    @property
    def errors(self) -> Float[AnyArray, " n"]:
        """Standard error of every element, in its own unit; infinite if unconstrained.

        The Cramér–Rao bound: what residuals in units of their own σ, or a loss that is a negative
        log-likelihood, imply.
        """
        xp = self._xp
        variance = xp.diagonal(self._inverse[0])
        return xp.where(self._involved, np.inf, xp.sqrt(variance)) / self.scale

    @property
    def correlations(self) -> Float[AnyArray, "n n"]:
        """Correlation coefficients, with a unit diagonal, finite throughout.

        Unconstrained elements have those of the unconstrained eigenvectors alone (±1 for two
        that only enter as a product), and none with the others: the limit of an ever weaker prior.
        """
        xp = self._xp
        kept, free = self._inverse
        involved = self._involved
        rows, columns = involved[:, None], involved[None, :]
        both, neither = rows & columns, ~(rows | columns)
        product = xp.where(both, _normalised(free), xp.where(neither, _normalised(kept), 0))
        return xp.where(np.eye(len(self.labels), dtype=bool), 1, xp.clip(product, -1, 1))

    @property
    def projection(self) -> Float[AnyArray, "n n"]:
        """Map from latent coordinates of unit variance to parameters, as `eigen_projection` makes.

        Column i belongs to eigenvalue i, best constrained first; zero where it is cut.
        """
        xp = self._xp
        keep = self.constrained
        roots = xp.where(keep, 1 / xp.sqrt(xp.where(keep, self.eigenvalues, 1)), 0)
        rows = xp.where(self._informed, 1 / self.scale, 0)
        return rows[:, None] * self.eigenvectors.T * roots[None, :]

    @property
    def unprojection(self) -> Float[AnyArray, "n n"]:
        """Left inverse of `projection`: from parameters to latent coordinates."""
        xp = self._xp
        roots = xp.where(self.constrained, xp.sqrt(xp.clip(self.eigenvalues, 0, None)), 0)
        columns = xp.where(self._informed, self.scale, 0)
        return roots[:, None] * self.eigenvectors * columns[None, :]

    @property
    def null_directions(self) -> Float[np.ndarray, "k n"]:
        """Basis of the unconstrained space in the parameters' units, each row in as few as can be.

        Moving the parameters along a row leaves the data as they are. Not under ``jit``.
        """
        return self._free / np.asarray(self.scale)

    @property
    def unconstrained(self) -> tuple[str, ...]:
        """What the data do not constrain: ``("flux - 0.98 background is unconstrained",)``."""
        sentences = []
        for vector in self._free:
            words = combination(vector, np.asarray(self.scale), self.labels)
            (involved,) = np.nonzero(vector)
            curvature = float(vector @ self._normalised_matrix @ vector)
            if len(involved) == 1 and not np.any(self.matrix[involved[0]]):
                sentences.append(f"{words} is unconstrained: it has no effect")
            elif self.squared and curvature < -self.rtol * abs(self.eigenvalues[0]):
                sentences.append(f"{words} is unconstrained: the loss curves downwards along it")
            else:
                sentences.append(f"{words} is unconstrained")
        return tuple(sentences)

    @property
    def degenerate(self) -> tuple[str, ...]:
        """Constrained eigenvectors with an eigenvalue below 1e-4, as sums of parameters."""
        return tuple(
            f"{self.in_words(i)} is nearly unconstrained (eigenvalue {number(value, 2)})"
            for i, value in enumerate(map(float, self.eigenvalues[: self.rank]))
            if value < DEGENERATE
        )

    def in_words(self, mode: int) -> str:
        """Write eigenvector number `mode` as a sum of parameters.

        >>> import fitkit as fk
        >>> total = lambda params, args: (params["flux"] + params["sky"] - 3.0).reshape(1)
        >>> fk.fisher_matrix(total, {"flux": 1.0, "sky": 2.0}).in_words(1)
        'flux - sky'
        """
        return combination(np.asarray(self.eigenvectors[mode]), np.asarray(self.scale), self.labels)

    def given(self, known: Bool[np.ndarray, " n"]) -> "FisherMatrix":
        """Fisher matrix of the other elements if those marked in `known` were known exactly."""
        left = np.flatnonzero(~np.asarray(known))
        labels = tuple(self.labels[i] for i in left)
        if self.squared:
            return from_matrix(labels, self.matrix[left][:, left], self.rtol)
        return from_root(labels, self._root[:, left], self.rtol)

    def errors_of(self, jacobian: Float[AnyArray, "k n"]) -> Float[AnyArray, " k"]:
        """Propagate errors linearly: standard errors of k functions of the elements.

        The roots of the diagonal of ``J C Jᵀ``, without forming it; infinite for a function that an
        unconstrained eigenvector changes, or whose derivatives are not finite.

        Parameters
        ----------
        jacobian
            Derivatives of the functions by the elements; of the elements themselves, the unit
            matrix, it makes `errors`.

        Examples
        --------
        >>> import fitkit as fk, numpy as np
        >>> total = lambda params, args: (params["flux"] + params["sky"] - 3.0).reshape(1)
        >>> fisher = fk.fisher_matrix(total, {"flux": 1.0, "sky": 2.0})
        >>> fisher.errors_of(np.array([[1.0, 1.0], [1.0, 0.0]])).round(6).tolist()
        [1.0, inf]
        """
        xp = self._xp
        finite = xp.all(xp.isfinite(jacobian), axis=1)
        rows = xp.where(finite[:, None], jacobian, 0)
        # What has no effect has no scale to compare its derivative with.
        loose = xp.any((rows != 0) & ~self._informed[None, :], axis=1)
        parts = xp.where(self._informed, rows / self.scale, 0) @ self.eigenvectors.T
        free = xp.linalg.vector_norm(xp.where(self.constrained, 0, parts), axis=1)
        loose = loose | (free > self._noise * xp.linalg.vector_norm(parts, axis=1))
        errors = xp.linalg.vector_norm(rows @ self.projection, axis=1)
        return xp.where(finite & ~loose, errors, np.inf)

    def __add__(self, other: "FisherMatrix") -> "FisherMatrix":
        if not isinstance(other, FisherMatrix):
            return NotImplemented
        if self.labels != other.labels:
            odd = sorted({*self.labels} ^ {*other.labels}) or "the order"
            raise ValueError(
                f"FisherMatrix: information adds about the same parameters only; they differ in "
                f"{odd}. Make both from params of one structure."
            )
        rtol = max(self.rtol, other.rtol)
        if self.squared or other.squared:
            return from_matrix(self.labels, self.matrix + other.matrix, rtol)
        root = self._xp.concat([self._root, other._root])
        return from_root(self.labels, root, rtol)

    def __radd__(self, other: int) -> "FisherMatrix":
        # So that sum(...) works, which starts from the integer 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __repr__(self) -> str:
        if is_traced(self.matrix) or self.matrix.ndim != 2:
            return f"FisherMatrix(labels={self.labels}, matrix of shape {self.matrix.shape})"
        n, rank = len(self.labels), self.rank
        how = "a formed matrix" if self.squared else "singular values"
        width = max(map(len, self.labels), default=0)
        lines = [
            f"FisherMatrix of {n} parameters, from {how}",
            f"rank {rank} of {n} (eigenvalues above {number(self.rtol, 2)} of the largest)",
            f"condition number {number(self.condition_number, 3)}",
        ]
        shown = list(zip(self.labels, self.errors, strict=True))[:SHOWN]
        lines += [f"  {label:<{width}}  ± {number(float(error), 3)}" for label, error in shown]
        lines += [f"  … and {n - len(shown)} more"] if n > len(shown) else []
        return "\n".join([*lines, *self.unconstrained, *self.degenerate])

    def _repr_html_(self) -> str:
        if is_traced(self.matrix) or self.matrix.ndim != 2:
            return html_table(repr(self), (), (), ())
        n = len(self.labels)
        facts = [f"condition number {number(self.condition_number, 3, typeset=True)}"]
        facts += [*self.unconstrained, *self.degenerate]
        facts += [f"the first {SHOWN} of {n} parameters are shown"] if n > SHOWN else []
        errors = [number(float(error), 3, typeset=True) for error in self.errors[:SHOWN]]
        headline = f"FisherMatrix of {n} parameters, rank {self.rank}"
        rows = zip(self.labels, errors, strict=False)
        return html_table(headline, facts, ("parameter", "standard error"), rows)

    @property
    def _xp(self) -> Any:
        return self.matrix.__array_namespace__()

    def _number(self, value: Any) -> Any:
        return value if is_traced(value) else value.item()

    @property
    def _informed(self) -> Bool[AnyArray, " n"]:
        """Which elements have any effect at all."""
        return self._xp.any(self.matrix != 0, axis=1)

    @property
    def _root(self) -> Float[AnyArray, "n n"]:
        values = self._xp.sqrt(self._xp.clip(self.eigenvalues, 0, None))
        # A column of rounding errors, scaled to unit length, would pass for information.
        columns = self._xp.where(self._informed, self.scale, 0)
        return values[:, None] * self.eigenvectors * columns[None, :]

    @property
    def _raw(self) -> tuple[Float[AnyArray, " n"], Float[AnyArray, "n n"]]:
        if self.squared:
            values, vectors = self._xp.linalg.eigh(self.matrix)
            return values[::-1], _signed(vectors.T[::-1])
        _, values, vectors = self._xp.linalg.svd(self._root)
        return values**2, _signed(vectors)

    @property
    def _normalised_matrix(self) -> Float[AnyArray, "n n"]:
        return over_both(self.matrix, self.scale)

    @property
    def _inverse(self) -> tuple[Float[AnyArray, "n n"], Float[AnyArray, "n n"]]:
        """Units-free inverse on the constrained eigenvectors, and projector on the others."""
        xp = self._xp
        keep = self.constrained
        inverse = xp.where(keep, 1 / xp.where(keep, self.eigenvalues, 1), 0)
        vectors = self.eigenvectors
        columns = vectors.T
        kept, cut = inverse[None, :], xp.where(keep, 0, 1).astype(inverse.dtype)[None, :]
        return (columns * kept) @ vectors, (columns * cut) @ vectors

    @property
    def _noise(self) -> Float[AnyArray, ""]:
        """Size of what rounding mixes of other parameters into an unconstrained eigenvector.

        The tolerance over the gap to the constrained ones (the sin θ theorem of Davis and Kahan,
        SIAM J. Numer. Anal. 7, 1, 1970): a component beyond is real. At most a tenth, so that a
        small gap does not hide the largest component.
        """
        xp = self._xp
        keep = self.constrained
        smallest = xp.min(xp.where(keep, self.eigenvalues, np.inf), initial=np.inf)
        gap = smallest / xp.max(self.eigenvalues, initial=0)
        ratio = self.rtol / xp.where(gap > 0, gap, 1)
        return xp.clip(ratio if self.squared else xp.sqrt(ratio), 0, 0.1)

    @property
    def _involved(self) -> Bool[AnyArray, " n"]:
        """Which elements take part in an unconstrained eigenvector."""
        return self._xp.diagonal(self._inverse[1]) > self._noise**2

    @property
    def _free(self) -> Float[np.ndarray, "k n"]:
        vectors = np.asarray(self.eigenvectors)[~np.asarray(self.constrained)]
        return simplest_basis(vectors, float(self._noise))


def from_root(labels: tuple[str, ...], root: Float[AnyArray, "k n"], rtol: float) -> FisherMatrix:
    """``rootᵀ root``, with the spectrum taken from the singular values of the root."""
    svd = scaled_svd(root)
    matrix = root.T @ root
    return _made(labels, matrix, svd.scale, svd.singular_values**2, svd.right, rtol, False)


def from_spectrum(
    labels: tuple[str, ...],
    products: Float[AnyArray, "n n"],
    scale: Float[AnyArray, " n"],
    values: Float[AnyArray, " n"],
    vectors: Float[AnyArray, "n n"],
    rtol: float,
) -> FisherMatrix:
    """Take a units-free matrix as decomposed, its eigenvalues as good as squared singular ones."""
    matrix = products * scale[:, None] * scale[None, :]
    return _made(labels, matrix, scale, values, vectors, rtol, False)


def from_matrix(
    labels: tuple[str, ...], matrix: Float[AnyArray, "n n"], rtol: float
) -> FisherMatrix:
    """Decompose a Fisher matrix that was formed as such."""
    xp = matrix.__array_namespace__()
    matrix = matrix / 2 + matrix.T / 2
    scale = xp.sqrt(xp.abs(xp.diagonal(matrix)))
    # Without curvature of its own, a parameter borrows its scale from the strongest coupling.
    scale = xp.where(scale > 0, scale, xp.sqrt(xp.max(xp.abs(matrix), axis=1, initial=0)))
    scale = xp.where(scale > 0, scale, 1)
    values, vectors = xp.linalg.eigh(over_both(matrix, scale))
    return _made(labels, matrix, scale, values[::-1], vectors.T[::-1], rtol, True)


def root_of(labels: tuple[str, ...], matrix: Float[AnyArray, "n n"]) -> Float[AnyArray, "n n"]:
    """Find a root of a formed matrix, ``rootᵀ root``; negative eigenvalues are taken for zero."""
    return from_matrix(labels, matrix, 0.0)._root


def _made(labels, matrix, scale, values, vectors, rtol, squared) -> FisherMatrix:
    arrays = (matrix, scale, values, _signed(vectors))
    for array in arrays:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return FisherMatrix(labels, *arrays, rtol=float(rtol), squared=squared)


def _signed(vectors: Float[AnyArray, "n n"]) -> Float[AnyArray, "n n"]:
    """Fix the free sign of every row: its largest component is positive."""
    xp = vectors.__array_namespace__()
    largest = xp.max(vectors, axis=1, keepdims=True, initial=0)
    smallest = xp.min(vectors, axis=1, keepdims=True, initial=0)
    return xp.where(largest < -smallest, -vectors, vectors)


def _normalised(matrix: Float[AnyArray, "n n"]) -> Float[AnyArray, "n n"]:
    xp = matrix.__array_namespace__()
    diagonal = xp.diagonal(matrix)
    root = xp.sqrt(xp.where(diagonal > 0, diagonal, 1))
    return over_both(matrix, root)
