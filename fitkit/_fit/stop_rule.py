"""When a run ends by itself: its loss is quiet, and an assessment says that it has converged."""

import bisect
import operator
import threading
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from fitkit._fisher import split_params
from fitkit._fit.advance import moved
from fitkit._fit.judgement import Judgement, judge, rounding_of_loss
from fitkit._fit.loop import Program
from fitkit._fit.problem import leaves_by_shape
from fitkit._fit.snapshots import Place, Snapshot
from fitkit._fit.status import Status
from fitkit._format import number
from fitkit._optimisers import knows_verdict

# Half the square of a thousandth of a standard error, at which a fit counts as converged: while a
# tenth of its steps still gain as much, it is on its way.
_QUIET = 5e-7
_WINDOW = 0.1
_FEWEST = 10
# A question asked in vain is asked again after a quarter more steps: a fit that has converged is
# noticed soon, and one that takes a million steps is asked some thirty times.
_LATER = 1.25
# The share of a run's time that assessments may take. The first, which compiles, is free: else a
# short fit would never hear of its end.
_SHARE = 0.05
# A fit is stalled where half its steps, and a thousand at least, gained less than a thousandth of
# what is left to gain: at this pace it would take a thousand times as long as it took.
_HOPELESS = 1e-3
_FEWEST_STALLED = 1000


