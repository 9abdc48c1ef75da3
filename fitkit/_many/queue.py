"""A queue of fits that pass through a fixed number of lanes, inside one compiled loop.

Lanes advance in lockstep. As soon as an eighth of them has ended, those are written out and filled
again, so that next to all lanes are busy until the queue runs dry. What is computed for a fit
depends on nothing but that fit: the same program, of one width, serves a single system and a
million of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fitkit._many.evaluate import linearised
from fitkit._many.lanes import Lanes, Limits, Outcome, advanced, standard_errors

# Refilling costs about as much as a round, so it waits for this share of the lanes.
SHARE = 8


class Batch(NamedTuple):
    """Fits that wait for a lane.

    Attributes
    ----------
    own
        What each of some systems has for itself, by its first axis.
    starts
        One row for every fit: those of the first system, then those of the second, and so on.
    first, count
        Number of the first fit, and how many of them there are; the rest of the rows is padding.
    """

    own: Any
    starts: Float[Array, "fits n"]
    first: Int[Array, ""]
    count: Int[Array, ""]


class Written(NamedTuple):
    """Fits that have ended, one a row, in the order in which they did.

    Attributes
    ----------
    job, outcome, rounds
        Number of the fit, its `Outcome`, and how many rounds it took.
    numbers
        n values, n standard errors, the sum of squares, the number of data, the decrement.
    """

    job: Int[Array, " rows"]
    outcome: Int[Array, " rows"]
    rounds: Int[Array, " rows"]
    numbers: Float[Array, "rows 2*n+3"]


def drain(
    function: Callable,
    unravel: Callable,
    weighted: bool,
    eps: float,
    lanes: Lanes,
    batch: Batch,
    taken: Int[Array, ""],
    limit: Int[Array, ""],
    last: Any,
    shared: Any,
    limits: Limits | None,
) -> tuple[Lanes, Int[Array, ""], Written, Int[Array, ""], Int[Array, ""]]:
    """Advance until the batch is used up, or all its lanes have ended, or for so many rounds.

    Parameters
    ----------
    function
        ``function(leaves, own, shared)`` -> flat residuals of one system.
    unravel
        Makes the leaves that it takes of a vector of parameters.
    weighted
        Whether the last of what a system has for itself are weights of the residuals.
    eps
        Unit of rounding of the function.
    lanes
        Where they stand.
    batch, taken
        What waits, and how many of it were taken already.
    limit
        For how many rounds, at most.
    last
        Whether there is no further batch, so that lanes run empty.
    shared, limits
        What all systems have in common, and what the parameters keep to.

    Returns
    -------
    tuple
        Where the lanes stand, how many fits were taken, what was written, how many rows of it
        are, and the number of rounds.
    """
    n, width = lanes.x.shape
    fits = batch.starts.shape[0]
    each = fits // jax.tree.leaves(batch.own)[0].shape[0] if jax.tree.leaves(batch.own) else 1
    portion = max(1, width // SHARE)
    rows = fits + width
    numbers = jnp.zeros((rows, 2 * n + 3), lanes.x.dtype)
    none = jnp.zeros(rows, jnp.int32)
    written = Written(none, none, none, numbers)

    def evaluate(lanes: Lanes) -> tuple[Float[Array, "lanes _ m"], ...]:
        def one(x: Array, own: Any) -> tuple[Array, ...]:
            own, weights = (own[:-1], own[-1]) if weighted else (own, None)
            return linearised(lambda leaves: function(leaves, own, shared), unravel, x, weights)

        return jax.vmap(one)(lanes.trial.T, lanes.own)

    def write(lanes: Lanes, taken: Array, written: Written, count: Array) -> tuple:
        ended = (lanes.job >= 0) & (lanes.outcome != Outcome.RUNNING)
        place = jnp.where(ended, count + jnp.cumsum(ended) - 1, rows)
        table = jnp.concatenate(
            [
                lanes.x,
                standard_errors(lanes),
                lanes.gram[n, n][None],
                lanes.data[None],
                lanes.decrement[None],
            ]
        )
        written = Written(
            written.job.at[place].set(lanes.job, mode="drop"),
            written.outcome.at[place].set(lanes.outcome, mode="drop"),
            written.rounds.at[place].set(lanes.rounds, mode="drop"),
            written.numbers.at[place].set(table.T, mode="drop"),
        )
        count = count + jnp.sum(ended, dtype=jnp.int32)
        free = ended | (lanes.job < 0)
        rank = jnp.cumsum(free, dtype=jnp.int32) - 1
        fresh = free & (taken + rank < batch.count)
        index = jnp.clip(taken + rank, 0, fits - 1)
        zero = jnp.zeros_like(lanes.radius)
        start = batch.starts[index].T

        def filled(new: Array, old: Array) -> Array:
            return jnp.where(fresh.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        lanes = Lanes(
            job=jnp.where(fresh, batch.first + taken + rank, jnp.where(free, -1, lanes.job)),
            own=jax.tree.map(lambda all, old: filled(all[index // each], old), batch.own, lanes.own),
            x=jnp.where(fresh[None], start, lanes.x),
            gram=jnp.where(fresh, zero, lanes.gram),
            scale=jnp.where(fresh[None], zero[None], lanes.scale),
            data=jnp.where(fresh, zero, lanes.data),
            trial=jnp.where(fresh[None], start, lanes.trial),
            foretold=jnp.where(fresh, zero, lanes.foretold),
            radius=jnp.where(fresh, zero, lanes.radius),
            decrement=jnp.where(fresh, zero, lanes.decrement),
            ratio=jnp.where(fresh, zero + 1, lanes.ratio),
            pivot=jnp.where(fresh, zero, lanes.pivot),
            steady=~fresh & lanes.steady,
            whole=~fresh & lanes.whole,
            rounds=jnp.where(fresh, 0, lanes.rounds),
            stage=jnp.where(fresh, 0, lanes.stage),
            outcome=jnp.where(fresh, Outcome.RUNNING, lanes.outcome),
        )
        return lanes, taken + jnp.sum(fresh, dtype=jnp.int32), written, count

    def waiting(lanes: Lanes) -> Int[Array, ""]:
        return jnp.sum((lanes.job < 0) | (lanes.outcome != Outcome.RUNNING))

    def full(lanes: Lanes, taken: Any) -> Any:
        """Whether so few lanes have ended that refilling them can wait."""
        dry = taken >= batch.count
        return waiting(lanes) < jnp.where(dry & last, width, portion)

    def refilled(carry: tuple) -> tuple:
        *carry, rounds = carry
        lanes, taken, *rest = write(*carry)

        def advance(carry: tuple) -> tuple:
            lanes, rounds = carry
            # Behind the barrier, or the model would be computed once for every product.
            pieces = jax.lax.optimization_barrier(evaluate(lanes))
            return advanced(lanes, pieces, limits, eps), rounds + 1

        lanes, rounds = jax.lax.while_loop(
            lambda carry: (carry[1] < limit) & full(carry[0], taken), advance, (lanes, rounds)
        )
        return lanes, taken, *rest, rounds

    def goes_on(carry: tuple) -> Any:
        lanes, taken, *_, rounds = carry
        return (rounds < limit) & ((taken < batch.count) | full(lanes, taken))

    none = jnp.zeros((), jnp.int32)
    *carry, rounds = jax.lax.while_loop(goes_on, refilled, (lanes, taken, written, none, none))
    return *write(*carry), rounds
