"""What residuals must be: a tree of floating-point arrays, complex ones as two real ones."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._paths import path_of


def real_residuals(values: PyTree, event: str) -> PyTree:
    """Refuse what cannot be squared and summed, and take complex residuals apart.

    Looks at shapes and dtypes, so works when traced.

    Parameters
    ----------
    values
        What the function of the user returned, or its `jax.eval_shape`.
    event
        Who asks, to open the error with: ``"gauss_newton"``.

    Returns
    -------
    PyTree
        The same tree, with the pair of its real and its imaginary part for every complex leaf.

    Raises
    ------
    TypeError
        If there is no array, or a leaf is not a floating-point or complex array or number.
    """
    wanted = "must be a tree of floating-point arrays, (model - data)/σ."
    leaves = jax.tree_util.tree_leaves_with_path(values)
    if not leaves:
        raise TypeError(
            f"{event}: residuals are {values!r}, which holds no array; {wanted} "
            "Perhaps its `return` is missing."
        )
    for key_path, leaf in leaves:
        where = f" at '{path_of(key_path)}'" if key_path else ""
        dtype = _dtype(leaf)
        if dtype is None:
            raise TypeError(f"{event}: residuals are {leaf!r}{where}; {wanted}")
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{event}: residuals have dtype {dtype}{where}; {wanted} Integers and "
                "booleans have no gradient: compute in floats."
            )
    return jax.tree.map(_in_parts, values)


def half_squares(residuals: PyTree[Float[Array, "..."]]) -> Float[Array, ""]:
    """Compute half the sum of squares, in the dtype of the finest residuals."""
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(residuals)]
    with jax.numpy_dtype_promotion("standard"):
        return 0.5 * functools.reduce(jnp.add, squares)


@dataclass(frozen=True)
class HalfSquares:
    """The loss of residuals; equal to another of the same, so that it is compiled once."""

    residuals: Callable

    def __call__(self, params: PyTree, args: Any) -> Float[Array, ""]:
        """Compute half the sum of squares."""
        return half_squares(self.residuals(params, args))


def _in_parts(leaf: Any) -> Any:
    """Take a complex array apart, whose squared magnitude is the sum of the parts' squares."""
    if not jnp.issubdtype(_dtype(leaf), jnp.complexfloating):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return (jax.ShapeDtypeStruct(leaf.shape, jnp.finfo(leaf.dtype).dtype),) * 2
    return jnp.real(leaf), jnp.imag(leaf)


def _dtype(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.dtype
    try:
        return jnp.result_type(leaf)
    except TypeError:
        return None
