"""What is done by hand: values set while the fit rests, and all of it as code to be copied."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np

from fitkit._dashboard.rows import Act, Ask, Lock, rounded, under
from fitkit._fit import Fit, Snapshot
from fitkit._paths import element_name, named_leaves
from fitkit._plotting import Entry

MOST = 24  # numbers at a time, each with a slider: more make a page slow
LARGEST = 12  # elements of a vector that is offered by element
NOTCHES = 400  # of a slider of values: finer than a hand is
WIDE = 100.0  # from which ratio of positive bounds on a slider is logarithmic
REACH = 1000.0  # by which factor a logarithmic slider without bounds goes up and down
FAR = 3.0  # as many times the value, or 1, a linear slider without bounds goes up and down


class Scale(NamedTuple):
    """The values along a slider."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, value: float, lower: float, upper: float) -> "Scale":
        """Choose one for a value between its bounds, which may be infinite.

        It is logarithmic where the bounds say that the value is positive and of no known size.
        """
        endless = lower == 0 < value and upper == math.inf
        if endless or (lower > 0 and upper / lower >= WIDE):
            return cls(max(lower, value / REACH), min(upper, value * REACH), True)
        far = FAR * (abs(value) or 1.0)
        return cls(
            value - far if lower == -math.inf else lower,
            value + far if upper == math.inf else upper,
            False,
        )

    def at(self, notch: int) -> float:
        """Compute the value at a notch."""
        share = notch / NOTCHES
        if notch in (0, NOTCHES):
            return self.high if notch else self.low  # Rounding must not leave the bounds.
        if self.logarithmic:
            return rounded(self.low * (self.high / self.low) ** share)
        return rounded(self.low + (self.high - self.low) * share)

    def notch(self, value: float) -> int:
        """Find the notch nearest to a value."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * NOTCHES)


def as_written(number: Any) -> float:
    """Return the shortest number that is the same in its precision: of float32's 0.1, 0.1."""
    return float(str(number))


class ByHand:
    """A slider and a number for each value in sight, and the code of what was done.

    Parameters
    ----------
    fit
        The fit.
    act, ask
        Do what a control asks, here or in the background.
    lock
        Held while a control's message is handled, and while controls are set.
    """

    def __init__(self, fit: Fit, act: Act, ask: Ask, lock: Lock) -> None:
        self._fit, self._ask, self._lock = fit, ask, lock
        bounds = fit.snapshot.place.program.bounds
        self._bounds = {} if bounds is None else bounds.by_path()
        self.values = widgets.ToggleButton(
            description="Set values", icon="sliders", tooltip="Set values by hand, then run"
        )
        self.code = widgets.ToggleButton(
            description="Copy as code", icon="code", tooltip="What was done by hand, as Python"
        )
        for button in (self.values, self.code):
            button.layout.width = "auto"
            button.observe(lambda _: act(lambda: None), "value")
        self.text = widgets.Textarea(
            description="code", tooltip="fit.events.as_code()", rows=8, layout={"width": "100%"}
        )
        self.text.add_class("fitkit-code")
        self.text.add_class("fitkit-none")
        self.numbers: list[Number] = []
        self.box = widgets.VBox()
        self._wanted: dict[tuple[str, tuple[int, ...]], float] = {}
        self._gate = threading.Lock()

    def refresh(self, now: Snapshot, entries: Sequence[Entry]) -> None:
        """Show values at this moment of the parameters in sight, and the code so far."""
        (self.text.remove_class if self.code.value else self.text.add_class)("fitkit-none")
        if self.code.value:
            code = self._fit.events.as_code() or "# Nothing was done by hand yet."
            if self.text.value != code:
                self.text.value = code
        busy = now.status.busy
        self.values.disabled = busy
        if not self.values.value or busy:
            entries = ()
        leaves = named_leaves(now.place.view.params) if entries else {}
        elements = {
            (entry.paths[0], index): as_written(np.asarray(leaves[entry.paths[0]])[index])
            for entry in entries
            if not entry.group and leaves[entry.paths[0]].size <= LARGEST
            for index in np.ndindex(leaves[entry.paths[0]].shape)
        }
        elements = dict(list(elements.items())[:MOST])
        if [number.element for number in self.numbers] != list(elements):
            old = self.numbers
            self.numbers = [self._number(*element) for element in elements]
            self.box.children = [number.box for number in self.numbers]
            for number in old:
                number.close()
        for number, value in zip(self.numbers, elements.values(), strict=True):
            # What a person wants comes before what the fit has not got yet.
            number.show(self._wanted.get(number.element, value))

    def _number(self, path: str, index: tuple[int, ...]) -> "Number":
        limits = -math.inf, math.inf
        if path in self._bounds:
            lower, upper = self._bounds[path]
            limits = float(lower[index]), float(upper[index])
        return Number((path, index), limits, self._set, self._lock)

    def _set(self, element: tuple[str, tuple[int, ...]], value: float) -> None:
        with self._gate:
            waits = bool(self._wanted)
            self._wanted[element] = value
        if not waits:  # A slider on its way asks for more than can be evaluated.
            self._ask("Setting values…", self._carry_out)

    def _carry_out(self) -> None:
        with self._gate:
            wanted, self._wanted = self._wanted, {}
        leaves = named_leaves(self._fit.params)
        values = {path: np.array(leaves[path]) for path, _ in wanted}
        for (path, index), value in wanted.items():
            values[path][index] = value
        self._fit.set_values(values)


class Number:
    """One value: a number, and a slider that is logarithmic where that fits."""

    def __init__(
        self,
        element: tuple[str, tuple[int, ...]],
        limits: tuple[float, float],
        set_value: Callable[[tuple[str, tuple[int, ...]], float], None],
        lock: Lock,
    ) -> None:
        self.element, self._limits, self._set, self._lock = element, limits, set_value, lock
        name = element_name(*element)
        self.number = widgets.FloatText(description=name, tooltip=f"Value of {name}")
        self.slider = widgets.IntSlider(
            max=NOTCHES,
            readout=False,
            description=f"value of {name}",
            tooltip=f"Value of {name}: arrow or page keys move it",
            layout={"flex": "1 1 auto"},
        )
        self.box = widgets.HBox([self.number, self.slider])
        self.box.add_class("fitkit-number")
        self._scale: Scale | None = None
        self._value = math.nan
        self._showing = False
        for control in (self.number, self.slider):
            control.set_state = under(lock, control.set_state)
        self.number.observe(self._typed, "value")
        self.slider.observe(self._slid, "value")

    def show(self, value: float) -> None:
        """Show a value."""
        scale = self._scale
        if scale is None or not scale.low <= value <= scale.high:
            self._scale = scale = Scale.of(value, *self._limits)
        self._value = value
        with self._quietly():
            self.number.value = value
            self.slider.value = scale.notch(value)

    def close(self) -> None:
        """Free the widgets."""
        for widget in (self.number, self.slider, self.box):
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if isinstance(part, widgets.Widget):
                    part.close()

    def _typed(self, change: Any) -> None:
        with self._lock:
            if not self._showing and change["new"] != self._value:
                self._set(self.element, change["new"])

    def _slid(self, change: Any) -> None:
        with self._lock:
            if self._showing or self._scale is None:
                return
            if change["new"] != self._scale.notch(self._value):
                self._set(self.element, self._scale.at(change["new"]))

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        self._showing = True
        try:
            yield
        finally:
            self._showing = False
