"""Many systems of one kind: what each has for itself, what they share, and where they start."""

import dataclasses
import functools
import math
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from fitkit._fisher import real_residuals
from fitkit._input import checked_params, converted, is_traceable, outcome
from fitkit._jaxprs import passed_through
from fitkit._many.axes import Shape, axes_of, system_shape, systems_first
from fitkit._many.priors import Beside, numbers_of, read_row_priors
from fitkit._many.recipe import Constant, Recipe, Source
from fitkit._many.starts import rows_of_starts
from fitkit._many.weights import flat_weights
from fitkit._optimisers import Bounds, bounded
from fitkit._paths import (
    Paths,
    common_dtype,
    match_paths,
    named_elements,
    named_leaves,
    path_of,
)
from fitkit._programs import content_of
from fitkit._residuals import RowPrior, WithPriors


@dataclass(frozen=True)
class Systems:
    """Systems that differ in their data or their starts.

    Attributes
    ----------
    shape : tuple[int, ...]
        Lengths of the axes that count systems.
    recipe : Recipe
        How to evaluate one.
    params, free : PyTree
        Parameters of one system, as an example of their shapes; and those that are fitted, with
        None in place of the others.
    frozen : tuple[str, ...]
        Paths of the parameters that are not fitted.
    fixed : dict[str, tuple[np.ndarray, bool]]
        The parameters that are not fitted by path, and whether each system has its own.
    own, shared : list[np.ndarray]
        What systems have for themselves, along the first axis, and what they share.
    starts : Float[np.ndarray, "any k n"]
        For each system, or for all of them, one row for every start.
    bounds : Bounds | None
        Limits of the parameters of one system.
    residual_count : int
        Of one system, those of priors among them.
    priors : dict[str, RowPrior]
        By path, with numbers of the shape of the parameter, or with the systems in front.
    read_starts : Callable
        Turns starts as users write them into what `starts` is.
    """

    shape: Shape
    recipe: Recipe
    params: PyTree
    free: PyTree
    frozen: tuple[str, ...]
    fixed: dict[str, tuple[np.ndarray, bool]]
    own: list[np.ndarray]
    shared: list[Any]
    starts: Float[np.ndarray, "any k n"]
    bounds: Bounds | None
    residual_count: int
    priors: dict[str, RowPrior]
    read_starts: Callable[[Any], Float[np.ndarray, "any k n"]]

    @property
    def count(self) -> int:
        """Number of systems."""
        return math.prod(self.shape)

    @property
    def starts_each(self) -> int:
        """Number of starts of every system."""
        return self.starts.shape[1]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the elements that are fitted."""
        return named_elements(self.free)

    @property
    def data_count(self) -> int:
        """Number of residuals of one system that are of its data."""
        leaves = named_leaves(self.params)
        return self.residual_count - sum(leaves[path].size for path in self.priors)

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper limits of the elements that are fitted; None where there are none."""
        if self.bounds is None:
            return None
        lower, upper = self.bounds.of_elements(self.labels)
        return lower.astype(self.recipe.dtype), upper.astype(self.recipe.dtype)

    def start_of(self, system: int) -> Float[np.ndarray, "k n"]:
        """Return the starts of one system."""
        return self.starts[system if len(self.starts) > 1 else 0]

    def given(self, path: str) -> np.ndarray:
        """Return a parameter that is not fitted, for all systems."""
        value, is_own = self.fixed[path]
        one = value.shape[1:] if is_own else value.shape
        return (
            np.broadcast_to(value, (*self.shape, *one))
            if not is_own
            else value.reshape((*self.shape, *one))
        )

    def subset(
        self, which: Int[np.ndarray, " some"], starts: Float[np.ndarray, "any k n"]
    ) -> "Systems":
        """Return some of the systems, with other starts."""
        shape, own = (len(which),), [part[which] for part in self.own]
        # The numbers of priors as fits use them are in `own`; those of all are for what is stated.
        return dataclasses.replace(self, shape=shape, own=own, starts=starts, priors={})

    def inputs(self, system: int, values: Float[np.ndarray, " n"]) -> tuple[PyTree, Any]:
        """Put together parameters and args of one system."""
        own = [jnp.asarray(part[system]) for part in self.own]
        leaves = [jnp.asarray(leaf) for leaf in self.recipe.unravel(values)]
        return self.recipe.inputs(leaves, own, self.shared)

    def weights(self, system: int) -> Float[np.ndarray, " m"] | None:
        """Return the weights of the residuals of one system."""
        return self.own[-1][system] if self.recipe.weighted else None


