"""Arrays that stay on disk: a compiled function reads of them what it needs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from fitkit._input.data import is_numeric, refuse_overflow, unit_of


@jax.tree_util.register_static
class OnDisk:
    """An array that is read in parts, when a compiled function asks for them.

    Without leaves to JAX, so that it is never read as a whole by accident. Two are equal where
    they read the same object: its numbers are taken to stay as they are.

    Parameters
    ----------
    source
        A NumPy array in a file (`numpy.memmap`), a dataset of h5py, an array of zarr, or whatever
        else has a shape and a dtype and is read by slices.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.shape = tuple(int(size) for size in source.shape)
        self.dtype = jax.dtypes.canonicalize_dtype(np.dtype(source.dtype).newbyteorder("="))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnDisk) and self.source is other.source

    def __hash__(self) -> int:
        return id(self.source)

    def part(self, first: Any, size: int, axis: int) -> Array:
        """Read `size` slices along an axis, from number `first` on, which may be traced."""

        def read(first: Any) -> np.ndarray:
            return self._read(slice(int(first), int(first) + size), axis)

        return self._called(read, first, size, axis)

    def take(self, indices: Int[Array | np.ndarray, " k"], axis: int) -> Array:
        """Read the slices along an axis that have these numbers, which may be traced."""

        def read(indices: Any) -> np.ndarray:
            # Files of HDF5 are read in ascending order only.
            rows, places = np.unique(np.asarray(indices), return_inverse=True)
            return np.take(self._read(rows, axis), places, axis)

        return self._called(read, indices, indices.shape[0], axis)

    def whole(self) -> Array:
        """Read all of it."""
        return self.part(0, self.shape[0], 0)

    def _read(self, rows: Any, axis: int) -> np.ndarray:
        part = np.asarray(self.source[(slice(None),) * (axis % len(self.shape)) + (rows,)])
        native = part.astype(part.dtype.newbyteorder("="), copy=False)
        refuse_overflow(native, "Fit", "args")
        return native.astype(self.dtype, copy=False)

    def _called(self, read: Callable, rows: Any, size: int, axis: int) -> Array:
        axis %= len(self.shape)
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        return jax.pure_callback(read, jax.ShapeDtypeStruct(shape, self.dtype), rows)


def is_on_disk(leaf: Any) -> bool:
    """Whether a leaf of a tree is an array that stays on disk."""
    return isinstance(leaf, OnDisk)


def left_on_disk(tree: PyTree) -> PyTree:
    """Leave arrays where they are that a user passed as files: they are read part by part."""
    return jax.tree.map(lambda leaf: OnDisk(leaf) if _is_file(leaf) else leaf, tree)


def read_whole(tree: PyTree) -> PyTree:
    """Read what stays on disk, as a whole."""
    return jax.tree.map(
        lambda leaf: leaf.whole() if is_on_disk(leaf) else leaf, tree, is_leaf=is_on_disk
    )


def stand_ins(tree: PyTree) -> PyTree:
    """Put zeros that take no memory in the place of what stays on disk, for its shapes."""

    def stand_in(leaf: Any) -> Any:
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) if is_on_disk(leaf) else leaf

    return jax.tree.map(stand_in, tree, is_leaf=is_on_disk)


def _is_file(leaf: Any) -> bool:
    # What is stored in chunks is read by slices: arrays of h5py, zarr, dask.
    if not isinstance(leaf, np.memmap) and not all(
        hasattr(leaf, name) for name in ("shape", "dtype", "chunks", "__getitem__")
    ):
        return False
    readable = is_numeric(leaf.dtype) or leaf.dtype == bool
    return readable and len(leaf.shape) > 0 and unit_of(leaf) is None
