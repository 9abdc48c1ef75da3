"""Step counts per parameter: bias corrections and schedules of the steps that it has taken."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree

from fitkit._fisher import EigenProjectedState
from fitkit._optimisers.diagnostics import Diagnostics
from fitkit._optimisers.from_optimistix import OptimistixState
from fitkit._optimisers.gauss_newton import GaussNewtonState
from fitkit._optimisers.mapping import tolerant
from fitkit._optimisers.of_each import Each, of_each
from fitkit._per_leaf import select_leaf, separated

#: States that belong to all parameters together, and what an optimiser says of itself.
JOINT = (
    optax.ScaleByLBFGSState,
    EigenProjectedState,
    GaussNewtonState,
    OptimistixState,
    Diagnostics,
)


class _Hole(NamedTuple):
    """Where a count of steps belongs in a state."""


class OwnCounts(eqx.Module):
    """A step count for each parameter that an optimiser moves, in place of one for all.

    Attributes
    ----------
    values
        In the order of the leaves.
    moved
        Whether the optimiser moves a leaf, of all leaves of the fit.
    """

    values: Int[Array, " n"]
    moved: tuple[bool, ...] = eqx.field(static=True)


def own_counts(
    optimiser: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Let every parameter of an optimiser have a step count of its own.

    The optimiser works with one count; see `of_each`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Where its ``update`` is told ``factors=``, a tree of the numbers that multiply the
        updates, the counts of parameters with a factor of 0 mean nothing.
    """
    inner = optax.with_extra_args_support(optimiser)

    def init(params: PyTree) -> optax.OptState:
        moved = tuple(not isinstance(leaf, optax.MaskedNode) for leaf in leaves_and_holes(params))
        return _map_counts(
            lambda one: OwnCounts(jnp.full(sum(moved), one, jnp.result_type(one)), moved),
            inner.init(params),
        )

    def update(
        updates: PyTree,
        state: optax.OptState,
        params: PyTree | None = None,
        *,
        factors: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, optax.OptState]:
        if factors is not None:
            extra["factors"] = factors
        nodes = [node for node in jax.tree.leaves(state, is_leaf=_is_own) if _is_own(node)]
        counts = [node.values for node in nodes]
        if factors is not None and nodes:
            moving = jnp.stack(jax.tree.leaves(factors)) != 0
            # A parameter that does not move goes with the one that has taken the most steps.
            counts = [jnp.where(moving, own, own.max()) for own in counts]

        def ask(at: list[Int[Array, ""]], updates: PyTree, bare: PyTree, params: PyTree) -> Any:
            one = jax.tree.map(
                lambda node: at.pop(0) if isinstance(node, _Hole) else node,
                bare,
                is_leaf=lambda node: isinstance(node, _Hole),
            )
            return tolerant(inner.update, extra)(updates, one, params, **extra)

        bare = jax.tree.map(lambda n: _Hole() if _is_own(n) else n, state, is_leaf=_is_own)
        given = updates, bare, params
        proposed, after = of_each(ask, counts, _owners(given, updates), *given)
        proposed = jax.tree.map(_latest, proposed, is_leaf=_is_each)
        moved = iter([node.moved for node in nodes])

        def own(one: Each) -> OwnCounts:
            return OwnCounts(one.own, next(moved))

        after = _map_counts(own, after)
        return proposed, jax.tree.map(_latest, after, is_leaf=_is_each)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def choose(
    flags: Bool[Array, " n"], parts: optax.OptState, whole: optax.OptState, params: PyTree
) -> optax.OptState:
    """Take the part of every flagged parameter from one state, and all else from another.

    A part is a leaf of a subtree that is built like the parameters, as moments are, or an entry
    of `OwnCounts`. Where one bare array is fitted, every leaf is its part.

    Parameters
    ----------
    flags
        One for each leaf of `params`.
    parts, whole
        The two states.
    params
        The parameters; those of other optimisers may be masked out.
    """
    structure, index = _structure(params), _index(params)
    flag = separated(flags)

    def is_part(node: Any) -> bool:
        return not isinstance(node, JOINT) and _structure(node) == structure

    def one(part: Any, rest: Any) -> Any:
        if _is_own(rest):
            mine = [i for i, moved in zip(index, rest.moved, strict=True) if moved]
            chosen = jnp.where(flags[np.array(mine, int)], part.values, rest.values)
            return OwnCounts(chosen, rest.moved)
        if not is_part(rest):
            return rest
        leaves = zip(leaves_and_holes(part), leaves_and_holes(rest), index, strict=True)
        chosen = [
            b if i is None or _is_hole(b) else select_leaf(flag[i], a, b) for a, b, i in leaves
        ]
        return jax.tree.unflatten(structure, chosen)

    return jax.tree.map(
        one, parts, whole, is_leaf=lambda n: isinstance(n, (OwnCounts, *JOINT)) or is_part(n)
    )


def leaves_and_holes(tree: PyTree) -> list[Any]:
    """List the leaves of a tree, and a `optax.MaskedNode` where one was masked out."""
    return jax.tree.leaves(tree, is_leaf=_is_hole)


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree, is_leaf=_is_hole)


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _is_own(node: Any) -> bool:
    return isinstance(node, OwnCounts)


def _index(params: PyTree) -> list[int | None]:
    """Return the numbers of the parameters; None for a hole."""
    number = itertools.count()
    return [None if _is_hole(leaf) else next(number) for leaf in leaves_and_holes(params)]


def _is_each(node: Any) -> bool:
    return isinstance(node, Each)


def _latest(leaf: Any) -> Any:
    return leaf.latest if _is_each(leaf) else leaf


def _owners(tree: PyTree, params: PyTree) -> list[int | None]:
    """Say which parameter each leaf of a tree belongs to: of subtrees built like the parameters."""
    structure, index = _structure(params), _index(params)

    def is_part(node: Any) -> bool:
        return not isinstance(node, JOINT) and _structure(node) == structure

    owners: list[int | None] = []
    for node in jax.tree.leaves(tree, is_leaf=lambda n: isinstance(n, JOINT) or is_part(n)):
        if is_part(node):
            leaves = zip(index, leaves_and_holes(node), strict=True)
            owners += [k for k, leaf in leaves if not _is_hole(leaf)]
        else:
            owners += [None] * len(jax.tree.leaves(node))
    return owners


def _map_counts(function: Callable[[Any], OwnCounts], state: optax.OptState) -> optax.OptState:
    """Replace every count of steps, by its name in optax, that is not of a joint memory."""

    def one(key_path: tuple[Any, ...], leaf: Any) -> Any:
        named = bool(key_path) and getattr(key_path[-1], "name", None) == "count"
        if not named or isinstance(leaf, JOINT) or jnp.ndim(_latest(leaf)) != 0:
            return leaf
        return function(leaf)

    return jax.tree_util.tree_map_with_path(
        one, state, is_leaf=lambda node: isinstance(node, (Each, *JOINT))
    )
