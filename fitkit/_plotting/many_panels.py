"""The panels of many systems: how far they are, how well they fit, and which to look at first."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.text import Text

from fitkit._fit import Status
from fitkit._format import number
from fitkit._many import Completion, Many
from fitkit._plotting.axes import BLUE, INK, LABEL_SIZE, SKY, VERMILION, View, attach, remark
from fitkit._plotting.axes import attach_to_data as attached
from fitkit._plotting.curves import merge_columns
from fitkit._plotting.limits import limits, step_limits
from fitkit._plotting.many_figures import MOST_LINEAR, bars_of, density_of, span_of

MOST_WORST = 10  # systems that are listed as the worst
ROWS = 6  # of them in the panel of the worst: each has a line of words and a bar


@dataclasses.dataclass(frozen=True, eq=False)
class ManyFrame:
    """All that the panels of one frame are drawn from, looked up once.

    Attributes
    ----------
    version : int
        Grows with every change.
    status : Status
        Whether the fits run, rest or are at their end.
    many : Many
        The systems.
    """

    version: int
    status: Status
    many: Many

    @functools.cached_property
    def completion(self) -> Completion:
        """How many fits were made when."""
        return self.many.completion

    @functools.cached_property
    def reduced(self) -> np.ndarray:
        """Reduced chi-squares, in the shape of the systems."""
        return self.many.reduced_chi_square

    @functools.cached_property
    def success(self) -> np.ndarray:
        """Which systems are at a minimum."""
        return self.many.success

    @functools.cached_property
    def waiting(self) -> np.ndarray:
        """Which systems were not fitted yet."""
        return self.many.status == "waiting"

    @functools.cached_property
    def known(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reduced chi-square, success and degrees of freedom of the systems that have them."""
        reduced = self.reduced.ravel()
        there = np.isfinite(reduced)
        freedom = self.many.degrees_of_freedom.ravel()[there]
        return reduced[there], self.success.ravel()[there], freedom

    @functools.cached_property
    def worst(self) -> list[tuple[int, ...]]:
        """Indices of the systems to look at first, of those that were fitted."""
        listed = self.many.worst(MOST_WORST)
        where = [index if isinstance(index, tuple) else (index,) for index in listed]
        where = [index if self.many.shape else () for index in where]
        return [index for index in where if not self.waiting[index]]

    @functools.cached_property
    def histogram(self) -> "Histogram":
        """The histogram of the reduced chi-squares that are known."""
        return Histogram.of(*self.known)


class Histogram(NamedTuple):
    """How many systems have which reduced chi-square.

    Attributes
    ----------
    span
        Limits of the axis, round numbers.
    edges, bars, good
        Edges of the bars, how many systems are in each, and how many of them are a success.
    expected
        How many are expected, along the axis.
    """

    span: tuple[float, float]
    edges: np.ndarray
    bars: np.ndarray
    good: np.ndarray
    expected: np.ndarray

    @classmethod
    def of(cls, reduced: np.ndarray, success: np.ndarray, freedom: np.ndarray) -> "Histogram":
        """Count systems that have a reduced chi-square; there must be some."""
        low, high = limits(np.array(span_of(reduced, freedom)), False)
        low = max(low, 0.0)
        edges = bars_of(reduced, low, high)
        bars, good = (np.histogram(some, edges)[0] for some in (reduced, reduced[success]))
        expected = density_of(_places(low, high), freedom) * len(reduced) * (edges[1] - edges[0])
        return cls((low, high), edges, bars, good, expected)


class Progress:
    """The shares of the fits that were made, and that converged, over time."""

    name, weight = "progress", 1.0

    def view(self, frame: ManyFrame) -> View:
        """Compute an axis of seconds that grows by round numbers, and ends with the fits."""
        last = math.ceil(float(frame.completion.seconds[-1]))
        x = step_limits(last, None, not frame.status.busy)
        note = "" if frame.completion.made[-1] else "no fits yet"
        return View("Converged, %", x, (0.0, 104.0), False, xlabel="seconds", note=note)

    def marks(self, axes: Axes, frame: ManyFrame) -> list[Artist]:
        """Draw what was made in grey, and above it, filled, what has converged."""
        fits = len(frame.many) * frame.many.starts
        seconds, made, good = merge_columns(*frame.completion)
        made, good = 100 * made / fits, 100 * good / fits
        outline = np.array([(0.0, 0.0), *zip(seconds, good, strict=True), (seconds[-1], 0.0)])
        total = int(frame.completion.converged[-1])
        return [
            attached(axes, PolyCollection([outline], facecolor=SKY, alpha=0.3)),
            attached(axes, Line2D(seconds, made, color=INK, linewidth=1.2, linestyle=":")),
            attached(axes, Line2D(seconds, good, color=BLUE, linewidth=1.6)),
            remark(axes, f"{total:,} of {fits:,}", BLUE),
        ]


