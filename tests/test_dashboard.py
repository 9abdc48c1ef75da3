"""Every control without a browser: clicked, typed or moved, and its effect seen in a real fit."""

import base64
import gc
import io
import threading

import ipywidgets as widgets
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from browser import wait_until
from controls import live, row
from PIL import Image

import fitkit as fk
from fitkit._dashboard.header import duration, shown_loss, status_line, steps_of
from fitkit._dashboard.rows import notch, rounded
from fitkit._fit import Status

COMPILED = []


def loss(params, args):
    COMPILED.append(1)
    return jnp.sum((params["flux"] - 3.0) ** 2) + (params["star"]["x"] - 1.0) ** 2


def make_fit(optimiser=None, function=loss):
    params = {"flux": jnp.zeros(3), "star": {"x": jnp.array(0.5)}}
    return fk.Fit(loss=function, params=params, optimiser=optimiser or optax.adam(1e-4))


def test_run_runs_the_number_of_steps_asked_for(fit, dashboard):
    live(dashboard).header.count.value = "37"
    live(dashboard).header.run.click()
    fit.wait()
    assert fit.step == 37


def test_pause_resume_stop(fit, dashboard):
    header = live(dashboard).header
    header.count.value = "100 000 000"
    header.run.click()
    wait_until(lambda: not header.pause.disabled, "the pause button")
    assert header.run.disabled
    header.pause.click()
    wait_until(lambda: fit.status == "paused", "the fit to pause")
    wait_until(lambda: header.pause.description == "Resume", "the button to say resume")
    header.pause.click()
    wait_until(lambda: fit.status == "running", "the fit to go on")
    wait_until(lambda: header.pause.description == "Pause", "the button to say pause")
    header.stop.click()
    wait_until(lambda: fit.status == "stopped", "the fit to stop")
    wait_until(lambda: not header.run.disabled, "the run button")


@pytest.mark.parametrize("words", ["", "0"])
def test_a_run_without_a_number_goes_on_until_it_is_stopped(fit, dashboard, words):
    header = live(dashboard).header
    fit.learning_rates["*"] = 1e-3  # Or it has converged before somebody stops it.
    header.count.value = words
    header.run.click()
    wait_until(lambda: "Running" in header.status.value, "the fit to run")
    assert fit.target is None
    assert "aria-valuenow" not in header.status.value  # A progress bar of no known end.
    assert " of " not in header.status.value and " left" not in header.status.value
    wait_until(lambda: fit.step > 1000, "some steps")
    header.pause.click()
    wait_until(lambda: "Paused" in header.status.value, "the pause")
    assert "aria-valuenow" not in header.status.value
    header.pause.click()
    wait_until(lambda: "Running" in header.status.value, "the fit to go on")
    header.stop.click()
    wait_until(lambda: "Stopped" in header.status.value, "the fit to stop")
    assert "aria-valuenow='100'" in header.status.value


@pytest.mark.parametrize(
    ("words", "steps"), [("37", 37), (" 10 000 ", 10_000), ("1e6", 10**6), ("2,000", 2000)]
)
def test_steps_are_read_as_people_write_them(words, steps):
    assert steps_of(words) == steps


@pytest.mark.parametrize("words", ["-1", "1.5", "many", "nan", "inf", "1e999"])
def test_steps_that_are_no_whole_number_are_refused(fit, dashboard, words):
    live(dashboard).header.count.value = words
    live(dashboard).header.run.click()
    dashboard.refresh()
    assert "whole number" in live(dashboard).header.notice.value
    assert fit.step == 0 and not fit.status.busy


def test_the_headline_of_a_running_fit_is_the_last_recorded_loss(fit):
    fit.run(5, progress=False)
    assert shown_loss(fit.snapshot) == fit.loss != fit.history.loss[-1]
    running = fit.snapshot.but(status=Status.RUNNING)
    assert shown_loss(running) == fit.history.loss[-1]


def test_the_progress_is_that_of_the_run(fit):
    now = fit.snapshot.but(status=Status.RUNNING, target=300, steps_per_second=10.0)
    assert "aria-valuenow='50'" in status_line(now, started=-300)
    assert "30 s left" in status_line(now, 0) and "of 300" in status_line(now, 0)


