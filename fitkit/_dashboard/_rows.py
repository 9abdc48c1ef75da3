"""The controls of a parameter, in a row: colour, path, learning rate, freeze, value.

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

from fitkit._fit import Fit
from fitkit._plots import figures

Act = Callable[[Callable[[], Any]], None]  # do it, and show in words what went wrong

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
    """The controls of one parameter, or of several together, at a time."""

    def __init__(self, fit: Fit, act: Act, like: "Row | None" = None):
        self._fit, self._act = fit, act
        self.paths: tuple[str, ...] = ()
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

    def refresh(self, paths: tuple[str, ...], label: str, look: str, value: str) -> None:
        """Show what the fit uses for `paths`, under this label, with this swatch and value."""
        with self.lock:
            if paths != self.paths:
                self.paths = paths
                self._show(label)
            self.swatch.value = look
            self.slider.description = label
            self.value.value = html.escape(value)
            self._agree()

    def _show(self, label: str) -> None:
        relative = self._fit.learning_rates.relative(self.paths[0])
        kind = "Multiplier of the learning rate" if relative else "Learning rate"
        self.slider.tooltip = f"{kind} of {label}, logarithmic: arrow keys move it"
        self.rate.description = self.rate.tooltip = f"{kind} of {label}"
        self.freeze.tooltip = f"Hold {label}, or let go again"
        rate = self._rate()
        middle = 0 if relative or rate <= 0 else int(np.floor(np.log10(rate)))
        # All three in one message, or the browser would clamp the value to ends on their way.
        with self._quietly(), self.slider.hold_sync(), self.slider.hold_trait_notifications():
            self.slider.min, self.slider.max = middle - DECADES, middle + DECADES
            self.slider.value = notch(rate) if rate > 0 else 10.0**middle
            self._reach(rate)

    def _rate(self) -> float:
        """Give the learning rate; of several the geometric mean of those above zero."""
        every = self._fit.learning_rates.snapshot()
        rates = [every[path] for path in self.paths]
        if len(set(rates)) == 1:
            return rounded(rates[0])
        return rounded(float(np.exp(np.mean([math.log(rate) for rate in rates if rate > 0]))))

    def _frozen(self) -> bool:
        return self._fit.frozen.issuperset(self.paths)

    def _reach(self, rate: float) -> None:
        """Lengthen the slider by whole decades until the rate lies on it."""
        if rate > 0:
            self.slider.min = min(self.slider.min, float(np.floor(np.log10(rate))))
            self.slider.max = max(self.slider.max, float(np.ceil(np.log10(rate))))

    def _slid(self, change: Any) -> None:
        with self.lock:
            rate = self._rate()
            if rate <= 0 or rounded(change["new"]) != rounded(notch(rate)):
                self._set_rate(rounded(change["new"]), rate)

    def _typed(self, change: Any) -> None:
        with self.lock:
            rate = self._rate()
            if change["new"] != rate:
                self._set_rate(change["new"], rate)

    def _set_rate(self, new: float, rate: float) -> None:
        if not self._showing:
            self._act(lambda: self._set_rates(new, rate))
            self._agree()

    def _set_rates(self, new: float, rate: float) -> None:
        """Set one learning rate; scale several, so that the ratios between them stay."""
        groups: dict[float, list[str]] = {}
        every = self._fit.learning_rates.snapshot()
        for path in self.paths:
            groups.setdefault(every[path], []).append(path)
        for own, paths in groups.items():
            alone = len(groups) == 1 or rate <= 0
            self._fit.learning_rates[tuple(paths)] = new if alone else own * new / rate

    def _toggled(self, change: Any) -> None:
        with self.lock:
            if not self._showing and change["new"] != self._frozen():
                verb = self._fit.freeze if change["new"] else self._fit.thaw
                self._act(lambda: verb(self.paths))
                self._agree()

    def _agree(self) -> None:
        """Let slider, number and toggle show what the fit has."""
        rate, frozen = self._rate(), self._frozen()
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
