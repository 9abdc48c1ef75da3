"""The panel of the gradients: how steep the loss is in every parameter."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit
from fitkit._plotting.axes import View
from fitkit._plotting.curves import merge_columns, running_median
from fitkit._plotting.limits import decades, finite, step_limits
from fitkit._plotting.lines import legend_of, parameter_lines
from fitkit._plotting.panel import Frame


class Gradients:
    """A running median of the norm of the gradient by every parameter."""

    name, weight = "gradients", 1.0

    def available(self, fit: Fit) -> bool:
        """Return False: it is shown when asked for."""
        return False

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades, and the legend of what is coloured."""
        history = frame.history
        norms = (history.summary("gradient_norms", path).median for path in history.names)
        values = [finite(medians[medians > 0]) for medians in norms]
        return View(
            "Gradient norm",
            step_limits(max(len(history) - 1, 0), frame.end, frame.settled),
            decades(np.concatenate(values) if values else np.empty(0)),
            legend=legend_of(frame),
            note="" if len(history) else "no steps yet",
        )

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a line for every parameter."""
        return parameter_lines(axes, frame, lambda path, columns: [_line(frame, path, columns)])


def _line(frame: Frame, path: str, columns: int) -> tuple[np.ndarray, np.ndarray]:
    median = frame.history.summary("gradient_norms", path).median
    steps, median = merge_columns(frame.history.steps, median, columns=columns)
    # A gradient of zero has no place on a logarithmic axis.
    return steps, running_median(np.where(median > 0, median, np.nan))