def test_toggles_draw_the_loss_on_a_linear_axis_and_its_last_tenth(fit, dashboard):
    fit.run(400, progress=False)
    toggles = live(dashboard).loss_toggles
    before = dashboard.figure.axes[0]
    assert before.get_yscale() == "log" and before.get_xlim() == (0, 400)
    toggles.linear.value = True
    linear = dashboard.figure.axes[0]
    assert linear.get_yscale() == "linear" and linear.get_xlim() == (0, 400)
    toggles.tail.value = True
    tail = dashboard.figure.axes[0]
    assert tail.get_xlim() == (360, 400)
    low, high = tail.get_ylim()
    losses = fit.history.loss[360:]  # They fall: the axis holds these, and little else.
    assert low <= losses.min() and losses.max() <= high < fit.history.loss[200]
    drawn = next(line for line in tail.lines if np.size(line.get_xdata()) > 1)
    assert np.asarray(drawn.get_ydata()).tolist() == losses.tolist()
    toggles.linear.value = toggles.tail.value = False
    again = dashboard.figure.axes[0]
    assert again.get_ylim() == before.get_ylim() and again.get_yscale() == "log"
    # A part of the steps, above the lowest of all, and smoothed.
    toggles.shown.value = (25, 50)
    assert dashboard.figure.axes[0].get_xlim() == (100, 200)
    toggles.shown.value = (90, 100)
    assert toggles.tail.value
    toggles.shown.value = (0, 100)
    assert not toggles.tail.value
    toggles.above.value = True
    above = dashboard.figure.axes[0]
    assert any(text.get_text().startswith("above ") for text in above.texts)
    assert above.get_yscale() == "log"
    drawn = next(line for line in above.lines if np.size(line.get_xdata()) > 1)
    steps = np.asarray(drawn.get_xdata(), int)[:-1]
    expected = (fit.history.loss - fit.best.loss)[steps]
    np.testing.assert_allclose(np.asarray(drawn.get_ydata())[:-1], expected, rtol=1e-12)
    toggles.smooth.value = True
    smooth = dashboard.figure.axes[0]
    assert [line.get_marker() for line in smooth.lines].count("o") == 0
    toggles.above.value = toggles.smooth.value = False
    # A frame too, and one whose best is earlier than what is drawn.
    fit.learning_rates["flux"] = 1e7
    fit.run(200, progress=False)
    toggles.tail.value = True
    dashboard.refresh()
    assert live(dashboard).header.notice.value == ""


def test_rewind_to_best(dashboard, fit):
    fit.run(50, progress=False)
    fit.learning_rates["flux"] = 1e7
    fit.run(20, progress=False)
    best = fit.best.step
    assert best < fit.step
    dashboard.refresh()
    live(dashboard).header.best.click()
    wait_until(lambda: fit.step == best, "the fit to stand at its best")


def test_a_slider_sets_the_learning_rate_and_the_number(fit, dashboard):
    flux = row(dashboard, "flux")
    flux.slider.value += 10  # half a decade
    assert fit.learning_rates["flux"] == rounded(10**0.5)
    assert flux.rate.value == rounded(10**0.5)
    assert fit.learning_rates["star.x"] == 1.0


def test_a_typed_number_is_used_to_the_digit_though_the_slider_has_notches(fit, dashboard):
    flux = row(dashboard, "flux")
    flux.rate.value = 3.21
    assert fit.learning_rates["flux"] == 3.21
    assert flux.slider.value == notch(3.21)
    dashboard.refresh()
    assert (fit.learning_rates["flux"], flux.rate.value) == (3.21, 3.21)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_an_impossible_number_is_refused_with_a_notice(fit, dashboard, bad):
    flux = row(dashboard, "flux")
    flux.rate.value = bad
    assert fit.learning_rates["flux"] == 1.0
    assert flux.rate.value == 1.0
    dashboard.refresh()
    assert "learning_rates" in live(dashboard).header.notice.value
    flux.rate.value = 2.0
    dashboard.refresh()
    assert live(dashboard).header.notice.value == ""


def test_zero_is_a_learning_rate(fit, dashboard):
    flux = row(dashboard, "flux")
    flux.rate.value = 0.0
    dashboard.refresh()
    assert (fit.learning_rates["flux"], flux.rate.value) == (0.0, 0.0)


def test_freeze_and_thaw(fit, dashboard):
    toggle = row(dashboard, "star.x").freeze
    toggle.value = True
    assert fit.frozen == {"star.x"}
    assert toggle.description == "Frozen"
    toggle.value = False
    assert fit.frozen == frozenset()


def test_a_parameter_without_an_optimiser_stays_frozen_and_says_why():
    fit = make_fit({"flux": optax.sgd(0.1)})
    dashboard = fk.Dashboard(fit)
    dashboard.refresh()
    toggle = row(dashboard, "star.x").freeze
    assert toggle.value
    toggle.value = False
    dashboard.refresh()
    assert toggle.value
    assert "no optimiser moves" in live(dashboard).header.notice.value
    dashboard.close()


