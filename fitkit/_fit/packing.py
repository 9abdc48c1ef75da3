"""A step whose small parameters travel side by side, in one vector."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import DictKey, keystr, tree_leaves_with_path
from jaxtyping import Array, Int, PyTree

from fitkit._fit.merge import SMALL, Merged
from fitkit._fit.step import Controls, FitState, Step, StepInfo
from fitkit._paths import named_leaves


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the leaves of a state travel: small ones that belong together side by side in a vector.

    Together are leaves whose paths differ only in the path of a parameter: the first moments of
    all parameters, say.

    Attributes
    ----------
    structure
        That of the tree.
    shapes
        Those of its leaves.
    groups
        Which leaves are side by side in each array.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tree: PyTree, params: PyTree) -> "Packing":
        """Group the leaves of a tree, which may be abstract, by the paths of parameters."""
        paths = {path for path, _ in tree_leaves_with_path(params)}
        names = set(named_leaves(params))
        leaves = tree_leaves_with_path(tree)
        together: dict[Any, list[int]] = {}
        for index, (path, leaf) in enumerate(leaves):
            small = leaf.size <= SMALL and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
            key = (_kind(path, paths, names), str(leaf.dtype)) if small else index
            together.setdefault(key, []).append(index)
        shapes = tuple(leaf.shape for _, leaf in leaves)
        return cls(jax.tree.structure(tree), shapes, tuple(map(tuple, together.values())))

    def pack(self, tree: PyTree, numpy: Any = jnp) -> list[Any]:
        """Lay a tree out; with NumPy nothing compiles."""
        leaves = jax.tree.leaves(tree)
        return [
            leaves[group[0]]
            if len(group) == 1
            else numpy.concatenate([numpy.ravel(leaves[index]) for index in group])
            for group in self.groups
        ]

    def unpack(self, arrays: Sequence[Any], numpy: Any = jnp) -> PyTree:
        """Build the tree again."""
        leaves: dict[int, Array] = {}
        for group, array in zip(self.groups, arrays, strict=True):
            if len(group) == 1:
                leaves[group[0]] = array
                continue
            shapes = [self.shapes[index] for index in group]
            sizes = [math.prod(shape) for shape in shapes]
            parts = (
                lax.split(array, sizes)
                if numpy is jnp
                else np.split(np.asarray(array), np.cumsum(sizes)[:-1])
            )
            for index, shape, part in zip(group, shapes, parts, strict=True):
                leaves[index] = jnp.asarray(part.reshape(shape))
        return jax.tree.unflatten(self.structure, [leaves[i] for i in range(len(leaves))])


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["packing"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """A state as it travels."""

    arrays: list[Any]
    packing: Packing

    @classmethod
    def of(cls, state: "FitState | Packed") -> "Packed":
        """Lay a state out, if it is not yet."""
        if isinstance(state, Packed):
            return state
        packing = Packing.of(state, state.params)
        return cls(packing.pack(state, np), packing)

    @property
    def tree(self) -> FitState:
        """The state as its users know it."""
        return self.packing.unpack(self.arrays, np)


class PackedStep:
    """A step on a packed state, its arithmetic merged.

    Parameters
    ----------
    step
        The step on a state as it is.
    state, controls, args
        What it starts from, for their shapes.
    """

    def __init__(self, step: Step, state: Packed, controls: Controls, args: PyTree) -> None:
        self._evaluate, self._packing = step.evaluate, state.packing
        tree = jax.eval_shape(state.packing.unpack, state.arrays)
        loss, gradient = jax.eval_shape(step.evaluate, tree.params, args)
        self._gradient = Packing.of(gradient, gradient)
        flat, structure = jax.tree.flatten((tree, loss, gradient, controls, args))
        infos: list[Any] = []

        def move(*leaves: Array) -> list[Any]:
            state, info, outcome = step.move(*jax.tree.unflatten(structure, leaves))
            infos.append(info)
            return [*jax.tree.leaves(state), *jax.tree.leaves(info), outcome]

        closed, shapes = jax.make_jaxpr(move, return_shape=True)(*flat)
        count, self._info = len(state.packing.shapes), jax.tree.structure(infos[-1])
        #: What is recorded of a step, by shape.
        self.info = jax.tree.unflatten(self._info, shapes[count:-1])
        parts = [state.packing.groups, [[0]], self._gradient.groups]
        parts += [[[i] for i in range(len(jax.tree.leaves((controls, args))))]]
        self._merged = Merged(closed, _numbered(parts))
        self._outputs = [*state.packing.groups, *([i] for i in range(count, len(shapes)))]

    def __call__(
        self, state: Packed, controls: Controls, args: PyTree
    ) -> tuple[Packed, StepInfo, Int[Array, ""]]:
        """Take the step."""
        params = self._packing.unpack(state.arrays).params
        loss, gradient = self._evaluate(params, args)
        given = [*state.arrays, loss, *self._gradient.pack(gradient)]
        out = self._merged([*given, *jax.tree.leaves((controls, args))], self._outputs)
        count = len(state.arrays)
        info = jax.tree.unflatten(self._info, out[count:-1])
        return Packed(out[:count], self._packing), info, out[-1]


def _kind(path: tuple[Any, ...], paths: set[tuple[Any, ...]], names: set[str]) -> str:
    """Write a leaf's path without the parameter in it."""
    for length in range(len(path), 0, -1):
        if path[-length:] in paths:
            path = (*path[:-length], DictKey("*"))
            break
    return keystr(
        tuple(DictKey("*") if getattr(key, "key", None) in names else key for key in path)
    )


def _numbered(parts: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Return groups of several trees as those of one tree that holds them all."""
    groups, start = [], 0
    for part in parts:
        groups += [[start + index for index in group] for group in part]
        start += sum(len(group) for group in part)
    return groups
