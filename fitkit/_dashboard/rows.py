"""The controls of a parameter, in a row: colour, path, learning rate, freeze, value.

Widgets hold no state. A control is set from the fit by `refresh`; a change made by hand goes to the
fit unless the fit already has what the control shows, which also ends the echo of `refresh` itself.
"""

import contextlib
import html
import math
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets
import numpy as np

from fitkit._fit import Fit
from fitkit._format import number, with_error
from fitkit._paths import Paths

Act = Callable[[Callable[[], Any]], None]  # do it, and show what it raises
Ask = Callable[[str, Callable[[], Any]], None]  # the same in the background; the words name it
Lock = contextlib.AbstractContextManager[bool]  # a threading.RLock

NOTCHES = 20  # of the slider in a decade
DECADES = 3  # the slider's reach to either side of the learning rate it starts from


def rounded(rate: float) -> float:
    """Round to six significant figures: a float32 rate reads 0.01, not 0.009999999776."""
    return float(f"{rate:.6g}")


def notch(rate: float) -> int:
    """Find the slider's notch nearest to a positive rate, by its number.

    A whole number, because a browser that stands elsewhere by so much as rounding sends back where
    it stands, and that may arrive after the next change.
    """
    return round(math.log10(rate) * NOTCHES)


def rate_at(position: int) -> float:
    """Compute the learning rate at a notch."""
    return rounded(10 ** (position / NOTCHES))


def describe(leaf: Any, errors: np.ndarray | None = None) -> str:
    """Write a parameter's value and error: a number, or the range and shape of an array."""
    values = np.asarray(leaf)
    largest = 0.0 if errors is None else float(np.max(errors))
    error = f" ± {number(largest, 2, typeset=True)}" if largest else ""
    if values.size == 1:
        value = float(values.reshape(()))
        if largest and np.isfinite(largest) and np.isfinite(value):
            return with_error(value, largest, typeset=True)
        return number(value, typeset=True) + error
    low, high = (number(float(one), typeset=True) for one in (values.min(), values.max()))
    return f"{low} … {high}{error} ({'×'.join(map(str, values.shape))})"


