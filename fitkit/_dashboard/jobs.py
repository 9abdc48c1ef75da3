"""The thread for what takes long: what a button asks for, one job after the other."""

import threading
from collections.abc import Callable
from typing import Any

from fitkit._dashboard.threads import EndingThread

TURN = 0.25  # seconds between two looks at whether there is something else to do


class JobThread(EndingThread):
    """Does one job after the other, off the thread that draws.

    Parameters
    ----------
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
        self, on_error: Callable[[Exception], None], on_change: Callable[[], None]
    ) -> None:
        super().__init__("fitkit background")
        self._on_error, self._on_change = on_error, on_change
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
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs or self.ending.is_set(), TURN)
                if not self._jobs and self.ending.is_set():
                    return
                words, job = self._jobs.pop(0) if self._jobs else ("", None)
            if job is not None:
                self._work(words, job)
            if not self.ending.is_set():
                self.look_around()

    def look_around(self) -> None:
        """Do what nobody asked for; called between jobs, and often where there are none."""

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
