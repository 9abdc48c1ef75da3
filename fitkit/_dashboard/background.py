"""What takes long and happens off the drawing thread: Fisher matrices, what a button asks for."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from fitkit._dashboard.threads import EndingThread
from fitkit._dashboard.unasked import Unasked
from fitkit._fit import Fit
from fitkit._plotting import affordable

OFTEN = 2.0  # seconds of running between two Fisher matrices, however cheap they are
REST = 1.0  # seconds that a fit stands still before it gets one without being asked
TURN = 0.25  # seconds between two looks at whether one is due


class BackgroundThread(EndingThread):
    """Does one job after the other, and in between what is `Unasked`.

    Parameters
    ----------
    fit
        The fit.
    unasked
        What to do in between.
    on_error
        Called with what a job raised.
    on_change
        Called when a job began or ended.

    Attributes
    ----------
    doing
        What is being done; empty if nothing.
    """

    def __init__(
        self,
        fit: Fit,
        unasked: Sequence[Unasked],
        on_error: Callable[[Exception], None],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__("fitkit background")
        self._fit, self._on_error, self._on_change = fit, on_error, on_change
        self._unasked = unasked
        self._jobs: list[tuple[str, Callable[[], Any]]] = []
        self._condition = threading.Condition()
        self.doing = ""

    def ask(self, words: str, job: Callable[[], Any]) -> None:
        """Put a job into the queue; `words` are what `doing` is meanwhile."""
        with self._condition:
            self._jobs.append((words, job))
            self._condition.notify_all()

    def end(self) -> None:
        """Ask it to finish what it was asked for, such as saving the fit, and no more."""
        with self._condition:
            super().end()
            self._condition.notify_all()

    def run(self) -> None:
        before = time.monotonic()
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs or self.ending.is_set(), TURN)
                if not self._jobs and self.ending.is_set():
                    return
                words, job = self._jobs.pop(0) if self._jobs else ("", None)
            if job is not None:
                self._work(words, job)
            now = time.monotonic()
            for one in self._unasked:
                one.note_time(self._fit.snapshot, now - before)
            before = now
            for one in self._unasked:
                if not self.ending.is_set() and one.due(self._fit.snapshot):
                    one.do(self._fit.snapshot)
                    self._on_change()
                    before = time.monotonic()

    def _work(self, words: str, job: Callable[[], Any]) -> None:
        self.doing = words
        self._on_change()
        try:
            job()
        except Exception as error:
            self._on_error(error)
        finally:
            self.doing = ""
            self._on_change()


def fishers(fit: Fit) -> Unasked | None:
    """Keep `Fit.known_fisher` fresh; None where that takes too long.

    While the fit runs, compilation counts for how often one is computed.
    """
    if not affordable(fit):
        return None

    def compute() -> None:
        with contextlib.suppress(Exception):  # Nobody asked, so nothing is said.
            fit.fisher()

    return Unasked(compute, OFTEN, REST, lambda now: (now.step, now.frozen))
