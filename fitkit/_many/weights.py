"""Weights of residuals, one row for every system or one for all of them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from fitkit._input import converted
from fitkit._many.axes import Shape
from fitkit._paths import element_name, path_of


def flat_weights(weights: Any, shapes: PyTree, shape: Shape) -> np.ndarray | None:
    """Flatten weights to one row for each system, or one for all of them.

    Parameters
    ----------
    weights
        As users write them: like the residuals of one system, or with the systems in front.
    shapes
        The residuals of one system.
    shape
        Lengths of the axes that count systems.

    Raises
    ------
    ValueError
        If a shape is neither, or a weight is negative or not finite.
    """
    if weights is None:
        return None
    weights = converted(weights, "fit_many", "weights")
    wanted = jax.tree_util.tree_leaves_with_path(shapes)
    given = jax.tree.leaves(weights)
    if len(given) != len(wanted):
        raise ValueError(
            f"fit_many: weights have {len(given)} arrays, and the residuals of one system "
            f"{len(wanted)}: one weight for every residual, of each system or of all."
        )
    rows = []
    for (keys, residuals), leaf in zip(wanted, given, strict=True):
        # A complex residual has two parts of the same weight, one after the other.
        times = 2 if jnp.issubdtype(residuals.dtype, jnp.complexfloating) else 1
        where = f"weights.{path_of(keys)}" if keys else "weights"
        array = np.asarray(leaf, float)
        size = math.prod(residuals.shape)
        if array.shape == (*shape, *residuals.shape):
            rows.append(np.tile(array.reshape(-1, size), times))
        elif array.shape == residuals.shape:
            rows.append(np.tile(array.reshape(1, size), times))
        else:
            raise ValueError(
                f"fit_many: '{where}' has shape {array.shape}; must be {residuals.shape}, as the "
                f"residuals of one system, or {(*shape, *residuals.shape)} with the systems first."
            )
        bad = np.argwhere(~((array >= 0) & (array < np.inf)))
        for index in bad[:1]:
            at = tuple(map(int, index))
            raise ValueError(
                f"fit_many: '{element_name(where, at)}' is {array[at]}; a weight is 1/σ², not "
                "negative and finite, and 0 where there is no datum."
            )
    count = max(len(row) for row in rows)
    return np.concatenate([np.broadcast_to(row, (count, row.shape[1])) for row in rows], axis=1)
