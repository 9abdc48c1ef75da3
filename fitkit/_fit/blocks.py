"""Blocks: data that a model sees one part after the other, in the memory of one part."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


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

    def call(self, function: Callable[[PyTree], Any], data: PyTree) -> Any:
        """Evaluate a function of the data; derivatives evaluate it anew, block by block."""
        leaves, structure = jax.tree.flatten(data)
        own = [
            jnp.moveaxis(leaf, axis, 0)
            for leaf, axis in zip(leaves, self.axes, strict=True)
            if axis is not None
        ]
        count = len(own[0])
        full = count // self.size * self.size
        if count <= self.size:
            return function(data)

        def of_block(parts: list[Array]) -> Any:
            rows = iter(parts)
            block = [
                leaf if axis is None else jnp.moveaxis(next(rows), 0, axis)
                for leaf, axis in zip(leaves, self.axes, strict=True)
            ]
            return function(jax.tree.unflatten(structure, block))

        blocks = [one[:full].reshape(-1, self.size, *one.shape[1:]) for one in own]
        values = jax.lax.map(jax.checkpoint(of_block), blocks)
        rest = of_block([one[full:] for one in own]) if full < count else None
        return self._joined(values, rest) if self.along else self._added(values, rest, full / count)

    def _added(self, losses: Array, rest: Array | None, share: float) -> Array:
        if not self.mean:
            return jnp.sum(losses) + (0 if rest is None else rest)
        return jnp.mean(losses) * share + (0 if rest is None else rest * (1 - share))

    def _joined(self, values: PyTree, rest: PyTree | None) -> PyTree:
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
