"""Two checks to put into a loop of one's own: raise at a NaN, or replace it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from fitkit._input import converted
from fitkit._nonfinite.numpy_rules import is_inexact
from fitkit._paths import element_name, named_leaves


class NonFiniteError(FloatingPointError):
    """A value that is not finite where one was asked for; the message names its path."""


def debug_nan_check(grads: PyTree, infinities: bool = False) -> PyTree:
    """Return the gradients as they are, or raise and name the leaf and element that is NaN.

    It works where no debugger can be opened: in a notebook, in a test run, and inside ``jax.jit``,
    where the error arrives when the compiled function runs.

    Parameters
    ----------
    grads
        Any pytree. Leaves that are no floating-point arrays are passed over.
    infinities
        Whether an infinity is an error too.

    Returns
    -------
    PyTree
        `grads`, the same object.

    Raises
    ------
    NonFiniteError
        If an element is NaN. Under ``jax.jit`` JAX raises it as a ``JaxRuntimeError`` whose
        message ends with this one.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fitkit as fk
    >>> fk.debug_nan_check({"star": {"r2": jnp.array([1.0, jnp.nan])}})
    Traceback (most recent call last):
        ...
    fitkit._nonfinite.checks.NonFiniteError: debug_nan_check: 'star.r2[1]' is nan. ...
    """
    leaves = {path: leaf for path, leaf in named_leaves(grads).items() if _is_checked(leaf)}
    paths, values = list(leaves), list(leaves.values())
    if not any(isinstance(value, jax.core.Tracer) for value in values):  # pyright: ignore
        _raise_if_bad(paths, values, infinities)
    elif values:
        bad = jnp.any(jnp.stack([jnp.any(_bad(value, infinities)) for value in values]))
        held = [jax.lax.stop_gradient(value) for value in values]
        jax.lax.cond(
            bad,
            lambda: jax.debug.callback(lambda *v: _raise_if_bad(paths, v, infinities), *held),
            lambda: None,
        )
    return grads


def zero_nan_check(grads: PyTree, infinities: bool = False) -> PyTree:
    """Replace every NaN by zero.

    Parameters
    ----------
    grads
        Any pytree. Leaves that are no floating-point numbers or arrays come back untouched.
    infinities
        Whether to replace infinities too.

    Returns
    -------
    PyTree
        A new pytree; `grads` stays as it is.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fitkit as fk
    >>> fk.zero_nan_check({"a": jnp.array([jnp.nan, 2.0])})["a"].tolist()
    [0.0, 2.0]
    """

    def zeroed(leaf: Any) -> Any:
        if not _is_checked(leaf):
            return leaf
        value = jnp.asarray(converted(leaf, "zero_nan_check", "grads"))
        return jnp.where(_bad(value, infinities), jnp.zeros((), value.dtype), value)

    # With jax_debug_nans on, JAX would raise at the very NaN that is to be replaced.
    with jax.debug_nans(False), jax.debug_infs(False):
        return jax.tree.map(zeroed, grads)


def _is_checked(leaf: Any) -> bool:
    return isinstance(leaf, float | complex) or (eqx.is_array_like(leaf) and is_inexact(leaf))


def _bad(value: Any, infinities: bool) -> Any:
    return ~jnp.isfinite(value) if infinities else jnp.isnan(value)


def _raise_if_bad(paths: list[str], values: Any, infinities: bool) -> None:
    found = []
    for path, value in zip(paths, values, strict=True):
        value = np.asarray(value)
        bad = ~np.isfinite(value) if infinities else np.isnan(value)
        if bad.any():
            index = tuple(map(int, np.unravel_index(int(np.argmax(bad)), bad.shape)))
            count = f" (and {int(bad.sum()) - 1} more of {bad.size})" if bad.sum() > 1 else ""
            found.append(f"'{element_name(path, index)}' is {value[index]}{count}")
    if found:
        raise NonFiniteError(
            f"debug_nan_check: {'; '.join(found)}. All gradients must be finite: "
            "fitkit.find_nonfinite(loss, params, args, gradient=True) finds the line of the "
            "model that made it so."
        )
