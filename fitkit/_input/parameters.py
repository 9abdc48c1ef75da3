"""Parameters and data of a fit, checked and set apart from everything else in their trees."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from fitkit._input.data import converted, foreign, is_traceable, shortened, to_jax
from fitkit._paths import element_name, is_static, named_leaves, path_of

_WANTED = "a parameter must be a finite real floating-point number or array of them"


def checked_params(params: PyTree, event: str) -> tuple[PyTree, PyTree]:
    """Separate the parameters, which are checked, from the functions in their tree.

    Raises
    ------
    TypeError
        If a parameter is no real floating-point number or array.
    ValueError
        If a parameter is empty or non-finite, or if there are none.
    """
    params = converted(params, event, "params")
    static = jax.tree.map(lambda leaf: leaf if is_static(leaf) else None, params)
    arrays = jax.tree_util.tree_map_with_path(
        lambda key_path, leaf: None if is_static(leaf) else _checked(key_path, leaf, event), params
    )
    if not named_leaves(arrays):
        raise ValueError(
            f"{event}: `params` is {shortened(params)}, which has no leaves that can be fitted; "
            'give at least one floating-point parameter, such as {"flux": 1.0}.'
        )
    return arrays, static


def split_args(args: PyTree, event: str) -> tuple[PyTree, PyTree]:
    """Separate the data, as JAX arrays, from everything else."""
    data, static = eqx.partition(converted(args, event, "args"), is_traceable)
    return jax.tree.map(to_jax, data), static


def _checked(key_path: tuple[Any, ...], leaf: Any, event: str) -> Float[Array, "..."]:
    """Return the leaf as a strongly typed array of its own width; raise if it cannot be fitted."""
    path = path_of(key_path)
    if any(getattr(key, "key", None) == "" for key in key_path):
        raise ValueError(
            f"{event}: a parameter has the empty string as a key (beside '{path}'), and so no path "
            "to name it by. Rename the key."
        )
    try:
        array = np.asarray(leaf)
    except Exception as error:
        raise TypeError(f"{event}: parameter '{path}' is {shortened(leaf)}; {_WANTED}.") from error
    if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == bool:
        raise TypeError(
            f"{event}: parameter '{path}' has dtype {array.dtype}; {_WANTED}. An integer has no "
            f"gradient: write {_as_float(array)}, or pass it through `args`."
        )
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(
            f"{event}: parameter '{path}' is complex; {_WANTED}. Fit its real and imaginary parts, "
            "or amplitude and phase, as two parameters."
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{event}: parameter '{path}' is {shortened(leaf)} ({type(leaf).__name__}); {_WANTED}. "
            f"{_cure(leaf)}"
        )
    if array.size == 0:
        raise ValueError(f"{event}: parameter '{path}' is empty (shape {array.shape}); {_WANTED}.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"{event}: parameter '{element_name(path, index)}' is {array[index]} at the start; "
            f"{_WANTED}."
        )
    # A Python number has the width that JAX gives it.
    return to_jax(array if hasattr(leaf, "dtype") else array.astype(jnp.result_type(float)))


def _cure(leaf: Any) -> str:
    about = foreign(leaf)
    if about is not None or isinstance(leaf, str | bytes):
        return "Pass what is not fitted through `args`."
    return (
        "It is no pytree, so that JAX sees no numbers in it: make it a dictionary, an "
        "equinox.Module, or a dataclass that jax.tree_util.register_dataclass knows; or pass its "
        "numbers as `params` and the object itself through `args`."
    )


def _as_float(array: np.ndarray) -> str:
    return f"{float(array)!r}" if array.ndim == 0 else f"params.astype(float), for {array.dtype}"
