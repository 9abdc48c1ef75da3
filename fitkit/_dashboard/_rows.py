"""A row of controls per parameter: colour, path, learning rate, freeze, value.

Widgets hold no state. A control is set from the fit by `refresh`; a change made by hand goes to the
fit unless the fit already has what the control shows, which also ends the echo of `refresh` itself.
"""

import contextlib
import html
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets
import numpy as np

from fitkit._names import named_leaves
from fitkit._plots import colour, dash, figures

Act = Callable[[Callable[[], Any]], None]  # do it, and show in words what went wrong

VISIBLE = 12  # rows at a time; a hundred more would make the page crawl
NOTCH = 0.05  # decades between two notches of the slider
DECADES = 3  # the slider's reach to either side of the learning rate it starts from


def rounded(rate: float) -> float:
    """Six significant figures: a float32 rate reads 0.01, not 0.009999999776."""
    return float(f"{rate:.6g}")


def notch(rate: float) -> float:
    """Give the value of the slider's notch nearest to a positive rate.

    A browser moves a slider that stands between two notches to one of them and sends that back,
    which would change a rate that nobody touched.
    """
    return float(10 ** (round(math.log10(rate) / NOTCH) * NOTCH))


def describe(leaf: Any) -> str:
    """Write a parameter's value: a number, or the shape and range of an array."""
    values = np.asarray(leaf)
    if values.size == 1:
        return figures(float(values.reshape(())))
    low, high = figures(float(values.min())), figures(float(values.max()))
    return f"{low} … {high} ({'×'.join(map(str, values.shape))})"


