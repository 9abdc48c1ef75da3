"""A queue of fits that pass through a fixed number of lanes, inside one compiled loop.

Lanes advance in lockstep. As soon as an eighth of them has ended, those are written out and filled
again, so that next to all lanes are busy until the queue runs dry. What is computed for a fit
depends on nothing but that fit: the same program, of one width, serves a single system and a
million of them.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitkit._fisher import AnyArray
from fitkit._many.outcome import Limits, Outcome

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
    first, fits
        Number of the first fit, and how many of them there are; the rest of the rows is padding.
    """

    own: Any
    starts: Float[Array, "fits n"]
    first: Int[AnyArray, ""]
    fits: Int[AnyArray, ""]


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
    numbers: Float[Array, "rows columns"]


@runtime_checkable
class Method(Protocol):
    """How fits are made: by normal equations, or by an optimiser of optax.

    What it calls lanes is a record of arrays, among them `job`, the number of the fit, or -1, and
    its `outcome` and `rounds`; and `own`, what their systems have for themselves.
    """

    def begin(self, job: Array, own: Any, starts: Float[Array, "n lanes"]) -> Any:
        """Build lanes at their starts."""
        ...

    def advance(self, lanes: Any, shared: Any, limits: Limits | None) -> Any:
        """Take a step in every lane that is at work; leave all others as they are to the bit."""
        ...

    def chosen(self, where: Bool[Array, " lanes"], new: Any, old: Any) -> Any:
        """Take some lanes of the one and the others of the other."""
        ...

    def row(self, lanes: Any) -> Float[Array, "columns lanes"]:
        """Lay out what `Written.numbers` holds of every lane."""
        ...


def drain(
    method: Method,
    lanes: Any,
    batch: Batch,
    taken: Int[Array, ""],
    limit: Int[Array, ""],
    last: Any,
    shared: Any,
    limits: Limits | None,
) -> tuple[Any, Int[Array, ""], Written, Int[Array, ""], Int[Array, ""]]:
    """Advance until the batch is used up, or all its lanes have ended, or for so many rounds.

    Parameters
    ----------
    method
        How fits are made.
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
    width, (fits, n) = lanes.job.size, batch.starts.shape
    systems = [len(part) for part in batch.own]
    each = fits // systems[0] if systems else 1
    portion = max(1, width // SHARE)
    rows = fits + width
    none = jnp.zeros(rows, jnp.int32)
    written = Written(none, none, none, jnp.zeros((rows, 2 * n + 3), batch.starts.dtype))

    def write(lanes: Any, taken: Array, written: Written, count: Array) -> tuple:
        ended = (lanes.job >= 0) & (lanes.outcome != Outcome.RUNNING)
        place = jnp.where(ended, count + jnp.cumsum(ended, dtype=jnp.int32) - 1, rows)
        written = Written(
            written.job.at[place].set(lanes.job, mode="drop"),
            written.outcome.at[place].set(lanes.outcome, mode="drop"),
            written.rounds.at[place].set(lanes.rounds, mode="drop"),
            written.numbers.at[place].set(method.row(lanes).T, mode="drop"),
        )
        count = count + jnp.sum(ended, dtype=jnp.int32)
        free = ended | (lanes.job < 0)
        rank = jnp.cumsum(free, dtype=jnp.int32) - 1
        fresh = free & (taken + rank < batch.fits)
        index = jnp.clip(taken + rank, 0, fits - 1)
        own = jax.tree.map(lambda of_all: of_all[index // each], batch.own)
        job = jnp.where(fresh, batch.first + taken + rank, -1)
        new = method.begin(job, own, batch.starts[index].T)
        lanes = method.chosen(fresh, new, lanes._replace(job=jnp.where(free, -1, lanes.job)))
        return lanes, taken + jnp.sum(fresh, dtype=jnp.int32), written, count

    def waiting(lanes: Any) -> Int[Array, ""]:
        return jnp.sum((lanes.job < 0) | (lanes.outcome != Outcome.RUNNING))

    def full(lanes: Any, taken: Any) -> Any:
        """Whether so few lanes have ended that refilling them can wait."""
        dry = taken >= batch.fits
        return waiting(lanes) < jnp.where(dry & last, width, portion)

    def refilled(carry: tuple) -> tuple:
        lanes, taken, written, count, rounds = carry
        lanes, taken, *rest = write(lanes, taken, written, count)
        lanes, rounds = jax.lax.while_loop(
            lambda carry: (carry[1] < limit) & full(carry[0], taken),
            lambda carry: (method.advance(carry[0], shared, limits), carry[1] + 1),
            (lanes, rounds),
        )
        return lanes, taken, *rest, rounds

    def goes_on(carry: tuple) -> Any:
        lanes, taken, *_, rounds = carry
        return (rounds < limit) & ((taken < batch.fits) | full(lanes, taken))

    zero = jnp.zeros((), jnp.int32)
    lanes, taken, written, count, rounds = jax.lax.while_loop(
        goes_on, refilled, (lanes, taken, written, zero, zero)
    )
    return *write(lanes, taken, written, count), rounds
