"""The widgets of one dashboard, set from the fit and drawn on."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from fitkit._dashboard.background import Survey
from fitkit._dashboard.eigenvectors import Modes
from fitkit._dashboard.header import Header
from fitkit._dashboard.output import LIVE_CLASS
from fitkit._dashboard.panels import Panels
from fitkit._dashboard.render import Painter, Sketch, blank
from fitkit._dashboard.style import SHEET
from fitkit._dashboard.table import Table
from fitkit._fit import Fit


class Live:
    """Header, picture, directions and rows in one box, and the thread for what takes long.

    Parameters
    ----------
    fit
        The fit to show.
    panels, sketch
        What to draw of it.
    wake
        Asks for a refresh soon, from any thread.
    """

    def __init__(self, fit: Fit, panels: Panels, sketch: Sketch | None, wake: Callable[[], None]):
        self._fit, self._panels, self._sketch, self._wake = fit, panels, sketch, wake
        self._leg = (-1, 0)
        self._trouble = ""
        self.survey = Survey(fit, "spectrum" in panels.names, self._told, wake)
        self.painter = Painter()
        self.header = Header(fit, self._do, self._ask)
        self.modes = Modes(fit, self._do, self._ask)
        self.table = Table(fit, self._do)
        self.image = widgets.Image(value=blank(sketch is not None), format="png")
        self.image.add_class("fitkit-figure")
        if sketch is not None:
            self.image.add_class("fitkit-sketched")
        if "spectrum" not in panels.names:
            self.modes.box.add_class("fitkit-none")
        # An Image can carry no alternative text, and a tooltip breaks its view.
        words = widgets.HTML(f"Plots below: {', '.join(panels.names)}.")
        words.add_class("fitkit-unseen")
        above = [widgets.HTML(SHEET), *self.header.parts, words, self.image]
        self.box = widgets.VBox([*above, self.modes.box, self.table.box])
        self.box.add_class(LIVE_CLASS)

    def refresh_controls(self) -> None:
        """Set every control from the fit."""
        fit = self._fit
        target, step = fit.target, fit.step
        if target != self._leg[0]:
            self._leg = (target, step)
        self.header.refresh(self._leg[1], self.survey.doing)
        drawing = "" if self._sketch is None else self._sketch.trouble
        self.header.say(self._trouble or trouble(fit) or drawing)
        self.modes.refresh()
        self.table.refresh(self._panels.errors())

    def refresh_figure(self) -> None:
        """Draw a frame."""
        panels = self._panels.now(self.table.in_sight(), self.modes.chosen)
        self.image.value = self.painter.frame(panels, self._sketch)

    def close(self) -> None:
        """Free the widgets."""
        self.survey.end()
        dispose(self.box)

    def _do(self, action: Callable[[], Any]) -> None:
        """Do what a control asks, and say in words what went wrong."""
        self._trouble, self.header.saved = "", ""
        try:
            action()
        except Exception as error:
            self._told(error)
        self._wake()

    def _ask(self, words: str, action: Callable[[], Any]) -> None:
        """Do what takes long without holding up the messages of other widgets."""
        self._do(lambda: self.survey.ask(words, action))

    def _told(self, error: Exception) -> None:
        self._trouble = str(error) or type(error).__name__


def trouble(fit: Fit) -> str:
    """Say what stopped the fit, where something did."""
    if fit.error is not None:
        return f"{type(fit.error).__name__}: {fit.error}"
    if fit.status != "non-finite":
        return ""
    report = fit.report  # From now on the message names operation and line, too.
    return f"{fit.message}. Try: {report.advice}" if report else fit.message


def dispose(widget: widgets.Widget) -> None:
    """Close a widget with its children, layout and style."""
    for child in getattr(widget, "children", ()):
        dispose(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, widgets.Widget):
            part.close()
    widget.close()