def test_a_change_in_code_moves_the_controls_of_two_dashboards(fit, dashboard):
    other = fk.Dashboard(fit)
    _ = other.widget
    fit.learning_rates["flux"] = 0.01
    fit.freeze("star.x")
    for one in (dashboard, other):
        wait_until(lambda one=one: row(one, "flux").rate.value == 0.01, "the number to follow")
        wait_until(
            lambda one=one: row(one, "flux").slider.value == notch(0.01), "the slider to follow"
        )
        wait_until(lambda one=one: row(one, "star.x").freeze.value, "the toggle to follow")
    row(other, "flux").slider.value = notch(0.1)
    wait_until(lambda: row(dashboard, "flux").rate.value == 0.1, "the other dashboard to follow")
    other.close()


def test_a_learning_rate_that_the_optimiser_shows_is_shown():
    fit = make_fit(optax.inject_hyperparams(optax.sgd)(learning_rate=2.5e-3))
    dashboard = fk.Dashboard(fit)
    dashboard.refresh()
    flux = row(dashboard, "flux")
    assert flux.rate.value == 2.5e-3
    assert (flux.slider.min, flux.slider.max) == (notch(1e-6), notch(1.0))
    fit.learning_rates["flux"] = 31.0
    dashboard.refresh()
    assert flux.slider.max == notch(100.0)
    assert flux.slider.value == notch(31.0)
    dashboard.close()


def test_steering_by_controls_compiles_nothing(fit):
    # Without the spectrum, whose Fisher matrices trace the loss too.
    dashboard = fk.Dashboard(fit, panels=["loss", "steps"])
    dashboard.refresh()
    fit.run(5, progress=False)
    before = len(COMPILED)
    row(dashboard, "flux").slider.value = notch(0.1)
    row(dashboard, "star.x").freeze.value = True
    fit.run(5, progress=False)
    dashboard.refresh()
    assert len(COMPILED) == before
    dashboard.close()


def test_an_exception_in_the_loss_is_shown_where_the_eye_is():
    import jax

    calls = []

    def check(x):
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("the detector melted")
        return x

    def breaks(params, args):
        shape = jax.ShapeDtypeStruct((), params["flux"].dtype)
        checked = jax.pure_callback(check, shape, jax.lax.stop_gradient(params["flux"][0]))
        return loss(params, args) + 0.0 * checked

    fit = make_fit(function=breaks)
    dashboard = fk.Dashboard(fit)
    dashboard.refresh()
    fit.start(100)
    with pytest.raises(Exception, match="the detector melted"):
        fit.wait()
    dashboard.refresh()
    assert "the detector melted" in live(dashboard).header.notice.value
    assert "Stopped by an error" in live(dashboard).header.status.value
    dashboard.close()


def test_a_non_finite_fit_says_at_which_step():
    fit = make_fit(optax.sgd(1e6))
    dashboard = fk.Dashboard(fit)
    fit.run(1000, progress=False)
    assert fit.status == "non-finite"
    dashboard.refresh()
    assert "non-finite at step" in live(dashboard).header.notice.value
    dashboard.close()


def test_the_frame_is_a_png_of_fixed_size(fit, dashboard):
    sizes = set()
    for _ in range(3):
        fit.run(200, progress=False)
        dashboard.refresh()
        picture = Image.open(io.BytesIO(live(dashboard).picture.image.value))
        picture.verify()
        sizes.add(picture.size)
    assert sizes == {(1440, 420)}


def test_the_figure_can_be_saved(fit, dashboard, tmp_path):
    fit.run(20, progress=False)
    dashboard.figure.savefig(tmp_path / "fit.pdf")
    dashboard.figure.savefig(tmp_path / "fit.png")
    assert np.ptp(np.asarray(Image.open(tmp_path / "fit.png").convert("L"))) > 100
    titles = [axes.get_title(loc="left").split(" /")[0] for axes in dashboard.figure.axes]
    assert titles == ["Loss", "Step size", "Spectrum"]


def test_panels_are_chosen_and_unknown_ones_refused(fit):
    assert len(fk.Dashboard(fit, panels=["loss"]).figure.axes) == 1
    with pytest.raises(ValueError, match=r"no panel 'lost'.*'loss'"):
        fk.Dashboard(fit, panels=["lost"])
    with pytest.raises(ValueError, match="belong together"):
        fk.Dashboard(fit, panels=["model"])
    with pytest.raises(ValueError, match="belong together"):
        fk.Dashboard(fit, panels=["loss"], draw=lambda axes, params: None)
    with pytest.raises(ValueError, match="no panel was asked for"):
        fk.Dashboard(fit, panels=[])


@pytest.fixture(scope="module")
def mirrors():
    params = {f"m{i:03}": {"tip": jnp.array(1.0 + i), "tilt": jnp.array(2.0)} for i in range(150)}
    return fk.Fit(
        loss=lambda p, a: sum(jnp.square(m["tip"]) + m["tilt"] ** 2 for m in p.values()),
        params=params,
        optimiser=optax.adam(0.1),
    )


