"""Step counts per parameter: bias corrections and schedules of the steps that it has taken."""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree

from fitkit._fisher import EigenProjectedState
from fitkit._optimisers.diagnostics import Diagnostics
from fitkit._optimisers.gauss_newton import GaussNewtonState
from fitkit._optimisers.mapping import tolerant

#: States that belong to all parameters together, and what an optimiser says of itself.
JOINT = (optax.ScaleByLBFGSState, EigenProjectedState, GaussNewtonState, Diagnostics)


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

    The optimiser works with one count, so it is asked once for every different one, and each
    parameter takes the answer to its own. As long as all counts are equal that is once.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Where its ``update`` is told ``factors=``, a tree of the numbers that multiply the
        updates, parameters with a factor of 0 are not asked for.
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

        def ask(at: list[Int[Array, ""]]) -> tuple[PyTree, optax.OptState]:
            values, spread = iter(at), iter(nodes)
            one = jax.tree.map(lambda n: next(values) if _is_own(n) else n, state, is_leaf=_is_own)
            proposed, after = tolerant(inner.update, extra)(updates, one, params, **extra)

            def for_each(count: Int[Array, ""]) -> OwnCounts:
                own = next(spread)
                return OwnCounts(jnp.broadcast_to(count, own.values.shape), own.moved)

            return proposed, _map_counts(for_each, after)

        if not counts or counts[0].size == 1:
            return ask([own[0] for own in counts])

        def equal(at: list[Int[Array, ""]]) -> Bool[Array, " n"]:
            return jnp.all(jnp.stack([own == one for own, one in zip(counts, at, strict=True)]), 0)

        moving = jnp.ones(counts[0].shape, bool)
        if factors is not None:
            moving = jnp.stack([factor != 0 for factor in jax.tree.leaves(factors)])
        # What belongs to no parameter goes on with the one that has taken the most steps.
        latest = [own.max() for own in counts]
        proposed, after = ask(latest)

        def serve(carry: tuple) -> tuple:
            waiting, proposed, after = carry
            at = [own[jnp.argmax(waiting)] for own in counts]
            served = waiting & equal(at)
            own, own_after = ask(at)
            flags = iter(served)
            proposed = jax.tree.map(lambda a, b: jnp.where(next(flags), a, b), own, proposed)
            return waiting & ~served, proposed, choose(served, own_after, after, updates)

        _, proposed, after = jax.lax.while_loop(
            lambda carry: jnp.any(carry[0]), serve, (moving & ~equal(latest), proposed, after)
        )
        return proposed, after

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
    structure = _structure(params)
    number = itertools.count()
    index = [None if _is_hole(leaf) else next(number) for leaf in leaves_and_holes(params)]

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
        chosen = [b if _is_hole(b) else jnp.where(flags[i], a, b) for a, b, i in leaves]
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


def _map_counts(function: Callable[[Array], OwnCounts], state: optax.OptState) -> optax.OptState:
    """Replace every count of steps, by its name in optax, that is not of a joint memory."""

    def one(key_path: tuple[Any, ...], leaf: Any) -> Any:
        named = bool(key_path) and getattr(key_path[-1], "name", None) == "count"
        return function(leaf) if named and jnp.ndim(leaf) == 0 else leaf

    return jax.tree_util.tree_map_with_path(
        one, state, is_leaf=lambda node: isinstance(node, JOINT)
    )
