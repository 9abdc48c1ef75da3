"""The host side of the compiled step: chunk after chunk, each read while the next one runs."""

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, PyTree

from fitkit._fit.diagnose import explain
from fitkit._fit.history import History
from fitkit._fit.problem import Params, Problem
from fitkit._fit.snapshots import Timeline
from fitkit._fit.step import (
    BAD_EVALUATION,
    GOOD,
    Chunk,
    Controls,
    FitState,
    Step,
    capacity,
    initial_state,
    make_chunk,
    make_step,
    started,
    verdict_of,
)
from fitkit._nonfinite import NonFiniteReport
from fitkit._optimisers import Bounds, restart
from fitkit._paths import named_leaves

#: How long a chunk should take, in seconds: short enough for sliders and pause to feel immediate.
_CHUNK_SECONDS = 0.05

_VERDICTS = {0: "", 1: "converged", 2: "stalled", 3: "failed"}


class Now(NamedTuple):
    """Where a fit stands; replaced as a whole, so that a reader never sees half a change."""

    step: int
    state: FitState
    loss: float


class Lowest(NamedTuple):
    """The smallest loss so far, and the step it was seen at."""

    step: int
    loss: float


class Taken(NamedTuple):
    """What one chunk did: a row per step, and why no more will follow, if so.

    `end` is empty, ``"converged"``, ``"stalled"``, ``"failed"`` or ``"non-finite"``; `mended` says
    where it went on over values that were not finite, and how many.
    """

    rows: Float[np.ndarray, "steps columns"]
    end: str
    mended: tuple[int, str] | None = None


class _Program(NamedTuple):
    """The step of one optimiser, and its compiled chunk."""

    step: Step
    chunk: Callable[..., Chunk]


class _Queued(NamedTuple):
    chunk: Chunk
    start: int
    controls: Controls
    began: float


