"""Frames of a figure as PNG bytes: what rarely changes is drawn once, the rest is blitted."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Bbox

from fitkit._dashboard.drawing import Box, Drawing
from fitkit._dashboard.png import encode_png
from fitkit._plotting import INK, View, set_up

WIDTH, HEIGHT = 960, 280  # CSS pixels of the panels
MODEL_HEIGHT = 300  # CSS pixels of what is drawn below them
LEFT, RIGHT, BOTTOM, TOP = 52, 22, 42, 34  # CSS pixels around the axes of a panel
STRIP = 24  # CSS pixels for a line of words above the panels
LEGEND = 118  # CSS pixels at most that a panel with a legend leaves free at its right
LEGEND_LINE, LEGEND_LETTER = 24, 6  # CSS pixels of a line, and of a letter, in a legend
SHARPNESS = 1.5  # device pixels per CSS pixel: sharp enough on a laptop, half the cost of 2
DPI = 100 * SHARPNESS  # a CSS pixel is a hundredth of matplotlib's inch


class Plot(NamedTuple):
    """A panel of one frame: what to set its axes up with, and the artists to draw on them."""

    view: View
    marks: Callable[[Axes], list[Artist]]
    weight: float = 1.0
    below: bool = False


class Drawn(NamedTuple):
    """What the user's own function draws in one frame: beside the panels, or below them."""

    drawing: Drawing
    snapshot: Any
    below: bool = False
    weight: float = 1.0


Cell = Plot | Drawn


