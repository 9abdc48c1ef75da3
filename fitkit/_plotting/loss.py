"""The panel of the loss: how low it is, where it was lowest, when something was changed."""

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
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
from fitkit._plotting.curves import FEW, merge_columns
from fitkit._plotting.limits import finite, limits, step_limits
from fitkit._plotting.panel import Frame


class Loss:
    """The loss at every step, logarithmic while all of it is positive."""

    name, weight = "loss", 1.0

    def available(self, fit: Fit) -> bool:
        """Return True: every fit has a loss."""
        return True

    def view(self, frame: Frame) -> View:
        """Compute limits that hold all that was recorded, and the lowest."""
        x = step_limits(max(len(frame.history) - 1, 0), frame.end, frame.settled)
        begin = _begin(frame)
        if begin:
            x = begin, min(x[1], float(-(-len(frame.history) // _grain(frame)) * _grain(frame)))
        _, low, high, _ = _summary(frame, begin)
        lowest = frame.snapshot.lowest
        best = [lowest.loss] if len(frame.history) and lowest.step >= begin else []
        values = finite(np.concatenate((low, high, best)))
        log = values.size > 0 and bool(values.min() > 0) and not frame.loss_look.linear
        note = "" if values.size else "no steps yet"
        behind = finite(_behind(frame, x)[:, 1])
        values = np.concatenate((values, behind[behind > 0] if log else behind))
        return View("Loss", x, limits(values, log), log, note=note)

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a band from minimum to maximum, the median, the lowest ringed, ticks of events."""
        lowest, begin = frame.snapshot.lowest, _begin(frame)
        steps, low, high, middle = _summary(frame, begin)
        steps, low, high, middle = merge_columns(steps, (low, np.fmin), (high, np.fmax), middle)
        if steps.size == 0:
            return []
        marks = _marks_behind(axes, frame)
        if np.any(high > low):
            outline = np.concatenate((np.c_[steps, low], np.c_[steps, high][::-1]))
            outline = outline[np.isfinite(outline).all(axis=1)]
            marks.append(attach_to_data(axes, PolyCollection([outline], facecolor=SKY, alpha=0.45)))
        marker = "." if steps.size <= FEW else ""
        line = Line2D(steps, middle, color=BLUE, linewidth=1.6, marker=marker)
        marks.append(attach_to_data(axes, line))
        if ticks := {event.step for event in frame.snapshot.events}:
            segments = [((step, 0.0), (step, 0.05)) for step in sorted(ticks)]
            lines = LineCollection(segments, colors=INK, linewidths=1.2)
            lines.set_transform(axes.get_xaxis_transform())
            lines.set_clip_path(axes.patch)
            marks.append(attach(axes, lines))
        words = f"best {number(lowest.loss, typeset=True)} at step {lowest.step:,}"
        marks.append(remark(axes, words))
        if lowest.step < begin:
            return marks
        ring = Line2D([lowest.step], [lowest.loss], marker="o", markersize=6.5, linestyle="none")
        ring.set(markerfacecolor="none", markeredgecolor=VERMILION, markeredgewidth=1.6)
        ring = attach_to_data(axes, ring)
        ring.set_clip_on(False)
        return [*marks, ring]


def _grain(frame: Frame) -> int:
    """Return to what the steps of the last tenth are rounded, so that limits rarely change."""
    return max(1, 10 ** (len(str(len(frame.history))) - 2))


def _begin(frame: Frame) -> int:
    """Return the step with which the loss begins that is drawn."""
    if not frame.loss_look.tail:
        return 0
    return int(0.9 * len(frame.history)) // _grain(frame) * _grain(frame)


def _summary(frame: Frame, begin: int) -> tuple[np.ndarray, ...]:
    """Return steps, smallest, largest and median losses of the bins from a step on."""
    summary, steps = frame.history.summary("loss"), frame.history.steps
    shown = steps >= begin
    return tuple(one[shown] for one in (steps, summary.minimum, summary.maximum, summary.median))


def _behind(frame: Frame, x: tuple[float, float]) -> Float[np.ndarray, "columns 2"]:
    """Find steps and losses of the run behind, as far as the axes of this one reach."""
    if frame.behind is None:
        return np.empty((0, 2))
    steps, losses = frame.behind.steps, frame.behind.summary("loss").median
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
