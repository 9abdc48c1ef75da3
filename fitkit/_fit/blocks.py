"""Blocks: data that a model sees one part after the other, in the memory of one part."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._input import OnDisk, is_on_disk, read_whole

T = TypeVar("T")


class Blocks(NamedTuple):
    """The blocks in which a function of the data is evaluated.

    Attributes
    ----------
    size
        How many data a block has; the last may have fewer.
    axes
        The axis that counts the data, of each array; None where all data share it.
    along
        The axis that counts the data, of each array of residuals; empty for a loss.
    mean
        Whether the loss is a mean over the data, and not a sum.
    """

    size: int
    axes: tuple[int | None, ...]
    along: tuple[int, ...] = ()
    mean: bool = False

    def residuals(self, function: Callable[[PyTree], PyTree], data: PyTree) -> PyTree:
        """Evaluate residuals of all data; derivatives evaluate them anew, block by block."""
        part, count = self.parts(data)
        if count <= self.size:
            return function(part(0, count))
        values, rest = self._mapped(function, part, count)
        leaves, structure = jax.tree.flatten(values)
        joined = []
        for leaf, axis in zip(leaves, self.along, strict=True):
            shape = leaf.shape[1:]
            flat = (*shape[:axis], leaf.shape[0] * shape[axis], *shape[axis + 1 :])
            joined.append(jnp.moveaxis(leaf, 0, axis).reshape(flat))
        if rest is not None:
            ends = jax.tree.leaves(rest)
            joined = [
                jnp.concatenate([leaf, end], axis)
                for leaf, end, axis in zip(joined, ends, self.along, strict=True)
            ]
        return jax.tree.unflatten(structure, joined)

    def loss(
        self, function: Callable[[PyTree], Float[Array, ""]], data: PyTree
    ) -> Float[Array, ""]:
        """Evaluate a loss of all data, in the same way."""
        part, count = self.parts(data)
        if count <= self.size:
            return function(part(0, count))
        losses, rest = self._mapped(function, part, count)
        if not self.mean:
            return jnp.sum(losses) + (0 if rest is None else rest)
        share = len(losses) * self.size / count
        return jnp.mean(losses) * share + (0 if rest is None else rest * (1 - share))

    def folded(self, change: Callable[[T, PyTree], T], start: T, data: PyTree) -> T:
        """Let every block change what those before it have come to."""
        part, count = self.parts(data)
        whole, rest = divmod(count, self.size)
        state = start
        if whole:
            state, _ = jax.lax.scan(
                lambda state, first: (change(state, part(first, self.size)), None),
                state,
                self.size * jnp.arange(whole),
            )
        return change(state, part(whole * self.size, rest)) if rest else state

    def parts(self, data: PyTree) -> tuple[Callable[[Any, int], PyTree], int]:
        """Return what takes so many data from a number on, and how many there are."""
        leaves, structure = jax.tree.flatten(data, is_leaf=is_on_disk)
        leaves = [
            read_whole(leaf) if axis is None else leaf
            for leaf, axis in zip(leaves, self.axes, strict=True)
        ]

        def part(first: Any, size: int) -> PyTree:
            return jax.tree.unflatten(
                structure,
                [
                    leaf if axis is None else _part(leaf, first, size, axis)
                    for leaf, axis in zip(leaves, self.axes, strict=True)
                ],
            )

        own = zip(leaves, self.axes, strict=True)
        return part, next(leaf.shape[axis] for leaf, axis in own if axis is not None)

    def _mapped(self, function: Callable, part: Callable, count: int) -> tuple[Any, Any]:
        """Evaluate a function of every block, and of what is left over."""
        whole, rest = divmod(count, self.size)
        of_block = jax.checkpoint(lambda first: function(part(first, self.size)))
        values = jax.lax.map(of_block, self.size * jnp.arange(whole))
        return values, function(part(whole * self.size, rest)) if rest else None


def _part(leaf: Array | OnDisk, first: Any, size: int, axis: int) -> Array:
    if isinstance(leaf, OnDisk):
        return leaf.part(first, size, axis)
    return jax.lax.dynamic_slice_in_dim(leaf, first, size, axis)
