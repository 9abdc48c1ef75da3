"""How the loss is drawn: logarithmic or linear, all of it or the last tenth of the steps."""

import ipywidgets as widgets

from fitkit._dashboard.panels import Panels
from fitkit._dashboard.rows import Act
from fitkit._plotting import LossLook


class LossToggles:
    """Two toggles above the picture.

    Parameters
    ----------
    panels
        What is drawn; it remembers how.
    act
        Does what a control asks.
    """

    def __init__(self, panels: Panels, act: Act) -> None:
        self.linear = widgets.ToggleButton(
            description="Linear loss", tooltip="Draw the loss on a linear axis"
        )
        self.tail = widgets.ToggleButton(
            description="Last tenth", tooltip="Draw the loss of the last tenth of the steps alone"
        )
        self.box = widgets.HBox([self.linear, self.tail])
        self.box.add_class("fitkit-buttons")
        if "loss" not in panels.names:
            self.box.add_class("fitkit-none")

        def look() -> None:
            panels.loss_look = LossLook(self.linear.value, self.tail.value)

        for toggle in (self.linear, self.tail):
            toggle.layout.width = "auto"
            toggle.observe(lambda _: act(look), "value")