def make_systems(
    residuals: Callable,
    params: PyTree,
    args: Any,
    *,
    systems: int | Shape | None,
    params_axes: Any,
    args_axes: Any,
    starts: Any,
    bounds: Mapping[Paths, tuple[Any, Any]] | None,
    priors: Mapping[Paths, Any] | None,
    frozen: Paths,
    weights: Any,
) -> Systems:
    """Check what a user passes to `fit_many`, and put it in order; see there."""
    wanted = _wanted_shape(systems)
    params, args = converted(params, "fit_many", "params"), converted(args, "fit_many", "args")
    axes = {"params": axes_of(params_axes, params, "params"), "args": _args_axes(args_axes, args)}
    trees = {"params": params, "args": args}
    shape = _shape(trees, axes, wanted)
    parts = {name: _parts(trees[name], axes[name], shape) for name in trees}
    examples = {
        name: jax.tree.unflatten(jax.tree.structure(tree), [_example(*one) for one in parts[name]])
        for name, tree in trees.items()
    }
    arrays, static = checked_params(examples["params"], "fit_many")
    example = eqx.combine(arrays, static)
    held = _frozen(frozen, arrays)
    shapes = outcome("fit_many", "residuals", residuals, example, examples["args"])
    real = real_residuals(shapes, "fit_many")
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(real))

    own, shared, sources, free = [], [], {}, []
    checked = named_leaves(arrays)
    for name, of_tree in parts.items():
        sources[name] = []
        for (path, _), (leaf, is_own) in zip(axes[name].items(), of_tree, strict=True):
            is_free = name == "params" and path in checked and path not in held
            if is_free:
                free.append((np.shape(checked[path]), np.dtype(checked[path].dtype).str))
                sources[name].append(Source.FREE)
            elif is_own:
                own.append(leaf)
                sources[name].append(Source.OWN)
            elif is_traceable(leaf) or (name == "params" and path in checked):
                shared.append(jnp.asarray(leaf))
                sources[name].append(Source.SHARED)
            else:
                sources[name].append(Constant(leaf))
    rows = read_row_priors(priors, arrays, held, shape) if priors else {}
    of_priors = numbers_of(rows, arrays, shape)
    for numbers, is_own in of_priors:
        (own if is_own else shared).append(numbers if is_own else jnp.asarray(numbers))
        sources["args"].append(Source.OWN if is_own else Source.SHARED)
    weight = flat_weights(weights, shapes, shape)
    if weight is not None and rows:
        more = sum(checked[path].size for path in rows)
        weight = np.concatenate([weight, np.ones((len(weight), more))], axis=1)
    count += sum(checked[path].size for path in rows)
    if weight is not None:
        own.append(np.broadcast_to(weight, (math.prod(shape), count)))
    dtype = common_dtype(*(dtype for _, dtype in free), *jax.tree.leaves(real))
    constants = [
        one.value for one in (*sources["params"], *sources["args"]) if isinstance(one, Constant)
    ]

    def function(params: PyTree, args: Any) -> PyTree:
        return real_residuals(residuals(params, args), "fit_many")

    recipe = Recipe(
        key=_key(residuals, [*constants, bool(rows)]),
        residuals=Beside(function) if rows else function,
        trees=(
            jax.tree.structure(params),
            jax.tree.structure(WithPriors(args, rows) if rows else args),
        ),
        params=tuple(sources["params"]),
        args=tuple(sources["args"]),
        free=tuple(free),
        dtype=np.dtype(dtype).str,
        weighted=weight is not None,
        eps=0.0,
    )
    read_starts = functools.partial(
        rows_of_starts,
        params=params,
        axes=axes["params"],
        parts=parts["params"],
        recipe=recipe,
        shape=shape,
    )
    made = Systems(
        shape=shape,
        recipe=recipe,
        params=arrays,
        free=jax.tree_util.tree_map_with_path(
            lambda keys, leaf: None if path_of(keys) in held else leaf, arrays
        ),
        frozen=held,
        fixed={
            path: (np.asarray(leaf), is_own)
            for path, (leaf, is_own) in zip(axes["params"], parts["params"], strict=True)
            if path in held
        },
        own=own,
        shared=shared,
        starts=read_starts(starts),
        bounds=None if bounds is None else _bounds(bounds, arrays),
        residual_count=count,
        priors=rows,
        read_starts=read_starts,
    )
    _check_starts(made)
    return dataclasses.replace(made, recipe=dataclasses.replace(recipe, eps=_eps(made)))


def _wanted_shape(systems: int | Shape | None) -> Shape | None:
    if systems is None:
        return None
    shape = tuple(systems) if isinstance(systems, tuple | list) else (systems,)
    if not shape or not all(isinstance(one, int | np.integer) and one > 0 for one in shape):
        raise ValueError(
            f"fit_many: systems={systems!r}; must be the number of systems, or a tuple of them "
            "where several axes count systems, such as (64, 64) for the pixels of an image."
        )
    return tuple(int(one) for one in shape)