class ChiSquares:
    """The histogram of the reduced chi-squares, and what they would be by chance alone."""

    name, weight = "chi_square", 1.3  # for its title and its note

    def view(self, frame: ManyFrame) -> View:
        """Compute limits that hold all but outliers, and the highest bar."""
        if not len(frame.known[0]):
            note = "no reduced chi-square yet"
            x, y = (0.0, 2.0), (0.0, 1.0)
        else:
            x, note = frame.histogram.span, ""
            all_of_it = np.concatenate(([0.0], frame.histogram.bars, frame.histogram.expected))
            y = 0.0, limits(all_of_it, False)[1]
        return View("Reduced χ²", x, y, False, xlabel="systems at each χ²/ν", note=note)

    def marks(self, axes: Axes, frame: ManyFrame) -> list[Artist]:
        """Draw the successes, the others stacked on them, and the density that is expected."""
        reduced, _, _ = frame.known
        if not len(reduced):
            return []
        (low, high), edges, bars, good, expected = frame.histogram
        beyond = np.count_nonzero(reduced > high)
        words = f"median {number(float(np.median(reduced)), 3)}"
        words += f", {beyond:,} beyond" if beyond else ""
        return [
            attached(
                axes, PolyCollection(_boxes(edges, 0 * good, good), facecolor=BLUE, alpha=0.7)
            ),
            attached(axes, PolyCollection(_boxes(edges, good, bars), facecolor=VERMILION)),
            attached(axes, Line2D(_places(low, high), expected, color=INK, linewidth=1.6)),
            remark(axes, words, VERMILION if beyond else BLUE),
        ]


class Worst:
    """The systems to look at first, as `Many.worst` lists them: a bar each."""

    name, weight = "worst", 1.3  # for its title and its note

    def view(self, frame: ManyFrame) -> View:
        """Compute limits that hold all bars; over a wide range, of their logarithms."""
        worst, values, wide = _worst(frame)
        label = "log₁₀ of χ²/ν" if wide else "χ²/ν"
        known = values[np.isfinite(values)]
        x = limits(np.append(known, [0.0, 0.0 if wide else 1.0]), False) if known.size else (0, 1)
        x = (x[0] if wide and known.size and known.min() < 0 else 0.0, float(x[1]))
        note = "" if worst else "no fits yet"
        return View("Worst systems", x, (ROWS, 0.0), False, xlabel=label, note=note, ordinate=False)

    def marks(self, axes: Axes, frame: ManyFrame) -> list[Artist]:
        """Write index, chi-square and status of each, above a bar."""
        worst, values, _ = _worst(frame)
        start, shapes, shades = axes.get_xlim()[0], [], []
        marks: list[Artist] = []
        for row, (index, value) in enumerate(zip(worst, values, strict=True)):
            good = bool(frame.success[index])
            if np.isfinite(value):
                low, high = row + 0.62, row + 0.86
                shapes.append([(start, low), (value, low), (value, high), (start, high)])
                shades.append(BLUE if good else VERMILION)
            reduced, status = float(frame.reduced[index]), str(frame.many.status[index])
            words = number(reduced, 3) if np.isfinite(reduced) else "no χ²/ν"
            words = f"{_named(index)}:  {words}{'' if good else f', {status}'}"
            text = Text(0.0, 1 - (row + 0.3) / ROWS, words, fontsize=LABEL_SIZE, color=INK)
            text.set(transform=axes.transAxes, va="center")
            marks.append(attach(axes, text))
        if shapes:
            bars = PolyCollection(shapes, facecolors=shades, alpha=0.75)
            marks.insert(0, attached(axes, bars))
        failed = int(np.count_nonzero(~frame.success & ~frame.waiting))
        words = f"{failed:,} without success" if failed else "all succeeded"
        return [*marks, remark(axes, words, VERMILION if failed else BLUE)] if worst else []


def _worst(frame: ManyFrame) -> tuple[list[tuple[int, ...]], np.ndarray, bool]:
    """Return the worst, how long their bars are, and whether those are logarithms."""
    worst = frame.worst[:ROWS]
    values = np.array([float(frame.reduced[index]) for index in worst])
    known = values[np.isfinite(values) & (values > 0)]
    wide = len(known) > 0 and max(known.max(), 1) > MOST_LINEAR * min(known.min(), 1)
    if wide:
        values = np.log10(np.where(values > 0, values, np.nan))
    return worst, values, bool(wide)


def _places(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 200)


def _boxes(edges: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Any]:
    return [
        [(left, bottom), (right, bottom), (right, top), (left, top)]
        for left, right, bottom, top in zip(edges[:-1], edges[1:], low, high, strict=True)
        if top > bottom
    ]


def _named(index: tuple[int, ...]) -> str:
    return ", ".join(map(str, index)) or "0"


MANY_PANELS: dict[str, Any] = {panel.name: panel for panel in (Progress(), ChiSquares(), Worst())}
