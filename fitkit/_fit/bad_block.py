"""In which block of the data something is not finite: to look for its cause in that one alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from fitkit._fit.problem import Params, Problem
from fitkit._input import is_on_disk
from fitkit._residuals import with_other_data, without_priors


def in_bad_block(
    problem: Problem,
    params: Params,
    args: PyTree,
    data_of: Callable[[PyTree], PyTree],
    evaluate: Callable[[Problem], Callable[[Params, PyTree], Any]],
) -> tuple[Problem, PyTree, tuple[tuple[int, ...], ...]]:
    """Find the first block of which what a problem evaluates to is not finite.

    Parameters
    ----------
    problem, params, args
        What is evaluated.
    data_of
        Takes from `args` what is seen of them.
    evaluate
        Makes of a problem the function of (params, args) that is evaluated.

    Returns
    -------
    Problem
        One without blocks.
    PyTree
        The data of the block, as arrays.
    tuple of tuples
        Where the block begins in each array of the data; empty where it is all of them.
    """
    blocks, alone = problem.blocks, dataclasses.replace(problem, blocks=None)
    if blocks is None:
        return problem, args, ()
    seen = data_of(args)
    if seen is not args:  # A batch, which may be drawn from files.
        on_disk = any(map(is_on_disk, jax.tree.leaves(args, is_leaf=is_on_disk)))
        return alone, seen if on_disk else args, ()

    @jax.jit
    def finite(args: PyTree) -> Bool[Array, ""]:
        leaves = jax.tree.leaves(evaluate(alone)(params, args))
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

    part, count = blocks.parts(without_priors(args))
    for first in range(0, count, blocks.size):
        data = part(first, min(blocks.size, count - first))
        block = with_other_data(args, data)
        if not finite(block):
            begins = [
                tuple(first if k == axis % leaf.ndim else 0 for k in range(leaf.ndim))
                if axis is not None
                else (0,) * leaf.ndim
                for leaf, axis in zip(jax.tree.leaves(data), blocks.axes, strict=True)
            ]
            return alone, block, tuple(begins)
    # Each is finite, and their sum is not.
    return problem, args, ()
