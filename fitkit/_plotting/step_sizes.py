"""The panel of the step sizes: how far each step moved every parameter."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit
from fitkit._plotting.axes import View
from fitkit._plotting.lines import line_of_medians, parameter_lines, view_of_medians
from fitkit._plotting.panel import Frame


class StepSizes:
    """A running median for every parameter, in units of its standard error where that is known."""

    name, weight = "steps", 1.0

    def available(self, fit: Fit) -> bool:
        """Return True: every fit has step sizes."""
        return True

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades, and the legend of what is coloured."""
        title = "Step size" if frame.units is None else "Step size / error bar"
        sizes = (_in_units(frame, path) for path in frame.history.names)
        return view_of_medians(title, frame, sizes)

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw the parameters in sight in their colours, and all others as thin lines behind."""
        return parameter_lines(
            axes, frame, lambda path, n: [line_of_medians(frame, _in_units(frame, path), n)]
        )


def _in_units(frame: Frame, path: str) -> Float[np.ndarray, " bins"]:
    """Compute the step sizes of a parameter; NaN where there are units, but none for it."""
    scale = 1.0 if frame.units is None else frame.units.get(path, np.nan)
    return frame.history.summary("step_norms", path).median / scale
