"""What an optimiser remembers of a parameter is put aside while the parameter is frozen.

The gradient of a frozen parameter is zero, which would wear its second moment down: its first step
after a thaw would be several learning rates long.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from fitkit._fisher import EigenProjectedState
from fitkit._optimisers.from_optimistix import OptimistixState
from fitkit._optimisers.own_counts import JOINT, choose


def put_aside(
    state: optax.OptState,
    fresh: optax.OptState,
    frozen: Bool[Array, " leaves"],
    before: Bool[Array, " leaves"],
    params: PyTree,
) -> optax.OptState:
    """Begin some steps with frozen parameters: to the optimiser they are as if new.

    Memory that cannot be told apart by parameter, that of L-BFGS, of solvers of optimistix and of
    an optimiser in an eigenbasis, begins anew when parameters are frozen or thawed: differences of
    gradients across that say nothing of the curvature.

    Parameters
    ----------
    state, fresh
        The optimiser's state, and its first one.
    frozen, before
        Which parameters are frozen, and which were in the steps before.
    params
        The parameters.
    """
    forget = functools.partial(jnp.where, jnp.any(frozen != before))

    def one(old: Any, new: Any) -> Any:
        if isinstance(old, (optax.ScaleByLBFGSState, OptimistixState)):
            return jax.tree.map(forget, new, old)
        if isinstance(old, EigenProjectedState):
            return old._replace(inner=jax.tree.map(forget, new.inner, old.inner))
        return old

    state = jax.tree.map(one, state, fresh, is_leaf=lambda node: isinstance(node, JOINT))
    return choose(frozen, fresh, state, params)


def put_back(
    after: optax.OptState, state: optax.OptState, frozen: Bool[Array, " leaves"], params: PyTree
) -> optax.OptState:
    """End the steps: what was put aside of `state` is as it was."""
    return choose(frozen, state, after, params)
