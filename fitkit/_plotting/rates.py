"""The panel of the learning rates: how each was steered, from what happened to the fit."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from fitkit._fit import Event, Fit, own_learning_rates, rates_at
from fitkit._plotting.axes import View, attach, colour, dash
from fitkit._plotting.limits import decades, finite, step_limits
from fitkit._plotting.lines import legend_of, lines_behind
from fitkit._plotting.panel import Frame, once_a_frame

# Points between lines of the same rate, which would hide each other, and all of them together.
APART, BUNDLE = 1.8, 9.0


class Rates:
    """A line for every parameter: its learning rate, with a gap where it was frozen.

    Where an optimiser does not show its own, the factor that multiplies that. Of a schedule of
    optax the rates are known where something was changed, and now; between them is a straight line.
    """

    name, weight = "rates", 1.0

    def available(self, fit: Fit) -> bool:
        """Return False: it is shown when asked for."""
        return False

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades, and the legend of what is coloured."""
        now = frame.snapshot
        rates = finite(np.concatenate([line[:, 1] for line in _lines(frame).values()]))
        x = step_limits(max(now.step, 0), frame.end, frame.settled)
        shows = own_learning_rates(now.place)
        title = "Learning rate" if shows else "Learning rate, relative"
        return View(title, x, decades(rates[rates > 0]), legend=legend_of(frame))

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw the parameters in sight side by side, and all others as thin lines behind."""
        lines = _lines(frame)
        shown = [entry for entry in frame.entries if not entry.group]
        marks = lines_behind(axes, frame, lambda paths, _: [[lines[path]] for path in paths])
        gap = min(APART, BUNDLE / max(len(shown), 1))
        for place, entry in enumerate(shown):
            aside = gap * ((len(shown) - 1) / 2 - place) / 72
            figure = axes.get_figure()
            assert figure is not None
            x, y = lines[entry.paths[0]].T
            line = Line2D(x, y, color=colour(entry.number), linestyle=dash(entry.number)[1])
            line.set_linewidth(1.5)
            line.set_transform(axes.transData + ScaledTranslation(0, aside, figure.dpi_scale_trans))
            line.set_clip_box(axes.bbox)
            marks.append(attach(axes, line))
        return marks


@once_a_frame
def _lines(frame: Frame) -> dict[str, Float[np.ndarray, "points 2"]]:
    now = frame.snapshot
    return rate_lines(now.events, now.step, rates_at(now))


def rate_lines(
    events: Iterable[Event], step: int, now: Mapping[str, float]
) -> dict[str, Float[np.ndarray, "points 2"]]:
    """Follow the learning rate of every parameter over the steps; NaN where it was frozen.

    Parameters
    ----------
    events
        What happened to the fit.
    step, now
        Where it is, and the learning rates there.
    """
    lines: dict[str, list[tuple[int, float]]] = {path: [] for path in now}
    last = 0
    for event in events:
        if event.step < last:  # Rewound: what came after that step was undone, but not the rates.
            for points in lines.values():
                _cut(points, event.step)
        last = event.step
        for path, before, after in event.rates:
            points = lines[path] or [(0, before)]
            lines[path] = [*points, (event.step, before), (event.step, after)]
    ended = {
        path: [*(points or [(0, now[path])]), (step, now[path])] for path, points in lines.items()
    }
    arrays = {path: np.array(points, dtype=float) for path, points in ended.items()}
    for line in arrays.values():
        line[line[:, 1] <= 0, 1] = np.nan  # Zero has no place on a logarithmic axis.
    return arrays


def _cut(points: list[tuple[int, float]], step: int) -> None:
    """Forget what a line did after a step, from which it goes on with its latest rate."""
    if points and points[-1][0] > step:
        latest = points[-1][1]
        while points[-1][0] > step:
            points.pop()
        points += [(step, points[-1][1]), (step, latest)]
