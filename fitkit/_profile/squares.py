"""Sums of squares, minimised with some elements held, by the engine of many systems."""

import dataclasses
import functools
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from fitkit._many import KINDS, Engine, Systems, make_systems
from fitkit._paths import named_leaves
from fitkit._profile.minimum import Minimum
from fitkit._programs import no_debugging
from fitkit._result import CONVERGED, Kind
from fitkit._sharding import to_host

# Points that are minimised side by side: the ends of the intervals of some parameters, or half of
# a curve. All lanes are evaluated in every round, so more would cost what they do not bring.
LANES = 32

# By owner of the residuals; whatever has the same key shares compiled programs.
_KEYS: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Held:
    """Residuals with some elements held, which are data, so that one program serves all.

    A held element is replaced by its value where the residuals see it. Its own place in the
    parameters gets a residual of its own, the distance to that value, which becomes zero: so a
    system has as many parameters as any other, all of them constrained, in their own limits.

    Attributes
    ----------
    key : bytes
        Of the owner of the residuals.
    residuals : Callable
        Of ``(params, args)``.
    """

    key: bytes
    residuals: Callable = field(compare=False)

    def __call__(self, params: PyTree, given: Any) -> Any:
        """Compute the residuals, and behind them the distances of held elements."""
        held, values, units, args = given

        def off(held: Any, leaf: Any, value: Any, unit: Any) -> Any:
            return jnp.where(held, (leaf - value) * unit, 0)

        there = jax.tree.map(jnp.where, held, values, params)
        return self.residuals(there, args), jax.tree.map(off, held, params, values, units)


@functools.partial(jax.jit, static_argnums=0)
def evaluated(recipe: Any, x: Array, own: Any, shared: Any) -> Float[Array, " k"]:
    """Compute half the sums of squares at every row of `x`."""

    def one(x: Array, own: Any) -> Array:
        return jnp.sum(recipe.function(recipe.unravel(x), own, shared) ** 2) / 2

    return jax.vmap(one)(x, own)


class Squares:
    """Half the sum of the squares of residuals around a minimum."""

    def __init__(self, minimum: Minimum) -> None:
        assert minimum.residuals is not None
        self._minimum = minimum
        self._key = _KEYS.setdefault(minimum.owner, os.urandom(16))
        self._systems = self._example()
        self._free = named_leaves(minimum.free)

    def __call__(
        self, held: Bool[np.ndarray, "k n"], starts: Float[np.ndarray, "k n"]
    ) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
        """Minimise from every row of `starts`, with its `held` elements where they are.

        Returns the points, their losses, infinite where the residuals are not finite, and which of
        them are minima of the others.
        """
        own = [*self._leaves(held, False), *self._leaves(starts, True)]
        if held.all():
            return starts, self._losses(own, starts), np.ones(len(held), bool)
        systems = dataclasses.replace(
            self._systems,
            shape=(len(held),),
            own=own,
            starts=starts.astype(self._systems.recipe.dtype)[:, None],
        )
        engine = Engine(systems, lanes=LANES)
        with no_debugging():
            for _ in engine.portions():
                pass
        record = engine.record
        settled = np.isin(record.kind, [KINDS.index(kind) for kind in CONVERGED])
        finite = np.isfinite(record.chi_square) & (record.kind != KINDS.index(Kind.NONFINITE))
        loss = np.where(finite, record.chi_square / 2, np.inf)
        return np.where(held, starts, record.values), loss, settled

    def _losses(self, own: list[np.ndarray], x: np.ndarray) -> Float[np.ndarray, " k"]:
        """Evaluate where there is nothing to minimise over."""
        systems, found = self._systems, []
        for at in range(0, len(x), LANES):
            # The last rows are repeated, so that one program serves any number.
            rows = [np.resize(part[at : at + LANES], (LANES, *part.shape[1:])) for part in own]
            points = np.resize(x[at : at + LANES], (LANES, x.shape[1]))
            with no_debugging():
                losses = evaluated(systems.recipe, points, rows, systems.shared)
            found.append(to_host(losses).astype(float)[: len(x[at : at + LANES])])
        losses = np.concatenate(found)
        return np.where(np.isfinite(losses), losses, np.inf)

    def _example(self) -> Systems:
        """Describe systems, of which the data of one are given."""
        minimum = self._minimum

        def tree(like: Callable[[Any], Any]) -> PyTree:
            return jax.tree.map(lambda leaf: like(np.asarray(leaf)), minimum.params)

        at, units = 0, {}
        for path, leaf in named_leaves(minimum.free).items():
            units[path] = minimum.stiffness[at : at + leaf.size].reshape(leaf.shape)
            at += leaf.size
        leaves = named_leaves(minimum.params)
        # Frozen ones are never held: any unit will do.
        ordered = [
            np.asarray(units.get(path, np.ones(leaf.shape)), leaf.dtype)
            for path, leaf in leaves.items()
        ]
        scaled = jax.tree.unflatten(jax.tree.structure(minimum.params), ordered)
        given = tree(lambda leaf: np.zeros((1, *leaf.shape), bool)), tree(lambda leaf: leaf[None])
        assert minimum.residuals is not None
        made = make_systems(
            Held(self._key, minimum.residuals),
            minimum.params,
            (*given, scaled, minimum.args),
            systems=None,
            params_axes=None,
            args_axes=(0, 0, None, None),
            starts=None,
            bounds=None,
            frozen=minimum.frozen,
            weights=None,
            priors=None,
        )
        recipe = dataclasses.replace(made.recipe, key=self._key)
        return dataclasses.replace(made, recipe=recipe, bounds=minimum.bounds)

    def _leaves(self, rows: np.ndarray, is_value: bool) -> list[np.ndarray]:
        """Give rows of elements the shapes of all parameters; frozen ones are not held."""
        found, at = [], 0
        for path, leaf in named_leaves(self._minimum.params).items():
            if path in self._free:
                part = rows[:, at : at + leaf.size].reshape(-1, *leaf.shape)
                at += leaf.size
            else:
                one = np.asarray(leaf) if is_value else np.zeros(leaf.shape, bool)
                part = np.broadcast_to(one, (len(rows), *leaf.shape))
            found.append(part.astype(leaf.dtype) if is_value else part)
        return found
