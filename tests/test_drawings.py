"""What users draw themselves: the model, panels of their own, and what goes wrong in them."""

import io
import itertools
import threading

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from browser import wait_until
from controls import live
from PIL import Image

import fitkit as fk

# They mostly compile.
pytestmark = pytest.mark.slow

X = jnp.linspace(0.0, 1.0, 30)
WIDTH, HEIGHT, MODEL_HEIGHT = 1440, 420, 450  # device pixels


def residuals(params, args):
    return (params["slope"] * X + params["offset"] - 3.0 * X - 1.0) / 0.1


def make_fit(**more):
    start = {"slope": jnp.array(1.0), "offset": jnp.array(0.0)}
    more.setdefault("optimiser", optax.adam(1e-2))
    return fk.Fit(residuals=residuals, params=start, **more)


def draw(axes, params):
    axes.plot(X, params["slope"] * X)


def own(axes, snapshot):
    axes.plot(snapshot.history.steps, snapshot.history.loss)
    axes.set_title("Mine", loc="left")


def picture(dashboard):
    return Image.open(io.BytesIO(live(dashboard).picture.image.value))


def notice(dashboard):
    return live(dashboard).header.notice.value


NAMES = ("loss", "steps", "spectrum", "model", own)
SUBSETS = [
    subset for count in range(1, len(NAMES) + 1) for subset in itertools.combinations(NAMES, count)
]


@pytest.fixture(scope="module")
def rested():
    fit = make_fit()
    fit.run(5, progress=False)
    return fit


@pytest.mark.parametrize("panels", SUBSETS, ids=str)
def test_every_choice_of_panels_is_drawn(rested, panels):
    dashboard = fk.Dashboard(rested, panels=panels, draw=draw if "model" in panels else None)
    dashboard.refresh()
    frame = picture(dashboard)
    # The model is wide, and has a line of its own beside more than one other panel.
    assert frame.size[0] == WIDTH
    assert frame.size[1] in (HEIGHT, MODEL_HEIGHT, 2 * HEIGHT, HEIGHT + MODEL_HEIGHT)
    assert notice(dashboard) == ""
    boxes = [axes.get_position().extents for axes in dashboard.figure.axes]
    assert len(boxes) == len(panels)
    ink = np.asarray(frame)[::-1, :, 3] > 0
    for left, bottom, right, top in np.array(boxes) * [*frame.size, *frame.size]:
        assert ink[int(bottom) : int(top), int(left) : int(right)].any()
    dashboard.close()


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ("1812 1", (1812, 300)),  # All beside each other.
        ("1000 2.5", (2000, 1160)),  # The model below; more than two cannot be told apart.
        ("500.4 1.25", (625, 1250)),  # One below the other.
        ("9999999 1", (4000, 300)),
        ("nothing", (WIDTH, HEIGHT + MODEL_HEIGHT)),
    ],
)
def test_a_frame_is_made_for_the_width_of_its_cell(rested, told, size):
    dashboard = fk.Dashboard(rested, draw=draw)
    dashboard.refresh()
    live(dashboard).picture.room.value = told
    wait_until(lambda: picture(dashboard).size == size, "a frame of this width")
    dashboard.close()


def test_the_model_is_drawn_below_and_in_the_saved_figure(fit):
    def draw(axes, params):
        axes.plot(X, params["slope"] * X, label="model")
        axes.twinx().plot(X, X)
        axes.set_title("line", loc="left")

    fit.fisher()  # Known, so that no spectrum arrives between two frames.
    dashboard = fk.Dashboard(fit, draw=draw)
    frames = set()
    for _ in range(3):
        dashboard.refresh()
        frames.add(live(dashboard).picture.image.value)
    assert len(frames) == 1  # What `draw` makes does not pile up from frame to frame.
    figure = dashboard.figure
    assert len(figure.axes) == 5  # Three panels, the model, and the twin that `draw` makes.
    *_, axes, twin = figure.axes
    assert axes.get_title(loc="left") == "line"
    assert len(axes.lines) == len(twin.lines) == 1
    dashboard.close()


def test_a_function_is_a_panel_and_sees_the_moment_that_the_others_show(fit):
    seen = []

    def gradient(axes, snapshot):
        seen.append(snapshot)
        axes.plot(snapshot.history.steps, snapshot.history.gradient_norms["slope"])

    dashboard = fk.Dashboard(fit, panels=["loss", gradient])
    assert dashboard.panels == ("loss", "gradient")
    fit.run(20, progress=False)
    _, axes = dashboard.figure.axes
    assert seen[-1] is fit.snapshot
    assert np.size(axes.lines[0].get_xdata()) == 20