class Loop:
    """Runs chunks of compiled steps, and keeps where they led.

    Parameters
    ----------
    problem, params, args
        What `make_problem` returned.
    optimiser
        One optax transformation for all parameters.
    controls
        What steers the first steps.
    bounds
        What the parameters keep to.
    on_nonfinite
        What to do at a step that is not finite: ``"stop"``, ``"skip"`` or ``"zero"``.
    """

    def __init__(
        self,
        problem: Problem,
        params: Params,
        args: PyTree,
        optimiser: optax.GradientTransformation,
        controls: Controls,
        bounds: Bounds | None = None,
        on_nonfinite: str = "stop",
    ) -> None:
        self.args = args
        self._problem = problem
        self._bounds, self._on_nonfinite = bounds, on_nonfinite
        self._programs: dict[Hashable, _Program] = {}
        self._ran: set[Hashable] = set()
        self._use(optimiser, None)
        self._failing: tuple[int, int, Controls] | None = None
        self._report_lock = threading.Lock()
        self.known_report: NonFiniteReport | None = None
        self.capacity = capacity(params)
        self._pace = (0.0, 0.0)
        self._loss = jax.jit(problem.loss)
        self._size = 8
        self._last_read = 0.0
        state = initial_state(params, optimiser, on_nonfinite)
        self.now = Now(0, state, self.loss_at(state))
        self.lowest = Lowest(0, self.now.loss)
        self.history = History(named_leaves(params))
        self.timeline = Timeline(self._again, state, controls)

    def change_optimiser(self, optimiser: optax.GradientTransformation, key: Hashable) -> None:
        """Go on with another optimiser, started anew.

        Earlier states belong to the one before: of them only the best can be gone back to.

        Parameters
        ----------
        optimiser
            The optimiser.
        key
            What its compiled step hangs on; one of a known key is not compiled again.
        """
        best = self.timeline.at(self.lowest.step)
        self._use(optimiser, key)

        self.now = self.now._replace(state=started(self.now.state, optimiser))
        step, state, _ = self.now
        self.timeline.restart(step, state, self.lowest.step, started(best, optimiser))

    def _use(self, optimiser: optax.GradientTransformation, key: Hashable) -> None:
        self._key = key
        if key not in self._programs:
            step = make_step(self._problem, optimiser, self._bounds, self._on_nonfinite)
            self._programs[key] = _Program(step, make_chunk(step, verdict_of))
        self.step, self._chunk = self._programs[key]

    @property
    def compiled(self) -> bool:
        """Whether a run can begin at once."""
        return self._key in self._ran

    @property
    def steps_per_second(self) -> float:
        """How fast the latest chunks were; 0 before the first."""
        steps, seconds = self._pace
        return steps / seconds if seconds else 0.0

    def loss_at(self, state: FitState) -> float:
        """Evaluate the loss at a state."""
        return float(self._loss(state.params, self.args))

    def chunks(
        self, left: Callable[[int], int], controls: Callable[[], Controls], every: int | None = None
    ) -> Iterator[Taken]:
        """Run, and yield after each chunk, once it is in the history.

        Parameters
        ----------
        left
            How many steps are wanted from a step on; 0 ends the run.
        controls
            What steers the next chunk.
        every
            The length of the chunks. None lets it follow the clock; then the next chunk is queued
            before the last is read, so that the device need not wait for us.
        """
        self._failing = self.known_report = None
        depth = 1 if every else 2
        queue: deque[_Queued] = deque()
        if int(verdict_of(self.now.state)):
            # What the optimiser judged may have been changed; a mere pause must change nothing.
            again = restart(self.now.state.optimiser)
            state = dataclasses.replace(self.now.state, optimiser=again)
            self.now = self.now._replace(state=state)
        step, state, outcome = self.now.step, self.now.state, np.int32(GOOD)
        try:
            while True:
                while len(queue) < depth and (rest := left(step)) > 0:
                    size = min(every or self._size, self.capacity, rest)
                    steers, began = controls(), time.perf_counter()
                    chunk = self._chunk(state, steers, self.args, np.int32(size), outcome)
                    # The first call compiles before it returns; that is not the chunk's time.
                    began = began if self.compiled else time.perf_counter()
                    self._ran.add(self._key)
                    queue.append(_Queued(chunk, step, steers, began))
                    step, state, outcome = step + size, chunk.state, chunk.outcome
                if not queue:
                    return
                taken = self._read(queue.popleft())
                if taken.end:
                    # What was queued behind it did nothing.
                    queue.clear()
                yield taken
                if taken.end:
                    return
        finally:
            while queue and not self._read(queue.popleft()).end:
                pass

    def report(self) -> NonFiniteReport | None:
        """Replay the step that ended the last run, if that was not finite; once."""
        with self._report_lock:
            if self.known_report is None and self._failing is not None:
                self.known_report = self._explained(*self._failing)
            return self.known_report

    def rewind(self, step: int) -> None:
        """Go back to an earlier step, and forget what came after it."""
        self._failing = self.known_report = None
        state = self.timeline.at(step)
        self.timeline.truncate(step)
        self.history.truncate(step)
        self.now = Now(step, state, self.loss_at(state))
        if self.lowest.step > step:
            self.lowest = self._lowest_of_history()

    def restore(
        self, step: int, state: FitState, loss: float, lowest: tuple, best: FitState
    ) -> None:
        """Stand where another loop stood."""
        self.now = Now(step, state, loss)
        self.lowest = Lowest(*lowest)
        self.timeline.restart(step, state, self.lowest.step, best)

    def settle(self) -> None:
        """Evaluate the loss where the last step led; the record has those of all steps before."""
        with contextlib.suppress(Exception):
            # What the user's function raises here it raised in the step, and that is reported.
            self.now = self.now._replace(loss=self.loss_at(self.now.state))
            self._keep_lowest(self.now.step, np.array([self.now.loss]))

    def _read(self, queued: _Queued) -> Taken:
        """Read a chunk: its rows into the history, its state as the present one."""
        chunk, start, controls, began = queued
        count, outcome = int(chunk.steps), int(chunk.outcome)
        done = time.perf_counter()
        self._keep_pace(count, done - max(began, self._last_read))
        self._last_read = done
        rows = np.asarray(chunk.rows)[:count]
        self.timeline.record(start, self.now.state, controls)
        if outcome != GOOD:
            return self._undo(queued, count, outcome, rows)
        self.history.append(rows)
        self._keep_lowest(start, rows[:, 0])
        loss = float(rows[-1, 0]) if count else self.now.loss
        mended = self._newly_mended(start, rows, self.now.state, chunk.state)
        self.now = Now(start + count, chunk.state, loss)
        return Taken(rows, _VERDICTS[int(chunk.verdict)], mended)

    @staticmethod
    def _newly_mended(
        start: int, rows: np.ndarray, before: FitState, after: FitState
    ) -> tuple[int, str] | None:
        if before.mended is None or after.mended is None:
            return None
        skipped = int(after.mended.skipped) - int(before.mended.skipped)
        zeroed = int(after.mended.zeroed) - int(before.mended.zeroed)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        step = start + (int(bad[0]) if len(bad) else 0)
        if skipped:
            return step, f"skipped {skipped:,} step{'s' if skipped > 1 else ''}"
        if zeroed:
            return step, f"zeroed {zeroed:,} non-finite element{'s' if zeroed > 1 else ''}"
        return None

    def _undo(self, queued: _Queued, count: int, outcome: int, rows: np.ndarray) -> Taken:
        """Go back to the last state at which loss, gradient and parameters are finite."""
        start = queued.start
        failed = start + count - 1
        good = max(failed - (outcome == BAD_EVALUATION), 0)
        rows = rows[: max(good - start, 0)]
        self.history.append(rows)
        self._keep_lowest(start, rows[:, 0])
        self.rewind(good)
        self._failing = (failed, outcome, queued.controls)
        return Taken(rows, "non-finite")

    def _explained(self, failed: int, outcome: int, controls: Controls) -> NonFiniteReport | None:
        good, state = self.now.step, self.now.state
        latest = good - 1
        if outcome == BAD_EVALUATION and failed > good:
            latest, state = good, self._again(state, controls, failed - good)
        known = range(latest, max(latest - 4, self.timeline.first - 1), -1)
        earlier = [self.timeline.at(step).params for step in known]
        return explain(self._problem, self.step, state, controls, self.args, earlier)

    def _again(self, state: FitState, controls: Controls, steps: int) -> FitState:
        """Run good steps once more, for a state that was not kept."""
        while steps > 0:
            size = min(steps, self.capacity)
            state = self._chunk(state, controls, self.args, np.int32(size), np.int32(GOOD)).state
            steps -= size
        return state

    def _keep_pace(self, count: int, seconds: float) -> None:
        """Choose the length of the next chunk, at most four times longer or shorter."""
        if not count:
            return
        per_step = max(seconds, 1e-7) / count
        # Weighed by steps, so that the short chunks of the beginning, mostly overhead, fade fast.
        old_steps, old_seconds = self._pace
        self._pace = (0.7 * old_steps + count, 0.7 * old_seconds + seconds)
        self._size = int(
            np.clip(_CHUNK_SECONDS / per_step, max(self._size // 4, 1), 4 * self._size)
        )

    def _keep_lowest(self, start: int, losses: np.ndarray) -> None:
        if len(losses):
            # A loss that is not finite was skipped.
            index = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))
            if losses[index] < self.lowest.loss:
                self.lowest = Lowest(start + index, float(losses[index]))

    def _lowest_of_history(self) -> Lowest:
        """Find the lowest loss again, as exactly as the history still knows it."""
        lowest = Lowest(self.now.step, self.now.loss)
        losses = self.history.loss
        if len(losses) and losses.min() < lowest.loss:
            index = int(np.argmin(losses))
            lowest = Lowest(int(self.history.steps[index]), float(losses[index]))
        return lowest
