"""What residuals must be: a tree of real floating-point arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from fitkit._paths import path_of


def check_residuals(values: PyTree, event: str) -> None:
    """Refuse what cannot be squared and summed: looks at shapes and dtypes, so works when traced.

    Parameters
    ----------
    values
        What the function of the user returned, or its `jax.eval_shape`.
    event
        Who asks, to open the error with: ``"gauss_newton"``.

    Raises
    ------
    TypeError
        If there is no array, or a leaf is not a real floating-point array or number.
    """
    wanted = "must be a tree of real floating-point arrays, (model - data)/σ."
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
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{event}: residuals have dtype {dtype}{where}; {wanted} Return the real and the "
                "imaginary part."
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{event}: residuals have dtype {dtype}{where}; {wanted} Integers and "
                "booleans have no gradient: compute in floats."
            )


def _dtype(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.dtype
    try:
        return jnp.result_type(leaf)
    except TypeError:
        return None
