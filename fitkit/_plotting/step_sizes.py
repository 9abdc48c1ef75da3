"""The panel of the step sizes: how far each step moved every parameter."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit, norm_medians
from fitkit._plotting.axes import View
from fitkit._plotting.lines import lines_of_medians, parameter_lines, view_of_medians
from fitkit._plotting.panel import Frame, once_a_frame


class StepSizes:
    """A running median for every parameter, in units of its standard error where that is known."""

    name, weight = "steps", 1.0

    def available(self, fit: Fit) -> bool:
        """Return True: every fit has step sizes."""
        return True

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades, and the legend of what is coloured."""
        title = "Step size" if frame.units is None else "Step size / error bar"
        return view_of_medians(title, frame, _in_units(frame))

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw the parameters in sight in their colours, and all others as thin lines behind."""
        return parameter_lines(axes, frame, lines_of_medians(frame, _in_units(frame)))


@once_a_frame
def _in_units(frame: Frame) -> Float[np.ndarray, "bins parameters"]:
    """Compute the step sizes; NaN where there are units, but none for a parameter."""
    sizes, units = norm_medians(frame.history, "step_norms"), frame.units
    if units is None:
        return sizes
    return sizes / np.array([units.get(path, np.nan) for path in frame.history.names])
