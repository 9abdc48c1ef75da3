"""Starts of a fit, drawn at random around its parameters or within its bounds."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from fitkit._fit.problem import Params
from fitkit._input import shortened
from fitkit._optimisers import Bounds
from fitkit._paths import element_name, match_paths, named_leaves

Spread = float | Mapping[Any, Any] | None

_SPREADS = (
    "must be a factor above 1, by which values are spread; or by path a standard deviation in the "
    'unit of the parameter, {"centre": 0.1}; or None, for all between the bounds of the fit.'
)


def draw_starts(
    n: int,
    spread: Spread,
    params: Params,
    bounds: Bounds | None,
    frozen: frozenset[str],
    key: int | Array,
) -> PyTree:
    """Draw `n` trees like the parameters, stacked along a first axis; the first are they.

    Parameters
    ----------
    n, spread, key
        As for `Fit.multistart`.
    params
        Arrays.
    bounds
        Limits, which all starts keep to.
    frozen
        Paths of the parameters that stay.

    Raises
    ------
    UnknownPathError, TypeError, ValueError
        If this cannot be drawn from; the message names the path.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise ValueError(f"multistart: n={n!r}; must be a whole number of starts, 2 or more.")
    key = jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
    leaves = named_leaves(params)
    limits = {} if bounds is None else bounds.by_path()
    deviations = _by_path(spread, leaves)
    stacked = []
    for k, (path, leaf) in enumerate(leaves.items()):
        start, own = np.asarray(leaf, float), jax.random.fold_in(key, k)
        lower, upper = limits.get(path, (np.full(leaf.shape, -np.inf), np.full(leaf.shape, np.inf)))
        shape = (int(n) - 1, *leaf.shape)
        if path in frozen:
            drawn = np.broadcast_to(start, shape)
        elif path in deviations:
            drawn = start + deviations[path] * np.asarray(jax.random.normal(own, shape, float))
        elif spread is not None and not isinstance(spread, Mapping):
            _refuse_zeros(path, start, spread)
            drawn = start * float(spread) ** np.asarray(jax.random.normal(own, shape, float))
        else:
            within = np.asarray(np.isfinite(lower) & np.isfinite(upper))
            if spread is None:
                _refuse_open(path, within)
            share = np.asarray(jax.random.uniform(own, shape, float))
            low, width = np.where(within, lower, start), np.where(within, upper - lower, 0)
            drawn = low + share * width
        every = np.concatenate([start[None], np.clip(drawn, lower, upper)])
        stacked.append(jnp.asarray(every, leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(params), stacked)


def _by_path(spread: Spread, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read standard deviations by path; none of a factor for all."""
    if spread is None:
        return {}
    if not isinstance(spread, Mapping):
        number = isinstance(spread, float | int | np.number) and not isinstance(spread, bool)
        if not number or not 1 < float(spread) < np.inf:
            raise ValueError(f"multistart: spread={shortened(spread)}; {_SPREADS}")
        return {}
    found: dict[str, np.ndarray] = {}
    for pattern, value in spread.items():
        for path in match_paths(pattern, leaves, "multistart"):
            if path in found:
                raise ValueError(f"multistart: '{path}' is spread twice; name it in one key only.")
            try:
                deviation = np.asarray(value, float)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"multistart: '{path}' has the spread {shortened(value)}; {_SPREADS}"
                ) from error
            if deviation.shape not in ((), leaves[path].shape):
                raise ValueError(
                    f"multistart: '{path}' has shape {leaves[path].shape}, and its spread "
                    f"{deviation.shape}; must be one number, or one for every element."
                )
            if not np.all((deviation >= 0) & (deviation < np.inf)):
                raise ValueError(
                    f"multistart: '{path}' has the spread {shortened(value)}; a standard deviation "
                    "is finite and not negative."
                )
            found[path] = deviation
    return found


def _refuse_zeros(path: str, start: np.ndarray, spread: Any) -> None:
    for index in np.argwhere(start == 0)[:1]:
        name = element_name(path, tuple(map(int, index)))
        raise ValueError(
            f"multistart: '{name}' is 0, which a factor of {spread} does not change. Give standard "
            f"deviations by path, spread={{'{path}': 1.0, …}}, or freeze it."
        )


def _refuse_open(path: str, within: np.ndarray) -> None:
    for index in np.argwhere(~within)[:1]:
        name = element_name(path, tuple(map(int, index)))
        raise ValueError(
            f"multistart: '{name}' has no lower and upper bound to draw starts between. Give the "
            f'fit both, Fit(bounds={{"{path}": (lower, upper)}}); or say how far to spread it, '
            f"multistart(n, spread={{'{path}': 1.0}}); or freeze it."
        )
