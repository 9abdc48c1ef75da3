"""What is fitted: a loss, or residuals, over parameters that have been checked."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from fitkit._fisher import check_residuals, gradient_by_columns, has_reverse
from fitkit._paths import element_name, is_static, named_leaves, path_of

Params: TypeAlias = PyTree
LossFunction: TypeAlias = Callable[[Params, Any], Float[ArrayLike, ""]]
ResidualsFunction: TypeAlias = Callable[[Params, Any], PyTree]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A function to minimise, by its parameters.

    Functions inside `params` and `args` (the activation of a network, say) are no parameters and
    no data: they are set aside, and put back before the user's function sees them.
    """

    loss_function: LossFunction | None
    residuals_function: ResidualsFunction | None
    static_params: PyTree
    static_args: PyTree
    #: Whether reverse mode does not exist, so that the loss brings a gradient made forward.
    forward_only: bool = False

    def loss(self, params: Params, args: PyTree) -> Float[Array, ""]:
        """Evaluate the loss, which `jax.grad` can take; of residuals, half the sum of squares."""
        if self.forward_only:
            return gradient_by_columns(lambda p: self._loss(p, args))(params)
        return self._loss(params, args)

    def _loss(self, params: Params, args: PyTree) -> Float[Array, ""]:
        if self.loss_function is not None:
            return jnp.asarray(self.loss_function(*self._whole(params, args)))
        squares = [jnp.sum(jnp.square(r)) for r in jax.tree.leaves(self.residuals(params, args))]
        with jax.numpy_dtype_promotion("standard"):
            return 0.5 * functools.reduce(jnp.add, squares)

    def residuals(self, params: Params, args: PyTree) -> PyTree[Float[Array, "..."]]:
        """Evaluate (model - data) / sigma."""
        if self.residuals_function is None:
            raise ValueError("This problem was given a loss and has no residuals.")
        return self.residuals_function(*self._whole(params, args))

    def whole_params(self, params: Params) -> PyTree:
        """Put back what is no array, so that the user sees the tree that came."""
        return eqx.combine(params, self.static_params)

    def checked(self, params: Params, args: PyTree) -> "Problem":
        """Check what the user's function returns, and find out how it can be differentiated.

        By shape and dtype: nothing compiles. Returns a problem that knows the mode.
        """
        function: Any = self.loss_function or self.residuals_function
        out = eqx.filter_eval_shape(lambda *free: function(*self._whole(*free)), params, args)
        (_check_residuals if self.loss_function is None else _check_loss)(out)
        forward_only = not has_reverse("Fit", lambda p: self._loss(p, args), params)
        if forward_only == self.forward_only:
            return self
        return dataclasses.replace(self, forward_only=forward_only)

    def _whole(self, params: Params, args: PyTree) -> tuple[PyTree, PyTree]:
        return self.whole_params(params), eqx.combine(args, self.static_args)


def make_problem(
    loss: LossFunction | None, residuals: ResidualsFunction | None, params: PyTree, args: PyTree
) -> tuple[Problem, Params, PyTree]:
    """Check what the user passed and split it into a problem, its parameters and its data.

    Everything here is found by looking at shapes and values: nothing compiles.

    Raises
    ------
    TypeError
        If a parameter is no real floating-point number or array, if `loss` or `residuals` is
        no function or does not return what it should.
    ValueError
        If a parameter is empty or non-finite, if there are no parameters, or if not exactly one
        of `loss` and `residuals` is given.
    """
    if (loss is None) == (residuals is None):
        given = "both" if loss is not None else "neither"
        raise ValueError(f"Fit: {given} of `loss` and `residuals` came; give exactly one.")
    function, kind = (loss, "loss") if residuals is None else (residuals, "residuals")
    if not callable(function):
        raise TypeError(f"Fit: `{kind}` must be a function of (params, args), not {function!r}.")
    arrays, static_params = split_params(params)
    data, static_args = split_args(args)
    problem = Problem(loss, residuals, static_params, static_args).checked(arrays, data)
    return problem, arrays, data


