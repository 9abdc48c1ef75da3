"""The panel of the residuals: what is drawn of them, and when they are evaluated."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from browser import wait_until
from controls import live
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy import stats

import fitkit as fk
from fitkit._plotting import Scatter, set_up
from fitkit._plotting.scatter_marks import SHARE, scatter_marks, scatter_view

X = jnp.linspace(0.0, 1.0, 30)
DATA = np.asarray(3.0 * X + 1.0 + 0.1 * np.random.default_rng(0).normal(size=30))


def residuals(params, args):
    return (params["slope"] * X + params["offset"] - DATA) / 0.1


def make_fit(function=residuals):
    params = {"slope": jnp.array(1.0), "offset": jnp.array(0.0)}
    return fk.Fit(residuals=function, params=params, optimiser=optax.adam(1e-2))


def drawn(scatter):
    """Draw on axes 600 pixels wide, and return these and the artists."""
    figure = Figure(figsize=(6, 3), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    set_up(axes, scatter_view(scatter))
    return axes, scatter_marks(axes, scatter)


def only(kind, marks):
    return [mark for mark in marks if isinstance(mark, kind)]


def texts(axes):
    return " ".join(text.get_text() for text in axes.texts)


def test_the_histogram_is_a_density_beside_the_unit_normal():
    values = np.random.default_rng(1).normal(size=100_000)
    scatter = Scatter((values,))
    edges, density = scatter.bins
    normal = np.diff(stats.norm.cdf(edges)) / np.diff(edges)
    # At most 4,000 are expected in a bin of 0.1 σ: √4000 of them are 0.006, four times that.
    np.testing.assert_allclose(density, normal, atol=0.025)
    assert np.all(np.diff(edges) < 0.5) and 0 in np.round(edges, 12)
    _, marks = drawn(scatter)
    curve = only(Line2D, marks)[0]
    x, heights = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    shape = stats.norm.pdf(heights) / stats.norm.pdf(0)
    np.testing.assert_allclose(x / x.max(), shape, rtol=1e-12)
    outline = only(LineCollection, marks)[0].get_segments()[0]
    assert outline[:, 0].max() / x.max() == pytest.approx(density.max() / stats.norm.pdf(0))
    assert max(outline[:, 0].max(), x.max()) == pytest.approx(SHARE)


def test_few_residuals_are_points_and_stray_ones_lie_on_the_edge():
    values = np.random.default_rng(2).normal(size=300)
    values[7], values[8], values[9] = 500.0, 0.0, np.nan  # stray, masked, not finite
    scatter = Scatter((values,))
    assert np.abs(np.delete(values, [7, 8, 9])).max() < scatter.limit < 10
    _, marks = drawn(scatter)
    _, dots, below, above = only(Line2D, marks)
    shown = np.delete(np.arange(300), [7, 8, 9])
    assert np.asarray(dots.get_xydata()).tolist() == np.c_[shown + 0.5, values[shown]].tolist()
    assert np.size(below.get_xdata()) == 0
    assert np.asarray(above.get_xydata()).tolist() == [[7.5, scatter.limit]]


def test_many_residuals_are_quantiles_of_stretches():
    values = np.random.default_rng(3).normal(size=150_000) + np.repeat([0.0, 2.0], 75_000)
    middles, levels = Scatter((values,)).columns
    # Each of 150 stretches of 1,000: its quantiles are known to 0.05 or so, four times that.
    expected = 2.0 * (middles > 75_000)[:, None] + np.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(levels[:, 1:4], expected, atol=0.2)
    assert levels[:, 0].min() == values.min() and levels[:, 4].max() == values.max()


def test_a_two_dimensional_leaf_is_an_image_of_square_pixels_centred_on_zero():
    image = np.random.default_rng(4).normal(size=(20, 40))
    axes, marks = drawn(Scatter((image, np.ones(9))))
    (picture,) = only(AxesImage, marks)
    np.testing.assert_array_equal(picture.get_array(), image)
    low, high = picture.get_clim()
    assert low == -high and picture.cmap(0.5)[3] == 0.0  # Zero is the page.
    left, right, bottom, top = picture.get_extent()
    width, height = (right - left) * axes.bbox.width, (top - bottom) * axes.bbox.height
    assert width / height == pytest.approx(40 / 20)
    assert bottom >= 0 and top <= 1 and right <= 1


@pytest.mark.parametrize(
    "leaves", [(np.ones((3, 200)),), (np.ones((20, 20)), np.ones((20, 20)))], ids=["table", "two"]
)
def test_what_is_no_image_is_drawn_by_its_index(leaves):
    assert Scatter(leaves).image is None


def test_a_large_image_is_averaged_to_what_a_panel_shows():
    image = np.ones((600, 300))
    image[:3, :3] = 4.0
    image[-1] = 0.0  # Masked: no part of an average.
    shown = Scatter((image,)).image
    assert shown is not None and shown.shape == (200, 100)
    assert shown[0, 0] == 4.0 and np.all(shown[1:] == 1.0)


@pytest.mark.parametrize("complex_ones", [False, True])
def test_they_are_those_of_the_moment(complex_ones):
    def rotated(params, args):
        return residuals(params, args) * jnp.exp(1j * X) if complex_ones else residuals(params, 0)

    fit = make_fit(rotated)
    fit.run(3, progress=False)
    axes = fk.Dashboard(fit, panels=["residuals"]).figure.axes[0]
    expected = np.asarray(rotated(fit.params, None))
    parts = np.concatenate([expected.real, expected.imag]) if complex_ones else expected
    parts = parts[parts != 0]
    dots = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines[1:]])
    np.testing.assert_allclose(np.sort(dots), np.sort(parts), rtol=1e-12)
    assert f"χ²/n {np.mean(parts**2):.3g} at step 3" in texts(axes)


def test_of_a_running_fit_they_are_evaluated_beside_it(fit, dashboard):
    assert dashboard.panels[-1] == "residuals"
    panels = live(dashboard)._panels
    fit.start(10**9)
    wait_until(lambda: (known := panels._residuals.scatter) and known.step > 0, "residuals")
    assert fit.status == "running"
    fit.stop()
    wait_until(lambda: panels._residuals.scatter.step == fit.step, "those of where it rests")
    assert "at step" in texts(dashboard.figure.axes[-1])


def test_a_drawing_of_the_model_takes_their_place():
    fit = make_fit()
    assert "residuals" not in fk.Dashboard(fit, draw=lambda axes, params: None).panels
    with_both = fk.Dashboard(
        fit, panels=["loss", "residuals", "model"], draw=lambda axes, params: None
    )
    loss, beside, model = (axes.get_position() for axes in with_both.figure.axes)
    assert beside.y0 == loss.y0 > model.y1


def test_a_loss_has_none_and_the_panel_says_so():
    fit = fk.Fit(loss=lambda p, a: p["a"] ** 2, params={"a": 1.0}, optimiser=optax.sgd(0.1))
    assert "residuals" not in fk.Dashboard(fit).panels
    (axes,) = fk.Dashboard(fit, panels=["residuals"]).figure.axes
    assert "was given a loss" in texts(axes)


def test_residuals_that_cannot_be_evaluated_leave_the_rest_alone(monkeypatch):
    def refuse(now):
        raise RuntimeError("no memory")

    monkeypatch.setattr("fitkit._dashboard.residuals.residuals_at", refuse)
    axes = fk.Dashboard(make_fit()).figure.axes
    assert len(axes) == 4 and "RuntimeError" in texts(axes[-1])


def test_the_result_draws_the_same():
    fit = make_fit()
    fit.run(progress=False)
    ax = fit.result().plot_residuals(Figure().add_subplot())
    panel = fk.Dashboard(fit, panels=["residuals"]).figure.axes[0]
    for ours, theirs in zip(ax.lines, panel.lines, strict=True):
        expected = np.asarray(theirs.get_xydata())
        np.testing.assert_allclose(np.asarray(ours.get_xydata()), expected, rtol=1e-9)
    assert isinstance(ax.texts[0], Text) and ax.texts[0].get_text() == "unit normal"
