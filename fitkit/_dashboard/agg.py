"""A canvas like matplotlib's own that writes words more quickly."""

import contextlib
import functools
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg, get_hinting_flag
from matplotlib.figure import Figure

LINES = 256  # of words that are kept: those of a dozen panels, and a legend for each


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


class Words(NamedTuple):
    """A line of words: its pixels, where their corner is, and how large matplotlib takes it for."""

    image: Any
    left: float
    below: float
    width: float
    height: float
    descent: float


class Renderer(RendererAgg):
    """What draws on them."""

    def __init__(self, *size: float) -> None:
        super().__init__(*size)
        self._line = functools.lru_cache(LINES)(self._write_line)

    def get_text_width_height_descent(
        self, s: str, prop: Any, ismath: Any
    ) -> tuple[float, float, float]:
        """Measure a line of words with what is kept of it."""
        with contextlib.suppress(AttributeError, TypeError):
            if not ismath:
                words = self._words(s, prop)
                return words.width, words.height, words.descent
        return super().get_text_width_height_descent(s, prop, ismath)

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
        were a third of a frame. A line is written once and kept, because most are there again in
        the next frame, and one that is not has been measured just before.
        """
        with contextlib.suppress(AttributeError, TypeError):  # Or in yet another release.
            if not ismath and not angle:
                words = self._words(s, prop, gc.get_antialiased())
                corner = round(x + words.left), round(y + words.below + words.descent) + 1
                self._renderer.draw_text_image(words.image, *corner, 0.0, gc)
                return
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)

    def _words(self, words: str, prop: Any, smooth: bool = True) -> Words:
        # A copy, because the font of an artist can be changed.
        return self._line(words, prop.copy(), smooth, get_hinting_flag())

    def _write_line(self, words: str, prop: Any, smooth: bool, hinting: Any) -> Words:
        font = self._prepare_font(prop)
        font.set_text(words, 0.0, flags=hinting)
        font.draw_glyphs_to_bitmap(antialiased=smooth)
        sizes = *font.get_bitmap_offset(), *font.get_width_height(), font.get_descent()
        return Words(font.get_image().copy(), *(size / 64 for size in sizes))
