"""Spectrum, errors, groups, undo and save, without a browser."""

import io
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from browser import wait_until
from controls import live, row
from PIL import Image

import fitkit as fk
from fitkit._dashboard.layout import Page, Plot, arrange
from fitkit._dashboard.render import FrameRenderer
from fitkit._dashboard.rows import describe
from fitkit._plotting import Frame, View, error_bars

X = jnp.linspace(0.0, 1.0, 30)


def residuals(params, args):
    return (params["slope"] * X + params["offset"] - 3.0 * X - 1.0) / 0.1


def make_fit(**more):
    start = {"slope": jnp.array(1.0), "offset": jnp.array(0.0)}
    more.setdefault("optimiser", optax.adam(1e-2))
    return fk.Fit(residuals=residuals, params=start, **more)


def test_front_ends_without_widgets_get_a_picture(fit):
    fit.run(20, progress=False)
    png = fk.Dashboard(fit)._repr_png_()
    assert Image.open(io.BytesIO(png)).width > 900
    assert fit.known_fisher is not None


@pytest.mark.parametrize(("room", "width"), [("", 960), ("400 1", 600), ("1130 1", 1130)])
def test_the_saved_picture_is_as_wide_as_the_live_one(fit, dashboard, room, width):
    live(dashboard).picture.room.value = room
    saved = dashboard._picture(fit.snapshot)
    assert saved.width == width
    assert Image.open(io.BytesIO(saved.png)).width == 2 * width


def test_undo_takes_back_what_a_control_did(fit, dashboard):
    undo = live(dashboard).header.undo
    assert undo.disabled
    row(dashboard, "slope").slider.value += 20
    row(dashboard, "offset").freeze.value = True
    dashboard.refresh()
    assert "froze offset" in undo.tooltip
    undo.click()
    assert fit.frozen == frozenset()
    undo.click()
    dashboard.refresh()
    assert fit.learning_rates["slope"] == 1.0
    assert row(dashboard, "slope").slider.value == 0
    assert undo.disabled


def test_reset_gives_a_learning_rate_back(fit, dashboard):
    fit.learning_rates["slope"] = 17.0
    row(dashboard, "slope").reset.click()
    assert fit.learning_rates["slope"] == 1.0


def test_save_writes_a_file_that_loads(fit, dashboard, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit.run(12, progress=False)
    live(dashboard).header.save.click()
    file = tmp_path / "fit-at-step-12.fitkit"
    wait_until(lambda: str(file) in live(dashboard).header.saved, "the fit to be saved")
    again = fk.Fit.load(
        file,
        residuals=residuals,
        params={"slope": jnp.array(0.0), "offset": jnp.array(0.0)},
        optimiser=optax.adam(1e-2),
    )
    assert again.params == fit.params


def test_a_file_that_cannot_be_written_is_an_error_that_is_shown(
    fit, dashboard, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    live(dashboard).header.save.click()
    wait_until(lambda: "No such file" in live(dashboard).header.notice.value, "the words")


def test_the_spectrum_is_made_on_demand_and_names_its_eigenvectors(fit, dashboard):
    eigenvectors = live(dashboard).eigenvectors
    fit.run(5, progress=False)
    eigenvectors.renew.click()
    wait_until(lambda: fit.known_fisher and fit.known_fisher[0] == 5, "a Fisher matrix")
    fisher = fit.known_fisher[1]
    dashboard.refresh()
    assert [value for _, value in eigenvectors.choice.options] == [-1, 0, 1]
    assert "all 2 eigenvectors" in eigenvectors.words.value
    eigenvectors.choice.value = 1
    dashboard.refresh()
    assert fisher.in_words(1) in eigenvectors.words.value
    # The components of a unit vector in the plane.
    assert eigenvectors.words.value.count("0.71") == 2
    fit.fisher()
    dashboard.refresh()
    assert eigenvectors.chosen == 1


@pytest.mark.slow
def test_a_resting_fit_gets_its_spectrum_unasked_and_a_running_one_within_a_share(fit, dashboard):
    fit.run(3, progress=False)
    wait_until(
        lambda: fit.known_fisher and fit.known_fisher[0] == 3, "the spectrum of where it rests"
    )
    made, begun = 0, time.monotonic()
    fit.start(10**9)
    while time.monotonic() < begun + 6.0:
        known = fit.known_fisher[0]
        wait_until(lambda known=known: fit.known_fisher[0] != known, "another", patience=60)
        made += 1
        if made == 2:
            break
    fit.stop()
    # At most every other second.
    assert made < 2 or time.monotonic() - begun > 3.0


@pytest.mark.slow
def test_the_eigenbasis_by_button_and_back(fit, dashboard):
    eigenvectors = live(dashboard).eigenvectors
    fit.learning_rates["slope"] = 3.0
    eigenvectors.basis.click()
    wait_until(lambda: eigenvectors.basis.description == "Leave eigenbasis", "the eigenbasis")
    assert fit.in_eigenbasis
    fit.run(20, progress=False)
    # Half a sum of squares of float64 ends where the line is met.
    assert float(fit.params["slope"]) == pytest.approx(3.0, rel=1e-6)
    eigenvectors.basis.click()
    wait_until(lambda: eigenvectors.basis.description == "Enter eigenbasis", "the way back")
    wait_until(lambda: row(dashboard, "slope").rate.value == 3.0, "the learning rate of before")


def test_values_come_with_errors_and_steps_in_units_of_them(fit, dashboard):
    assert error_bars(fit.snapshot) == {}
    fisher = fit.fisher()
    expected = np.sqrt(np.diag(np.linalg.inv(fisher.matrix)))
    errors = error_bars(fit.snapshot)
    assert [float(errors[label]) for label in fisher.labels] == pytest.approx(expected, rel=1e-6)
    dashboard.refresh()
    assert row(dashboard, "slope").value.value == describe(1.0, errors["slope"])
    assert " ± " in row(dashboard, "slope").value.value
    titles = [axes.get_title(loc="left") for axes in dashboard.figure.axes]
    assert "Step size / error bar" in titles
    fit.freeze("slope")
    assert Frame(fit.snapshot, errors=errors).units == {
        "offset": pytest.approx(float(errors["offset"]))
    }


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (1.23456, 0.012, "1.235 ± 0.012"),
        (-1.23456, 0.012, "−1.235 ± 0.012"),
        (1.23456, None, "1.235"),
        (1.23456, np.inf, "1.235 ± ∞"),
        ([1.0, 2.0, 3.0], [0.1, 0.25, 0.1], "1 … 3 ± 0.25 (3)"),
        ([1.0, 2.0], [0.1, np.inf], "1 … 2 ± ∞ (2)"),
    ],
)
def test_values_are_written_to_the_digits_that_count(value, error, words):
    assert describe(value, None if error is None else np.asarray(error)) == words


