"""Words as the dashboard writes them, beside matplotlib's own."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fitkit._dashboard.agg import Canvas


def ink(canvas_class, words, rotation=0.0, density=1.0):
    """Write words in black on white, and return how dark each pixel is, from 0 to 1."""
    figure = Figure(figsize=(3, 1), dpi=100 * density)
    canvas = canvas_class(figure)
    figure.text(0.5, 0.5, words, ha="center", va="center", rotation=rotation)
    canvas.draw()
    return 1 - np.asarray(canvas.buffer_rgba())[..., 0] / 255


def middle(pixels):
    return [np.average(axis, weights=pixels) for axis in np.indices(pixels.shape)]


@pytest.mark.parametrize("density", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("words", ["best 0.0125 at step 1,000", "χ²/n 0.998", "2×10⁻⁷"])
def test_words_are_where_matplotlib_writes_them(words, density):
    ours, theirs = (ink(one, words, density=density) for one in (Canvas, FigureCanvasAgg))
    # Letters begin at whole pixels or, from matplotlib 3.11 on, between them.
    np.testing.assert_allclose(middle(ours), middle(theirs), atol=1.0)
    np.testing.assert_allclose(ours.sum(), theirs.sum(), rtol=0.1)


@pytest.mark.parametrize(("words", "rotation"), [("$x^2$", 0.0), ("data", 90.0)])
def test_formulas_and_turned_words_are_left_to_matplotlib(words, rotation):
    ours, theirs = (ink(one, words, rotation) for one in (Canvas, FigureCanvasAgg))
    assert theirs.sum() > 0
    np.testing.assert_array_equal(ours, theirs)


def test_a_release_without_what_is_needed_writes_itself(monkeypatch):
    monkeypatch.setattr("fitkit._dashboard.agg.Renderer._words", None)
    ours, theirs = (ink(one, "loss") for one in (Canvas, FigureCanvasAgg))
    np.testing.assert_array_equal(ours, theirs)
