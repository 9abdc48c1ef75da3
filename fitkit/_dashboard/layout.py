"""Where the panels of a picture go: side by side, in as many lines as its width asks for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._dashboard.drawing import Box, Drawing
from fitkit._plotting import View

HEIGHT = 280  # CSS pixels of a line of panels, and
MODEL_HEIGHT = 300  # of one with a wide panel in it
HIGHEST = 0.5  # of the width of a narrow picture, or its panels would not fit on a screen
LEFT, RIGHT, BOTTOM, TOP = 52, 22, 42, 34  # CSS pixels around the axes of a panel
NARROWEST = 190  # CSS pixels of the axes of a panel of weight 1: a title and a note above them
LEGEND = 118  # CSS pixels at most that a panel with a legend leaves free at its right
LEGEND_LINE, LEGEND_LETTER = 24, 6  # CSS pixels of a line, and of a letter, in a legend
WIDE = 2.0  # the weight of a wide panel


class Page(NamedTuple):
    """What a picture is for: CSS pixels of its width, and device pixels for each of them."""

    width: int = 960
    sharpness: float = 1.5  # sharp enough on a laptop, half the cost of 2


class Plot(NamedTuple):
    """A panel of one frame: what to set its axes up with, and the artists to draw on them."""

    view: View
    marks: Callable[[Axes], list[Artist]]
    weight: float = 1.0


class Drawn(NamedTuple):
    """What the user's own function draws in one frame."""

    drawing: Drawing
    snapshot: Any
    weight: float = 1.0


Cell = Plot | Drawn


class Slot(NamedTuple):
    """The part of a picture that one cell has for itself, in CSS pixels from the upper left."""

    left: float
    top: float
    width: float
    height: float
    legend: float

    @property
    def axes(self) -> Box:
        """Left, bottom, width and height of the axes, in shares of the slot."""
        return (
            LEFT / self.width,
            BOTTOM / self.height,
            1 - (LEFT + RIGHT + self.legend) / self.width,
            1 - (BOTTOM + TOP) / self.height,
        )


def arrange(cells: Sequence[Cell], width: int) -> tuple[float, list[Slot]]:
    """Compute the height of a picture and where each cell goes; that never depends on the data.

    A line takes cells as long as their axes are wide enough. What is left of it is shared by
    weight.
    """
    lines = _fill(cells, width)
    if not any(map(_is_wide, cells)):  # Rather two lines of two panels than of three and one.
        runs = (cells[i:j] for j in range(1, len(cells) + 1) for i in range(j))
        evener = (_fill(cells, room) for room in sorted(map(_least_width, runs)))
        lines = next(even for even in evener if len(even) == len(lines))
    slots, top = [], 0.0
    for line in lines:
        height = min(MODEL_HEIGHT if any(map(_is_wide, line)) else HEIGHT, HIGHEST * width)
        share = (width - sum(map(_around, line))) / sum(cell.weight for cell in line)
        left = 0.0
        for cell in line:
            slot = Slot(left, top, _around(cell) + share * cell.weight, height, legend_width(cell))
            slots.append(slot)
            left += slot.width
        top += height
    return top, slots


def legend_width(cell: Cell) -> int:
    """Return the CSS pixels that a legend has at the right of a panel."""
    if not isinstance(cell, Plot) or not cell.view.legend:
        return 0
    longest = max(len(label) for label, *_ in cell.view.legend)
    return min(LEGEND, LEGEND_LINE + LEGEND_LETTER * longest)


def _around(cell: Cell) -> int:
    return LEFT + RIGHT + legend_width(cell)


def _least_width(line: Sequence[Cell]) -> float:
    return sum(_around(cell) + NARROWEST * cell.weight for cell in line)


def _is_wide(cell: Cell) -> bool:
    return cell.weight >= WIDE


def _fill(cells: Sequence[Cell], width: float) -> list[list[Cell]]:
    """Put into each line as many as it takes."""
    lines: list[list[Cell]] = []
    for cell in cells:
        if not lines or _least_width([*lines[-1], cell]) > width:
            lines.append([])
        lines[-1].append(cell)
    return lines
