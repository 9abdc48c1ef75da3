"""Frames of a figure as PNG bytes: what rarely changes is drawn once, the rest is blitted."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from fitkit._dashboard.agg import Canvas
from fitkit._dashboard.drawing import Box
from fitkit._dashboard.layout import LEFT, Cell, Drawn, Page, Plot, Slot, arrange, legend_width
from fitkit._dashboard.png import encode_png
from fitkit._plotting import INK, View, set_limits, set_up

FREE = Page()  # where nobody tells how wide it is to be
# CSS pixels of a saved picture. It is seen elsewhere as well, where all wider than the page is
# made smaller, with its words: at three quarters of their size they still read well.
NARROWEST, WIDEST = 600, 1300
SAVED_SHARPNESS = 2.0  # device pixels for each of them: sharp on dense screens, some 150 kB
STRIP = 24  # CSS pixels for a line of words above the panels
INCH = 100  # CSS pixels that count as matplotlib's inch


class SavedPicture(NamedTuple):
    """A PNG, and the CSS pixels of its width."""

    png: bytes
    width: int


def blank(cells: Sequence[Cell]) -> bytes:
    """Encode an empty frame, to hold the place of the first."""
    width, sharpness = Page()
    height, _ = arrange(cells, width)
    return encode_png(np.zeros((round(height * sharpness), round(width * sharpness), 4), np.uint8))


class FrameRenderer:
    """Draws cells side by side; axes are drawn anew only when their own view changed."""

    def __init__(self) -> None:
        self._layout: Any = None
        self._views: tuple[View | None, ...] = ()

    def frame(self, cells: Sequence[Cell], page: Page) -> bytes:
        """Draw one frame as a PNG."""
        try:
            self._draw_background(cells, page)
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
                _paste(cell, slot, pixels, page.sharpness)
        return encode_png(pixels)

    def _draw_background(self, cells: Sequence[Cell], page: Page) -> None:
        """Bring up to date what rarely changes."""
        views = tuple(cell.view if isinstance(cell, Plot) else None for cell in cells)
        shapes = [(cell.weight, isinstance(cell, Plot), legend_width(cell)) for cell in cells]
        layout = page, shapes
        if layout == self._layout and views == self._views:
            return
        if layout == self._layout:
            stale = [i for i, view in enumerate(views) if view != self._views[i]]
            self._canvas.restore_region(self._background)
            for i in stale:
                axes, old, new = self._axes[i], self._views[i], views[i]
                assert axes is not None and old is not None and new is not None
                if old._replace(x=new.x, y=new.y) == new:
                    set_limits(axes, new)
                    continue
                # New ones: `clear` would leave what was said of their ticks.
                axes.remove()
                self._axes[i] = _new_axes(self._figure, cells[i], self._slots[i])
        else:
            stale = range(len(cells))
            self._figure, self._slots = _new_figure(cells, page)
            pairs = zip(cells, self._slots, strict=True)
            self._axes = [_new_axes(self._figure, cell, slot) for cell, slot in pairs]
            self._canvas = Canvas(self._figure)
            self._canvas.get_renderer()
            boxes = [_share(self._figure, slot) for slot in self._slots]
            self._empty = [
                self._canvas.copy_from_bbox(box.transformed(self._figure.transSubfigure))
                for box in boxes
            ]
        for i in stale:
            axes = self._axes[i]
            if axes is not None:
                self._canvas.restore_region(self._empty[i])
                axes.draw(self._canvas.get_renderer())
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)
        self._layout, self._views = layout, views


def finished(cells: Sequence[Cell], words: str = "", page: Page = FREE) -> Figure:
    """Draw a figure that stands by itself, to be saved in any format; words go above the panels."""
    figure, slots = _new_figure(cells, page, STRIP if words else 0)
    figure.patch.set_alpha(1.0)
    Canvas(figure)
    top = 1 - 0.15 / figure.get_figheight()
    figure.text(LEFT / page.width, top, words, fontsize=9, color=INK)
    for cell, slot in zip(cells, slots, strict=True):
        if isinstance(cell, Plot):
            axes = _new_axes(figure, cell, slot)
            assert axes is not None
            for artist in cell.marks(axes):
                axes.add_artist(artist)
        else:
            cell.drawing.draw_on(figure, cell.snapshot, _axes_share(figure, slot))
    return figure


def saved_picture(cells: Sequence[Cell], words: str, page: Page = FREE) -> SavedPicture:
    """Draw the PNG that a saved notebook keeps, for a light and a dark page.

    It is as wide as the live one was last: who saves a notebook will most often open it again.
    """
    page = Page(min(max(page.width, NARROWEST), WIDEST), SAVED_SHARPNESS)
    figure = finished(cells, words, page)
    figure.patch.set_alpha(0.0)
    canvas = Canvas(figure)
    canvas.draw()
    return SavedPicture(encode_png(np.asarray(canvas.buffer_rgba()), level=6), page.width)


def _new_figure(cells: Sequence[Cell], page: Page, strip: int = 0) -> tuple[Figure, list[Slot]]:
    """Make an empty figure with a strip above the cells, and compute where each of them goes."""
    height, slots = arrange(cells, page.width)
    size = page.width / INCH, (height + strip) / INCH
    figure = Figure(figsize=size, dpi=INCH * page.sharpness)
    figure.patch.set_alpha(0.0)
    return figure, [slot._replace(top=slot.top + strip) for slot in slots]


def _new_axes(figure: Figure, cell: Cell, slot: Slot) -> Axes | None:
    if not isinstance(cell, Plot):
        return None
    axes = figure.add_axes(_axes_share(figure, slot))
    set_up(axes, cell.view)
    return axes


def _axes_share(figure: Figure, slot: Slot) -> Box:
    """Return left, bottom, width and height of the axes, in shares of the figure."""
    outer, (left, bottom, width, height) = _share(figure, slot), slot.axes
    return (
        outer.x0 + left * outer.width,
        outer.y0 + bottom * outer.height,
        width * outer.width,
        height * outer.height,
    )


def _share(figure: Figure, slot: Slot) -> Bbox:
    """Turn CSS pixels from the upper left into shares of the figure from the lower left."""
    width, height = (inches * INCH for inches in figure.get_size_inches())
    bottom = 1 - (slot.top + slot.height) / height
    return Bbox.from_bounds(slot.left / width, bottom, slot.width / width, slot.height / height)


def _paste(cell: Drawn, slot: Slot, pixels: np.ndarray, sharpness: float) -> None:
    """Put what the user's function draws into its part of the picture."""
    rows = slice(round(slot.top * sharpness), round((slot.top + slot.height) * sharpness))
    columns = slice(round(slot.left * sharpness), round((slot.left + slot.width) * sharpness))
    part = pixels[rows, columns]
    size = part.shape[1], part.shape[0]
    part[:] = cell.drawing.pixels(cell.snapshot, slot.axes, size, INCH * sharpness)
