"""Histories and spectra drawn on matplotlib axes: pure functions, no state, no pyplot.

A panel is drawn in two halves, so that a live view can keep the first and repeat the second: the
`*_view` functions give what rarely changes, the `*_marks` functions the artists of every frame.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D

from fitkit._fit import History, Summary
from fitkit._plotting.axes import (
    INK,
    PALETTE,
    View,
    colour,
    dash,
    decades,
    figures,
    finite,
    limits,
    on,
    ready,
    remark,
)

FEW = 30  # as many steps are shown as points too
COLUMNS = 300  # more points than this are merged before they are drawn


class Snapshot:
    """A history at one moment, so that everything in a frame speaks of the same steps."""

    def __init__(self, history: History):
        self.steps = history.steps
        self._columns: dict[tuple[str, str | None], Summary] = {
            ("loss", None): history.summary("loss")
        }
        for path in history.names:
            self._columns["step_norms", path] = history.summary("step_norms", path)
        # The fit may have appended between two of these reads.
        shortest = min(len(self.steps), *(len(one.last) for one in self._columns.values()))
        self.steps = self.steps[:shortest]
        self._columns = {
            key: Summary(*(values[:shortest] for values in one))
            for key, one in self._columns.items()
        }

    def summary(self, quantity: str, name: str | None = None) -> Summary:
        """Give what `History.summary` gave at that moment."""
        return self._columns[quantity, name]


def lowest(history: History | Snapshot) -> tuple[int, float] | None:
    """Give step and value of the smallest recorded loss, the step as exactly as a bin tells."""
    losses, steps = history.summary("loss").minimum, history.steps
    if not np.isfinite(losses).any():
        return None
    index = int(np.nanargmin(losses))
    return int(steps[index]), float(losses[index])


def loss_view(history: History | Snapshot, end: int, settled: bool = False) -> View:
    """View of the loss: logarithmic while all of it is positive.

    Parameters
    ----------
    history
        The `History` of a fit.
    end
        The step at which the run ends.
    settled
        True once the fit rests: the step axis then ends where the history does.
    """
    summary = history.summary("loss")
    values = finite(np.concatenate((summary.minimum, summary.maximum)))
    positive = values.size > 0 and values.min() > 0
    note = "" if values.size else "no steps yet"
    return View(
        "Loss", _step_limits(history, end, settled), limits(values, positive), positive, note=note
    )


def loss_marks(
    axes: Axes, history: History | Snapshot, events: Iterable[int] = (), ink: str = INK
) -> list[Artist]:
    """Artists of the loss: band from minimum to maximum, median, the best ringed.

    `events` are the steps at which something was changed, drawn as ticks on the step axis.
    """
    summary = history.summary("loss")
    steps, low, high, middle = _columns(
        history.steps, (summary.minimum, np.fmin), (summary.maximum, np.fmax), summary.median
    )
    marks: list[Artist] = []
    if steps.size == 0:
        return marks
    if np.any(high > low):
        outline = np.concatenate((np.c_[steps, low], np.c_[steps, high][::-1]))
        band = PolyCollection(
            [outline[np.isfinite(outline).all(axis=1)]], facecolor=PALETTE[5], alpha=0.45
        )
        marks.append(on(axes, band))
    marker = "." if steps.size <= FEW else ""
    line = Line2D(steps, middle, color=PALETTE[0], linewidth=1.6, marker=marker)
    marks.append(on(axes, line))
    ticks = np.unique([*events])
    if ticks.size:
        segments = [((step, 0.0), (step, 0.05)) for step in ticks]
        lines = LineCollection(segments, colors=ink, linewidths=1.2)
        lines.set_transform(axes.get_xaxis_transform())
        lines.set_clip_path(axes.patch)
        marks.append(ready(axes, lines))
    best = lowest(history)
    if best is not None:
        ring = Line2D([best[0]], [best[1]], marker="o", markersize=6.5, linestyle="none")
        ring.set(markerfacecolor="none", markeredgecolor=PALETTE[1], markeredgewidth=1.6)
        ring = on(axes, ring)
        ring.set_clip_on(False)
        marks += [ring, remark(axes, f"best {figures(best[1])} at step {best[0]:,}")]
    return marks


def steps_view(
    history: History | Snapshot,
    paths: Sequence[str],
    end: int,
    settled: bool = False,
    legend: Sequence[tuple[str, int]] = (),
    units: Mapping[str, float] | None = None,
) -> View:
    """View of the step sizes of `paths`; `legend` names parameters by label and number."""
    values = [
        finite(medians[medians > 0])
        for medians in (_in_units(history, path, units) for path in paths)
    ]
    pooled = np.concatenate(values) if values else np.empty(0)
    note = "" if len(history.steps) else "no steps yet"
    entries = tuple((label, colour(index), dash(index)[1]) for label, index in legend)
    title = "Step size" if units is None else "Step size / error bar"
    return View(
        title, _step_limits(history, end, settled), decades(pooled), legend=entries, note=note
    )


def steps_marks(
    axes: Axes,
    history: History | Snapshot,
    shown: Mapping[str, int],
    others: Mapping[str, int | None] = MappingProxyType({}),
    units: Mapping[str, float] | None = None,
) -> list[Artist]:
    """Artists of the step sizes: a running median in its colour for each parameter of `shown`.

    Parameters
    ----------
    axes
        Where the artists will be drawn.
    history
        The `History` of a fit.
    shown
        The parameters to colour: path to number.
    others
        Paths drawn as thin lines behind them, in the colour of their number, or grey.
    units
        The error bar of each path; step sizes are divided by it, and one without is not drawn.
    """
    marks: list[Artist] = []

    def line(path: str, columns: int) -> tuple[Any, Any]:
        median = _in_units(history, path, units)
        steps, median = _columns(history.steps, median, columns=columns)
        return steps, _running_median(np.where(median > 0, median, np.nan))

    if others:
        segments = [np.column_stack(line(path, 60)) for path in others]
        shades = [INK if number is None else colour(number) for number in others.values()]
        lines = LineCollection(segments, colors=shades, linewidths=0.5, alpha=0.35)
        marks.append(on(axes, lines))
    lines = [line(path, COLUMNS) for path in shown]
    shades = [colour(index) for index in shown.values()]
    patterns = [dash(index)[1] for index in shown.values()]
    if len(history.steps) <= FEW:
        for (x, y), shade, pattern in zip(lines, shades, patterns, strict=True):
            style = {"color": shade, "linestyle": pattern, "linewidth": 1.5, "marker": "."}
            marks.append(on(axes, Line2D(x, y, **style)))
    elif lines:
        # As one artist, because a dozen cost four times as much to draw.
        segments = [np.column_stack(one) for one in lines]
        together = LineCollection(segments, colors=shades, linestyles=patterns, linewidths=1.5)
        marks.append(on(axes, together))
    return marks


def spectrum_view(eigenvalues: Float[np.ndarray, " n"], rank: int) -> View:
    """View of an eigenvalue spectrum, largest first."""
    values = np.asarray(eigenvalues, dtype=float)
    positive = finite(values[values > 0])
    count = len(values)
    note = "" if count else "no spectrum yet"
    return View("Spectrum", (0.4, count + 0.6), decades(positive), xlabel="direction", note=note)


def spectrum_marks(
    axes: Axes, eigenvalues: Float[np.ndarray, " n"], rank: int, chosen: int | None = None
) -> list[Artist]:
    """Artists of a spectrum: filled where the data constrain, hollow beyond the rank cut.

    What is zero, negative or below the axis lies on the axis. `chosen` is ringed.
    """
    values = np.asarray(eigenvalues, dtype=float)
    if values.size == 0:
        return []
    floor = axes.get_ylim()[0]
    heights = np.maximum(np.nan_to_num(values), floor)
    directions = np.arange(1, len(values) + 1)
    size = float(np.clip(140 / len(values), 2.0, 5.5))
    marks: list[Artist] = []
    for part, shade, face in (
        (slice(None, rank), PALETTE[0], PALETTE[0]),
        (slice(rank, None), PALETTE[1], "none"),
    ):
        dots = Line2D(directions[part], heights[part], marker="o", markersize=size)
        dots.set(linestyle="none", markerfacecolor=face, markeredgecolor=shade, markeredgewidth=1.3)
        dots = on(axes, dots)
        dots.set_clip_on(False)
        marks.append(dots)
    if rank < len(values):
        cut = Line2D((rank + 0.5, rank + 0.5), (0, 1), color=PALETTE[1], linewidth=1)
        cut.set(linestyle=(0, (4, 3)), transform=axes.get_xaxis_transform())
        loose = f"{len(values) - rank} unconstrained"
        marks += [ready(axes, cut), remark(axes, loose)]
    if chosen is not None:
        ring = Line2D([chosen + 1], [heights[chosen]], marker="o", markersize=size + 6)
        ring.set(linestyle="none", markerfacecolor="none", markeredgecolor=INK)
        marks.append(on(axes, ring))
    return marks


def _in_units(
    history: History | Snapshot, path: str, units: Mapping[str, float] | None
) -> Float[np.ndarray, " bins"]:
    """Give the step sizes of a parameter; NaN where there are units, but none for it."""
    scale = 1.0 if units is None else units.get(path, np.nan)
    return history.summary("step_norms", path).median / scale


def _step_limits(history: History | Snapshot, end: int, settled: bool) -> tuple[float, float]:
    """Keep the first half of the axis from growing with every frame: round numbers only."""
    steps = history.steps
    first = float(steps[0]) if len(steps) else 0.0
    first = 0.0 if first < 0.5 * end else first
    last = float(steps[-1]) if len(steps) else 0.0
    if settled and last > first:
        return first, max(last, float(end))
    return first, min(max(float(end), last), _round_up(max(last, 10.0))) if end else 10.0


def _round_up(value: float) -> float:
    scale = 10.0 ** np.floor(np.log10(value))
    return next(scale * k for k in (1, 2, 5, 10, 20) if scale * k >= value)


def _columns(steps: Any, *series: Any, columns: int = COLUMNS) -> tuple[np.ndarray, ...]:
    """Merge neighbouring bins until at most `columns` are left; extremes are kept.

    A series is an array, of which the last of each group stays, or an array and the ufunc that
    merges a group.
    """
    pairs = [one if isinstance(one, tuple) else (one, None) for one in (steps, *series)]
    length = len(steps)
    stride = max(1, -(-length // columns))
    ends = np.arange(length - 1, -1, -stride)[::-1]
    starts = np.concatenate(([0], ends[:-1] + 1)) if length else ends
    merged = []
    for values, merge in pairs:
        values = np.asarray(values, dtype=float)
        if length and merge is not None:
            merged.append(merge.reduceat(values, starts))
        else:
            merged.append(values[ends])
    return tuple(merged)


def _running_median(values: np.ndarray) -> np.ndarray:
    """Median over a window of a thirtieth of the points, shrinking towards both ends."""
    half = len(values) // 60
    if half == 0:
        return values
    padded = np.pad(values, half, constant_values=np.nan)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    # NaNs sort last, so the median of the rest is found by counting; nanmedian warns and is slow.
    count = np.sum(np.isfinite(windows), axis=1)
    rows = np.arange(len(values))
    return np.where(count > 0, windows[rows, np.maximum(count - 1, 0) // 2], np.nan)