@pytest.fixture
def many(mirrors):
    dashboard = fk.Dashboard(mirrors)
    _ = dashboard.widget
    yield dashboard
    dashboard.close()


def test_hundreds_of_parameters_come_in_pages(many):
    assert len(live(many).table.rows) == 12
    live(many).table.forth.click()
    many.refresh()
    assert row(many, "m006.tip").slider.description == "m006.tip"
    assert live(many).table.where.value == "13–24 of 300"
    live(many).table.back.click()
    many.refresh()
    assert row(many, "m000.tip")
    assert live(many).table.back.disabled


@pytest.mark.parametrize(("words", "count"), [("tilt", 150), ("m01?.tip", 10), ("none such", 0)])
def test_a_filter_shows_what_matches(many, words, count):
    live(many).table.filter.value = words
    many.refresh()
    assert live(many).table.where.value.endswith(f"of {count}" if count else "none match")
    hidden = [r for r in live(many).table.rows if "fitkit-none" in r.box._dom_classes]
    assert len(hidden) == max(0, 12 - count)


def test_all_that_match_are_steered_together_and_keep_their_ratios(mirrors, many):
    mirrors.learning_rates["m000.tilt"] = 0.1
    live(many).table.filter.value = "m00?.tilt"
    many.refresh()
    together = live(many).table.together
    assert len(together.paths) == 10
    assert together.rate.value == pytest.approx(0.1**0.1, rel=1e-5)
    together.rate.value = 10 * together.rate.value
    assert mirrors.learning_rates["m000.tilt"] == pytest.approx(1.0, rel=1e-5)
    assert mirrors.learning_rates["m001.tilt"] == pytest.approx(10.0, rel=1e-5)
    assert mirrors.learning_rates["m010.tilt"] == 1.0
    together.freeze.value = True
    assert mirrors.frozen == set(together.paths)
    together.freeze.value = False
    assert not mirrors.frozen


@pytest.mark.slow
def test_the_spectrum_of_gauss_newton_is_a_panel_and_marks_what_is_unconstrained():
    x = jnp.linspace(0.0, 1.0, 10)
    fit = fk.Fit(
        residuals=lambda p, a: p["a"] * p["b"] * x - 2.0 * x,  # only the product is constrained
        params={"a": 1.0, "b": 1.0},
    )
    dashboard = fk.Dashboard(fit)
    dashboard.refresh()
    fit.run(5, progress=False)
    dashboard.refresh()
    (axes,) = (one for one in dashboard.figure.axes if one.get_title(loc="left") == "Spectrum")
    assert "1 unconstrained" in [text.get_text() for text in axes.texts]
    dashboard.close()


def test_closing_leaves_the_fit_running(fit):
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    fit.start(10**8)
    dashboard.close()
    assert fit.status.busy


def counts():
    gc.collect()
    threads = [t for t in threading.enumerate() if t.name.startswith("fitkit ")]
    return len(widgets.Widget.widgets), len(threads)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Widget.widgets is deprecated")
@pytest.mark.parametrize("close", [True, False], ids=["closed", "forgotten"])
def test_many_dashboards_leave_no_thread_and_no_widget(fit, close):
    before = counts()
    for _ in range(15):
        dashboard = fk.Dashboard(fit)
        _ = dashboard.widget
        if close:
            dashboard.close()
        del dashboard
    # Less is fine: what earlier tests left may go meanwhile.
    wait_until(
        lambda: all(now <= then for now, then in zip(counts(), before, strict=True)),
        f"the counts of widgets and threads to return to {before}",
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.4, "3 s"), (75, "1 min 15 s"), (7300, "2 h 01 min"), (-1, "0 s")]
)
def test_time_left_reads_as_a_person_would_say_it(seconds, words):
    assert duration(seconds) == words


@pytest.mark.slow
def test_without_a_person_the_notebook_keeps_the_last_picture_and_no_widgets(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import jax.numpy as jnp, optax, fitkit as fk\n"
        "fit = fk.Fit(loss=lambda p, a: jnp.sum(p['x'] ** 2), params={'x': jnp.ones(2)},"
        " optimiser=optax.adam(0.01))",
        "fk.Dashboard(fit)",
        "fit.run(50)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    assert "widgets" not in notebook.metadata
    view, style, still = notebook.cells[1].outputs
    assert view["data"] == {"text/plain": "Dashboard of 1 parameter"}
    assert set(style["data"]) == {"text/html", "text/plain"}
    picture = Image.open(io.BytesIO(base64.b64decode(still["data"]["image/png"])))
    assert picture.size == (1920, 608)
    # Seven tenths of the width is drawn on after a run; before it only "no steps yet".
    ink = np.asarray(picture)[..., 3] > 0
    assert ink.any(axis=0).mean() > 0.7
    assert len(nbformat.writes(notebook)) < 300_000
