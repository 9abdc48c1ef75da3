"""The panel of the step sizes: how far each step moved every parameter."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from fitkit._fit import Fit
from fitkit._plotting.axes import INK, View, attach_to_data, colour, dash
from fitkit._plotting.curves import COLUMNS, FEW, merge_columns, running_median
from fitkit._plotting.limits import decades, finite, step_limits
from fitkit._plotting.panel import Frame

LABEL_LENGTH = 17  # characters that fit into the legend
BEHIND = 60  # columns of each of the thin lines, of which there may be hundreds


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
            legend=tuple(
                (_short(entry.label), colour(entry.number), dash(entry.number)[1])
                for entry in frame.entries
            ),
            note="" if len(history) else "no steps yet",
        )

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw the parameters in sight in their colours, and all others as thin lines behind."""
        marks: list[Artist] = []
        shown = {entry.paths[0]: entry.number for entry in frame.entries if not entry.group}
        if others := _others(frame, shown):
            segments = [np.column_stack(_line(frame, path, BEHIND)) for path in others]
            shades = [INK if number is None else colour(number) for number in others.values()]
            lines = LineCollection(segments, colors=shades, linewidths=0.5, alpha=0.35)
            marks.append(attach_to_data(axes, lines))
        lines = [_line(frame, path, COLUMNS) for path in shown]
        shades = [colour(number) for number in shown.values()]
        patterns = [dash(number)[1] for number in shown.values()]
        if len(frame.history.steps) <= FEW:
            for (x, y), shade, pattern in zip(lines, shades, patterns, strict=True):
                line = Line2D(x, y, color=shade, linestyle=pattern, linewidth=1.5, marker=".")
                marks.append(attach_to_data(axes, line))
        elif lines:
            # As one artist, because a dozen cost four times as much to draw.
            segments = [np.column_stack(one) for one in lines]
            together = LineCollection(segments, colors=shades, linestyles=patterns, linewidths=1.5)
            marks.append(attach_to_data(axes, together))
        return marks


def _others(frame: Frame, shown: Mapping[str, int]) -> dict[str, int | None]:
    """List what is drawn behind: the number of its group's colour, or None for grey."""
    others: dict[str, int | None] = {
        path: None for path in frame.history.names if path not in shown
    }
    for entry in frame.entries:
        if entry.group:
            others |= dict.fromkeys(entry.paths, entry.number)
    return others


def _in_units(frame: Frame, path: str) -> Float[np.ndarray, " bins"]:
    """Compute the step sizes of a parameter; NaN where there are units, but none for it."""
    scale = 1.0 if frame.units is None else frame.units.get(path, np.nan)
    return frame.history.summary("step_norms", path).median / scale


def _line(frame: Frame, path: str, columns: int) -> tuple[np.ndarray, np.ndarray]:
    median = _in_units(frame, path)
    steps, median = merge_columns(frame.history.steps, median, columns=columns)
    # A parameter that stood still has no place on a logarithmic axis.
    return steps, running_median(np.where(median > 0, median, np.nan))


def _short(path: str) -> str:
    """Shorten a path to its telling end."""
    return path if len(path) <= LABEL_LENGTH else "…" + path[1 - LABEL_LENGTH :]
