"""Arithmetic with one number for each leaf of a tree.

In the primitives of `jax.lax`: `jax.numpy` would trace a function of its own for every leaf, half
of all those that are traced for a step of hundreds of parameters.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Num, Shaped


def separated(vector: Shaped[Array | np.ndarray, " n"]) -> list[Shaped[Array, ""]]:
    """Return the elements of a vector, of all at once: a slice for each is a kernel of its own."""
    return [lax.reshape(one, ()) for one in lax.split(jnp.asarray(vector), [1] * len(vector))]


def shaped(leaf: Any, shape: tuple[int, ...]) -> Any:
    """Return an array in another shape of as many elements."""
    return leaf if leaf.shape == shape else leaf.reshape(shape)


def typed(leaf: Any, dtype: Any) -> Any:
    """Return an array in a dtype; as it is where it has that."""
    return leaf if leaf.dtype == dtype else leaf.astype(dtype)


def select_leaf(
    flag: Bool[Array, "..."], chosen: Shaped[Array, "..."], other: Shaped[Array, "..."]
) -> Shaped[Array, "..."]:
    """Return one of two arrays of equal shapes and dtypes, by one flag or one for each element."""
    return lax.select(lax.broadcast(flag, other.shape[flag.ndim :]), chosen, other)


def zero_leaf(flag: Bool[Array, "..."], leaf: Num[Array, "..."]) -> Num[Array, "..."]:
    """Return zeros in place of an array where the flag is set."""
    return select_leaf(flag, lax.broadcast(np.zeros((), leaf.dtype), leaf.shape), leaf)


def scale_leaf(factor: Float[Array, ""], leaf: Num[Array, "..."]) -> Num[Array, "..."]:
    """Multiply an array by a number, in the dtype of the array."""
    return lax.mul(leaf, lax.broadcast(typed(factor, leaf.dtype), leaf.shape))
