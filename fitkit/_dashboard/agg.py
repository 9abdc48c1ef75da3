"""A canvas like matplotlib's own that writes words more quickly."""

import contextlib
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg, get_hinting_flag
from matplotlib.figure import Figure


class Canvas(FigureCanvasAgg):
    """The pixels of a figure."""

    def __init__(self, figure: Figure) -> None:
        super().__init__(figure)
        self._size: Any = None

    def get_renderer(self) -> RendererAgg:
        """Return what draws on the pixels, a new one where the size of the figure has changed."""
        assert self.figure is not None
        size = *self.figure.bbox.size, self.figure.dpi
        if size != self._size:
            self.renderer, self._size = Renderer(*size), size
        return self.renderer


class Renderer(RendererAgg):
    """What draws on them."""

    def draw_text(
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Any = None,
    ) -> None:
        """Draw a line of words in one go, as matplotlib itself did until 3.10.

        Later ones set up the font for every letter anew. That takes six times as long, and words
        were a third of a frame.
        """
        with contextlib.suppress(AttributeError, TypeError):  # Or in yet another release.
            if not ismath and not angle:
                self._draw_words(gc, x, y, s, prop)
                return
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)

    def _draw_words(self, gc: Any, x: float, y: float, words: str, prop: Any) -> None:
        font = self._prepare_font(prop)
        font.set_text(words, 0.0, flags=get_hinting_flag())
        font.draw_glyphs_to_bitmap(antialiased=gc.get_antialiased())
        left, below = (offset / 64 for offset in font.get_bitmap_offset())
        bottom = y + below + font.get_descent() / 64
        corner = round(x + left), round(bottom) + 1
        self._renderer.draw_text_image(font.get_image(), *corner, 0.0, gc)
