"""The panel of the step sizes: how far each step moved every parameter."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit
from fitkit._plotting.axes import View
from fitkit._plotting.curves import merge_columns, running_median
from fitkit._plotting.limits import decades, finite, step_limits
from fitkit._plotting.lines import legend_of, parameter_lines
from fitkit._plotting.panel import Frame


class StepSizes:
    """A running median for every parameter, in units of its standard error where that is known."""

    name, weight = "steps", 1.0

    def available(self, fit: Fit) -> bool:
        """Return True: every fit has step sizes."""
        return True

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades, and the legend of what is coloured."""
        history = frame.history
        sizes = (_in_units(frame, path) for path in history.names)
        values = [finite(medians[medians > 0]) for medians in sizes]
        return View(
            "Step size" if frame.units is None else "Step size / error bar",
            step_limits(max(len(history) - 1, 0), frame.end, frame.settled),
            decades(np.concatenate(values) if values else np.empty(0)),
            legend=legend_of(frame),
            note="" if len(history) else "no steps yet",
        )

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw the parameters in sight in their colours, and all others as thin lines behind."""
        return parameter_lines(axes, frame, lambda path, columns: [_line(frame, path, columns)])


def _in_units(frame: Frame, path: str) -> Float[np.ndarray, " bins"]:
    """Compute the step sizes of a parameter; NaN where there are units, but none for it."""
    scale = 1.0 if frame.units is None else frame.units.get(path, np.nan)
    return frame.history.summary("step_norms", path).median / scale


def _line(frame: Frame, path: str, columns: int) -> tuple[np.ndarray, np.ndarray]:
    median = _in_units(frame, path)
    steps, median = merge_columns(frame.history.steps, median, columns=columns)
    # A parameter that stood still has no place on a logarithmic axis.
    return steps, running_median(np.where(median > 0, median, np.nan))
