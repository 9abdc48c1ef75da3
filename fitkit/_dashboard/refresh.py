"""The thread that keeps a dashboard up to date, within its share of a core."""

import atexit
import threading
import time
import weakref
from typing import Protocol, runtime_checkable

from fitkit._dashboard.header import BUSY
from fitkit._fit import Fit

INTERVAL = 0.5  # seconds between frames, and
SHARE = 0.05  # at most this share of a core spent on drawing them
SLOWEST = 2.0  # but a frame at least this often

# One for all dashboards: matplotlib does not draw in two threads at a time.
LOCK = threading.RLock()


class Shown(Protocol):
    """What is kept up to date."""

    def tick(self, draw: bool) -> None:
        """Set the controls from the fit, and draw a frame or not."""


@runtime_checkable
class Ending(Protocol):
    """A thread that ends when asked."""

    def end(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...


# Threads that must not be inside matplotlib or JAX while the interpreter goes down.
_alive: "weakref.WeakSet[Ending]" = weakref.WeakSet()


def end_at_exit(thread: Ending) -> None:
    """Ask the thread to end, and wait for it a moment, before the interpreter goes down."""
    _alive.add(thread)


@atexit.register
def _end_all() -> None:
    threads = list(_alive)
    for thread in threads:
        thread.end()
    for thread in threads:
        thread.join(2.0)


class Watch(threading.Thread):
    """Refreshes a dashboard whenever its fit changed, until it is closed or forgotten."""

    def __init__(self, dashboard: "weakref.ref[Shown]", fit: Fit):
        super().__init__(name="fitkit dashboard", daemon=True)
        self._dashboard, self._fit = dashboard, fit
        self._stop_asked, self._wake = threading.Event(), threading.Event()

    def end(self) -> None:
        """Let the thread finish what it draws, and no more."""
        self._stop_asked.set()
        self._wake.set()

    def ask(self) -> None:
        """Let the thread refresh soon, though the fit did not change."""
        self._wake.set()

    def run(self) -> None:
        seen = drawn = -1
        due, rested, asked = 0.0, False, False
        while not self._stop_asked.is_set():
            patience = 1.0 if seen == drawn and not asked else max(0.0, due - time.monotonic())
            version = self._fit.wait_for_change(seen, timeout=patience)
            asked = asked or self._wake.is_set()
            self._wake.clear()
            now, resting = time.monotonic(), self._fit.status not in BUSY
            # The frame in which a fit comes to rest is drawn at once, and so is the last of all.
            draw = (version != drawn or asked) and (now >= due or (resting and not rested))
            if version == seen and not draw and not asked:
                continue
            begun = time.thread_time()
            with LOCK:
                dashboard = self._dashboard()
                if dashboard is None or self._stop_asked.is_set():
                    return
                dashboard.tick(draw)
                del dashboard
            seen = version
            if draw:
                drawn, rested, asked = version, resting, False
                spent = time.thread_time() - begun
                due = now + min(max(INTERVAL, spent / SHARE), SLOWEST)
            self._wake.wait(INTERVAL / 4)
