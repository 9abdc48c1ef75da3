"""The panel of the loss: how low it is, where it was lowest, when something was changed."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.text import Text

from fitkit._fit import Fit
from fitkit._format import number
from fitkit._plotting.axes import (
    BLUE,
    INK,
    LABEL_SIZE,
    SKY,
    VERMILION,
    View,
    attach,
    attach_to_data,
    remark,
)
from fitkit._plotting.curves import FEW, merge_columns, running_median
from fitkit._plotting.limits import decades, finite, limits, step_limits
from fitkit._plotting.panel import Frame, once_a_frame


class Loss:
    """The loss at every step, logarithmic while all of it is positive."""

    name, weight = "loss", 1.0

    def available(self, fit: Fit) -> bool:
        """Return True: every fit has a loss."""
        return True

    def view(self, frame: Frame) -> View:
        """Compute limits that hold all that was recorded, and the lowest."""
        look, (begin, end) = frame.loss_look, _shown(frame)
        x = step_limits(max(len(frame.history) - 1, 0), frame.end, frame.settled)
        if look.shown != (0.0, 1.0):
            x = begin, max(min(x[1], float(end)), begin + 1.0)
        _, low, high, middle = _summary(frame)
        best = _ring(frame)
        values = finite(middle if look.smooth else np.concatenate((low, high, best[1:])))
        note = "" if values.size else "no steps yet"
        log = values.size > 0 and bool(values.min() > 0 or look.above) and not look.linear
        values = np.concatenate((values, finite(_behind(frame, x)[:, 1])))
        values = values[values > 0] if log else values
        y = decades(values) if log and look.above else limits(values, log)
        return View("Loss", x, y, log, note=note)

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a band from minimum to maximum, the median, the lowest ringed, ticks of events."""
        lowest, look = frame.snapshot.lowest, frame.loss_look
        steps, low, high, middle = _summary(frame)
        steps, low, high, middle = merge_columns(steps, (low, np.fmin), (high, np.fmax), middle)
        if steps.size == 0:
            return []
        marks = _marks_behind(axes, frame)
        if axes.get_yscale() == "log":
            # The lowest is at zero above itself, which no logarithmic axis has.
            low, high, middle = (np.maximum(one, axes.get_ylim()[0]) for one in (low, high, middle))
        if look.smooth:
            middle = running_median(middle)
        elif np.any(high > low):
            outline = np.concatenate((np.c_[steps, low], np.c_[steps, high][::-1]))
            outline = outline[np.isfinite(outline).all(axis=1)]
            marks.append(attach_to_data(axes, Polygon(outline, facecolor=SKY, alpha=0.45)))
        marker = "." if steps.size <= FEW else ""
        line = Line2D(steps, middle, color=BLUE, linewidth=1.6, marker=marker)
        marks.append(attach_to_data(axes, line))
        if ticks := {event.step for event in frame.snapshot.events}:
            segments = [((step, 0.0), (step, 0.05)) for step in sorted(ticks)]
            lines = LineCollection(segments, colors=INK, linewidths=1.2)
            lines.set_transform(axes.get_xaxis_transform())
            lines.set_clip_box(axes.bbox)
            marks.append(attach(axes, lines))
        what = "above" if look.above else "best"
        words = f"{what} {number(lowest.loss, typeset=True)} at step {lowest.step:,}"
        marks.append(remark(axes, words))
        if not (best := _ring(frame)):
            return marks
        step, loss = best
        ring = Line2D([step], [loss], marker="o", markersize=6.5, linestyle="none")
        ring.set(markerfacecolor="none", markeredgecolor=VERMILION, markeredgewidth=1.6)
        ring = attach_to_data(axes, ring)
        ring.set_clip_on(False)
        return [*marks, ring]


def _shown(frame: Frame) -> tuple[int, int]:
    """Return the first and the last step of the part that is drawn, so that both rarely change."""
    count = len(frame.history)
    begin, end = frame.loss_look.shown
    grain = max(1, 10 ** (len(str(count)) - 2))
    first = min(int(begin * count), max(count - 1, 0))
    return first // grain * grain, -int(-end * count // grain) * grain


def _ring(frame: Frame) -> tuple[float, ...]:
    """Return step and loss of the lowest, if it is drawn."""
    lowest, look, (begin, end) = frame.snapshot.lowest, frame.loss_look, _shown(frame)
    drawn = len(frame.history) and begin <= lowest.step <= end
    return (lowest.step, lowest.loss) if drawn and not (look.above or look.smooth) else ()


@once_a_frame
def _summary(frame: Frame) -> tuple[np.ndarray, ...]:
    """Return steps, smallest, largest and median losses of the bins that are drawn."""
    summary, steps = frame.history.summary("loss"), frame.history.steps
    begin, end = _shown(frame)
    shown = (begin <= steps) & (steps <= end)
    losses = (summary.minimum, summary.maximum, summary.median)
    return steps[shown], *(one[shown] - _floor(frame) for one in losses)


def _floor(frame: Frame) -> float:
    """Return the loss that is drawn at zero."""
    return frame.snapshot.lowest.loss if frame.loss_look.above else 0.0


def _behind(frame: Frame, x: tuple[float, float]) -> Float[np.ndarray, "columns 2"]:
    """Find steps and losses of the run behind, as far as the axes of this one reach."""
    if frame.behind is None:
        return np.empty((0, 2))
    steps, losses = frame.behind.steps, frame.behind.summary("loss").median - _floor(frame)
    shown = (x[0] <= steps) & (steps <= x[1])
    return np.column_stack(merge_columns(steps[shown], losses[shown]))


def _marks_behind(axes: Axes, frame: Frame) -> list[Artist]:
    """Draw the run behind as a faint line, with a word at its end."""
    x = axes.get_xlim()
    line = _behind(frame, x)
    shown = line[np.isfinite(line[:, 1]) & ((line[:, 1] > 0) | (axes.get_yscale() != "log"))]
    if not len(shown):
        return []
    faint = Line2D(*line.T, color=INK, linewidth=1.3, alpha=0.5)
    step, loss = shown[-1]
    words = "before" if frame.compared is None else "other fit"
    side = "right" if 2 * step > sum(x) else "left"
    word = Text(step, loss, words, fontsize=LABEL_SIZE, color=INK, ha=side, va="bottom")
    return [attach_to_data(axes, faint), attach_to_data(axes, word)]
