"""The widgets of one dashboard, set from the fit and drawn on."""

import threading
import traceback
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from fitkit._dashboard.background import BackgroundThread
from fitkit._dashboard.beside_loss import BesideLoss
from fitkit._dashboard.by_hand import ByHand
from fitkit._dashboard.card import Card
from fitkit._dashboard.eigenvectors import Eigenvectors
from fitkit._dashboard.header import Header
from fitkit._dashboard.layout import Cell, Page
from fitkit._dashboard.loss_toggles import LossToggles
from fitkit._dashboard.output import LIVE_CLASS
from fitkit._dashboard.panels import Panels
from fitkit._dashboard.picture import Picture
from fitkit._dashboard.style import SHEET
from fitkit._dashboard.table import Table
from fitkit._dashboard.threads import EndingThread
from fitkit._fit import Fit, Snapshot, Status

LOCK_TURN = 0.1  # seconds between two looks at whether to go on waiting for a lock


class LiveWidgets:
    """Header, picture, eigenvectors and rows in one box, and the thread for what takes long.

    Parameters
    ----------
    fit
        The fit to show.
    panels
        What to draw of it.
    refresh_soon
        Asks for a refresh, from any thread.
    """

    def __init__(self, fit: Fit, panels: Panels, refresh_soon: Callable[[], None]) -> None:
        self._fit, self._panels, self._refresh_soon = fit, panels, refresh_soon
        # Held while a control's message is handled, and while controls are set: a refresh that
        # came between a message and its observers would undo the message.
        self._lock = threading.RLock()
        self._latest = fit.snapshot
        self._run: tuple[int | None, int] = (-1, 0)
        self._refused = self._undrawn = ""
        spectrum = "spectrum" in panels.names
        self.beside_loss = BesideLoss(fit)
        unasked = (*panels.unasked, *self.beside_loss.unasked)
        self.background = BackgroundThread(fit, spectrum, unasked, self.show_error, refresh_soon)
        self.by_hand = ByHand(fit, self._act, self._ask, self._lock)
        more = [self.by_hand.values, self.by_hand.code]
        self.header = Header(fit, self._act, self._ask, more)
        self.card = Card(fit, self._ask)
        self.loss_toggles = LossToggles(panels, self._act)
        self.eigenvectors = Eigenvectors(
            fit, self._act, self._ask, self._lock, self.background.renew
        )
        self.table = Table(fit, self._act, self._lock)
        self.picture = Picture(panels.names, self._cells(self._latest), refresh_soon)
        if not spectrum:
            self.eigenvectors.box.add_class("fitkit-none")
        above = [widgets.HTML(SHEET), *self.header.parts, self.beside_loss.line, self.card.box]
        above.append(self.by_hand.text)
        above.append(self.loss_toggles.box)
        below = [self.by_hand.box, self.eigenvectors.box, self.table.box]
        self.box = widgets.VBox([*above, *self.picture.parts, *below])
        self.box.add_class(LIVE_CLASS)

    @property
    def page(self) -> Page:
        """How wide the picture is shown, as far as the front end told."""
        return self.picture.page

    @property
    def threads(self) -> list[EndingThread]:
        """What takes long happens in it."""
        return [self.background]

    def refresh_controls(self, now: Snapshot, ending: Callable[[], bool] = lambda: False) -> None:
        """Set every control from the fit at this moment, or at a later one that was shown already.

        Parameters
        ----------
        now
            The fit at this moment.
        ending
            Whether to give up waiting for a control whose message is being handled, because that
            may wait for the present thread to end.
        """
        problem = fit_problem(self._fit, now)
        while not self._lock.acquire(timeout=LOCK_TURN):
            if ending():
                return
        try:
            now = self._latest = max(now, self._latest, key=lambda snapshot: snapshot.version)
            if now.target != self._run[0] or now.step < self._run[1]:
                self._run = now.target, now.step
            self.header.refresh(now, self._run[1], self.background.doing)
            self.header.say(self._refused or self._undrawn or problem or self._panels.problem)
            self.beside_loss.refresh()
            self.card.refresh(now)
            self.by_hand.refresh(now, self.table.in_sight())
            self.eigenvectors.refresh(now)
            self.table.refresh(now, self._panels.errors(now))
        finally:
            self._lock.release()

    def refresh_figure(self, now: Snapshot) -> None:
        """Draw a frame; under the lock for drawing."""
        self._panels.no_spectrum = self.background.problem
        self.picture.draw(self._cells(now))
        self._undrawn = ""

    def show_failure(self, error: BaseException) -> None:
        """Show why a frame could not be drawn, until one can be."""
        words = f"The dashboard could not draw: {type(error).__name__}: {error}"
        if words != self._undrawn:  # Once, not with every frame.
            traceback.print_exception(error)
        self._undrawn = words
        self.header.say(self._refused or words)

    def show_error(self, error: Exception) -> None:
        """Show what an action raised, until the next one."""
        self._refused = str(error) or type(error).__name__
        traceback.print_exception(error)

    def close(self) -> None:
        """Free the widgets."""
        dispose(self.box)

    def _cells(self, now: Snapshot) -> list[Cell]:
        entries, chosen = self.table.in_sight(), self.eigenvectors.chosen
        return self._panels.cells(self._fit, now, entries, chosen)

    def _act(self, action: Callable[[], Any]) -> None:
        """Do what a control asks, and show what it raises."""
        self._refused, self.header.saved = "", ""
        try:
            action()
        except Exception as error:
            self.show_error(error)
        self._refresh_soon()

    def _ask(self, words: str, action: Callable[[], Any]) -> None:
        """Do what takes long without holding up the messages of other widgets."""
        self._act(lambda: self.background.ask(words, action))


def fit_problem(fit: Fit, now: Snapshot) -> str:
    """Describe what stopped the fit, where something did; that may take a second."""
    if now.error is not None:
        return f"{type(now.error).__name__}: {now.error}"
    if now.status is not Status.NON_FINITE:
        return ""
    _ = fit.report  # From now on the message names operation and line; the card has all of it.
    return fit.message


def dispose(widget: widgets.Widget) -> None:
    """Close a widget with its children, layout and style."""
    for child in getattr(widget, "children", ()):
        dispose(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, widgets.Widget):
            part.close()
    widget.close()
