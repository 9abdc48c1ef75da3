"""Takes the steps of a run: queues chunks, reads them, and looks up between two of them."""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fitkit._fit.advance import (
    VERDICTS,
    Rows,
    advanced,
    at_rest,
    passed_over,
    undone,
    with_event,
    with_passed,
)
from fitkit._fit.agree import Agreement, Decision
from fitkit._fit.callbacks import Callback
from fitkit._fit.chunk import capacity
from fitkit._fit.commands import refreshed
from fitkit._fit.loop import Pace, Queued
from fitkit._fit.run import CONVERGED, Run
from fitkit._fit.snapshots import Place, Snapshot
from fitkit._fit.status import Status
from fitkit._fit.step import GOOD, Controls
from fitkit._fit.stop_rule import StopRule
from fitkit._optimisers import knows_verdict, verdict_of
from fitkit._programs import refuse_in_fork


@runtime_checkable
class Owner(Protocol):
    """What a driver needs of the engine that owns the state."""

    callbacks: tuple[Callback, ...]

    @property
    def snapshot(self) -> Snapshot: ...
    @property
    def wanted(self) -> bool:
        """Whether a command waits."""
        ...

    def update(self, change: Callable[[Snapshot], Snapshot]) -> Snapshot: ...
    def note(self, text: str) -> None: ...
    def carry_out_commands(self) -> None: ...
    def put(self, changes: dict[str, Any]) -> Snapshot: ...
    def call_back(self, callbacks: Sequence[Callback]) -> None: ...