class StopRule:
    """Watches one run, and decides when it has converged or can get no further.

    While the loss still falls this only compares numbers. Where it is quiet, a thread assesses a
    snapshot beside the running fit, within a share of the run's time. If the run may end, the
    driver lets the fit stand still, and the present state decides.

    Parameters
    ----------
    note
        Records an event.
    beside
        Whether assessments may be computed beside the running fit; if not, it stands still for
        them, as where several processes must compute in step.
    """

    def __init__(self, note: Callable[[str], None], beside: bool = True) -> None:
        self._note, self._beside = note, beside
        self._began, self._spent = time.monotonic(), 0.0
        self._asked = 0
        self._check: _Check | None = None
        self._next = 0
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._program: Program | None = None
        self._steered: tuple[Any, ...] = ()
        self._freedom: int | None = None
        self._watching = True
        #: Whether the assessment of an earlier snapshot said that the run may end.
        self.hopeful = False

    @property
    def busy(self) -> bool:
        """Whether an assessment is under way."""
        return self._check is not None

    def watch(self, now: Snapshot) -> None:
        """Look at a new snapshot; ask whether the run may end, where that is likely."""
        if now.place.program is not self._program:
            self._meet(now.place)
        if not self._watching:
            return
        self._record(now)
        if self._check is not None and not self._check.is_alive():
            judgement, self._check = self._read(self._check), None
            self.hopeful = judgement is not None and self._status(now, judgement) is not None
        if self.busy or self.hopeful or not self._watching:
            return
        allowed = self._spent <= _SHARE * (time.monotonic() - self._began)
        if now.step >= self._next and allowed and self._is_quiet(now):
            self._next = self._later(now.step)
            if not self._beside:
                self.hopeful = True
                return
            self._check = _Check(now)
            self._check.start()

    def wait(self, timeout: float) -> None:
        """Wait for the assessment that is under way."""
        if self._check is not None:
            self._check.join(timeout)

    def limit(self, step: int) -> int:
        """Return how many steps may be taken before the next look."""
        if not (self._watching and self._steps):
            return np.iinfo(int).max
        if self.hopeful or (self.busy and step >= self._next):
            return 0
        return self._later(step) - step

    def ending(
        self, now: Snapshot, over: bool = False
    ) -> tuple[dict[str, Any], tuple[Status, str]] | None:
        """Decide on the present state, which stands still.

        Returns what changes and what the run ends as; None where it goes on, or where it is over,
        all its steps being taken, and has not converged.
        """
        if not (self._watching and self._steps):
            return None
        self.hopeful, self._next = False, self._later(now.step)
        judgement = self._read(_Check.of(now))
        if judgement is None or (status := self._status(now, judgement)) is None:
            return None
        message = judgement.assessment.message
        if status is Status.STALLED and (best := self._best(now)) is not None:
            self._note(f"went back to the lowest loss, that of step {now.lowest.step:,}")
            return moved(now, best.place), (Status.CONVERGED, best.assessment.message)
        if status is Status.STALLED:
            if over:
                return None
            stretch = max(_FEWEST_STALLED, (now.step - self._steps[0]) // 2)
            return {}, (status, f"no progress that could matter in {stretch:,} steps: {message}")
        if judgement.place is now.place:
            return {}, (status, message)
        text = f"finished by a Newton step of {number(judgement.step_length, 2)} standard errors"
        self._note(text)
        return moved(now, judgement.place), (status, message)

    def _best(self, now: Snapshot) -> Judgement | None:
        """Judge the lowest loss; None if it has not converged either.

        Adam leaves a minimum now and then, by many standard errors, and comes back.
        """
        if now.lowest.step == now.step:
            return None
        frozen = tuple(sorted(now.frozen))
        free, _ = split_params(now.lowest.place.state.params, frozen)
        _, held = split_params(now.place.state.params, frozen)
        place = now.place.with_params(eqx.combine(free, held))
        judgement = self._read(_Check.of(now.but(place=place)))
        return judgement if judgement is not None and judgement.assessment.converged else None

    def _meet(self, place: Place) -> None:
        """Begin to watch a program, unless its optimiser says by itself when it is done."""
        # What is being computed of another program's fit says nothing of this one.
        self._program, self._check = place.program, None
        self._steered, self.hopeful = (), False
        self._watching = not knows_verdict(place.view.optimiser)
        self._freedom = _freedom_of(place)

    def _record(self, now: Snapshot) -> None:
        """Note the lowest loss by step; begin anew where the fit was steered or put elsewhere."""
        steered = now.steering.controls, now.start_loss
        same = bool(self._steered) and all(map(operator.is_, steered, self._steered))
        if not same or now.step < self._steps[-1]:
            self._steered, self._next, self.hopeful = steered, 0, False
            self._steps, self._losses = [], []
        # A hundredth more steps at a time: exact enough, and few in a fit of days.
        if not self._steps or self._taken(now) >= 1.01 * (self._steps[-1] - self._steps[0]):
            self._steps.append(now.step)
            self._losses.append(now.lowest.loss)

    def _read(self, check: "_Check") -> Judgement | None:
        # The first compiles, and is free.
        self._spent += check.seconds if self._asked else 0.0
        self._asked += 1
        if check.error is not None:
            # It can be fitted and not assessed, and so runs for as long as it was asked to.
            self._watching = False
            self._note(f"whether it has converged cannot be told: {check.error}")
        return check.judgement

    def _status(self, now: Snapshot, judgement: Judgement) -> Status | None:
        """Return what the run may end as; None if it may not."""
        assessment = judgement.assessment
        if assessment.converged:
            return Status.CONVERGED
        distance = assessment.distance if np.isfinite(assessment.distance) else 1.0
        left = distance**2 / 2 * self._square_of_unit(now)
        hopeless = self._gained(now, 0.5, _FEWEST_STALLED) <= _HOPELESS * left
        return Status.STALLED if hopeless else None

    def _is_quiet(self, now: Snapshot) -> bool:
        gained = self._gained(now, _WINDOW, _FEWEST)
        return gained <= max(_QUIET * self._square_of_unit(now), rounding_of_loss(now))

    def _square_of_unit(self, now: Snapshot) -> float:
        """Square one standard error: the scatter of the residuals, or what was gained."""
        gained = 2 * max(now.start_loss - now.lowest.loss, 0.0)
        return min(gained, 1.0 if self._freedom is None else 2 * now.lowest.loss / self._freedom)

    def _gained(self, now: Snapshot, share: float, fewest: int) -> float:
        """By how much the loss fell in the latest steps, a share of all; infinite if too few."""
        window = max(fewest, share * self._taken(now))
        at = bisect.bisect_right(self._steps, now.step - window) - 1
        return np.inf if at < 0 else self._losses[at] - now.lowest.loss

    def _taken(self, now: Snapshot) -> int:
        return now.step - self._steps[0]

    def _later(self, step: int) -> int:
        return step + max(_FEWEST, int((_LATER - 1) * (step - self._steps[0])))


class _Check(threading.Thread):
    """One assessment; no daemon, because the interpreter must not go down while it compiles."""

    def __init__(self, now: Snapshot) -> None:
        super().__init__(name="fitkit-assessment", daemon=False)
        self._now = now
        self.judgement: Judgement | None = None
        self.error: Exception | None = None
        self.seconds = 0.0

    @classmethod
    def of(cls, now: Snapshot) -> "_Check":
        """Assess at once, in the thread of the caller."""
        check = cls(now)
        check.run()
        return check

    def run(self) -> None:
        began = time.monotonic()
        try:
            self.judgement = judge(self._now)
        except Exception as error:
            self.error = error
        self.seconds = time.monotonic() - began


def _freedom_of(place: Place) -> int | None:
    """By how many the residuals outnumber the parameters, one at least; None for a loss."""
    problem, params = place.program.problem, place.state.params
    if not problem.squares:
        return None
    rows = leaves_by_shape(problem.residuals, params, place.program.args)
    count = sum(leaf.size for leaf in rows)
    return max(1, count - sum(leaf.size for leaf in jax.tree.leaves(params)))