def under(lock: Lock, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that runs `function` with the lock held."""

    def locked(*args: Any) -> Any:
        with lock:
            return function(*args)

    return locked


class Row:
    """The controls of one parameter, or of several together, at a time.

    Parameters
    ----------
    fit
        The fit.
    act
        Does what a control asks.
    lock
        Held while a control's message is handled, and while controls are set.
    like
        A row whose layouts and styles this one shares.
    opened
        Called with the paths of a group whose parameters are to be shown.
    """

    def __init__(
        self,
        fit: Fit,
        act: Act,
        lock: Lock,
        like: "Row | None" = None,
        opened: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        self._fit, self._act = fit, act
        self.paths: tuple[str, ...] = ()
        self._lock = lock
        # Rows share layouts and styles: each would be a message channel of its own.
        plain = widgets.Layout() if like is None else like.box.layout

        def share(name: str) -> dict[str, Any]:
            return {"layout": plain} | ({"style": getattr(like, name).style} if like else {})

        self.swatch = widgets.HTML(**share("swatch"))
        reach = DECADES * NOTCHES
        self.slider = widgets.IntSlider(min=-reach, max=reach, readout=False, **share("slider"))
        self.rate = widgets.FloatText(**share("rate"))
        self.reset = widgets.Button(icon="refresh", **share("reset"))
        self.freeze = widgets.ToggleButton(**share("freeze"))
        self.open = widgets.Button(icon="chevron-right", **share("open"))
        self.name = widgets.HTML(**share("name"))
        self.value = widgets.HTML(**share("value"))
        names = ("swatch", "open", "name", "value", "slider", "rate", "reset", "freeze")
        for name in names:
            getattr(self, name).add_class(f"fitkit-{name}")
        for button in (self.reset, self.open):
            button.add_class("fitkit-icon")
        self.box = widgets.HBox([getattr(self, name) for name in names], layout=plain)
        self.box.add_class("fitkit-row")
        for control in (self.slider, self.rate, self.freeze):
            # A refresh that came between a message and its observers would undo the message.
            control.set_state = under(lock, control.set_state)
        self._showing = False
        self._shown: tuple[tuple[str, ...], str, bool] | None = None
        self._agreed: tuple[float, bool] | None = None
        self.slider.observe(self._slid, "value")
        self.rate.observe(self._typed, "value")
        self.freeze.observe(self._toggled, "value")
        self.reset.on_click(lambda _: act(lambda: fit.learning_rates.reset(self.paths)))
        self.open.on_click(lambda _: act(lambda: opened and opened(self.paths)))

    def refresh(
        self, paths: tuple[str, ...], label: str, look: str, value: str, opens: bool = False
    ) -> None:
        """Show what the fit uses for `paths`, under this label, with this swatch and value."""
        with self._lock:
            relative = self._fit.learning_rates.relative(paths[0])
            shown = paths, label, relative
            if shown != self._shown:
                self.paths, self._shown = paths, shown
                self._show(label, relative)
            self.swatch.value = look
            self.value.value = html.escape(value)
            (self.box.add_class if opens else self.box.remove_class)("fitkit-group")
            self._agree()

    def _show(self, label: str, relative: bool) -> None:
        kind = "Multiplier of the learning rate" if relative else "Learning rate"
        note = " (above 1 it counts as 1 for gauss_newton)" if relative else ""
        name = html.escape(label)
        self.name.value = f"<span title='{name}'>{name}</span>"
        self.slider.description = label
        self.slider.tooltip = f"{kind} of {label}{note}, logarithmic: arrow or page keys move it"
        self.rate.description = self.rate.tooltip = f"{kind} of {label}"
        self.reset.description = f"Reset the learning rate of {label}"
        self.reset.tooltip = f"Set {label} to the learning rate that the fit was made with"
        self.open.description = self.open.tooltip = f"Show the parameters of {label}"
        self.freeze.tooltip = f"Freeze {label}, or let it move again"
        rate = self._rate()
        middle = 0 if relative or rate <= 0 else int(np.floor(np.log10(rate)))
        # All three in one message, or the browser would clamp the value to ends on their way.
        with self._quietly(), self.slider.hold_sync(), self.slider.hold_trait_notifications():
            self.slider.min = (middle - DECADES) * NOTCHES
            self.slider.max = (middle + DECADES) * NOTCHES
            self.slider.value = notch(rate) if rate > 0 else middle * NOTCHES
            self._reach(rate)

    def _rate(self) -> float:
        """Compute the learning rate; of several the geometric mean of those above zero."""
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
            self.slider.min = min(self.slider.min, math.floor(math.log10(rate)) * NOTCHES)
            self.slider.max = max(self.slider.max, math.ceil(math.log10(rate)) * NOTCHES)

    def _slid(self, change: Any) -> None:
        with self._lock:
            rate = self._rate()
            if rate <= 0 or change["new"] != notch(rate):
                self._set_rate(rate_at(change["new"]), rate)

    def _typed(self, change: Any) -> None:
        with self._lock:
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
        if len(groups) == 1 or rate <= 0:
            self._fit.learning_rates[self.paths] = new
        else:
            rates: dict[Paths, float] = {
                tuple(paths): own * new / rate for own, paths in groups.items()
            }
            self._fit.learning_rates.update(rates)

    def _toggled(self, change: Any) -> None:
        with self._lock:
            if not self._showing and change["new"] != self._frozen():
                verb = self._fit.freeze if change["new"] else self._fit.thaw
                self._act(lambda: verb(self.paths))
                self._agree()

    def _agree(self) -> None:
        """Let slider, number and toggle show what the fit has."""
        rate, frozen = self._rate(), self._frozen()
        seen = self.rate.value, self.freeze.value
        if (rate, frozen) == seen == self._agreed and (
            rate <= 0 or self.slider.value == notch(rate)
        ):
            return  # Most often: to set a widget takes long even where nothing changes.
        self._agreed = rate, frozen
        with self._quietly():
            self._reach(rate)
            if rate > 0:
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