def raises(axes, params):
    raise KeyError("no such filter")


def spoils_text(axes, params):
    axes.set_title(r"$\frac{$")  # Found only when it is drawn.


def clears_figure(axes, params):
    axes.figure.clear()
    raise KeyError("no such filter")


@pytest.mark.parametrize("spoil", [raises, spoils_text, clears_figure])
def test_what_draw_raises_is_shown_and_the_fit_goes_on(fit, spoil, capsys):
    dashboard = fk.Dashboard(fit, draw=spoil)
    fit.start(10**9)
    dashboard.refresh()
    assert "Traceback" in capsys.readouterr().err
    for _ in range(3):
        dashboard.refresh()
    assert capsys.readouterr().err == ""  # Once is enough.
    assert "draw raised " in notice(dashboard)
    assert fit.status.busy
    assert np.asarray(picture(dashboard))[:HEIGHT, :, 3].any()
    dashboard.close()


def test_a_panel_that_raises_leaves_the_others_alone(fit):
    def broken(axes, snapshot):
        axes.figure.clear()
        raise ZeroDivisionError("by hand")

    dashboard = fk.Dashboard(fit, panels=["loss", broken, "steps"])
    fit.run(5, progress=False)
    dashboard.refresh()
    assert "broken raised ZeroDivisionError: by hand" in notice(dashboard)
    assert np.asarray(picture(dashboard))[:, : WIDTH // 4, 3].any()
    dashboard.close()


def test_draw_that_works_again_takes_the_notice_away(fit):
    broken = [True]

    def draw(axes, params):
        if broken:
            raise KeyError("not yet")

    dashboard = fk.Dashboard(fit, draw=draw)
    dashboard.refresh()
    assert "not yet" in notice(dashboard)
    broken.clear()
    dashboard.refresh()
    assert notice(dashboard) == ""
    dashboard.close()


def test_could_not_draw_stays_until_a_frame_succeeds(fit, monkeypatch, capsys):
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    shown = live(dashboard)
    works = shown.picture.renderer.frame
    frames = []

    def fails(cells, page):
        frames.append(1)
        raise MemoryError("no room for a figure")

    monkeypatch.setattr(shown.picture.renderer, "frame", fails)
    fit.run(5, progress=False)
    wait_until(lambda: "no room for a figure" in notice(dashboard), "the notice")
    gone = []
    shown.header.notice.observe(lambda change: gone.append(change["new"]), "value")
    tried = len(frames)
    fit.start(10**9)
    wait_until(lambda: len(frames) >= tried + 3, "more frames that fail")
    assert not gone
    # Controls are kept up to date nevertheless.
    wait_until(lambda: "Running" in shown.header.status.value, "the controls")
    assert capsys.readouterr().err.count("Traceback") == 1
    monkeypatch.setattr(shown.picture.renderer, "frame", works)
    wait_until(lambda: notice(dashboard) == "", "a frame that succeeds")
    dashboard.close()


def test_nothing_that_draw_raises_ends_the_thread(fit):
    def leaves(axes, params):
        raise SystemExit

    dashboard = fk.Dashboard(fit, draw=leaves)
    _ = dashboard.widget
    (thread, _) = dashboard._threads
    fit.run(5, progress=False)
    wait_until(lambda: "SystemExit" in notice(dashboard), "the notice")
    assert thread.is_alive()
    dashboard.close()
    assert not thread.is_alive()


def test_what_a_button_s_job_raises_is_shown_with_its_traceback(capsys):
    broken = []

    def residuals(params, args):
        if broken:
            raise ZeroDivisionError("of the user")
        return params["slope"] * X - 1.0

    fit = fk.Fit(residuals=residuals, params={"slope": 1.0}, optimiser=optax.adam(1e-2))
    fit.run(2, progress=False)
    dashboard = fk.Dashboard(fit, panels=["loss", "spectrum"])
    _ = dashboard.widget
    broken.append(1)
    live(dashboard).eigenvectors.renew.click()
    wait_until(lambda: "of the user" in notice(dashboard), "the notice")
    assert "in residuals" in capsys.readouterr().err
    assert all(thread.is_alive() for thread in dashboard._threads)
    dashboard.close()


def test_every_drawing_sees_one_moment(fit):
    torn = []

    def own(axes, snapshot):
        if len(snapshot.history) != snapshot.step:
            torn.append(snapshot)

    drawn = threading.Event()

    def draw(axes, params):
        drawn.set()

    dashboard = fk.Dashboard(fit, panels=["loss", own, "model"], draw=draw)
    fit.start(10**9)
    for _ in range(6):
        dashboard.refresh()
    assert drawn.is_set() and not torn
    dashboard.close()
