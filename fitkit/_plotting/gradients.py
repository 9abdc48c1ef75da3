"""The panel of the gradients: how steep the loss is in every parameter."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit
from fitkit._plotting.axes import View
from fitkit._plotting.lines import line_of_medians, parameter_lines, view_of_medians
from fitkit._plotting.panel import Frame


class Gradients:
    """A running median of the norm of the gradient by every parameter."""

    name, weight = "gradients", 1.0

    def available(self, fit: Fit) -> bool:
        """Return False: it is shown when asked for."""
        return False

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades, and the legend of what is coloured."""
        norms = (_norms(frame, path) for path in frame.history.names)
        return view_of_medians("Gradient norm", frame, norms)

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a line for every parameter."""
        return parameter_lines(
            axes, frame, lambda path, n: [line_of_medians(frame, _norms(frame, path), n)]
        )


def _norms(frame: Frame, path: str) -> Float[np.ndarray, " bins"]:
    return frame.history.summary("gradient_norms", path).median