def test_groups_by_path_are_steered_and_opened():
    params = {
        "star": {"flux": jnp.array(1.0), "x": jnp.array(0.0)},
        "mirrors": [{"tip": jnp.array(1.0), "tilt": jnp.array(1.0)} for _ in range(8)],
        "gain": jnp.array(1.0),
    }
    fit = fk.Fit(
        loss=lambda p, a: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)),
        params=params,
        optimiser=optax.adam(0.1),
    )
    dashboard = fk.Dashboard(fit)
    dashboard.refresh()
    table = live(dashboard).table
    assert [(entry.label, len(entry.paths)) for entry in table.in_sight()] == [
        ("gain", 1),
        ("mirrors", 16),
        ("star", 2),
    ]
    gain, mirrors, _star = table.rows[:3]
    assert mirrors.slider.description == "mirrors (16)"
    assert "fitkit-group" in mirrors.box._dom_classes
    assert "fitkit-group" not in gain.box._dom_classes
    mirrors.rate.value = 0.5
    assert {rate for path, rate in fit.learning_rates.items() if "mirrors" in path} == {0.5}
    assert fit.learning_rates["gain"] == 1.0
    mirrors.open.click()
    dashboard.refresh()
    assert [entry.label for entry in table.in_sight()] == [f"mirrors.{i}" for i in range(8)]
    table.rows[3].open.click()
    dashboard.refresh()
    assert [entry.label for entry in table.in_sight()] == ["mirrors.3.tilt", "mirrors.3.tip"]
    table.up.click()
    table.up.click()
    dashboard.refresh()
    assert len(table.in_sight()) == 3
    assert table.up.disabled
    dashboard.close()


def test_a_panel_drawn_anew_by_itself_looks_like_one_drawn_with_the_others():
    def panel(top, legend=(), note=""):
        view = View("loss", (0.0, 10.0), (1e-3, top), legend=legend, note=note)
        return Plot(view, lambda axes: [])

    def pixels(renderer, cells):
        return np.asarray(Image.open(io.BytesIO(renderer.frame(cells, Page()))), dtype=int)

    legend = (("slope", "#0072b2", "solid"),)
    renderer = FrameRenderer()
    pixels(renderer, [panel(1.0), panel(1.0, legend, note="no steps yet"), panel(1e6)])
    changed = [panel(1.0), panel(1e4, legend), panel(1e6)]
    # Colours of half-transparent pixels are rounded when they are kept and put back.
    assert np.abs(pixels(renderer, changed) - pixels(FrameRenderer(), changed)).max() <= 1
    # And another legend is another layout.
    changed = [panel(1.0, legend), panel(1e4), panel(1e6)]
    assert np.array_equal(pixels(renderer, changed), pixels(FrameRenderer(), changed))


def test_axes_that_follow_their_limits_look_like_new_ones():
    def cells(steps, top, bottom, low):
        log, linear = (0.0, steps), (-steps / 3, steps)
        return [
            Plot(View("loss", log, (bottom, top)), lambda axes: []),
            Plot(View("value", linear, (low, 3.0), log=False), lambda axes: []),
        ]

    renderer = FrameRenderer()
    drawn = []
    for limits in ((10.0, 1.0, 1e-3, -3.0), (5e4, 5.0, 1.0, -200.0), (2e6, 1e9, 1e-3, -0.1)):
        frame = renderer.frame(cells(*limits), Page())
        drawn.append(renderer._axes)
        new = FrameRenderer().frame(cells(*limits), Page())
        ours, theirs = (np.asarray(Image.open(io.BytesIO(one)), int) for one in (frame, new))
        assert np.abs(ours - theirs).max() <= 1
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 0.75, 2.0), (0.75,) * 9])
@pytest.mark.parametrize("width", [320, 500, 960, 2500, 4000])
def test_panels_fill_the_width_in_their_order_and_never_overlap(weights, width):
    view = View("loss", (0.0, 1.0), (0.0, 1.0), legend=(("a name of some length", "k", "solid"),))
    height, slots = arrange([Plot(view, lambda axes: [], weight) for weight in weights], width)
    ends = [(slot.top + slot.height, slot.left + slot.width) for slot in slots]
    for (bottom, right), after in zip(ends, slots[1:], strict=False):
        beside = after.top < bottom and after.left == pytest.approx(right)
        assert beside or (after.left == 0 and after.top == bottom and right == pytest.approx(width))
    assert ends[-1] == (pytest.approx(height), pytest.approx(width))
    for slot in slots:
        left, bottom, wide, high = slot.axes
        assert 0 < left < left + wide < 1 and 0 < bottom < bottom + high < 1
        assert wide * slot.width > 120  # CSS pixels: four numbers below the axes.
