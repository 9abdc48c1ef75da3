"""What is computed though nobody asked, within a share of the time that the fit runs."""

import time
import weakref
from collections.abc import Callable
from typing import Any

from fitkit._fit import Snapshot, Status

SHARE = 0.05  # of the time that the fit runs may go into each of these
GUESS = 0.1  # seconds the first is taken to last
OFTEN = 0.5  # seconds of running between two, as between two frames
REST = 0.3  # seconds that a fit stands still: a cell that shows it and runs it is not held up


class Unasked:
    """A job that is done whenever a share of the running time since the last pays for it.

    Once the fit rests it is done once more, of where it rests.

    Parameters
    ----------
    job
        What is done.
    often
        Seconds of running between two, however cheap they are.
    rest
        Seconds that the fit stands still before it is done there.
    state
        What of a snapshot the job depends on: it is not done twice for the same.
    first_counts
        Whether the time of the first, which compiles, says how long the next will take.
    """

    def __init__(
        self,
        job: Callable[[], Any],
        often: float,
        rest: float,
        state: Callable[[Snapshot], Any],
        first_counts: bool = True,
    ) -> None:
        self._job, self._often, self._rest, self._state = job, often, rest, state
        self._counts = first_counts
        self._cost, self._ran, self._rested = GUESS, 0.0, 0.0
        self._tried: Any = None

    def note_time(self, now: Snapshot, seconds: float) -> None:
        """Note that the fit went on, or stood still, for so long."""
        if now.status.busy:
            self._ran, self._rested = self._ran + seconds, 0.0
        else:
            self._rested += seconds

    def due(self, now: Snapshot) -> bool:
        """Return whether to do it."""
        if self._state(now) == self._tried:
            return False
        if now.status.busy:
            enough = self._ran >= max(self._cost / SHARE, self._often)
            return now.status is Status.RUNNING and enough
        return self._rested >= self._rest

    def do(self, now: Snapshot) -> None:
        """Do it."""
        self._tried = self._state(now)
        begun = time.monotonic()
        self._job()
        if self._counts:
            self._cost = time.monotonic() - begun
        self._counts, self._ran = True, 0.0


def of_each_place(job: Callable[[], Any]) -> Unasked:
    """Make a job that evaluates something where the fit stands, about once for every frame."""
    return Unasked(job, OFTEN, REST, lambda now: weakref.ref(now.place), first_counts=False)
