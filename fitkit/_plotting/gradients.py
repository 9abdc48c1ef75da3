"""The panel of the gradients: how steep the loss is in every parameter."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit, norm_medians
from fitkit._plotting.axes import View
from fitkit._plotting.lines import lines_of_medians, parameter_lines, view_of_medians
from fitkit._plotting.panel import Frame, once_a_frame


class Gradients:
    """A running median of the norm of the gradient by every parameter."""

    name, weight = "gradients", 1.0

    def available(self, fit: Fit) -> bool:
        """Return False: it is shown when asked for."""
        return False

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades, and the legend of what is coloured."""
        return view_of_medians("Gradient norm", frame, _norms(frame))

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a line for every parameter."""
        return parameter_lines(axes, frame, lines_of_medians(frame, _norms(frame)))


@once_a_frame
def _norms(frame: Frame) -> Float[np.ndarray, "bins parameters"]:
    return norm_medians(frame.history, "gradient_norms")
