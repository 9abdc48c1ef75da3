"""Frames of a figure as PNG bytes: what rarely changes is drawn once, the rest is blitted."""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fitkit._plots import INK, View, dress

WIDTH, HEIGHT = 960, 280  # CSS pixels of a frame
LEGEND = 118  # CSS pixels that a panel with a legend leaves free at its right
SHARPNESS = 1.5  # device pixels per CSS pixel: sharp enough on a laptop, half the cost of 2


def blank(height: int = HEIGHT) -> bytes:
    """Give an empty frame, to hold the place of the first."""
    return png(np.zeros((int(height * SHARPNESS), int(WIDTH * SHARPNESS), 4), np.uint8))


class Panel(NamedTuple):
    """One panel of one frame: what to dress the axes with, and the artists to draw on them."""

    view: View
    marks: Callable[[Axes], list[Artist]]
    weight: float = 1.0


class Painter:
    """Draws panels side by side; a frame costs a full draw only when some view changed."""

    def __init__(self, height: int = HEIGHT):
        self.height = height
        self.full_draws = 0
        self._views: tuple[View, ...] | None = None

    def frame(self, panels: Sequence[Panel]) -> bytes:
        """Draw the panels and give the PNG."""
        views = tuple(panel.view for panel in panels)
        if views != self._views:
            self._figure, self._axes = build(panels, self.height)
            self._canvas = FigureCanvasAgg(self._figure)
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(self._figure.bbox)
            self._views = views
            self.full_draws += 1
        else:
            self._canvas.restore_region(self._background)
        renderer = self._canvas.get_renderer()
        for panel, axes in zip(panels, self._axes, strict=True):
            for artist in panel.marks(axes):
                artist.draw(renderer)
        return png(np.asarray(self._canvas.buffer_rgba()))


def build(
    panels: Sequence[Panel], height: int = HEIGHT, strip: int = 0
) -> tuple[Figure, list[Axes]]:
    """Lay out a figure with dressed, empty axes; the layout never depends on the data."""
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100 * SHARPNESS)
    figure.patch.set_alpha(0.0)
    left, right, bottom, top = 52, 22, 42, 34 + strip
    legends = [LEGEND if panel.view.legend else 0 for panel in panels]
    free = WIDTH - sum(legends) - len(panels) * (left + right)
    total = sum(panel.weight for panel in panels)
    axes, x = [], 0.0
    for panel, legend in zip(panels, legends, strict=True):
        width = free * panel.weight / total
        box = ((x + left) / WIDTH, bottom / height, width / WIDTH, 1 - (bottom + top) / height)
        axes.append(figure.add_axes(box))
        dress(axes[-1], panel.view, INK)
        x += left + width + right + legend
    return figure, axes


def finished(panels: Sequence[Panel], height: int = HEIGHT) -> Figure:
    """Draw a figure that stands by itself, to be saved in any format."""
    figure, axes = build(panels, height)
    figure.patch.set_alpha(1.0)
    FigureCanvasAgg(figure)
    for panel, one in zip(panels, axes, strict=True):
        for artist in panel.marks(one):
            one.add_artist(artist)
    return figure


def still(panels: Sequence[Panel], words: str, height: int = HEIGHT) -> bytes:
    """Draw the PNG that a saved notebook keeps: the panels below a line of words."""
    strip = 24
    figure, axes = build(panels, height + strip, strip)
    canvas = FigureCanvasAgg(figure)
    figure.text(52 / WIDTH, 1 - 15 / (height + strip), words, fontsize=9, color=INK)
    for panel, one in zip(panels, axes, strict=True):
        for artist in panel.marks(one):
            one.add_artist(artist)
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