class Row:
    """The controls of one parameter at a time."""

    def __init__(self, fit: Any, act: Act, like: "Row | None" = None):
        self._fit, self._act = fit, act
        self.path = ""
        self.lock = threading.RLock()
        # Rows share layouts and styles: each would be a message channel of its own.
        plain = widgets.Layout() if like is None else like.box.layout

        def share(name: str) -> dict[str, Any]:
            return {"layout": plain} | ({"style": getattr(like, name).style} if like else {})

        self.swatch = widgets.HTML(**share("swatch"))
        self.slider = widgets.FloatLogSlider(
            min=-DECADES, max=DECADES, step=NOTCH, readout=False, **share("slider")
        )
        self.rate = widgets.FloatText(**share("rate"))
        self.freeze = widgets.ToggleButton(**share("freeze"))
        self.value = widgets.HTML(**share("value"))
        for name in ("swatch", "slider", "rate", "freeze", "value"):
            getattr(self, name).add_class(f"fitkit-{name}")
        parts = [self.swatch, self.slider, self.rate, self.freeze, self.value]
        self.box = widgets.HBox(parts, layout=plain)
        self.box.add_class("fitkit-row")
        self._showing = False
        self.slider.observe(self._slid, "value")
        self.rate.observe(self._typed, "value")
        self.freeze.observe(self._toggled, "value")

    def refresh(self, path: str, index: int, leaf: Any) -> None:
        """Show what the fit uses for `path`, parameter number `index`, whose value is `leaf`."""
        with self.lock:
            if path != self.path:
                self._show(path, index)
            self._agree()
            self.value.value = html.escape(describe(leaf))

    def _show(self, path: str, index: int) -> None:
        self.path = path
        kind = "multiplier of the learning rate" if self._relative() else "learning rate"
        line = f"border-top-style:{dash(index)[0]};border-top-color:{colour(index)}"
        self.swatch.value = f"<i style='{line}'></i>"
        self.slider.description = path
        self.slider.tooltip = f"{kind.capitalize()} of {path}, logarithmic: arrow keys move it"
        self.rate.description = f"{kind} of {path}"
        self.rate.tooltip = f"{kind.capitalize()} of {path}"
        self.freeze.tooltip = f"Hold {path} where it is, or let it go again"
        rate = rounded(self._fit.learning_rates[path])
        middle = 0 if self._relative() or rate <= 0 else int(np.floor(np.log10(rate)))
        # All three in one message, or the browser would clamp the value to ends on their way.
        with self._quietly(), self.slider.hold_sync(), self.slider.hold_trait_notifications():
            self.slider.min, self.slider.max = middle - DECADES, middle + DECADES
            self.slider.value = notch(rate) if rate > 0 else 10.0**middle

    def _relative(self) -> bool:
        return bool(self._fit.learning_rates.relative(self.path))

    def _reach(self, rate: float) -> None:
        """Lengthen the slider by whole decades until the rate lies on it."""
        if rate > 0:
            self.slider.min = min(self.slider.min, float(np.floor(np.log10(rate))))
            self.slider.max = max(self.slider.max, float(np.ceil(np.log10(rate))))

    def _slid(self, change: Any) -> None:
        with self.lock:
            rate = self._fit.learning_rates[self.path]
            if rate <= 0 or rounded(change["new"]) != rounded(notch(rate)):
                self._set_rate(rounded(change["new"]))

    def _typed(self, change: Any) -> None:
        with self.lock:
            if change["new"] != rounded(self._fit.learning_rates[self.path]):
                self._set_rate(change["new"])

    def _set_rate(self, rate: float) -> None:
        if not self._showing:
            self._act(lambda: self._fit.learning_rates.__setitem__(self.path, rate))
            self._agree()

    def _toggled(self, change: Any) -> None:
        with self.lock:
            if not self._showing and change["new"] != (self.path in self._fit.frozen):
                verb = self._fit.freeze if change["new"] else self._fit.thaw
                self._act(lambda: verb(self.path))
                self._agree()

    def _agree(self) -> None:
        """Let slider, number and toggle show what the fit has."""
        rate = rounded(self._fit.learning_rates[self.path])
        frozen = self.path in self._fit.frozen
        with self._quietly():
            self._reach(rate)
            # Not where only rounding differs: answering a move would undo the next one on its way.
            if rate > 0 and rounded(self.slider.value) != rounded(notch(rate)):
                self.slider.value = notch(rate)
            self.rate.value = rate
            self.freeze.value = frozen
            self.freeze.description = "Frozen" if frozen else "Freeze"
            (self.box.add_class if frozen else self.box.remove_class)("fitkit-frozen")

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        """Set widgets without taking their changes for a person's; under the lock."""
        before, self._showing = self._showing, True
        try:
            yield
        finally:
            self._showing = before


class Rows:
    """The rows in sight of all parameters, with a filter and pages where they are many."""

    def __init__(self, fit: Any, act: Act):
        self._fit = fit
        self.rows = [Row(fit, act)]
        self.rows += [Row(fit, act, self.rows[0]) for _ in range(min(len(fit.names), VISIBLE) - 1)]
        self.head = widgets.HTML(self._headings())
        self.head.add_class("fitkit-head")
        self.box = widgets.VBox([self.head, *(row.box for row in self.rows)])
        self.box.add_class("fitkit-rows")

    def _headings(self) -> str:
        relative = {self._fit.learning_rates.relative(path) for path in self._fit.names}
        rate = "learning rate" if relative == {False} else "× learning rate"
        columns = ("swatch", ""), ("slider", "parameter"), ("rate", rate), ("freeze", "")
        cells = "".join(f"<span class='fitkit-{name}'>{words}</span>" for name, words in columns)
        return f"<div class='fitkit-columns'>{cells}<span class='fitkit-value'>value</span></div>"

    def in_sight(self) -> dict[str, int]:
        """Give path and number of every parameter that has a row now."""
        return dict(zip(self._fit.names[: len(self.rows)], range(len(self.rows)), strict=True))

    def refresh(self) -> None:
        """Set every control in sight from the fit."""
        leaves = named_leaves(self._fit.params)
        for row, (path, index) in zip(self.rows, self.in_sight().items(), strict=False):
            row.refresh(path, index, leaves[path])
