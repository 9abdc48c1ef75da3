"""Where fits start, one row for every start of each system, or of all of them."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from fitkit._input import converted, shortened
from fitkit._many.axes import Shape, systems_first
from fitkit._many.recipe import Recipe, Source
from fitkit._paths import path_of


def rows_of_starts(
    starts: Any,
    params: PyTree,
    axes: dict[str, int | None],
    parts: list[tuple[Any, bool]],
    recipe: Recipe,
    shape: Shape,
) -> Float[np.ndarray, "any k n"]:
    """Lay out the parameters that are fitted, for every start.

    Parameters
    ----------
    starts
        As users write them: a list of trees like `params`, one with a further axis in front, or
        None for `params` themselves.
    params, axes, parts
        The parameters as given, which of their axes count systems, and their leaves with those in
        front.
    recipe
        Which of them are fitted.
    shape
        Lengths of the axes that count systems.

    Raises
    ------
    ValueError
        If a start is not like `params`.
    """
    if starts is None:
        return _rows(parts, recipe)[:, None]
    starts = converted(starts, "fit_many", "starts")
    structure = jax.tree.structure(params)
    if isinstance(starts, list | tuple) and jax.tree.structure(starts) != structure:
        trees = list(starts)
    else:
        trees = _unstacked(starts, params)
    if not trees:
        raise ValueError("fit_many: `starts` is empty; leave it out to start at `params`.")
    rows = []
    for k, tree in enumerate(trees):
        if jax.tree.structure(tree) != structure:
            raise ValueError(
                f"fit_many: starts[{k}] is {shortened(tree)}; must be a tree like `params`."
            )
        of_tree = []
        for (path, axis), new, old in zip(
            axes.items(), jax.tree.leaves(tree), jax.tree.leaves(params), strict=True
        ):
            if np.shape(new) != np.shape(old):
                raise ValueError(
                    f"fit_many: '{path}' has shape {np.shape(new)} in starts[{k}], and "
                    f"{np.shape(old)} in `params`; must be the same."
                )
            one = new if axis is None else systems_first(new, axis, shape)
            of_tree.append((one, axis is not None))
        rows.append(_rows(of_tree, recipe))
    count = max(len(row) for row in rows)
    wide = [np.broadcast_to(row, (count, row.shape[1])) for row in rows]
    return np.stack(wide, axis=1)


def _unstacked(starts: Any, params: PyTree) -> list:
    """Take a tree like the parameters, with the starts along a further first axis, apart."""
    if jax.tree.structure(starts) != jax.tree.structure(params):
        raise ValueError(
            f"fit_many: starts are {shortened(starts)}; must be a list of trees like `params`, or "
            "one such tree with a further first axis that counts the starts."
        )
    counts = set()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(starts):
        if np.ndim(leaf) == 0:
            raise ValueError(
                f"fit_many: '{path_of(keys)}' is one number in `starts`; must have a first axis "
                "that counts the starts."
            )
        counts.add(np.shape(leaf)[0])
    if len(counts) != 1:
        raise ValueError(
            f"fit_many: the first axes of `starts` have different lengths: {sorted(counts)}."
        )
    return [jax.tree.map(lambda leaf, k=k: leaf[k], starts) for k in range(counts.pop())]


def _rows(parts: list[tuple[Any, bool]], recipe: Recipe) -> Float[np.ndarray, "any n"]:
    """Lay the parameters that are fitted side by side."""
    columns = [
        np.asarray(leaf, recipe.dtype).reshape(len(leaf) if own else 1, -1)
        for (leaf, own), source in zip(parts, recipe.params, strict=True)
        if source is Source.FREE
    ]
    count = max(len(column) for column in columns)
    return np.concatenate([np.broadcast_to(c, (count, c.shape[1])) for c in columns], axis=1)
