"""Frames of a figure as PNG bytes: what rarely changes is drawn once, the rest is blitted."""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Bbox

from fitkit._plotting import INK, PALETTE, View, dress, tint

WIDTH, HEIGHT = 960, 280  # CSS pixels of the panels
SKETCH = 300  # CSS pixels of height for a sketch of the model below them
LEFT, RIGHT, BOTTOM, TOP = 52, 22, 42, 34  # CSS pixels around a panel
STRIP = 24  # CSS pixels for a line of words above the panels
LEGEND = 118  # CSS pixels that a panel with a legend leaves free at its right
SHARPNESS = 1.5  # device pixels per CSS pixel: sharp enough on a laptop, half the cost of 2


def blank(sketched: bool = False) -> bytes:
    """Give an empty frame, to hold the place of the first."""
    height = HEIGHT + SKETCH * sketched
    return png(np.zeros((int(height * SHARPNESS), int(WIDTH * SHARPNESS), 4), np.uint8))


class Panel(NamedTuple):
    """One panel of one frame: what to dress the axes with, and the artists to draw on them."""

    view: View
    marks: Callable[[Axes], list[Artist]]
    weight: float = 1.0


class Painter:
    """Draws panels side by side; axes are drawn anew only when their own view changed."""

    def __init__(self) -> None:
        self._layout: Any = None
        self._views: tuple[View, ...] = ()

    def frame(self, panels: Sequence[Panel], sketch: "Sketch | None" = None) -> bytes:
        """Draw the panels, and the sketch below them, and give the PNG."""
        self._dress(panels, sketch is not None)
        self._canvas.restore_region(self._background)
        renderer = self._canvas.get_renderer()
        for panel, axes in zip(panels, self._axes, strict=True):
            for artist in panel.marks(axes):
                artist.draw(renderer)
        if sketch is not None:
            axes = sketch.on(self._figure)
            for one in axes:
                one.draw(renderer)
            for one in axes:
                one.remove()
        return png(np.asarray(self._canvas.buffer_rgba()))

    def _dress(self, panels: Sequence[Panel], sketched: bool) -> None:
        """Bring the background up to date."""
        views = tuple(panel.view for panel in panels)
        if views == self._views:
            return
        layout = sketched, *((panel.weight, bool(panel.view.legend)) for panel in panels)
        if layout == self._layout:
            stale = [i for i, view in enumerate(views) if view != self._views[i]]
            self._canvas.restore_region(self._background)
            for i in stale:
                # New ones: `clear` would leave what was said of their ticks.
                place = self._axes[i].get_position().bounds
                self._axes[i].remove()
                self._axes[i] = self._figure.add_axes(place)
                dress(self._axes[i], views[i])
        else:
            stale = range(len(panels))
            self._figure, self._axes = build(panels, sketched=sketched)
            self._canvas = FigureCanvasAgg(self._figure)
            self._canvas.get_renderer()
            height = self._figure.get_figheight() * 100
            slots = [_slot(*one, height) for one in zip(panels, self._axes, strict=True)]
            self._empty = [self._canvas.copy_from_bbox(slot) for slot in slots]
        for i in stale:
            self._canvas.restore_region(self._empty[i])
            self._axes[i].draw(self._canvas.get_renderer())
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)
        self._layout, self._views = layout, views


def _slot(panel: Panel, axes: Axes, height: float) -> Bbox:
    """Find the pixels that a panel has for itself, with its labels and its legend."""
    inner = axes.get_position().bounds
    left = inner[0] * WIDTH - LEFT
    right = left + LEFT + inner[2] * WIDTH + RIGHT + LEGEND * bool(panel.view.legend)
    below = inner[1] * height - BOTTOM
    return Bbox(((left, below), (right, height))).transformed(Affine2D().scale(SHARPNESS))


class Sketch:
    """The user's own drawing of data and model, in the figure's lowest part.

    Attributes
    ----------
    trouble
        What `draw` raised when it was last asked, in words.
    """

    def __init__(self, draw: Callable[[Axes], object]):
        self._draw = draw
        self.trouble = ""

    def on(self, figure: Figure) -> list[Axes]:
        """Draw on new axes of the figure; with those that `draw` makes itself, as for residuals."""
        before = set(figure.axes)
        height = figure.get_figheight() * 100
        width, inner = WIDTH - LEFT - RIGHT, SKETCH - BOTTOM - TOP
        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, width / WIDTH, inner / height))
        axes.set_prop_cycle(color=PALETTE)
        try:
            self._draw(axes)
            self.trouble = ""
        except Exception as error:
            self.trouble = f"draw raised {type(error).__name__}: {error}"
            axes.clear()
            axes.text(0.5, 0.5, self.trouble, transform=axes.transAxes, ha="center", color=INK)
        made = [one for one in figure.axes if one not in before]
        for one in made:
            tint(one)
        return made


def build(
    panels: Sequence[Panel], strip: int = 0, sketched: bool = False
) -> tuple[Figure, list[Axes]]:
    """Lay out a figure with dressed, empty axes; the layout never depends on the data."""
    below = SKETCH * sketched
    height = (HEIGHT if panels else 0) + strip + below
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100 * SHARPNESS)
    figure.patch.set_alpha(0.0)
    bottom = BOTTOM + below
    legends = [LEGEND if panel.view.legend else 0 for panel in panels]
    free = WIDTH - sum(legends) - len(panels) * (LEFT + RIGHT)
    total = sum(panel.weight for panel in panels)
    axes, x = [], 0.0
    for panel, legend in zip(panels, legends, strict=True):
        width = free * panel.weight / total
        inner = height - bottom - TOP - strip
        box = ((x + LEFT) / WIDTH, bottom / height, width / WIDTH, inner / height)
        axes.append(figure.add_axes(box))
        dress(axes[-1], panel.view)
        x += LEFT + width + RIGHT + legend
    return figure, axes


def finished(panels: Sequence[Panel], sketch: Sketch | None = None, words: str = "") -> Figure:
    """Draw a figure that stands by itself, to be saved in any format; words go above the panels."""
    figure, axes = build(panels, STRIP if words else 0, sketched=sketch is not None)
    figure.patch.set_alpha(1.0)
    FigureCanvasAgg(figure)
    top = 1 - 0.15 / figure.get_figheight()
    figure.text(LEFT / WIDTH, top, words, fontsize=9, color=INK)
    for panel, one in zip(panels, axes, strict=True):
        for artist in panel.marks(one):
            one.add_artist(artist)
    if sketch is not None:
        sketch.on(figure)
    return figure


def still(panels: Sequence[Panel], words: str, sketch: Sketch | None = None) -> bytes:
    """Draw the PNG that a saved notebook keeps, for a light and a dark page."""
    figure = finished(panels, sketch, words)
    figure.patch.set_alpha(0.0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return png(np.asarray(canvas.buffer_rgba()), level=6)


def png(pixels: np.ndarray, level: int = 1) -> bytes:
    """Encode RGBA pixels, shape (rows, columns, 4) of bytes, by default as quickly as it goes.

    The format is that of https://www.w3.org/TR/png-3/, every row with the "up" filter, which turns
    the empty space of a plot into zeros.
    """
    rows, columns, _ = pixels.shape
    flat = pixels.reshape(rows, columns * 4)
    filtered = np.empty((rows, columns * 4 + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=filtered[1:, 1:])

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(filtered.tobytes(), level))
        + chunk(b"IEND", b"")
    )
