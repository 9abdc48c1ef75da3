"""Feeds the queue batch by batch, keeps what comes out of it, and has doubtful fits judged."""

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitkit._many.lanes import NormalEquations
from fitkit._many.outcome import Limits, Outcome
from fitkit._many.queue import Batch, Method, drain
from fitkit._many.record import KINDS, WAITING, Record
from fitkit._many.second import SIDE_BY_SIDE, Judged, SecondTier
from fitkit._many.systems import Systems
from fitkit._result import CONVERGED, Kind
from fitkit._sharding import find_mesh, is_shared, to_host

# Numbers of all derivatives and residuals in the lanes, which then stay in a core's cache; and
# lanes, of which more are not faster but longer idle at the end.
ENTRIES, MOST_LANES = 2**17, 128
# Bytes of a batch, and fits in it: one is on the device at a time, and more would save no time.
BATCH_BYTES, MOST_FITS = 2**23, 2**13
# How long a call takes, about: a pause comes after the one at hand.
SECONDS = 0.1
# Rounds of a call: enough for any fit, and within 32 bits.
MOST_ROUNDS = 2**20


class Engine:
    """Makes the fits, a tenth of a second or so at a time; whoever asks for more is the driver.

    A row of the record is written before the engine forgets how to make it, so that whatever
    interrupts it costs at most what is made twice. No more than `lanes` are made side by side.
    """

    def __init__(
        self,
        systems: Systems,
        record: Record | None = None,
        method: Method | None = None,
        lanes: int = MOST_LANES,
    ) -> None:
        self.systems = systems
        self._method = method or NormalEquations(systems.recipe)
        self._own_way = method is not None
        recipe, n = systems.recipe, systems.recipe.size
        self._each = systems.starts_each
        fits = systems.count * self._each
        self.record = record or Record.empty(fits, n, recipe.dtype)
        entries = (n + 1) * systems.residual_count
        self._width = min(lanes, 2 ** max(0, (ENTRIES // entries).bit_length() - 1))
        taken = sum(part[:1].nbytes for part in systems.own) + self._each * n * 8
        most = max(1, min(BATCH_BYTES // taken, MOST_FITS // self._each))
        self._many = 2 ** (most.bit_length() - 1)
        self._together = is_shared(find_mesh(systems.shared))
        self.second = SecondTier(systems)
        self.notes: list[str] = []
        self._restart()

    def _restart(self) -> None:
        """Forget what is in the lanes: the fits that have no row yet are made again."""
        systems, recipe = self.systems, self.systems.recipe
        own = [jnp.zeros((self._width, *part.shape[1:]), _dtype(part)) for part in systems.own]
        nowhere = jnp.zeros((recipe.size, self._width), recipe.dtype)
        self._lanes = self._method.begin(jnp.full(self._width, -1, jnp.int32), own, nowhere)
        left = ~self.record.finished.reshape(systems.count, self._each).all(axis=1)
        self._left = np.flatnonzero(left)
        self._at, self._taken, self._batch = 0, 0, None
        self._doubtful: list[int] = []
        self._left_over: list[int] = []
        self._limit = 1

    @property
    def done(self) -> int:
        """Number of fits that were made."""
        return int(self.record.finished.sum())

    def portions(self) -> Iterator[None]:
        """Make the fits that are left, with a look around after every portion of them."""
        while self._at < len(self._left):
            try:
                self._advance()
            except Exception as error:
                if not _is_short_of_memory(error):
                    raise
                if not self._shrink():
                    raise MemoryError(
                        "fit_many: there is no memory for even one system at a time, of "
                        f"{self.systems.residual_count:,} residuals and "
                        f"{self.systems.recipe.size:,} parameters. What was finished stays."
                    ) from error
            yield
            while len(self._doubtful) >= SIDE_BY_SIDE:
                self._judge()
                yield
        while self._doubtful:
            self._judge()
            yield
        while self._left_over:
            self._refine()
            yield

    def _advance(self) -> None:
        """Run the queue for a while, and write down what has ended."""
        batch = self._batch or self._next_batch()
        limits = self.systems.limits
        limits = None if limits is None else Limits(*map(jnp.asarray, limits))
        last = self._at + self._many >= len(self._left)
        began = time.perf_counter()
        lanes, taken, written, count, rounds = _drain(
            self._method,
            self._lanes,
            batch,
            np.int32(self._taken),
            np.int32(self._limit),
            np.bool_(last),
            self.systems.shared,
            limits,
        )
        self._write(*(to_host(part)[: int(count)] for part in written))
        seconds = max(time.perf_counter() - began, 1e-6) / max(int(rounds), 1)
        self._lanes, self._taken = lanes, int(taken)
        # The first call compiles, and is no measure: it makes one round.
        most = min(8 * self._limit + 8, MOST_ROUNDS)
        # Several processes must make the same calls, whatever their clocks say.
        self._limit = most if self._together else min(max(1, int(SECONDS / seconds)), most)
        used_up = self._taken >= int(batch.fits)
        if used_up and not (last and bool((lanes.job >= 0).any())):
            self._at, self._taken, self._batch = self._at + self._many, 0, None
        else:
            self._batch = batch

    def _shrink(self) -> bool:
        """Halve the batches, or else the lanes; return whether that was possible."""
        if self._many > 1:
            self._many //= 2
            words = f"batches of {self._many:,} systems"
        elif self._width > 1:
            self._width //= 2
            # Another width is another program, which may round otherwise.
            words = f"{self._width} systems side by side, which may change the last digits"
        else:
            return False
        opening = "for lack of memory: "
        self.notes = [note for note in self.notes if not note.startswith(opening)]
        self.notes.append(opening + words)
        self._restart()
        return True

    def _next_batch(self) -> Batch:
        """Lay out the systems that come next, with zeros behind the last."""
        systems, some = self.systems, self._left[self._at : self._at + self._many]
        # A view where they are neighbours, as all are the first time.
        where: Any = some
        if len(some) and some[-1] - some[0] == len(some) - 1:
            where = slice(some[0], some[-1] + 1)

        def padded(rows: np.ndarray) -> jax.Array:
            rows = rows.astype(_dtype(rows), copy=False)
            if len(rows) < self._many:
                rest = np.zeros((self._many - len(rows), *rows.shape[1:]), rows.dtype)
                rows = np.concatenate([rows, rest])
            return jnp.asarray(rows)

        starts = systems.starts
        starts = (
            starts[where]
            if len(starts) > 1
            else np.broadcast_to(starts, (len(some), *starts.shape[1:]))
        )
        starts = padded(np.ascontiguousarray(starts))
        return Batch(
            own=[padded(part[where]) for part in systems.own],
            starts=starts.reshape(-1, systems.recipe.size),
            first=np.asarray(self._at * self._each, np.int32),
            fits=np.asarray(len(some) * self._each, np.int32),
        )

    def _write(self, jobs: Any, outcomes: Any, rounds: Any, numbers: Any) -> None:
        """Write down what lanes have ended with, and set aside what is in doubt."""
        if not len(jobs):
            return
        record, n, each = self.record, self.systems.recipe.size, self._each
        fits = self._left[jobs // each] * each + jobs % each
        values, errors = numbers[:, :n], numbers[:, n : 2 * n]
        record.values[fits], record.rounds[fits] = values, rounds
        record.chi_square[fits], record.data[fits] = numbers[:, 2 * n], numbers[:, 2 * n + 1]
        doubtful = (outcomes == Outcome.DOUBTFUL) | (outcomes == Outcome.LEFT)
        arrived = doubtful if self._own_way else outcomes == Outcome.DOUBTFUL
        self._doubtful += fits[arrived].tolist()
        self._left_over += fits[doubtful & ~arrived].tolist()
        good = (outcomes == Outcome.CLEAR) | (outcomes == Outcome.MET)
        record.errors[fits] = np.where(good[:, None], errors, np.nan)
        record.rank[fits] = np.where(good, n, 0)
        record.success[fits] = good
        if self.systems.limits is not None:
            lower, upper = self.systems.limits
            record.held[fits] = good[:, None] & ((values <= lower) | (values >= upper))
        # Last, because it says that all the rest is there.
        record.kind[fits] = np.where(doubtful, WAITING, _KIND_OF[outcomes])

    def _judge(self) -> None:
        """Assess some fits that have arrived, and set aside those that are at no minimum."""
        some = self._doubtful[:SIDE_BY_SIDE]
        for fit in some:
            judged = self.second.judge(fit // self._each, self.record.values[fit])
            # What another way of fitting has left is not this one's to improve.
            if judged.kind in CONVERGED or self._own_way:
                self._state(fit, judged)
            else:
                self._left_over.append(fit)
        self._doubtful = self._doubtful[SIDE_BY_SIDE:]

    def _refine(self) -> None:
        """Go on with some fits by slower means, and assess where they arrive."""
        some = self._left_over[:SIDE_BY_SIDE]
        of_systems = [fit // self._each for fit in some]
        values = self.second.refine(of_systems, self.record.values[some])
        for fit, system, row in zip(some, of_systems, values, strict=True):
            self._state(fit, self.second.judge(system, row))
        self._left_over = self._left_over[SIDE_BY_SIDE:]

    def _state(self, fit: int, judged: Judged) -> None:
        """Write down what was found of one fit."""
        record = self.record
        record.values[fit], record.errors[fit] = judged.values, judged.errors
        record.chi_square[fit], record.data[fit] = judged.chi_square, judged.data
        record.rank[fit], record.success[fit] = judged.rank, judged.success
        record.held[fit] = np.isin(self.systems.labels, judged.at_bound)
        record.kind[fit] = KINDS.index(judged.kind)


def _is_short_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


_KIND_OF = np.full(len(Outcome), WAITING)
_KIND_OF[Outcome.CLEAR] = KINDS.index(Kind.MINIMUM)
_KIND_OF[Outcome.MET] = KINDS.index(Kind.MET)
_KIND_OF[Outcome.NONFINITE] = KINDS.index(Kind.NONFINITE)


def _dtype(array: np.ndarray) -> Any:
    return jax.dtypes.canonicalize_dtype(array.dtype)


_drain = functools.partial(jax.jit, static_argnums=0)(drain)
