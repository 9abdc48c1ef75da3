"""Bounds: limits that parameters keep to, by projection, in the user's own units.

A step that leads outside is cut short at the bound. An element on its bound that descent would
push further out is frozen there, and thawed when the push turns round. Away from the bounds
nothing is changed: steps, spectra and errors are those of the parameters themselves.
(Bertsekas, SIAM J. Control Optim. 20, 221, 1982, section 2. A change of variables, as in MINUIT,
distorts all of those near a bound, and flattens the residuals on it, where Gauss-Newton stalls.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from fitkit._fisher import AnyArray
from fitkit._input import shortened
from fitkit._paths import element_name, match_paths, named_elements, named_leaves, ravel


class Bounds(eqx.Module):
    """Lower and upper limits of every element of every parameter, in its unit; made by `bounded`.

    Attributes
    ----------
    lower, upper : PyTree[Float[Array, "..."]]
        Trees like the parameters; minus and plus infinity where there is no limit.
    """

    lower: PyTree[Float[Array, "..."]]
    upper: PyTree[Float[Array, "..."]]

    def project(self, params: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        """Move every element that is outside onto its nearest limit. NaN stays NaN."""

        # `jnp.clip` has half a derivative on a limit, from which a step inwards is free.
        def inside(leaf: Array, lower: Array, upper: Array) -> Array:
            return jnp.where(leaf < lower, lower, jnp.where(leaf > upper, upper, leaf))

        return jax.tree.map(inside, params, self.lower, self.upper)

    def blocked(
        self, params: PyTree[Float[Array, "..."]], gradient: PyTree[Float[Array, "..."]]
    ) -> PyTree[Bool[Array, "..."]]:
        """Mark the elements that `blocked` marks, in trees like the parameters."""
        return jax.tree.map(blocked, params, gradient, self.lower, self.upper)

    def by_path(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Map the path of every parameter to its lower and upper limits."""
        lower, upper = named_leaves(self.lower), named_leaves(self.upper)
        return {path: (np.asarray(lower[path]), np.asarray(upper[path])) for path in lower}

    def check(self, params: PyTree[Float[Array, "..."]]) -> None:
        """Raise a ``ValueError`` that names the first element that is outside of its limits."""
        leaves = named_leaves(params)
        for path, (lower, upper) in self.by_path().items():
            _check(path, np.asarray(leaves[path]), lower, upper)

    def of_elements(
        self, names: Sequence[str]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Look up lower and upper limits of elements by name, as `FisherMatrix.labels` has them."""
        at = {name: i for i, name in enumerate(named_elements(self.lower))}
        order = [at[name] for name in names]
        return np.asarray(ravel(self.lower)[0])[order], np.asarray(ravel(self.upper)[0])[order]

    def touched(self, params: PyTree) -> tuple[str, ...]:
        """Name the elements that sit on a limit: ``("flux", "r2[1]")``."""
        names, limits = [], self.by_path()
        for path, leaf in named_leaves(params).items():
            values, (lower, upper) = np.asarray(leaf), limits[path]
            on = (values <= lower) | (values >= upper)
            names += [element_name(path, tuple(map(int, index))) for index in np.argwhere(on)]
        return tuple(names)


def blocked(
    values: Float[AnyArray, "*shape"],
    gradient: Float[AnyArray, "*shape"],
    lower: Float[AnyArray, "*shape"],
    upper: Float[AnyArray, "*shape"],
) -> Bool[AnyArray, "*shape"]:
    """Mark the elements that sit on a limit with a loss that falls further outside.

    There the best that can be done is to stay: at a minimum every other element has a gradient of
    zero (the conditions of Karush, Kuhn and Tucker). Works on JAX arrays and on NumPy arrays.
    """
    return ((values <= lower) & (gradient > 0)) | ((values >= upper) & (gradient < 0))


def bounded(bounds: Mapping[Any, tuple[Any, Any]], params: PyTree[ArrayLike]) -> Bounds:
    """Check limits given by path against the parameters.

    Parameters
    ----------
    bounds
        ``{"flux": (0, None), "wfe.*": (-1, 1)}``: from a path, the path of a subtree, a glob, or
        a tuple of those, to a pair (lower, upper) in the unit of the parameter. None is no limit;
        an array has one for every element.
    params
        Where the fit starts.

    Returns
    -------
    Bounds
        Limits of the dtype and shape of the parameters.

    Raises
    ------
    UnknownPathError
        If a key matches no parameter; the message lists the nearest.
    TypeError
        If a value is no pair of numbers or arrays.
    ValueError
        If a parameter is bounded twice, a limit is NaN or of the wrong shape, a lower limit is
        not below the upper, or an element starts outside.
    """
    leaves = named_leaves(params)
    if not isinstance(bounds, Mapping):
        raise TypeError(
            f"bounds: {shortened(bounds)} names no parameters; must be a mapping from paths to "
            f"pairs (lower, upper), with None for no limit: {_example(bounds, tuple(leaves))}."
        )
    pairs: dict[str, tuple[Any, Any]] = {}
    for pattern, limits in bounds.items():
        for path in match_paths(pattern, leaves, "bounds"):
            pair = _pair(path, limits)
            if path in pairs:
                raise ValueError(f"bounds: '{path}' is bounded twice; name it in one key only.")
            pairs[path] = pair
    lower, upper = [], []
    for path, leaf in leaves.items():
        low, high = pairs.get(path, (None, None))
        limits = _limits(path, leaf, low, -np.inf), _limits(path, leaf, high, np.inf)
        _check(path, np.asarray(leaf), *limits)
        lower.append(jnp.asarray(limits[0]))
        upper.append(jnp.asarray(limits[1]))
    structure = jax.tree.structure(params)
    return Bounds(jax.tree.unflatten(structure, lower), jax.tree.unflatten(structure, upper))


def _example(bounds: Any, paths: tuple[str, ...]) -> str:
    """Write as a mapping what came as SciPy takes it: (lowers, uppers), or a pair for each."""
    try:
        limits = np.asarray(bounds, dtype=float)
    except (TypeError, ValueError):
        limits = np.empty((0, 2))
    if isinstance(bounds, tuple) and limits.shape == (2, len(paths)):
        limits = limits.T if np.all(limits[0] < limits[1]) else limits
    if limits.shape != (len(paths), 2):
        limits = np.array([[0.0, np.inf]])
    lower, upper = (
        [float(one) if np.isfinite(one) else None for one in limits[:, k]] for k in (0, 1)
    )
    return str(dict(zip(paths[:4], zip(lower, upper, strict=True), strict=False)))


def _pair(path: str, limits: Any) -> tuple[Any, Any]:
    if not isinstance(limits, tuple | list) or len(limits) != 2:
        raise TypeError(
            f"bounds: '{path}' has {limits!r}; must be a pair (lower, upper), with None for no "
            "limit: (0, None)."
        )
    return limits[0], limits[1]


def _limits(path: str, leaf: Any, limit: Any, none: float) -> np.ndarray:
    """Broadcast a limit to the elements of a leaf, in the leaf's own dtype."""
    try:
        values = np.asarray(none if limit is None else limit, dtype=np.asarray(leaf).dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"bounds: '{path}' has the limit {limit!r}; must be a number, an array of numbers, or "
            "None."
        ) from error
    try:
        values = np.broadcast_to(values, np.shape(leaf))
    except ValueError as error:
        raise ValueError(
            f"bounds: '{path}' has shape {np.shape(leaf)}, and its limit {values.shape}; must be "
            "one number, or one for every element."
        ) from error
    if np.isnan(values).any():
        raise ValueError(f"bounds: '{path}' has a limit of NaN; use None for no limit.")
    return values


def _check(path: str, start: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    def refuse(bad: Bool[np.ndarray | np.generic, "..."], event: str) -> None:
        for index in np.argwhere(bad)[:1]:
            at = tuple(map(int, index))
            raise ValueError(
                f"bounds: '{element_name(path, at)}' has the limits {lower[at]} and {upper[at]}, "
                + event.format(start[at])
            )

    refuse(lower >= upper, "with nothing between them. To keep a parameter at a value, freeze it.")
    refuse(
        (start < lower) | (start > upper),
        "and starts outside of them, at {}. Start inside, or widen them.",
    )