def _args_axes(axes: Any, args: Any) -> dict[str, int | None]:
    """Axes of what are arrays; plain numbers, text and functions are shared in any case."""
    leaves = {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(args)}
    return {
        path: axis if hasattr(leaves[path], "shape") else None
        for path, axis in axes_of(axes, args, "args").items()
    }


def _shape(trees: dict[str, Any], axes: dict[str, dict], wanted: Shape | None) -> Shape:
    """Find the lengths of the axes that count systems, on which all must agree."""
    found: dict[str, Shape] = {}
    for name, tree in trees.items():
        leaves = jax.tree.leaves(tree)
        for (path, axis), leaf in zip(axes[name].items(), leaves, strict=True):
            if axis is not None:
                where = f"{name}.{path}" if jax.tree.structure(tree).num_nodes > 1 else name
                found[where] = system_shape(leaf, axis, len(wanted or (0,)), where)
    if not found:
        return wanted or ()
    shape = wanted or next(iter(found.values()))
    if any(other != shape for other in found.values()):
        counts = ", ".join(f"'{where}' {_written(one)}" for where, one in found.items())
        told = "" if wanted is None else f"systems={_written(wanted)}, but "
        raise ValueError(
            f"fit_many: {told}the axes that count systems have different lengths: {counts}. What "
            "all systems share has None in args_axes (or params_axes), as for jax.vmap: "
            "args_axes=(None, 0) where the first of two args is shared."
        )
    return shape


def _written(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)


def _parts(tree: Any, axes: dict[str, int | None], shape: Shape) -> list[tuple[Any, bool]]:
    """Every leaf, with its systems along the first axis, and whether it has any."""
    leaves = zip(jax.tree.leaves(tree), axes.values(), strict=True)
    return [
        (leaf, False) if axis is None else (systems_first(leaf, axis, shape), True)
        for leaf, axis in leaves
    ]


def _example(leaf: Any, own: bool) -> Any:
    """Return what one system sees, in shape and dtype: no system need be finite."""
    return np.zeros_like(leaf[0]) if own else leaf


def _frozen(frozen: Paths, params: PyTree) -> tuple[str, ...]:
    paths = tuple(named_leaves(params))
    patterns = tuple(frozen) if isinstance(frozen, set | frozenset) else frozen
    held = match_paths(patterns, paths, "fit_many") if patterns else ()
    if len(held) == len(paths):
        raise ValueError("fit_many: all parameters are frozen, so there is nothing to fit.")
    return held


def _bounds(bounds: Mapping[Paths, tuple[Any, Any]], params: PyTree) -> Bounds:
    # Where systems start is looked at below, for each of them.
    anywhere = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    return bounded(bounds, anywhere)


def _check_starts(systems: Systems) -> None:
    if systems.limits is None:
        return
    lower, upper = systems.limits
    outside = (systems.starts < lower) | (systems.starts > upper)
    for system, start, element in np.argwhere(outside)[:1]:
        value = systems.starts[system, start, element]
        of = f" in system {system}" if len(systems.starts) > 1 else ""
        raise ValueError(
            f"fit_many: '{systems.labels[element]}' has the limits {lower[element]} and "
            f"{upper[element]}, and starts outside of them{of}, at {value}. Start inside, or widen "
            "them."
        )


def _key(residuals: Callable, constants: list) -> bytes:
    """Tell functions apart by what they are made of; what may change unseen is like no other."""
    parts: list[Any] = [residuals]
    owner: Any = getattr(residuals, "__self__", None)
    settings: Any = getattr(type(owner), "__dataclass_params__", None)
    if isinstance(residuals, types.MethodType) and settings is not None and settings.frozen:
        # The fields of a frozen dataclass, and by identity its class, which the recipe keeps.
        fields = [getattr(owner, one.name) for one in dataclasses.fields(owner)]
        parts = [residuals.__func__, id(type(owner)), *fields]
    content = content_of(*parts, *constants)
    return content.digest if content.shareable else os.urandom(16)


def _eps(systems: Systems) -> float:
    """Find the unit of rounding of the coarsest dtype that residuals pass through."""
    recipe = systems.recipe
    own = [np.asarray(part[0]) for part in systems.own]
    x = jnp.zeros(recipe.size, recipe.dtype)
    closed = jax.make_jaxpr(lambda x: recipe.function(recipe.unravel(x), own, systems.shared))(x)
    coarse = {dtype for _, dtype in recipe.free} | {recipe.dtype} | passed_through(closed)
    return max(float(jnp.finfo(dtype).eps) for dtype in coarse)
