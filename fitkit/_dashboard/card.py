"""The card of a fit that went non-finite: where, why, and what can be done."""

import html

import ipywidgets as widgets

from fitkit._dashboard.rows import Ask
from fitkit._fit import Fit, Snapshot, Status
from fitkit._paths import Paths


class Card:
    """Shows the report of a non-finite fit, with buttons that take back what led there.

    Parameters
    ----------
    fit
        The fit.
    ask
        Does what a button asks, in the background.
    """

    def __init__(self, fit: Fit, ask: Ask) -> None:
        self._fit = fit
        self.words = widgets.HTML()
        self.undo = widgets.Button(description="Undo", icon="undo")
        self.rewind = widgets.Button(description="Rewind", icon="step-backward")
        self.lower = widgets.Button(description="Lower the rate", icon="level-down")
        self.undo.on_click(lambda _: ask("Undoing…", fit.undo))
        self.rewind.on_click(lambda _: ask("Rewinding…", lambda: fit.rewind(fit.best.step)))
        self.lower.on_click(lambda _: ask("Rewinding…", self._lower))
        buttons = widgets.HBox([self.undo, self.rewind, self.lower])
        buttons.add_class("fitkit-buttons")
        self.box = widgets.VBox([self.words, buttons])
        self.box.add_class("fitkit-card")
        self.box.add_class("fitkit-none")

    def refresh(self, now: Snapshot) -> None:
        """Show the report that is known, or nothing."""
        report = self._fit.report if now.status is Status.NON_FINITE else None
        if report is None:
            self.box.add_class("fitkit-none")
            return
        done = [event for event in now.events if event.code]
        last = f"The last thing done, at step {done[-1].step:,}: {done[-1].text}." if done else ""
        self.words.value = f"{report._repr_html_()}<p>{html.escape(last)}</p>"
        undoable = self._fit.undoable
        self.undo.disabled = not undoable
        self.undo.tooltip = f"Take back: {undoable}" if undoable else "Nothing to take back"
        best = now.lowest.step
        self.rewind.tooltip = f"Return to the lowest loss, at step {best:,}"
        paths = concerned(now, report.origin)
        which = paths if isinstance(paths, str) else "all parameters"
        self.lower.tooltip = f"Halve the learning rate of {which}, and return to step {best:,}"
        self.box.remove_class("fitkit-none")

    def _lower(self) -> None:
        fit = self._fit
        report, rates = fit.report, fit.learning_rates
        paths = concerned(fit.snapshot, None if report is None else report.origin)
        paths = (paths,) if isinstance(paths, str) else paths
        halved: dict[Paths, float] = {path: rates[path] / 2 for path in paths}
        rates.update(halved)
        fit.rewind(fit.best.step)


def concerned(now: Snapshot, origin: str | None) -> str | tuple[str, ...]:
    """Find the parameter that a report names, maybe by an element; all of them if it names none."""
    for path in now.steering.names:
        if origin is not None and (origin == path or origin.startswith(f"{path}[")):
            return path
    return now.steering.names
