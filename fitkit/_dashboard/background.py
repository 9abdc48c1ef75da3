"""What takes long and happens off the drawing thread: Fisher matrices, what a button asks for."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from fitkit._dashboard.threads import EndingThread
from fitkit._fit import Fit, Status
from fitkit._plotting import affordable

SHARE = 0.05  # of the time that the fit runs may go into Fisher matrices
OFTEN = 2.0  # seconds of running between two, however cheap they are
GUESS = 0.1  # seconds the first is taken to last
REST = 1.0  # seconds that a fit stands still before it gets one without being asked
TURN = 0.25  # seconds between two looks at whether one is due


class BackgroundThread(EndingThread):
    """Does one job after the other, and keeps `Fit.known_fisher` fresh in between.

    While the fit runs, a Fisher matrix is computed whenever a share of the running time since the
    last pays for it, compilation included, but at most every other second; once the fit rests, one
    is computed of where it rests.

    Parameters
    ----------
    fit
        The fit.
    fishers
        Whether to compute Fisher matrices that nobody asked for, if they are affordable.
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
        fishers: bool,
        on_error: Callable[[Exception], None],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__("fitkit background")
        self._fit, self._on_error, self._on_change = fit, on_error, on_change
        self._unasked = fishers and affordable(fit)
        self._jobs: list[tuple[str, Callable[[], Any]]] = []
        self._condition = threading.Condition()
        self._cost, self._ran, self._rested = GUESS, 0.0, 0.0
        self._tried: tuple[int, frozenset[str]] | None = None
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
            self._note_time(now - before)
            before = now
            if self._unasked and not self.ending.is_set() and self._due():
                self._try_fisher()
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

    def _note_time(self, seconds: float) -> None:
        if self._fit.status.busy:
            self._ran, self._rested = self._ran + seconds, 0.0
        else:
            self._rested += seconds

    def _due(self) -> bool:
        now = self._fit.snapshot
        if self._tried == (now.step, now.frozen):
            return False
        if now.status.busy:
            return now.status is Status.RUNNING and self._ran >= max(self._cost / SHARE, OFTEN)
        return self._rested >= REST

    def _try_fisher(self) -> None:
        """Compute a Fisher matrix; where that fails nothing is said, because nobody asked."""
        now = self._fit.snapshot
        self._tried = now.step, now.frozen
        begun = time.monotonic()
        with contextlib.suppress(Exception):
            self._fit.fisher()
        self._cost, self._ran = time.monotonic() - begun, 0.0
