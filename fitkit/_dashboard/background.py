"""What takes long and happens off the drawing thread: Fisher matrices, what a button asks for."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fitkit._dashboard.header import BUSY
from fitkit._fit import Fit

SHARE = 0.05  # of the time that the fit runs may go into Fisher matrices
OFTEN = 2.0  # seconds of running between two, however cheap they are
GUESS = 0.1  # seconds the first is taken to last
REST = 1.0  # seconds that a fit stands still before it gets one without being asked
MOST = 500  # elements of parameters; with more, one is made only when asked for
PATIENCE = 0.25


def affordable(fit: Fit) -> bool:
    """Tell whether the parameters are few enough for Fisher matrices that nobody asked for."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(fit.params)) <= MOST


class Survey(threading.Thread):
    """Does one job after the other, and keeps `Fit.known_fisher` fresh in between.

    While the fit runs, a Fisher matrix is made whenever a share of the running time since the last
    pays for it, compilation included, but at most every other second; once the fit rests, one is
    made of where it rests.

    Parameters
    ----------
    fit
        The fit.
    fishers
        Whether to make Fisher matrices at all.
    told
        Called with what a job raised.
    wake
        Called when a job began or ended.
    """

    def __init__(
        self,
        fit: Fit,
        fishers: bool,
        told: Callable[[Exception], None],
        wake: Callable[[], None],
    ):
        super().__init__(name="fitkit survey", daemon=True)
        self._fit, self._told, self._wake = fit, told, wake
        self._unasked = fishers and affordable(fit)
        self._jobs: list[tuple[str, Callable[[], Any]]] = []
        self._condition = threading.Condition()
        self._over = False
        self._cost, self._ran, self._rested = GUESS, 0.0, 0.0
        self._tried: tuple[int, frozenset[str]] | None = None
        self.doing = ""

    def ask(self, words: str, job: Callable[[], Any]) -> None:
        """Put a job into the queue; `words` say meanwhile what is being done."""
        with self._condition:
            self._jobs.append((words, job))
            self._condition.notify_all()

    def end(self) -> None:
        """Let the thread finish what it does, and no more."""
        with self._condition:
            self._over = True
            self._condition.notify_all()

    def run(self) -> None:
        before = time.monotonic()
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs or self._over, PATIENCE)
                if self._over:
                    return
                words, job = self._jobs.pop(0) if self._jobs else ("", None)
            if job is not None:
                self._work(words, job)
            now = time.monotonic()
            self._note_time(now - before)
            before = now
            if self._unasked and self._due():
                self._try_fisher()
                before = time.monotonic()

    def _work(self, words: str, job: Callable[[], Any]) -> None:
        self.doing = words
        self._wake()
        try:
            job()
        except Exception as error:
            self._told(error)
        finally:
            self.doing = ""
            self._wake()

    def _note_time(self, seconds: float) -> None:
        if self._fit.status in BUSY:
            self._ran, self._rested = self._ran + seconds, 0.0
        else:
            self._rested += seconds

    def _due(self) -> bool:
        status = self._fit.status
        if self._tried == (self._fit.step, self._fit.frozen):
            return False
        if status in BUSY:
            return status == "running" and self._ran >= max(self._cost / SHARE, OFTEN)
        return self._rested >= REST

    def _try_fisher(self) -> None:
        """Make a Fisher matrix; where there is none, say nothing: nobody asked."""
        self._tried = self._fit.step, self._fit.frozen
        begun = time.monotonic()
        with contextlib.suppress(Exception):
            self._fit.fisher()
        self._cost, self._ran = time.monotonic() - begun, 0.0
