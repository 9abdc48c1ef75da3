"""One run of a fit, and the commands that threads send to it."""

import threading
from collections.abc import Callable
from typing import Any, Literal

from fitkit._fit.interrupts import Flag
from fitkit._fit.snapshots import Snapshot
from fitkit._fit.status import Status
from fitkit._programs import JaxSettings

#: Ends a run where an assessment says that the fit has converged.
CONVERGED = "converged"
Until = Callable[[Snapshot], bool] | Literal["converged"]


class Run:
    """One run: how far it goes, who drives it, and what was asked of it.

    Attributes
    ----------
    target
        The step at which it ends; None for a run without an end.
    until
        Ends it when it returns True for a snapshot; or `CONVERGED`.
    every
        The length of its chunks; None lets it follow the clock.
    settings
        The JAX settings of the thread that asked for it.
    driver, thread
        The thread that takes its steps; the same, if it was made for the run.
    begun, suspended, cancelled
        Whether its driver is at work; whether a loop of the user's own stands between two steps;
        whether its start was interrupted, so that its thread must do nothing.
    request
        ``PAUSED`` or ``STOPPED`` once somebody asked for that.
    ending
        What ends it, as the last chunk showed, and why.
    error
        What the user's function raised.
    over
        Set when it has ended.
    """

    def __init__(
        self, target: int | None, until: Until | None = None, every: int | None = None
    ) -> None:
        self.target, self.until, self.every = target, until, every
        self.settings = JaxSettings()
        self.driver: threading.Thread | None = None
        self.thread: threading.Thread | None = None
        self.begun = self.suspended = self.cancelled = False
        self.request: Status | None = None
        self.ending: tuple[Status, str] | None = None
        self.error: BaseException | None = None
        self.over = Flag()

    def left(self, step: int) -> float:
        """Return how many steps are left from a step on."""
        return float("inf") if self.target is None else max(0, self.target - step)

    def ask(self, request: Status) -> None:
        """Ask it to end; a stop is not turned into a pause."""
        if self.request is not Status.STOPPED:
            self.request = request

    def end_at(self, step: int) -> tuple[Status, str]:
        """Return what the fit is, and why, when the run has ended at a step."""
        if self.error is not None:
            return Status.FAILED, f"{type(self.error).__name__}: {self.error}"
        if self.ending is not None:
            return self.ending
        if not self.left(step):
            return Status.FINISHED, "all steps were taken"
        if self.request is Status.STOPPED:
            return Status.STOPPED, "the run was stopped"
        return Status.PAUSED, "the run was paused"


class Command:
    """A change of the state that a thread asked for, and what became of it."""

    def __init__(self, function: Callable[[], Any], ends_run: bool) -> None:
        self.function, self.ends_run = function, ends_run
        self.answer: Any = None
        self.error: BaseException | None = None
        self.done = Flag()

    def carry_out(self) -> None:
        """Call the function, and keep what it returns or raises for the thread that asked."""
        try:
            self.answer = self.function()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()
