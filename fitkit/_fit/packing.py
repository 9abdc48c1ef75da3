"""A step whose small parameters travel side by side, in one vector."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import DictKey, keystr, tree_leaves_with_path
from jaxtyping import Array, Float, Int, PyTree

from fitkit._fit.merge import SMALL, Merged
from fitkit._fit.problem import Params
from fitkit._fit.step import Controls, FitState, Step
from fitkit._optimisers import knows_verdict
from fitkit._paths import named_leaves
from fitkit._per_leaf import shaped


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the leaves of a state travel: small ones that belong together side by side in a vector.

    Together are leaves whose paths differ only in the path of a parameter: the first moments of
    all parameters, say.

    Attributes
    ----------
    structure
        That of the tree.
    shapes, dtypes
        Those of its leaves.
    groups
        Which leaves are side by side in each array.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
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
        return cls(
            jax.tree.structure(tree),
            tuple(leaf.shape for _, leaf in leaves),
            tuple(leaf.dtype for _, leaf in leaves),
            tuple(map(tuple, together.values())),
        )

    @classmethod
    def alone(cls, tree: PyTree) -> "Packing":
        """Leave every leaf of a tree, which may be abstract, by itself."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(
            structure,
            tuple(leaf.shape for leaf in leaves),
            tuple(leaf.dtype for leaf in leaves),
            tuple((index,) for index in range(len(leaves))),
        )

    @property
    def leaves(self) -> list[jax.ShapeDtypeStruct]:
        """Those of the tree, by shape: no tree is built of them, since users' nodes may refuse."""
        return list(map(jax.ShapeDtypeStruct, self.shapes, self.dtypes))

    def describe(self) -> str:
        """Say which parameters are side by side, of a packing of parameters."""
        count, vectors = len(self.shapes), [group for group in self.groups if len(group) > 1]
        inside = sum(map(len, vectors))
        whole = f"{count:,} parameter{'s' if count > 1 else ''}"
        if not vectors:
            return whole
        some = "" if inside == count else f", {inside:,} of them"
        return f"{whole}{some} in {len(vectors)} vector{'s' if len(vectors) > 1 else ''}"

    def packed(self, tree: PyTree) -> "Packed":
        """Lay a tree out."""
        return Packed(self.pack(tree), self)

    def pack(self, tree: PyTree, numpy: Any = jnp) -> list[Any]:
        """Return the arrays in which a tree is laid out; with NumPy nothing compiles."""
        leaves = jax.tree.leaves(tree)
        return [
            leaves[group[0]]
            if len(group) == 1
            else numpy.concatenate([shaped(leaves[i], (leaves[i].size,)) for i in group])
            for group in self.groups
        ]

    def unpack(self, arrays: Sequence[Any], numpy: Any = jnp) -> PyTree:
        """Build the tree again; with NumPy what was packed comes as views of NumPy."""
        leaves: dict[int, Any] = {}
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
                leaves[index] = shaped(part, shape)
        return jax.tree.unflatten(self.structure, [leaves[i] for i in range(len(leaves))])


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["packing"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """A state, or parameters, as they travel."""

    arrays: list[Any]
    packing: Packing

    @classmethod
    def of(cls, state: "FitState | Packed") -> "Packed":
        """Lay a state out, if it is not yet."""
        return state if isinstance(state, Packed) else cls._like(state, state.params)

    @classmethod
    def of_params(cls, params: Params) -> "Packed":
        """Lay parameters out."""
        return cls._like(params, params)

    @classmethod
    def _like(cls, tree: PyTree, params: Params) -> "Packed":
        packing = Packing.of(tree, params)
        return cls(packing.pack(tree, np), packing)

    @property
    def tree(self) -> FitState:
        """The state as its users know it."""
        return jax.tree.map(jnp.asarray, self.view)

    @property
    def view(self) -> FitState:
        """The state with small leaves as views of NumPy: to make arrays of JAX takes 50 µs each."""
        return self.packing.unpack(self.arrays, np)


def of_packed(function: Callable[[Params, PyTree], Any]) -> Callable[[Packed, PyTree], Any]:
    """Make of a function of (params, args) one of packed parameters: hundreds compile slowly."""

    @functools.wraps(function)
    def of_arrays(params: Packed, args: PyTree) -> Any:
        return function(params.packing.unpack(params.arrays), args)

    return of_arrays


class PackedFunction:
    """A function of trees on their packed forms, its arithmetic merged.

    Parameters
    ----------
    function
        Returns a tree built like its first argument, and any others.
    packings
        How each argument is packed.
    """

    def __init__(self, function: Callable[..., tuple], packings: Sequence[Packing]) -> None:
        rests: list[PyTree] = []

        def of_leaves(*leaves: list[Array]) -> list[Array]:
            trees = [
                jax.tree.unflatten(packing.structure, one)
                for packing, one in zip(packings, leaves, strict=True)
            ]
            first, *rest = function(*trees)
            rests.append(rest)
            return [*jax.tree.leaves(first), *jax.tree.leaves(rest)]

        leaves = [packing.leaves for packing in packings]
        closed, shapes = jax.make_jaxpr(of_leaves, return_shape=True)(*leaves)
        self._packing, count = packings[0], len(packings[0].shapes)
        self._structure = jax.tree.structure(rests[-1])
        #: What it returns besides the first tree, by shape.
        self.rest = jax.tree.unflatten(self._structure, shapes[count:])
        groups, start = [], 0
        for packing in packings:
            groups += [[start + index for index in group] for group in packing.groups]
            start += len(packing.shapes)
        self._merged = Merged(closed, groups)
        self._groups = [*self._packing.groups, *([index] for index in range(count, len(shapes)))]

    def __call__(self, *packed: Packed) -> tuple[Packed, list]:
        """Compute the first result, packed, and the others."""
        out = self._merged([array for one in packed for array in one.arrays], self._groups)
        count = len(self._packing.groups)
        rest = jax.tree.unflatten(self._structure, out[count:])
        return Packed(out[:count], self._packing), rest


class PackedStep:
    """A step on a packed state.

    Parameters
    ----------
    step
        The step on a state as it is.
    state, controls, args
        What it starts from, for their shapes.
    """

    def __init__(self, step: Step, state: Packed, controls: Controls, args: PyTree) -> None:
        self._draw, self._evaluate = step.draw, step.evaluate
        own, seen = state.packing, []

        def look(leaves: list[Array], args: PyTree) -> None:
            tree = jax.tree.unflatten(own.structure, leaves)
            data = step.draw(tree)(args)
            evaluation = Packing.of(step.evaluate(tree, data), tree.params)
            seen.append((knows_verdict(tree.optimiser), evaluation, Packing.alone(data)))

        jax.eval_shape(look, own.leaves, args)
        #: Whether the optimiser says when it is done.
        self.knows_verdict: bool
        self.knows_verdict, self._evaluation, self._args = seen[-1]
        self._controls = Packing.alone(controls)

        def move(*given: PyTree) -> tuple[FitState, Array, Array]:
            after, info, outcome = step.move(*given)
            return after, info.row(), outcome

        self._move = PackedFunction(move, [own, self._evaluation, self._controls, self._args])
        self._begin = PackedFunction(lambda *given: (step.begin(*given),), [own, self._controls])
        self._end = PackedFunction(lambda *given: (step.end(*given),), [own, own])

    @property
    def row(self) -> jax.ShapeDtypeStruct:
        """What is recorded of a step, by shape."""
        return self._move.rest[0]

    def begin(self, state: Packed, controls: Controls) -> Packed:
        """Return the state from which steps are taken."""
        return self._begin(state, self._controls.packed(controls))[0]

    def end(self, after: Packed, before: Packed) -> Packed:
        """Return the state that they lead to."""
        return self._end(after, before)[0]

    def __call__(
        self, state: Packed, controls: Controls, args: PyTree
    ) -> tuple[Packed, Float[Array, " columns"], Int[Array, ""]]:
        """Take the step: where it leads, the row recorded of it, and whether it was good."""
        tree = state.packing.unpack(state.arrays)
        data = self._draw(tree)(args)
        after, (row, outcome) = self._move(
            state,
            self._evaluation.packed(self._evaluate(tree, data)),
            self._controls.packed(controls),
            self._args.packed(data),
        )
        return after, row, outcome


def _kind(path: tuple[Any, ...], paths: set[tuple[Any, ...]], names: set[str]) -> str:
    """Write a leaf's path without the parameter in it."""
    for length in range(len(path), 0, -1):
        if path[-length:] in paths:
            path = (*path[:-length], DictKey("*"))
            break
    return keystr(
        tuple(DictKey("*") if getattr(key, "key", None) in names else key for key in path)
    )
