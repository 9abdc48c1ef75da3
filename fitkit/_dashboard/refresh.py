"""The thread that keeps a dashboard up to date, within its share of a core."""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from fitkit._dashboard.subject import Watched
from fitkit._dashboard.threads import EndingThread

INTERVAL = 0.5  # seconds between frames, and
SHARE = 0.05  # at most this share of a core spent on drawing them
SLOWEST = 2.0  # but a frame at least this often
NAP = 0.1  # seconds at a time that it sleeps at most, and so needs to end or to answer a control

# One for all dashboards: matplotlib does not draw in two threads at a time.
DRAWING_LOCK = threading.RLock()


@runtime_checkable
class Refreshed(Protocol):
    """What is kept up to date."""

    def update(self, draw: bool, ending: Callable[[], bool]) -> None:
        """Set the controls from the fit, and draw a frame or not, unless all is to end."""

    def release(self) -> object:
        """Free the widgets."""


class RefreshThread(EndingThread):
    """Refreshes a dashboard whenever what it shows changed, until it is closed or forgotten.

    Parameters
    ----------
    dashboard
        Returns the dashboard, or None once nobody holds that any more.
    watched
        What it shows.
    """

    def __init__(self, dashboard: Callable[[], Refreshed | None], watched: Watched) -> None:
        super().__init__("fitkit dashboard")
        self._dashboard, self._watched = dashboard, watched
        self._wake, self._closing = threading.Event(), threading.Event()

    def end(self) -> None:
        """Ask it to finish what it draws, and no more."""
        super().end()
        self._wake.set()

    def refresh_soon(self) -> None:
        """Refresh soon, though the fit did not change."""
        self._wake.set()

    def close_soon(self) -> None:
        """Close the dashboard from this thread, so that no widget's message waits for a drawing."""
        self._closing.set()
        self._wake.set()

    def run(self) -> None:
        seen = drawn = -1
        due, rested, asked = 0.0, False, False
        while not self.ending.is_set():
            patience = NAP if seen == drawn and not asked else max(0.0, due - time.monotonic())
            version = self._watched.wait_for_change(seen, timeout=min(patience, NAP))
            if self._wake.is_set():  # Whoever asks between the two lines is answered as well.
                self._wake.clear()
                asked = True
            now, resting = time.monotonic(), not self._watched.status.busy
            # The frame in which a fit comes to rest is drawn at once, and so is the last of all.
            draw = (version != drawn or asked) and (now >= due or (resting and not rested))
            if version == seen and not draw and not asked:
                if self._dashboard() is None:
                    return
                continue
            begun = time.thread_time()
            dashboard = self._dashboard()
            if dashboard is None:
                return
            self._refresh(dashboard, draw)
            del dashboard
            seen = version
            if draw:
                drawn, rested, asked = version, resting, False
                spent = time.thread_time() - begun
                pause = min(max(INTERVAL, spent / SHARE), SLOWEST)
                # At rest only a person changes it, who wants to see what that does.
                due = now + (INTERVAL / 4 if resting else pause)
            self._wake.wait(INTERVAL / 2)

    def _refresh(self, dashboard: Refreshed, draw: bool) -> None:
        try:
            if self._closing.is_set():
                dashboard.release()
            else:
                dashboard.update(draw, self.ending.is_set)
        except BaseException as error:  # A user's function that calls sys.exit is no reason to end.
            traceback.print_exception(error)
