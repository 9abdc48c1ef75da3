"""Arrays spread over devices and processes: on which mesh, and the ways in and out of it.

JAX has two kinds of meshes. Where axes are *automatic*, XLA decides how what is computed is spread.
Where they are *explicit*, as `jax.make_mesh` makes them, the types of arrays say it, and every
operation must where that is ambiguous. The user's function runs under the mesh that the user made;
all that fitkit computes around it, from trees of any shapes, is left to XLA.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

T = TypeVar("T")

_EMPTY = Mesh(np.empty((), object), ())
# The mesh that the user has set, where `automatic_axes` has left it.
_LEFT: ContextVar[Mesh | None] = ContextVar("left", default=None)


def users_mesh() -> Mesh:
    """Return the mesh that the user has set with ``jax.set_mesh``; an empty one without."""
    left = _LEFT.get()
    if left is not None:
        return left
    try:
        return jax.sharding.get_mesh()
    except ValueError:  # Under a trace, whose caller has decided.
        return _EMPTY


def find_mesh(*trees: PyTree) -> Mesh | None:
    """Return the mesh on which arrays in the trees lie, or else the one that the user has set."""
    for leaf in jax.tree.leaves(trees):
        sharding = None if isinstance(leaf, jax.core.Tracer) else getattr(leaf, "sharding", None)  # pyright: ignore
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    mesh = users_mesh()
    return None if mesh.empty else mesh


def held_by(function: Callable, params: PyTree, args: PyTree) -> Mesh | None:
    """Return the mesh on which arrays lie that a function holds itself, as a closure does."""
    if jax.device_count() == 1:
        return None
    given, static = eqx.partition((params, args), eqx.is_array)
    closed = jax.make_jaxpr(lambda given: function(*eqx.combine(given, static)))(given)
    return find_mesh(closed.consts)


def automatic(mesh: Mesh) -> Mesh:
    """Return the same devices with automatic axes."""
    return Mesh(mesh.devices, mesh.axis_names)


def is_explicit(mesh: Mesh | None) -> bool:
    """Whether some axes of a mesh are explicit."""
    return mesh is not None and AxisType.Explicit in mesh.axis_types


def is_shared(mesh: Mesh | None) -> bool:
    """Whether devices of several processes are in a mesh."""
    return mesh is not None and mesh.is_multi_process


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """Return the sharding of what lies on every device whole; None where there is no mesh."""
    return None if mesh is None else _whole_on(mesh)


def everywhere(tree: T, mesh: Mesh | None) -> T:
    """Lay arrays that every process has on every device of a mesh, and nothing compiles twice."""
    if mesh is None:
        return tree
    there = _whole_on(mesh)

    def one(leaf: Any) -> Any:
        if getattr(leaf, "sharding", None) == there:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return jax.device_put(leaf, there)
        # No process waits for the others, as it would in `jax.device_put`.
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, there, lambda index: whole[index])

    return jax.tree.map(one, tree)


def under(mesh: Mesh | None, function: Callable) -> Callable:
    """Let a function of (params, args) see its mesh as its user does, and its caller none."""
    return UnderMesh(function, mesh) if mesh is not None and is_explicit(mesh) else function


@dataclasses.dataclass(frozen=True)
class UnderMesh:
    """A function of (params, args) on a mesh of explicit axes, as one of automatic arrays.

    The parameters lie on every device. `args` are passed on as they are.
    """

    function: Callable
    mesh: Mesh

    @property
    def __wrapped__(self) -> Callable:
        return self.function

    def __call__(self, params: PyTree, args: PyTree) -> PyTree:
        """Call the function, which may be there already."""
        if jax.sharding.get_abstract_mesh() == self.mesh.abstract_mesh:
            return self.function(params, args)
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            out = self.function(_cast(params, self.mesh), args)
        return _cast(out, automatic(self.mesh))


@contextlib.contextmanager
def automatic_axes() -> Iterator[None]:
    """Leave a mesh of explicit axes that the user has set."""
    mesh = users_mesh()
    if _LEFT.get() is not None or not is_explicit(mesh):
        yield
        return
    token = _LEFT.set(mesh)
    try:
        with jax.set_mesh(_EMPTY):
            yield
    finally:
        _LEFT.reset(token)


@contextlib.contextmanager
def users_axes() -> Iterator[None]:
    """Return to the mesh that `automatic_axes` has left, to call what is the user's own."""
    left = _LEFT.get()
    if left is None:
        yield
        return
    token = _LEFT.set(None)
    try:
        with jax.set_mesh(left):
            yield
    finally:
        _LEFT.reset(token)


def on_automatic_axes(update: Callable) -> Callable:
    """Let an optimiser's update take residuals whose types say how they are spread.

    It is called as ``update(grads, state, params, residuals=…)``.
    """

    def called(
        grads: Any, state: Any, params: PyTree = None, residuals: Any = None, **extra: Any
    ) -> Any:
        mesh = _explicit_mesh(residuals, params) if residuals is not None else None
        if mesh is None:
            return update(grads, state, params, residuals=residuals, **extra)
        seen = jax.sharding.explicit_axes(residuals, in_sharding=PartitionSpec())
        around: Any = jax.sharding.auto_axes(
            lambda state, params: update(grads, state, params, residuals=seen, **extra),
            out_sharding=NamedSharding(mesh, PartitionSpec()),
        )
        return around(state, params)

    return called


def relabelled(tree: T, mesh: Mesh | None) -> T:
    """Return the same arrays as of a mesh of the same devices, but perhaps other types of axes."""

    def one(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        if mesh is None or not isinstance(sharding, NamedSharding) or sharding.mesh == mesh:
            return leaf
        parts = [shard.data for shard in leaf.addressable_shards]
        there = NamedSharding(mesh, sharding.spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, there, parts)

    return jax.tree.map(one, tree)


def to_host(array: Any) -> np.ndarray:
    """Return a whole array as one of NumPy.

    Where other processes have parts of it all must ask for it.
    """
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        assert isinstance(array.sharding, NamedSharding)
        everywhere = replicated(find_mesh(array))
        array = jax.jit(lambda whole: whole, out_shardings=everywhere)(array)
    return np.asarray(array)


def _whole_on(mesh: Mesh) -> NamedSharding:
    return NamedSharding(automatic(mesh), PartitionSpec())


def _explicit_mesh(function: Callable, params: PyTree) -> Any:
    """Return the mesh of explicit axes on which the values of a function lie; None if on none."""
    if jax.device_count() == 1:
        return None
    for leaf in jax.tree.leaves(jax.eval_shape(function, params)):
        mesh = getattr(leaf.sharding, "mesh", None)
        if mesh is not None and is_explicit(mesh):
            return mesh
    return None


def _cast(tree: PyTree, mesh: Mesh) -> PyTree:
    """Let arrays be of the types of another mesh."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        spec = PartitionSpec(*[None] * leaf.ndim)
        return jax.sharding.reshard(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(one, tree)