class Slot(NamedTuple):
    """The part of a picture that one cell has for itself, in CSS pixels from the lower left."""

    left: float
    bottom: float
    width: float
    height: float
    legend: float

    @property
    def axes(self) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of the axes in it."""
        return (
            self.left + LEFT,
            self.bottom + BOTTOM,
            self.width - LEFT - RIGHT - self.legend,
            self.height - BOTTOM - TOP,
        )


def panels_height(row: bool, below: bool) -> int:
    """Compute how high a frame is, in CSS pixels: with a row of panels, and something below it."""
    return HEIGHT * row + MODEL_HEIGHT * below


def blank(height: int) -> bytes:
    """Encode an empty frame, to hold the place of the first."""
    shape = int(height * SHARPNESS), int(WIDTH * SHARPNESS), 4
    return encode_png(np.zeros(shape, np.uint8))


class FrameRenderer:
    """Draws cells side by side; axes are drawn anew only when their own view changed."""

    def __init__(self) -> None:
        self._layout: Any = None
        self._views: tuple[View | None, ...] = ()

    def frame(self, cells: Sequence[Cell]) -> bytes:
        """Draw one frame as a PNG."""
        try:
            self._draw_background(cells)
        except BaseException:
            self._layout, self._views = None, ()  # Half of it was drawn: begin anew.
            raise
        self._canvas.restore_region(self._background)
        renderer = self._canvas.get_renderer()
        for cell, axes in zip(cells, self._axes, strict=True):
            if isinstance(cell, Plot):
                assert axes is not None
                for artist in cell.marks(axes):
                    artist.draw(renderer)
        pixels = np.asarray(self._canvas.buffer_rgba())
        if any(isinstance(cell, Drawn) for cell in cells):
            pixels = pixels.copy()
        for cell, slot in zip(cells, self._slots, strict=True):
            if isinstance(cell, Drawn):
                _paste(cell, slot, pixels)
        return encode_png(pixels)

    def _draw_background(self, cells: Sequence[Cell]) -> None:
        """Bring up to date what rarely changes."""
        views = tuple(cell.view if isinstance(cell, Plot) else None for cell in cells)
        layout = [
            (cell.weight, _is_below(cell), isinstance(cell, Plot), _legend_width(cell))
            for cell in cells
        ]
        if layout == self._layout and views == self._views:
            return
        if layout == self._layout:
            stale = [i for i, view in enumerate(views) if view != self._views[i]]
            self._canvas.restore_region(self._background)
            for i in stale:
                old = self._axes[i]
                assert old is not None
                # New ones: `clear` would leave what was said of their ticks.
                old.remove()
                self._axes[i] = _new_axes(self._figure, cells[i], self._slots[i])
        else:
            stale = range(len(cells))
            self._figure, self._slots = lay_out(cells)
            pairs = zip(cells, self._slots, strict=True)
            self._axes = [_new_axes(self._figure, cell, slot) for cell, slot in pairs]
            self._canvas = FigureCanvasAgg(self._figure)
            self._canvas.get_renderer()
            self._empty = [self._canvas.copy_from_bbox(_device_box(slot)) for slot in self._slots]
        for i in stale:
            axes = self._axes[i]
            if axes is not None:
                self._canvas.restore_region(self._empty[i])
                axes.draw(self._canvas.get_renderer())
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)
        self._layout, self._views = layout, views


def lay_out(cells: Sequence[Cell], strip: int = 0) -> tuple[Figure, list[Slot]]:
    """Make an empty figure, and compute where each cell goes; that never depends on the data."""
    row = [cell for cell in cells if not _is_below(cell)]
    height = panels_height(bool(row), len(row) < len(cells)) + strip
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=DPI)
    figure.patch.set_alpha(0.0)
    free = WIDTH - sum(_legend_width(cell) for cell in row) - len(row) * (LEFT + RIGHT)
    total = sum(cell.weight for cell in row)
    top, left = height - strip, 0.0
    bottom = float(top - HEIGHT if row else top)
    slots, below = [], bottom
    for cell in cells:
        if _is_below(cell):
            below -= MODEL_HEIGHT
            slots.append(Slot(0.0, below, WIDTH, MODEL_HEIGHT, 0))
        else:
            legend = _legend_width(cell)
            width = LEFT + free * cell.weight / total + RIGHT + legend
            slots.append(Slot(left, bottom, width, HEIGHT, legend))
            left += width
    return figure, slots


def finished(cells: Sequence[Cell], words: str = "") -> Figure:
    """Draw a figure that stands by itself, to be saved in any format; words go above the panels."""
    figure, slots = lay_out(cells, STRIP if words else 0)
    figure.patch.set_alpha(1.0)
    FigureCanvasAgg(figure)
    top = 1 - 0.15 / figure.get_figheight()
    figure.text(LEFT / WIDTH, top, words, fontsize=9, color=INK)
    for cell, slot in zip(cells, slots, strict=True):
        if isinstance(cell, Plot):
            axes = _new_axes(figure, cell, slot)
            assert axes is not None
            for artist in cell.marks(axes):
                axes.add_artist(artist)
        else:
            cell.drawing.draw_on(figure, cell.snapshot, _share(figure, slot.axes))
    return figure


def saved_picture(cells: Sequence[Cell], words: str) -> bytes:
    """Draw the PNG that a saved notebook keeps, for a light and a dark page."""
    figure = finished(cells, words)
    figure.patch.set_alpha(0.0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return encode_png(np.asarray(canvas.buffer_rgba()), level=6)


def _is_below(cell: Cell) -> bool:
    return cell.below


def _legend_width(cell: Cell) -> int:
    if not isinstance(cell, Plot) or not cell.view.legend:
        return 0
    longest = max(len(label) for label, *_ in cell.view.legend)
    return min(LEGEND, LEGEND_LINE + LEGEND_LETTER * longest)


def _new_axes(figure: Figure, cell: Cell, slot: Slot) -> Axes | None:
    if not isinstance(cell, Plot):
        return None
    axes = figure.add_axes(_share(figure, slot.axes))
    set_up(axes, cell.view)
    return axes


def _share(figure: Figure, box: Box) -> Box:
    """Turn CSS pixels into shares of the figure."""
    height = figure.get_figheight() * 100
    left, bottom, wide, high = box
    return left / WIDTH, bottom / height, wide / WIDTH, high / height


def _device_box(slot: Slot) -> Bbox:
    box = Bbox.from_bounds(slot.left, slot.bottom, slot.width, slot.height)
    return box.transformed(Affine2D().scale(SHARPNESS))


def _paste(cell: Drawn, slot: Slot, pixels: np.ndarray) -> None:
    """Put what the user's function draws into its part of the picture."""
    box = _device_box(slot)
    left, right = round(box.x0), round(box.x1)
    top, bottom = len(pixels) - round(box.y1), len(pixels) - round(box.y0)
    size = right - left, bottom - top
    x, y, wide, high = slot.axes
    inner = (
        (x - slot.left) / slot.width,
        (y - slot.bottom) / slot.height,
        wide / slot.width,
        high / slot.height,
    )
    pixels[top:bottom, left:right] = cell.drawing.pixels(cell.snapshot, inner, size, DPI)
