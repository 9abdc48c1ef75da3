"""The panel of the values: the way that every small parameter went."""

from collections.abc import Sequence

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
from fitkit._plotting.panel import Frame, once_a_frame


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
        history, elements = frame.history, _elements(frame).values()
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
        elements = _elements(frame)

        def lines_of(paths: Sequence[str], columns: int) -> list[list[np.ndarray]]:
            every = []
            for path in paths:
                series = elements[path].T
                steps, *lines = merge_columns(frame.history.steps, *series, columns=columns)
                every.append([np.column_stack((steps, line)) for line in lines])
            return every

        return parameter_lines(axes, frame, lines_of)


@once_a_frame
def _elements(frame: Frame) -> dict[str, Float[np.ndarray, "bins elements"]]:
    """Look up what is drawn of each parameter, element by element; nothing if that is not known."""
    values, units = frame.history.values, frame.units
    now = {} if units is None else named_leaves(frame.snapshot.place.view.params)
    every = {}
    for path in frame.history.names:
        if path not in values or (units is not None and path not in units):
            every[path] = np.empty((len(frame.history.steps), 0))
            continue
        elements = values[path].reshape(len(values[path]), -1)
        if units is not None:
            middle = np.ravel(np.asarray(now[path], dtype=float))
            elements = (elements - middle) / np.ravel(frame.errors[path])
        every[path] = elements
    return every
