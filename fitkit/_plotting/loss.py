"""The panel of the loss: how low it is, where it was lowest, when something was changed."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D

from fitkit._fit import Fit
from fitkit._format import number
from fitkit._plotting.axes import (
    BLUE,
    INK,
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
        summary = frame.history.summary("loss")
        lowest = [frame.snapshot.lowest.loss] if len(frame.history) else []
        values = finite(np.concatenate((summary.minimum, summary.maximum, lowest)))
        positive = values.size > 0 and bool(values.min() > 0)
        x = step_limits(max(len(frame.history) - 1, 0), frame.end, frame.settled)
        note = "" if values.size else "no steps yet"
        return View("Loss", x, limits(values, positive), positive, note=note)

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a band from minimum to maximum, the median, the lowest ringed, ticks of events."""
        history, lowest = frame.history, frame.snapshot.lowest
        summary = history.summary("loss")
        steps, low, high, middle = merge_columns(
            history.steps, (summary.minimum, np.fmin), (summary.maximum, np.fmax), summary.median
        )
        if steps.size == 0:
            return []
        marks: list[Artist] = []
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
        ring = Line2D([lowest.step], [lowest.loss], marker="o", markersize=6.5, linestyle="none")
        ring.set(markerfacecolor="none", markeredgecolor=VERMILION, markeredgewidth=1.6)
        ring = attach_to_data(axes, ring)
        ring.set_clip_on(False)
        words = f"best {number(lowest.loss, typeset=True)} at step {lowest.step:,}"
        return [*marks, ring, remark(axes, words)]
