"""The minimum around which a profile lies: what is minimised, and how it curves there."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, PyTree

from fitkit._fisher import FisherMatrix, split_params
from fitkit._optimisers import Bounds
from fitkit._paths import UnknownPathError, named_leaves, nearest, path_of_element, ravel
from fitkit._result import DENSE, Assessment, Kind

# Kinds of points of which is known that the minimum is elsewhere. Others (a saddle point, a
# degenerate minimum, one that rounding hides) a profile describes better than any error.
NO_MINIMUM = frozenset({Kind.DISTANT, Kind.CONCAVE, Kind.SLOPING, Kind.NONFINITE, Kind.FROZEN})
# Curvature of a combination of held elements, relative to that with all others frozen, which is
# rounding, and so none: errors would be 10^5 times those of the elements alone.
FLAT = 1e-10


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a fit stands, and the function whose minimum it is.

    Attributes
    ----------
    owner : object
        What the functions belong to: whoever has the same shares compiled programs.
    residuals, loss : Callable | None
        One of them, of ``(params, args)``, which are trees of arrays.
    params, args : PyTree
        The parameters of the minimum, and the data.
    frozen : tuple[str, ...]
        Paths of parameters that stay as they are.
    bounds : Bounds | None
        Limits that the others keep to.
    value : float
        Of the loss there; of residuals, half the sum of squares.
    fisher : FisherMatrix
        Of the elements that are not frozen.
    assessment : Assessment
        What kind of point it is.
    whole : Callable
        Builds the parameters as the user knows them.
    unit : float
        The loss rises by half its square at one standard error: 1, or the scatter of residuals
        by which errors are scaled.
    absolute_sigma : bool
        Whether they are not.
    """

    owner: Any
    residuals: Callable[[PyTree, Any], PyTree] | None
    loss: Callable[[PyTree, Any], Any] | None
    params: PyTree
    args: Any
    frozen: tuple[str, ...]
    bounds: Bounds | None
    value: float
    fisher: FisherMatrix
    assessment: Assessment
    whole: Callable[[PyTree], PyTree]
    unit: float
    absolute_sigma: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the elements that are not frozen."""
        return self.fisher.labels

    @functools.cached_property
    def free(self) -> PyTree:
        """The parameters that are not frozen, with None in place of the others."""
        return split_params(self.params, self.frozen)[0]

    @functools.cached_property
    def x(self) -> Float[np.ndarray, " n"]:
        """Their elements."""
        return np.asarray(ravel(self.free)[0])

    @functools.cached_property
    def limits(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Their lower and upper limits."""
        if self.bounds is None:
            return np.full(len(self.x), -np.inf), np.full(len(self.x), np.inf)
        return self.bounds.of_elements(self.labels)

    @property
    def stiffness(self) -> Float[np.ndarray, " n"]:
        """One over the error of each element if all others were known, or else over its size."""
        diagonal = np.diagonal(np.asarray(self.fisher.matrix, float))
        size = np.maximum(np.abs(self.x), 1.0)
        with np.errstate(invalid="ignore"):
            return np.where(diagonal > 0, np.sqrt(np.abs(diagonal)), 1 / size)

    def element(self, path: str, event: str) -> int:
        """Find the number of an element among those that are not frozen.

        Raises
        ------
        UnknownPathError
            If there is none of this name.
        ValueError
            If it is frozen, or a parameter of several elements.
        """
        if path in self.labels:
            return self.labels.index(path)
        if path_of_element(path) in self.frozen:
            raise ValueError(
                f"{event}: '{path}' is frozen, so it has no profile. Thaw it, and run the fit on."
            )
        below = [name for name in self.labels if name.startswith(f"{path}[")]
        if below:
            raise ValueError(
                f"{event}: '{path}' has {len(below)} elements; must be one of them, such as "
                f"'{below[0]}'."
            )
        raise UnknownPathError(f"{event}: no parameter '{path}'. {nearest(path, self.labels)}")

    def check(self, event: str) -> None:
        """Raise a ``ValueError`` where there is no minimum, or too much to minimise over."""
        if self.assessment.kind in NO_MINIMUM:
            raise ValueError(
                f"{event}: the fit has not converged ({self.assessment.message}), and intervals "
                "lie around a minimum. Run it until it has: fit.run()."
            )
        if len(self.x) > DENSE:
            raise ValueError(
                f"{event}: minimising over {len(self.x):,} elements for every point is not within "
                f"reach; {DENSE} can be. Freeze those that matter least, or use the errors of "
                "fit.result()."
            )
        if not np.isfinite(self.unit):
            raise ValueError(
                f"{event}: absolute_sigma=False scales by the scatter of the residuals, and there "
                "are no degrees of freedom to know it from. Use absolute_sigma=True."
            )

    def directions(
        self, held: list[int]
    ) -> tuple[Float[np.ndarray, "k k"], Float[np.ndarray, "n k"], Bool[np.ndarray, " k"]]:
        """Compute how far to go with some elements held, and where the others follow.

        The loss is a parabola here. With ``x[held]`` moved by ``axes @ u``, and the others by
        ``follow @ axes @ u``, twice its rise is the square of the length of u.

        Returns
        -------
        tuple
            Axes; the matrix `follow`, of which the rows of held elements are those of the
            identity; and along which axes the parabola does not rise: they have the length of the
            errors if all others were known.
        """
        matrix, scale = np.asarray(self.fisher.matrix, float), self.stiffness
        matrix = np.nan_to_num(matrix / np.outer(scale, scale))
        others = np.setdiff1d(np.arange(len(scale)), held)
        others = np.array(
            [i for i in others if self.labels[i] not in self.assessment.at_bound], int
        )
        coupling = matrix[np.ix_(others, held)]
        # Below the tolerance of the rank is rounding, along which nothing need follow.
        inverse = np.linalg.pinv(matrix[np.ix_(others, others)], self.fisher.rtol, hermitian=True)
        slopes = -inverse @ coupling
        curvature = matrix[np.ix_(held, held)] + coupling.T @ slopes
        values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
        flat = values <= max(FLAT, len(scale) * self.fisher.rtol)
        axes = vectors / np.sqrt(np.where(flat, 1.0, values)) / scale[held][:, None]
        follow = np.zeros((len(scale), len(held)))
        follow[others] = slopes / scale[others][:, None] * scale[held]
        follow[held] = np.eye(len(held))
        return axes, follow, flat

    def by_path(self, rows: Float[np.ndarray, "k n"]) -> dict[str, np.ndarray]:
        """Give elements, one row for every point, the shapes of their parameters."""
        found, at = {}, 0
        for path, leaf in named_leaves(self.free).items():
            found[path] = rows[:, at : at + leaf.size].reshape(-1, *leaf.shape)
            at += leaf.size
        return found

    def tree(self, row: Float[np.ndarray, " n"]) -> PyTree:
        """Build the user's parameters from elements."""
        free, build = ravel(self.free)
        moved = build(jax.numpy.asarray(row, free.dtype))
        _, held = split_params(self.params, self.frozen)
        whole = jax.tree.map(
            lambda a, b: b if a is None else a, moved, held, is_leaf=lambda leaf: leaf is None
        )
        return self.whole(whole)
