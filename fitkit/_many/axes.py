"""Which axis of which array counts the systems: a prefix tree, as `jax.vmap` takes it."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from fitkit._input import shortened
from fitkit._paths import path_of

Shape = tuple[int, ...]


def axes_of(
    axes: Any,
    tree: PyTree,
    name: str,
    opening: str = "",
    kind: tuple[str, str] = ("the systems", "all systems share"),
) -> dict[str, int | None]:
    """Spread a prefix tree of axes over the leaves of a tree, by path.

    Parameters
    ----------
    axes
        A whole number or None for all below it, or a tree of those with the keys of `tree`.
    tree
        Where the axes belong.
    name
        What it is called, for errors: ``"args"``.
    opening
        What errors begin with, in place of that of `fit_many`: ``"Fit: Minibatch.axes"``.
    kind
        What the axes count, and what has none, for errors.

    Raises
    ------
    ValueError
        If the prefix tree does not fit.
    TypeError
        If an axis is neither a whole number nor None.
    """
    words = opening or f"fit_many: {name}_axes", *kind
    return dict(_spread(axes, tree, (), name, words))


def _spread(
    axes: Any, tree: PyTree, keys: tuple[Any, ...], name: str, words: tuple[str, str, str]
) -> Iterator[tuple[str, int | None]]:
    where = f"{name}.{path_of(keys)}" if keys else name
    opening, counted, shared = words
    if axes is None or (isinstance(axes, int | np.integer) and not isinstance(axes, bool)):
        for below, _ in jax.tree_util.tree_leaves_with_path(tree):
            yield path_of(keys + below), None if axes is None else int(axes)
        return
    wanted, given = _children(tree), _children(axes)
    if not given and not isinstance(axes, dict | list | tuple):
        raise TypeError(
            f"{opening} has {shortened(axes)} for '{where}'; must be the number of an "
            f"axis, None for what {shared}, or a tree of those."
        )
    if [str(key) for key, _ in wanted] != [str(key) for key, _ in given]:
        raise ValueError(
            f"{opening} does not fit '{where}', which has {_keys(wanted)}; it has "
            f"{_keys(given)}. Give one axis for all of '{where}', or one for each of its parts: "
            f"the number of the axis that counts {counted}, or None for what they share."
        )
    for (key, part), (_, axis) in zip(wanted, given, strict=True):
        yield from _spread(axis, part, (*keys, key), name, words)


def _children(node: Any) -> list[tuple[Any, Any]]:
    """List keys and children of a node; none of a leaf. None is a child here, as an axis is."""
    found = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda one: one is not node)[0]
    return [(path[0], child) for path, child in found if path]


def _keys(children: list[tuple[Any, Any]]) -> str:
    names = [repr(path_of((key,))) for key, _ in children]
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "no parts"


def system_shape(leaf: Any, axis: int, dimensions: int, where: str) -> Shape:
    """Return the lengths of the axes that count systems.

    Raises
    ------
    ValueError
        If the leaf has no such axes, or one of them has the length 0.
    """
    shape = np.shape(leaf)
    first = axis + len(shape) if axis < 0 else axis
    found = shape[first : first + dimensions] if first >= 0 else ()
    if len(found) < dimensions:
        many = "no axis" if dimensions == 1 else f"no {dimensions} axes from"
        raise ValueError(
            f"fit_many: '{where}' has shape {shape}, and so {many} {axis} to count systems. Data "
            f"that all systems share have None in {where.partition('.')[0]}_axes."
        )
    if 0 in found:
        raise ValueError(
            f"fit_many: '{where}' has shape {shape}: its axis {axis} counts no system at all."
        )
    return found


def systems_first(leaf: Any, axis: int, shape: Shape) -> np.ndarray:
    """Bring the axes that count systems to the front, as one."""
    array = np.asarray(leaf)
    first = axis + array.ndim if axis < 0 else axis
    many = len(shape)
    array = np.moveaxis(array, range(first, first + many), range(many))
    return array if many == 1 else array.reshape(-1, *array.shape[many:])
