"""Lines over the steps, one or several for every parameter, in the colours of the table."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
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

# For each of these parameters the points of its lines, each a step and an ordinate, of which a line
# has at most so many.
Lines = Callable[[Sequence[str], int], Iterable[Iterable[Float[np.ndarray, "points 2"]]]]


def legend_of(frame: Frame) -> tuple[tuple[str, str, Any], ...]:
    """List label, colour and line style of what is coloured."""
    return tuple(
        (_short(entry.label), colour(entry.number), dash(entry.number)[1])
        for entry in frame.entries
    )


def view_of_medians(
    title: str, frame: Frame, medians: Float[np.ndarray, "bins parameters"]
) -> View:
    """Compute limits of whole decades, and the legend of what is coloured."""
    steps = len(frame.history)
    return View(
        title,
        step_limits(max(steps - 1, 0), frame.end, frame.settled),
        decades(finite(medians[medians > 0])),
        legend=legend_of(frame),
        note="" if steps else "no steps yet",
    )


def lines_of_medians(frame: Frame, medians: Float[np.ndarray, "bins parameters"]) -> Lines:
    """Smooth the medians of the bins, of hundreds of parameters in one go."""
    places = {path: place for place, path in enumerate(frame.history.names)}

    def lines_of(paths: Sequence[str], columns: int) -> Float[np.ndarray, "paths 1 points 2"]:
        chosen = medians[:, [places[path] for path in paths]]
        steps, merged = merge_columns(frame.history.steps, chosen, columns=columns)
        # Zero has no place on a logarithmic axis.
        smooth = running_median(np.where(merged > 0, merged, np.nan).T)
        return np.stack(np.broadcast_arrays(steps, smooth), axis=-1)[:, None]

    return lines_of


def parameter_lines(axes: Axes, frame: Frame, lines_of: Lines) -> list[Artist]:
    """Draw the parameters in sight in their colours, and all others as thin lines behind."""
    marks = lines_behind(axes, frame, lines_of)
    shown = _in_sight(frame)
    every = lines_of(list(shown), COLUMNS) if shown else ()
    front = [
        (line, colour(number), dash(number)[1])
        for number, lines in zip(shown.values(), every, strict=True)
        for line in lines
    ]
    if len(frame.history.steps) <= FEW:
        for line, shade, pattern in front:
            dots = Line2D(*line.T, color=shade, linestyle=pattern, linewidth=1.5, marker=".")
            marks.append(attach_to_data(axes, dots))
    elif front:
        # As one artist, because a dozen cost four times as much to draw.
        segments, shades, patterns = map(list, zip(*front, strict=True))
        together = LineCollection(segments, colors=shades, linestyles=patterns, linewidths=1.5)
        marks.append(attach_to_data(axes, together))
    return marks


def lines_behind(axes: Axes, frame: Frame, lines_of: Lines) -> list[Artist]:
    """Draw the parameters that are not in sight as thin lines."""
    others = _others(frame)
    every = lines_of(list(others), BEHIND) if others else ()
    behind = [
        (line, INK if number is None else colour(number))
        for number, lines in zip(others.values(), every, strict=True)
        for line in lines
    ]
    if not behind:
        return []
    segments, shades = zip(*behind, strict=True)
    together = LineCollection(list(segments), colors=shades, linewidths=0.5, alpha=0.35)
    return [attach_to_data(axes, together)]


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
