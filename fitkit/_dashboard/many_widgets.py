"""The widgets of a dashboard of many systems, set from them and drawn on."""

import html
import threading
import traceback
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from fitkit._dashboard.header import bar, button, duration, headline_with_dot, notice
from fitkit._dashboard.jobs import JobThread
from fitkit._dashboard.layout import Cell, Page
from fitkit._dashboard.output import LIVE_CLASS
from fitkit._dashboard.picture import Picture
from fitkit._dashboard.style import SHEET
from fitkit._dashboard.system import SystemChoice
from fitkit._dashboard.threads import EndingThread
from fitkit._dashboard.widgets import dispose
from fitkit._fit import Status
from fitkit._format import count
from fitkit._plotting import ManyFrame


class LiveMany:
    """Status, buttons, picture and the choice of a system in one box.

    Parameters
    ----------
    now
        The systems at this moment.
    panels
        Names of the plots.
    cells
        Describes what to draw, of a frame and this object.
    refresh_soon, close_soon
        Ask for a refresh, or for the end, from any thread.
    """

    def __init__(
        self,
        now: ManyFrame,
        panels: tuple[str, ...],
        cells: Callable[[ManyFrame, Any], list[Cell]],
        refresh_soon: Callable[[], None],
        close_soon: Callable[[], None],
    ) -> None:
        self._many, self._cells, self._refresh_soon = now.many, cells, refresh_soon
        self._lock = threading.RLock()
        self._refused = self._undrawn = ""
        self._ending = False  # Whether a pause was asked for that has not come yet.
        self.jobs = JobThread(self._show_error, refresh_soon)
        self.status, self.notice = widgets.HTML(), widgets.HTML()
        for one in (self.status, self.notice):
            one.add_class("fitkit-status")
        self.pause = button("Pause", "pause", "Pause, keeping what is finished; resume later")
        self.pause.add_class("fitkit-pause")
        self.stop = button("Stop", "stop", "Give up what is left, keeping what is finished")
        self.leave = button("Close", "times", "Leave the picture alone; the fits go on")
        self.pause.on_click(lambda _: self._act(self._pause_or_resume))
        self.stop.on_click(lambda _: self._act(self._stop))
        self.leave.on_click(lambda _: close_soon())
        spring = widgets.HTML()
        spring.add_class("fitkit-spring")
        buttons = widgets.HBox([self.pause, self.stop, spring, self.leave])
        buttons.add_class("fitkit-buttons")
        self.system = SystemChoice(now.many, self._act, self._ask, self._lock)
        if "map" not in panels:
            self.system.map.add_class("fitkit-none")
        self.picture = Picture(panels, cells(now, self), refresh_soon)
        parts = [widgets.HTML(SHEET), self.status, self.notice, buttons, *self.picture.parts]
        self.box = widgets.VBox([*parts, self.system.box])
        self.box.add_class(LIVE_CLASS)

    @property
    def page(self) -> Page:
        """How wide the picture is shown, as far as the front end told."""
        return self.picture.page

    @property
    def threads(self) -> list[EndingThread]:
        """Results are computed in it."""
        return [self.jobs]

    @property
    def choice(self) -> tuple[str, tuple[int, ...] | None]:
        """The element to map, and the system to mark."""
        return str(self.system.map.value), self.system.chosen

    def refresh_controls(self, now: ManyFrame, ending: Callable[[], bool] = lambda: False) -> None:
        """Set every control from the systems at this moment.

        Parameters
        ----------
        now
            What is known of them.
        ending
            Whether to give up waiting for a control whose message is being handled, because that
            may wait for the present thread to end.
        """
        while not self._lock.acquire(timeout=0.1):
            if ending():
                return
        try:
            busy = now.status.busy
            self._ending = self._ending and busy
            self.status.value = status_line(now, self._ending, self.jobs.doing)
            over = now.status in (Status.READY, Status.FINISHED, Status.FAILED)
            starts = now.status in (Status.READY, Status.STOPPED)
            done = now.status is Status.FINISHED
            words = "Pause" if busy or done else "Start" if starts else "Resume"
            self.pause.description = words
            self.pause.icon = "pause" if words == "Pause" else "play"
            self.pause.disabled = self._ending or done
            self.stop.disabled = self._ending or over or now.status is Status.STOPPED
            error = now.many.error
            problem = "" if error is None else f"{type(error).__name__}: {error}"
            notes = "; ".join(now.many.notes)
            self.notice.value = notice(self._refused or self._undrawn or problem or notes)
            self.system.refresh(now)
        finally:
            self._lock.release()

    def refresh_figure(self, now: ManyFrame) -> None:
        """Draw a frame; under the lock for drawing."""
        self.picture.draw(self._cells(now, self))
        self._undrawn = ""

    def show_failure(self, error: BaseException) -> None:
        """Show why a frame could not be drawn, until one can be."""
        words = f"The dashboard could not draw: {type(error).__name__}: {error}"
        if words != self._undrawn:  # Once, not with every frame.
            traceback.print_exception(error)
        self._undrawn = words
        self.notice.value = notice(self._refused or words)

    def close(self) -> None:
        """Free the widgets."""
        dispose(self.box)

    def _pause_or_resume(self) -> None:
        if self._many.running:
            self._ending = True
            self._many.pause(block=False)
        else:
            self._many.resume()

    def _stop(self) -> None:
        self._ending = self._many.running
        self._many.stop(block=False)

    def _show_error(self, error: Exception) -> None:
        self._refused = str(error) or type(error).__name__
        traceback.print_exception(error)

    def _act(self, action: Callable[[], Any]) -> None:
        """Do what a control asks, and show what it raises."""
        self._refused = ""
        try:
            action()
        except Exception as error:
            self._show_error(error)
        self._refresh_soon()

    def _ask(self, words: str, action: Callable[[], Any]) -> None:
        """Do what takes long without holding up the messages of other widgets."""
        self.jobs.ask(words, action)


def status_line(now: ManyFrame, ending: bool, news: str) -> str:
    """Write the status, how many fits were made, what else happens, and the progress bar."""
    made, total = int(now.completion.made[-1]), len(now.many) * now.many.starts
    noun = "systems" if now.many.starts == 1 else "fits"
    words = [
        headline_with_dot(now.status, "Pausing…" if ending else ""),
        f"<span>{made:,} of {total:,} {noun}</span>",
        f"<span>{int(now.completion.converged[-1]):,} converged</span>",
    ]
    seconds = float(now.completion.seconds[-1])
    done = made - int(now.completion.made[0])
    if now.status is Status.RUNNING and done and seconds:
        left = (total - made) * seconds / done
        words.append(f"<span class='fitkit-dim'>{count(done / seconds)} {noun}/s</span>")
        words.append(f"<span class='fitkit-dim'>{duration(left)} left</span>")
    if news:
        words.append(f"<span class='fitkit-news' role='status'>{html.escape(news)}</span>")
    line = f"<div class='fitkit-line'>{''.join(words)}</div>"
    return line + bar(made / total, now.status, "fits made")