def split_params(params: PyTree) -> tuple[Params, PyTree]:
    """Separate the parameters, which are checked, from the functions in their tree."""
    static = jax.tree.map(lambda leaf: leaf if is_static(leaf) else None, params)
    arrays = jax.tree_util.tree_map_with_path(
        lambda key_path, leaf: None if is_static(leaf) else _checked(key_path, leaf), params
    )
    if not named_leaves(arrays):
        raise ValueError("Fit: `params` has no leaves; give at least one floating-point parameter.")
    return arrays, static


def split_args(args: PyTree) -> tuple[PyTree, PyTree]:
    """Separate the data, as JAX arrays, from everything else.

    A record array, as a FITS table is, becomes a dictionary of its columns.
    """
    args = jax.tree.map(_columns, args)
    # Plain numbers stay as they are, for they may be shapes or switches; so do NumPy's booleans,
    # for a mask that JAX traces could not be used as an index.
    data, static = eqx.partition(args, _is_numeric_array)
    return jax.tree.map(lambda leaf: jnp.asarray(_native(leaf)), data), static


def _columns(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray) and leaf.dtype.names:
        return {name: np.asarray(leaf[name]) for name in leaf.dtype.names}
    return leaf


def _native(leaf: Any) -> Any:
    """Put the bytes of a NumPy array into the machine's order; FITS files are big-endian."""
    if isinstance(leaf, np.ndarray | np.generic) and not leaf.dtype.isnative:
        return leaf.astype(leaf.dtype.newbyteorder("="))
    return leaf


def _is_numeric_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) or (
        isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "iufc"
    )


def _checked(key_path: tuple[Any, ...], leaf: Any) -> Float[Array, "..."]:
    """Return the leaf as a strongly typed array of its own width; raise if it cannot be fitted."""
    path = path_of(key_path)
    if any(getattr(key, "key", None) == "" for key in key_path):
        raise ValueError(
            f"Fit: a parameter has the empty string as a key (beside '{path}'), and so no path to "
            "name it by. Rename the key."
        )
    wanted = "a parameter must be a finite real floating-point number or array of them"
    try:
        array = _native(np.asarray(leaf))
    except Exception as error:
        raise TypeError(f"Fit: parameter '{path}' is {leaf!r}; {wanted}.") from error
    if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == bool:
        raise TypeError(
            f"Fit: parameter '{path}' has dtype {array.dtype}; {wanted}. An integer has no "
            f"gradient: write {_as_float(array)}, or pass it through `args`."
        )
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(
            f"Fit: parameter '{path}' is complex; {wanted}. Fit its real and imaginary parts, "
            "or amplitude and phase, as two parameters."
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"Fit: parameter '{path}' is {leaf!r} ({type(leaf).__name__}); {wanted}. "
            "Pass what is not fitted through `args`."
        )
    if array.size == 0:
        raise ValueError(f"Fit: parameter '{path}' is empty (shape {array.shape}); {wanted}.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"Fit: parameter '{element_name(path, index)}' is {array[index]} at the start; "
            f"{wanted}."
        )
    dtype = array.dtype if hasattr(leaf, "dtype") else jnp.result_type(float)
    return jnp.asarray(array, dtype=jax.dtypes.canonicalize_dtype(dtype))


def _as_float(array: np.ndarray) -> str:
    return f"{float(array)!r}" if array.ndim == 0 else f"params.astype(float), for {array.dtype}"


def _check_loss(out: Any) -> None:
    cure = "A loss must return one real floating-point number"
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(f"Fit: `loss` returned {out!r}. {cure}.")
    if out.shape != ():
        raise TypeError(
            f"Fit: `loss` returned an array of shape {out.shape}. {cure}: sum it, or pass the "
            "function as `residuals=` if its square is what should be small."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        hint = ": take its real part" if jnp.issubdtype(out.dtype, jnp.complexfloating) else ""
        raise TypeError(f"Fit: `loss` returned a number of dtype {out.dtype}. {cure}{hint}.")


def _check_residuals(out: PyTree) -> None:
    check_residuals(out, "Fit")
    if sum(leaf.size for leaf in jax.tree.leaves(out)) == 0:
        raise ValueError(
            "Fit: `residuals` returned no elements; must be a tree of real floating-point arrays, "
            "(model - data) / sigma."
        )
