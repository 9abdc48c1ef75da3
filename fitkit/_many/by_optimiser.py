"""Fits by an optimiser of optax, one state for every lane, in the queue of `fit_many`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from fitkit._fisher import gradient_by_columns, has_reverse
from fitkit._many.outcome import Limits, Outcome
from fitkit._many.recipe import Recipe
from fitkit._optimisers import blocked, tolerant

# A fit is over once the last half of its steps, and a hundred at least, has gained less than this
# share of what there was to gain: a loss that swings on its way down rests for a tenth of them.
QUIET, LEAST = 5e-7, 100
# Steps of a fit whose loss never comes to rest.
MOST_STEPS = 50_000
# What an optimiser is told besides its gradient, if it takes it.
_EXTRA = ("value", "grad", "value_fn", "residuals")


class Walkers(NamedTuple):
    """Where the fit of every lane stands; the lane is the first axis of every array.

    Attributes
    ----------
    job, outcome, rounds
        As the queue wants them.
    own
        What the systems have for themselves.
    x, state
        The parameters and what the optimiser remembers.
    best, lowest, first
        The best point so far, its loss, and that of the start.
    mark, height
        The step at which the loss was looked at last, and what it was.
    """

    job: Int[Array, " lanes"]
    own: Any
    x: Float[Array, "lanes n"]
    state: Any
    best: Float[Array, "lanes n"]
    lowest: Float[Array, " lanes"]
    first: Float[Array, " lanes"]
    mark: Int[Array, " lanes"]
    height: Float[Array, " lanes"]
    rounds: Int[Array, " lanes"]
    outcome: Int[Array, " lanes"]


class ByOptimiser(NamedTuple):
    """Half the sum of squared residuals, minimised by an optimiser.

    Attributes
    ----------
    recipe
        How to evaluate a system.
    optimiser
        Of optax.
    structure
        Of the tree of free parameters, which the optimiser gets.
    """

    recipe: Recipe
    optimiser: optax.GradientTransformation
    structure: Any

    def begin(self, job: Array, own: Any, starts: Float[Array, "n lanes"]) -> Walkers:
        """Build lanes at their starts."""
        lanes = starts.shape[1]
        none, number = jnp.zeros(lanes, jnp.int32), jnp.full(lanes, jnp.inf, starts.dtype)
        state = jax.vmap(lambda x: self.optimiser.init(self._tree(x)))(starts.T)
        x = starts.T
        return Walkers(job, own, x, state, x, number, number, none, number, none, none)

    def advance(self, lanes: Walkers, shared: Any, limits: Limits | None) -> Walkers:
        """Take one step in every lane that is at work."""
        busy = (lanes.job >= 0) & (lanes.outcome == Outcome.RUNNING)
        new = jax.vmap(lambda lane: self._step(lane, shared, limits))(lanes)
        return self.chosen(busy, new, lanes)

    def chosen(self, where: Bool[Array, " lanes"], new: Walkers, old: Walkers) -> Walkers:
        """Take some lanes of the one and the others of the other."""

        def pick(a: Array, b: Array) -> Array:
            return a if a is b else jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        return jax.tree.map(pick, new, old)

    def row(self, lanes: Walkers) -> Float[Array, "columns lanes"]:
        """Lay out the values and the sum of squares; what else there is to say is found later."""
        best = lanes.best.T
        unknown = jnp.full_like(best, jnp.nan)
        rest = jnp.stack([2 * lanes.lowest, jnp.zeros_like(lanes.lowest), lanes.lowest])
        return jnp.concatenate([best, unknown, rest])

    def _tree(self, x: Float[Array, " n"]) -> Any:
        return jax.tree.unflatten(self.structure, self.recipe.unravel(x))

    def _step(self, lane: Walkers, shared: Any, limits: Limits | None) -> Walkers:
        recipe, params = self.recipe, self._tree(lane.x)

        def residuals(params: Any) -> Array:
            values = recipe.function(jax.tree.leaves(params), lane.own, shared)
            if not recipe.weighted:
                return values
            weights = lane.own[-1]
            return jnp.where(weights > 0, values * jnp.sqrt(weights).astype(values.dtype), 0)

        def loss(params: Any) -> Array:
            return 0.5 * jnp.sum(residuals(params) ** 2)

        way = loss if has_reverse("fit_many", loss, params) else gradient_by_columns(loss)
        value, gradient = jax.value_and_grad(way)(params)
        lower, upper = (None, None) if limits is None else map(self._tree, limits)
        if limits is not None:
            held = jax.tree.map(blocked, params, gradient, lower, upper)
            gradient = jax.tree.map(lambda h, g: jnp.where(h, 0, g), held, gradient)
        update = tolerant(optax.with_extra_args_support(self.optimiser).update, _EXTRA)
        value_fn = tolerant(loss, _EXTRA)
        updates, state = update(
            gradient,
            lane.state,
            params,
            value=value,
            grad=gradient,
            value_fn=value_fn,
            residuals=residuals,
        )
        after = optax.apply_updates(params, updates)
        if limits is not None:
            after = jax.tree.map(jnp.clip, after, lower, upper)
        x = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(after)])
        return self._judged(lane, x.astype(lane.x.dtype), state, value, gradient)

    def _judged(self, lane: Walkers, x: Array, state: Any, value: Array, gradient: Any) -> Walkers:
        """Keep the best point, and end where the loss has come to rest or is not finite."""
        slopes = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient)])
        finite = jnp.isfinite(value) & jnp.all(slopes)
        start = lane.rounds == 0
        first = jnp.where(start, value, lane.first)
        better = finite & (value < lane.lowest)
        lowest = jnp.where(better, value, lane.lowest).astype(lane.lowest.dtype)
        best = jnp.where(better, lane.x, lane.best)
        looked = lane.rounds >= LEAST + 2 * lane.mark
        gain = jnp.minimum(1.0, 2 * (first - lowest))
        quiet = looked & (lane.height - lowest <= QUIET * gain)
        outcome = jnp.where(quiet, Outcome.DOUBTFUL, Outcome.RUNNING)
        outcome = jnp.where(lane.rounds >= MOST_STEPS, Outcome.LEFT, outcome)
        outcome = jnp.where(finite, outcome, jnp.where(start, Outcome.NONFINITE, Outcome.LEFT))
        look = looked | start
        return lane._replace(
            x=x,
            state=jax.tree.map(lambda new, old: new.astype(old.dtype), state, lane.state),
            best=best,
            lowest=lowest,
            first=first.astype(lane.first.dtype),
            mark=jnp.where(look, lane.rounds, lane.mark),
            height=jnp.where(look, lowest, lane.height),
            rounds=lane.rounds + 1,
            outcome=outcome.astype(lane.outcome.dtype),
        )