class Driver:
    """Drives one run, in whichever thread iterates over `chunks`.

    Parameters
    ----------
    owner
        The engine.
    run
        The run that it has claimed.
    """

    def __init__(self, owner: Owner, run: Run) -> None:
        self._owner, self._run = owner, run
        self._queue: deque[Queued] = deque()
        self._pace = Pace(owner.snapshot.steps_per_second, callable(run.until))
        self._agreement = Agreement(owner.snapshot.place.program.problem.mesh)
        self._stop_rule = None
        if run.until == CONVERGED:
            # The lowest loss that was recorded, on which the rule builds, is none of all data
            # where steps see batches: the fit stands still while that is evaluated.
            batches = owner.snapshot.place.program.problem.batches
            beside = self._agreement.alone and batches is None
            self._stop_rule = StopRule(owner.note, beside)
        self._met = False
        self._callbacks = owner.callbacks

    def chunks(self) -> Generator[Rows, None, None]:
        """Take steps until the run is over; yield the rows of every chunk."""
        run, owner, queue = self._run, self._owner, self._queue
        try:
            self._begin()
            while True:
                decided = self._decide()
                if not queue:
                    # Nothing is on its way to the device: the state is ours to change.
                    owner.carry_out_commands()
                    owner.call_back(
                        [one for one, due in zip(self._callbacks, decided.due, strict=True) if due]
                    )
                    self._look_up(decided)
                    decided = self._decide()
                    if decided.request or run.ending or not run.left(owner.snapshot.step):
                        return
                while len(queue) < decided.depth and (size := self._next_size(decided)) > 0:
                    self._send(size, decided.steering.controls)
                if queue:
                    yield self._read()
        except (GeneratorExit, KeyboardInterrupt):
            run.ask(Status.PAUSED)
            self._agreement.leave(self._wish())
            raise
        except BaseException as error:
            run.error = error
            self._agreement.leave(dataclasses.replace(self._wish(), request=Status.FAILED))
            raise
        finally:
            for queued in queue:
                with contextlib.suppress(Exception):
                    queued.read()
            queue.clear()

    def _wish(self) -> Decision:
        """Return how the run goes on as far as this process knows."""
        owner, now, when = self._owner, self._owner.snapshot, time.monotonic()
        self._callbacks = owner.callbacks
        return Decision(
            request=self._run.request,
            waits=owner.wanted,
            size=self._run.every or self._pace.size,
            # A chunk is queued before the last is read, so that the device need not wait for us;
            # but not where the user looks between two chunks.
            depth=1 if self._run.every else self._pace.depth,
            due=tuple(one.due(now.step, when) for one in self._callbacks),
            hopeful=self._stop_rule is not None and self._stop_rule.hopeful,
            met=self._met,
            steering=now.steering,
        )

    def _decide(self) -> Decision:
        """Agree with other processes on how the run goes on."""
        run, owner = self._run, self._owner
        decided = self._agreement.on(self._wish())
        if decided.request is Status.FAILED:
            self._agreement = Agreement(None)  # Nobody is left to agree with.
            raise RuntimeError("The run has ended, because it failed in another process.")
        if decided.request is not None:
            run.ask(decided.request)
        if decided.met:
            run.ending = Status.FINISHED, "`until` was met"
        if self._stop_rule is not None:
            self._stop_rule.hopeful = decided.hopeful
        if self._agreement.follows(decided, owner.snapshot.steering):
            words = "steered as the first process is"
            owner.update(
                lambda now: now.but(steering=decided.steering, events=with_event(now, words))
            )
        return decided

    def _look_up(self, decided: Decision) -> None:
        """See whether the fit, which stands still, has converged."""
        rule, run, owner = self._stop_rule, self._run, self._owner
        if rule is None or decided.request or run.ending:
            return
        if rule.busy and not rule.limit(owner.snapshot.step):
            rule.wait(0.05)
            rule.watch(owner.snapshot)
        over = not run.left(owner.snapshot.step)
        if rule.hopeful or over:
            if owner.snapshot.place.program.problem.batches is not None:
                owner.put(at_rest(owner.snapshot))
            found = rule.ending(owner.snapshot, over)
            if self._agreement.on_all(found is not None) and found is not None:
                changes, run.ending = found
                owner.put(changes)

    def _begin(self) -> None:
        now = self._owner.snapshot
        changes: dict[str, Any] = {"place": now.place, **refreshed(now, self._run.settings)}
        place, optimiser = changes["place"], now.place.view.optimiser
        if knows_verdict(optimiser) and int(verdict_of(optimiser)):
            # What the optimiser judged may have changed; a mere pause must change nothing.
            kept = place.program.judged_anew(place.state)
            changes["place"] = Place(place.step, kept, place.program)
        changes["status"] = self._status()
        changes |= {"stop_reason": "", "optimiser_status": "", "error": None, "failure": None}
        self._owner.update(lambda now: now.but(**changes))

    def _status(self) -> Status:
        return Status.RUNNING if self._owner.snapshot.place.program.ready else Status.COMPILING

    def _next_size(self, decided: Decision) -> int:
        """Compute the length of the next chunk; 0 where none may be queued."""
        run, owner, now = self._run, self._owner, self._owner.snapshot
        if decided.request or decided.waits or run.ending or any(decided.due):
            return 0
        step = now.step
        stops = [s for one in owner.callbacks if (s := one.next_step(step)) is not None]
        if self._queue:
            step = self._queue[-1].end
            if step in stops:
                return 0  # A callback is due where the chunk that was sent last ends.
        rest = min([run.left(step), *(stop - step for stop in stops)])
        limits = [capacity(now.history.row_length), rest]
        if self._stop_rule is not None:
            limits.append(self._stop_rule.limit(step))
        return int(min(decided.size, *limits))

    def _send(self, size: int, controls: Controls) -> None:
        """Queue a chunk on the device."""
        now, owner = self._owner.snapshot, self._owner
        program = now.place.program
        start, state, outcome = now.step, now.place.kept, np.int32(GOOD)
        if self._queue:
            last = self._queue[-1]
            start, state, outcome = last.end, last.chunk.state, last.chunk.outcome
        status = self._status()
        if now.status is not status:
            owner.update(lambda now: now.but(status=status))
        if status is Status.COMPILING:
            refuse_in_fork("Fit")
        began = time.perf_counter()
        chunk = program.queue(state, controls, size, outcome)
        if status is Status.COMPILING:
            # The first call compiles before it returns; that is not the chunk's time.
            began = time.perf_counter()
        self._queue.append(Queued(chunk, start, start + size, controls, began))

    def _read(self) -> Rows:
        """Read a chunk, and make its last state the present one."""
        run, owner = self._run, self._owner
        queued = self._queue.popleft()
        taken = queued.read()
        self._pace.read(len(taken.rows), queued.began)
        before = owner.snapshot
        if taken.outcome != GOOD:
            self._queue.clear()  # What was sent behind it did nothing.
            changes, rows = undone(before, queued, taken)
            run.ending = Status.NON_FINITE, f"step {changes['failure'].step + 1:,} is not finite"
            owner.put(changes)
            return rows
        changes = advanced(before, queued, taken)
        changes["steps_per_second"] = self._pace.steps_per_second
        if not self._agreement.alone:
            # Whoever reads it later would compute alone.
            _ = changes["place"].loss
        passed = passed_over(before, changes["place"], taken.rows)
        owner.update(
            lambda now: now.but(**changes, status=Status.RUNNING, events=with_passed(now, passed))
        )
        verdict = VERDICTS[taken.verdict]
        if verdict is not None:
            self._queue.clear()
            run.ending = verdict, f"the optimiser {_SAYS[verdict]}"
        elif callable(run.until):
            self._met = bool(run.until(owner.snapshot))
        elif self._stop_rule is not None:
            self._stop_rule.watch(owner.snapshot)
        return taken.rows


_SAYS = {
    Status.CONVERGED: "has converged",
    Status.STALLED: "cannot lower the loss any further",
    Status.FAILED: "met values that are not finite",
}
