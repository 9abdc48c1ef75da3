"""How the loss is drawn: on which axis, above what, smoothed, and of which steps."""

import ipywidgets as widgets

from fitkit._dashboard.panels import Panels
from fitkit._dashboard.rows import Act
from fitkit._plotting import LossLook

ALL, TAIL = (0, 100), (90, 100)  # per cent of the steps


class LossToggles:
    """Toggles and a slider above the picture.

    Parameters
    ----------
    panels
        What is drawn; it remembers how.
    act
        Does what a control asks.
    """

    def __init__(self, panels: Panels, act: Act) -> None:
        self.linear = _toggle("Linear loss", "Draw the loss on a linear axis")
        self.above = _toggle("Above lowest", "Draw by how much the loss is above the lowest")
        self.smooth = _toggle("Smooth", "Draw the running median of the loss alone")
        self.tail = _toggle("Last tenth", "Draw the loss of the last tenth of the steps alone")
        self.shown = widgets.IntRangeSlider(
            value=ALL,
            description="% of steps",
            tooltip="Draw the loss of this part of the steps alone",
        )
        toggles = (self.linear, self.above, self.smooth, self.tail)
        self.box = widgets.HBox([*toggles, self.shown])
        self.box.add_class("fitkit-buttons")
        if "loss" not in panels.names:
            self.box.add_class("fitkit-none")

        def look() -> None:
            begin, end = self.shown.value
            panels.loss_look = LossLook(
                self.linear.value, self.above.value, self.smooth.value, (begin / 100, end / 100)
            )

        for control in (self.linear, self.above, self.smooth, self.shown):
            control.observe(lambda _: act(look), "value")
        # Last tenth is short for a place of the slider, and follows it.
        self.tail.observe(self._to_tail, "value")
        self.shown.observe(self._follow, "value")

    def _to_tail(self, _: object) -> None:
        if self.tail.value:
            self.shown.value = TAIL
        elif self.shown.value == TAIL:
            self.shown.value = ALL

    def _follow(self, _: object) -> None:
        self.tail.value = self.shown.value == TAIL


def _toggle(words: str, tooltip: str) -> widgets.ToggleButton:
    toggle = widgets.ToggleButton(description=words, tooltip=tooltip)
    toggle.layout.width = "auto"
    return toggle
