"""Lines over the steps, one or several for every parameter, in the colours of the table."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from fitkit._plotting.axes import INK, View, attach_to_data, colour, dash
from fitkit._plotting.curves import COLUMNS, FEW, merge_columns, running_median
from fitkit._plotting.limits import decades, finite, step_limits
from fitkit._plotting.panel import Frame

LABEL_LENGTH = 17  # characters that fit into the legend
BEHIND = 60  # columns of each of the thin lines, of which there may be hundreds

# Steps and ordinates of each line of a parameter, in at most so many columns.
Lines = Callable[[str, int], list[tuple[np.ndarray, np.ndarray]]]


def legend_of(frame: Frame) -> tuple[tuple[str, str, Any], ...]:
    """List label, colour and line style of what is coloured."""
    return tuple(
        (_short(entry.label), colour(entry.number), dash(entry.number)[1])
        for entry in frame.entries
    )


def view_of_medians(title: str, frame: Frame, medians: Iterable[np.ndarray]) -> View:
    """Compute limits of whole decades, and the legend of what is coloured."""
    steps = len(frame.history)
    values = [finite(of_one[of_one > 0]) for of_one in medians]
    return View(
        title,
        step_limits(max(steps - 1, 0), frame.end, frame.settled),
        decades(np.concatenate(values) if values else np.empty(0)),
        legend=legend_of(frame),
        note="" if steps else "no steps yet",
    )


def line_of_medians(
    frame: Frame, medians: np.ndarray, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth the medians of the bins, in at most so many columns."""
    steps, merged = merge_columns(frame.history.steps, medians, columns=columns)
    # Zero has no place on a logarithmic axis.
    return steps, running_median(np.where(merged > 0, merged, np.nan))


def parameter_lines(axes: Axes, frame: Frame, lines_of: Lines) -> list[Artist]:
    """Draw the parameters in sight in their colours, and all others as thin lines behind."""
    marks = lines_behind(axes, frame, lines_of)
    front = [
        (line, colour(number), dash(number)[1])
        for path, number in _in_sight(frame).items()
        for line in lines_of(path, COLUMNS)
    ]
    if len(frame.history.steps) <= FEW:
        for (x, y), shade, pattern in front:
            line = Line2D(x, y, color=shade, linestyle=pattern, linewidth=1.5, marker=".")
            marks.append(attach_to_data(axes, line))
    elif front:
        # As one artist, because a dozen cost four times as much to draw.
        segments = [np.column_stack(line) for line, _, _ in front]
        shades, patterns = [one[1] for one in front], [one[2] for one in front]
        together = LineCollection(segments, colors=shades, linestyles=patterns, linewidths=1.5)
        marks.append(attach_to_data(axes, together))
    return marks


def lines_behind(axes: Axes, frame: Frame, lines_of: Lines) -> list[Artist]:
    """Draw the parameters that are not in sight as thin lines."""
    behind = [
        (np.column_stack(line), INK if number is None else colour(number))
        for path, number in _others(frame).items()
        for line in lines_of(path, BEHIND)
    ]
    if not behind:
        return []
    segments, shades = zip(*behind, strict=True)
    lines = LineCollection(list(segments), colors=shades, linewidths=0.5, alpha=0.35)
    return [attach_to_data(axes, lines)]


def _in_sight(frame: Frame) -> dict[str, int]:
    """List the parameters that have a colour of their own, with its number."""
    return {entry.paths[0]: entry.number for entry in frame.entries if not entry.group}


def _others(frame: Frame) -> dict[str, int | None]:
    """List what is drawn behind: the number of its group's colour, or None for grey."""
    shown = _in_sight(frame)
    others: dict[str, int | None] = {
        path: None for path in frame.history.names if path not in shown
    }
    for entry in frame.entries:
        if entry.group:
            others |= dict.fromkeys(entry.paths, entry.number)
    return others


def _short(path: str) -> str:
    """Shorten a path to its telling end."""
    return path if len(path) <= LABEL_LENGTH else "…" + path[1 - LABEL_LENGTH :]
