"""The panel of the values: the way that every small parameter went."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit
from fitkit._paths import named_leaves
from fitkit._plotting.axes import View
from fitkit._plotting.curves import merge_columns
from fitkit._plotting.limits import finite, limits, step_limits
from fitkit._plotting.lines import legend_of, parameter_lines
from fitkit._plotting.panel import Frame


class Values:
    """A line for every element: its value, or its distance from now in standard errors.

    Distances are drawn where the standard errors of all parameters that move are known, on an axis
    that holds one to both sides, so that what is less looks small. Large parameters, whose values
    are not recorded, and frozen ones, which have no standard error, are then left out.
    """

    name, weight = "values", 1.0

    def available(self, fit: Fit) -> bool:
        """Return False: it is shown when asked for."""
        return False

    def view(self, frame: Frame) -> View:
        """Compute limits that hold all values, and the legend of what is coloured."""
        history = frame.history
        elements = [_elements(frame, path) for path in history.names]
        values = [finite(one) for one in elements]
        inside = [] if frame.units is None else [np.array([-1.0, 1.0])]
        recorded = any(one.size for one in elements)
        note = "" if recorded else "values of large parameters are not recorded"
        return View(
            "Value" if frame.units is None else "(Value - now) / error bar",
            step_limits(max(len(history) - 1, 0), frame.end, frame.settled),
            limits(np.concatenate([*values, *inside, np.empty(0)]), log=False),
            log=False,
            legend=legend_of(frame),
            note=note if len(history) else "no steps yet",
        )

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a line for every element."""

        def lines_of(path: str, columns: int) -> list[tuple[np.ndarray, np.ndarray]]:
            elements = _elements(frame, path)
            steps, *lines = merge_columns(frame.history.steps, *elements.T, columns=columns)
            return [(steps, line) for line in lines]

        return parameter_lines(axes, frame, lines_of)


def _elements(frame: Frame, path: str) -> Float[np.ndarray, "bins elements"]:
    """Look up what is drawn of a parameter, element by element; nothing if that is not known."""
    values = frame.history.values
    if path not in values or (frame.units is not None and path not in frame.units):
        return np.empty((len(frame.history.steps), 0))
    elements = values[path].reshape(len(values[path]), -1)
    if frame.units is None:
        return elements
    now = np.ravel(np.asarray(named_leaves(frame.snapshot.params)[path], dtype=float))
    return (elements - now) / np.ravel(frame.errors[path])
