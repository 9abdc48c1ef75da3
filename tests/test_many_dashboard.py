"""Dashboards of many systems: every control clicked or typed, and what is drawn of them."""

import io
import itertools
import threading
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from browser import wait_until
from controls import live
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

import fitkit as fk
from fitkit._dashboard.many_widgets import status_line
from fitkit._dashboard.of_many import ManyWatch, SlowDrawing
from fitkit._dashboard.system import index_of
from fitkit._fit import Status
from fitkit._many import make_systems
from fitkit._plotting import MANY_PANELS, MapFrame, draw_map, set_up

X = np.linspace(0.0, 2.0, 20)
SIGMA = 0.1
SHAPE = (10, 12)
SLIPS = ("4", "no system (4,)"), ("4, 99", "no system (4, 99)"), ("four", "whole numbers")


def residuals(params, args):
    x, y = args
    return (params["height"] * jnp.exp(-params["rate"] * x) - y) / SIGMA


def spectra():
    draw = np.random.default_rng(0)
    rates = draw.uniform(0.5, 2.0, (*SHAPE, 1))
    y = 3 * np.exp(-rates * X) + SIGMA * draw.normal(size=(*SHAPE, X.size))
    y[2, 3] = np.nan
    y[4, 5] += np.cos(9 * X)  # of another shape than the model
    return y


def make_fit(**more):
    return fk.fit_many(
        residuals,
        {"height": 1.0, "rate": 1.0},
        (X, spectra()),
        systems=SHAPE,
        args_axes=(None, 0),
        progress=False,
        **more,
    )


@pytest.fixture(scope="module")
def many():
    return make_fit()


@pytest.fixture
def gated():
    """Fits in the background that wait for the test after every portion, and their dashboard."""
    gate = threading.Semaphore(0)
    many = make_fit(block=False)
    many.add_callback(lambda many: gate.acquire(timeout=60))
    dashboard = fk.Dashboard(many)
    _ = dashboard.widget
    yield many, dashboard, gate
    many.stop(block=False)
    gate.release(1000)
    dashboard.close()


def seen(dashboard, words):
    wait_until(lambda: words in live(dashboard).status.value, words)


def marks_of(panel, many) -> tuple[Any, list[Any]]:
    """Set a panel up and return its view and its artists."""
    figure = Figure()
    FigureCanvasAgg(figure)
    axes, now = figure.add_subplot(), ManyWatch(many).now()
    view = MANY_PANELS[panel].view(now)
    set_up(axes, view)
    marks = MANY_PANELS[panel].marks(axes, now)
    for mark in marks:
        axes.add_artist(mark)
    figure.canvas.draw()
    return view, marks


def words_of(marks):
    return [mark.get_text() for mark in marks if isinstance(mark, Text)]


@pytest.mark.slow
def test_pause_resume_stop_start(gated):
    many, dashboard, gate = gated
    widgets = live(dashboard)
    seen(dashboard, "Running")
    assert (widgets.pause.description, widgets.stop.disabled) == ("Pause", False)
    widgets.pause.click()
    seen(dashboard, "Pausing…")
    assert widgets.pause.disabled
    gate.release()
    seen(dashboard, "Paused")
    assert not many.running and many.progress < 1
    assert widgets.pause.description == "Resume" and not widgets.pause.disabled
    widgets.pause.click()
    wait_until(lambda: widgets.pause.description == "Pause", "the button to say pause")
    widgets.stop.click()
    gate.release()
    seen(dashboard, "Stopped")
    assert many.stopped and "stopped; start() goes on" in repr(many)
    assert widgets.pause.description == "Start" and widgets.stop.disabled
    widgets.pause.click()
    gate.release(1000)
    seen(dashboard, "Finished")
    assert many.finished and not many.stopped
    assert widgets.pause.disabled and widgets.stop.disabled
    seen(dashboard, "119 converged")
    assert "aria-valuenow='100'" in widgets.status.value


def test_the_last_frame_is_that_of_the_end(gated):
    many, dashboard, gate = gated
    gate.release(1000)
    many.wait()
    seen(dashboard, "Finished")
    drawn = live(dashboard).picture.image.value
    dashboard.refresh()
    assert live(dashboard).picture.image.value == drawn
    assert Image.open(io.BytesIO(drawn)).size == (1440, 870)


def test_a_system_that_waits_has_no_result_yet(gated):
    _, dashboard, _ = gated
    live(dashboard).system.index.value = "9, 11"
    wait_until(lambda: "not fitted yet" in live(dashboard).notice.value, "the words")
    assert live(dashboard).system.words.value == ""


@pytest.mark.slow
def test_a_typed_number_shows_the_result_of_that_system(many, capsys):
    dashboard = fk.Dashboard(many)
    dashboard.refresh()
    system = live(dashboard).system
    system.index.value = "4, -7"
    wait_until(lambda: system.chosen == (4, 5), "the system")
    assert "many[4, -7]: minimum" in system.words.value
    assert many[4, 5]._repr_html_() in system.words.value
    for typed, words in SLIPS:
        system.index.value = typed
        wait_until(lambda words=words: words in live(dashboard).notice.value, words)
    assert system.chosen == (4, 5)
    before = live(dashboard).picture.image.value
    system.index.value = "2 3"
    wait_until(lambda: system.chosen == (2, 3), "the other system")
    assert "20 of 20 values of the residuals are not finite" in system.words.value
    wait_until(lambda: live(dashboard).picture.image.value != before, "its ring on the map")
    wait_until(lambda: live(dashboard).notice.value == "", "the notice to go")
    dashboard.close()


def test_one_of_the_worst_is_picked(many):
    dashboard = fk.Dashboard(many)
    dashboard.refresh()
    system = live(dashboard).system
    listed = [index for _, index in system.worst.options]
    assert listed == [None, *many.worst(10)]
    assert system.worst.index == 0, "the list is blank"
    assert system.worst.options[1][0].endswith("non-finite")
    system.worst.value = (4, 5)
    wait_until(lambda: system.chosen == (4, 5), "the system")
    system._listed = []  # As if another had become the worst.
    dashboard.refresh()
    assert system.worst.value == (4, 5)
    dashboard.close()


def test_another_element_is_mapped(many):
    dashboard = fk.Dashboard(many)
    dashboard.refresh()
    before = live(dashboard).picture.image.value
    live(dashboard).system.map.value = "rate"
    wait_until(lambda: live(dashboard).picture.image.value != before, "the map")
    *_, values, errors, reduced = dashboard.figure.axes
    assert values.get_title(loc="left") == "rate"
    image = np.ma.filled(values.images[0].get_array(), np.nan)
    assert np.array_equal(image[many.success], many.values["rate"][many.success])
    image = np.ma.filled(errors.images[0].get_array(), np.nan)
    assert np.array_equal(image[many.success], many.errors["rate"][many.success])
    assert values.get_xlabel() == "red: 1 without success"
    assert reduced.get_title(loc="left") == "reduced chi-square"
    dashboard.close()


def test_close_ends_the_threads_and_leaves_the_fits(many):
    dashboard = fk.Dashboard(many)
    _ = dashboard.widget
    threads, box = dashboard._threads, live(dashboard).box
    live(dashboard).leave.click()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "the threads to end")
    assert box.comm is None
    assert len(threads) == 2


def test_what_the_user_s_function_raises_is_shown(gated):
    many, dashboard, gate = gated
    many._worker.error = ValueError("no such star")
    gate.release(1000)
    many._worker.join()
    seen(dashboard, "Stopped by an error")
    assert "ValueError: no such star" in live(dashboard).notice.value
    many._worker.error = None


def test_the_share_that_converged_is_drawn_over_time(many):
    view, marks = marks_of("progress", many)
    made, converged = (np.asarray(m.get_ydata()) for m in marks if isinstance(m, Line2D))
    assert made[-1] == 100
    assert converged[-1] == pytest.approx(100 * 119 / 120)
    assert words_of(marks) == ["119 of 120"] and view.note == ""
    completion = many.completion
    assert (np.diff(completion.seconds) >= 0).all() and (np.diff(completion.made) >= 0).all()
    assert completion.made[[0, -1]].tolist() == [0, 120]


def test_the_histogram_holds_every_system(many):
    view, marks = marks_of("chi_square", many)
    reduced = many.reduced_chi_square
    bars = [mark for mark in marks if isinstance(mark, PolyCollection)]
    boxes = [np.asarray(path.vertices) for path in bars[0].get_paths()]
    inside = np.isfinite(reduced) & many.success & (reduced <= view.x[1])
    assert sum(box[:, 1].max() - box[:, 1].min() for box in boxes) == inside.sum()
    (line,) = [mark for mark in marks if isinstance(mark, Line2D)]
    edges = np.unique(np.concatenate([box[:, 0] for box in boxes]))
    # All of the density lies along the axis: its integral is that of the bars. A trapezium rule of
    # 200 places.
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    area = float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)))
    width = np.diff(edges).min()
    assert area / width == pytest.approx(119, rel=0.01)
    assert words_of(marks)[-1].startswith("median ")


def test_the_worst_are_those_that_many_lists(many):
    view, marks = marks_of("worst", many)
    first, second, *rest = words_of(marks)
    assert first == "2, 3:  no χ²/ν, non-finite" and second.startswith("4, 5:  ")
    assert len(rest) == 5 and rest[-1] == "1 without success"
    (bars,) = [mark for mark in marks if isinstance(mark, PolyCollection)]
    ends = [np.asarray(path.vertices)[:, 0].max() for path in bars.get_paths()]
    expected = [many.reduced_chi_square[index] for index in many.worst(6)[1:]]
    # They span more than a decade, so the bars are those of logarithms.
    assert ends == pytest.approx(np.log10(expected)) and view.xlabel.startswith("log")
    assert view.x[1] >= max(ends)


def test_before_the_first_fit_the_panels_say_so():
    start = {"height": 1.0, "rate": 1.0}
    given: dict[str, Any] = {"systems": SHAPE, "args_axes": (None, 0), "frozen": ()}
    given |= dict.fromkeys(("params_axes", "starts", "bounds", "priors", "weights"))
    systems = make_systems(residuals, start, (X, spectra()), **given)
    many = fk.Many(systems)
    dashboard = fk.Dashboard(many)
    dashboard.refresh()
    assert live(dashboard).pause.description == "Start"
    for panel in MANY_PANELS:
        view, marks = marks_of(panel, many)
        assert view.note.startswith("no ")
        assert panel == "progress" or not marks
    assert many.worst(2)[0] == (0, 0)  # All wait, and come in their order.
    assert live(dashboard).notice.value == ""
    dashboard.close()


def test_a_picture_without_a_person(many):
    dashboard = fk.Dashboard(many, panels=["progress", "worst"])
    assert repr(dashboard) == "Dashboard of 120 systems"
    assert len(dashboard.figure.axes) == 2
    now = dashboard._subject.now()
    assert dashboard._subject.words(now) == "Finished    119 minimum    1 non-finite"
    assert Image.open(io.BytesIO(dashboard._picture(now).png)).size[0] == 2 * 960


@pytest.mark.parametrize(("inches", "count"), [(3.6, 1), (6.0, 2), (9.6, 3), (15.7, 3), (25.0, 3)])
def test_maps_that_there_is_no_room_for_are_left_out(many, inches, count):
    figure = Figure(figsize=(inches, 3.0))
    axes = figure.add_axes((0.52 / inches, 0.14, 1 - 0.74 / inches, 0.75))
    draw_map(axes, MapFrame(ManyWatch(many).now(), "rate"))
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == count
    boxes = [box for one in figure.axes if (box := one.get_tightbbox())]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_systems_along_one_axis_are_a_curve_and_of_three_axes_no_map():
    y = spectra().reshape(-1, X.size)[:24]
    many = fk.fit_many(
        residuals, {"height": 1.0, "rate": 1.0}, (X, y), args_axes=(None, 0), progress=False
    )
    *_, curve = fk.Dashboard(many).figure.axes
    points = np.asarray(curve.lines[0].get_xydata())
    assert np.array_equal(points[:, 1], many.values["height"][points[:, 0].astype(int)])
    many = fk.fit_many(
        residuals,
        {"height": 1.0, "rate": 1.0},
        (X, y.reshape(2, 3, 4, -1)),
        systems=(2, 3, 4),
        args_axes=(None, 0),
        progress=False,
    )
    dashboard = fk.Dashboard(many)
    assert "map" not in dashboard.panels and len(dashboard.figure.axes) == 3


def test_a_function_is_a_panel_and_what_is_not_is_refused(many, unchecked):
    def mine(axes, many):
        axes.plot(many.values["rate"].ravel(), many.values["height"].ravel(), ".")

    dashboard = fk.Dashboard(many, panels=[mine, "map"])
    assert dashboard.panels == ("mine", "map")
    assert np.size(dashboard.figure.axes[0].lines[0].get_xdata()) == 120
    with pytest.raises(ValueError, match="no panel 'loss' .* There are 'progress'"):
        fk.Dashboard(many, panels=["loss"])
    with pytest.raises(ValueError, match="draw.* is for a single fit"):
        fk.Dashboard(many, draw=lambda axes, params: None)


def test_the_map_is_drawn_less_often_while_the_fits_run(gated):
    many, _, _ = gated
    drawn = []
    slow = SlowDrawing("map", lambda axes, frame: drawn.append(1))
    now = ManyWatch(many).now()
    assert now.status.busy
    for path in ("rate", "rate", "height"):
        slow._due = np.inf if drawn else 0.0
        slow.pixels(MapFrame(now, path), (0.1, 0.1, 0.8, 0.8), (200, 100), 100.0)
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("text", "index"), [("12", (12,)), ("3, 4", (3, 4)), ("(3,-4)", (3, -4)), ("1 2 3", (1, 2, 3))]
)
def test_an_index_is_read_as_people_write_it(text, index):
    assert index_of(text) == index


def test_the_status_says_how_long_it_takes(many):
    now = ManyWatch(many).now()
    busy = type(now)(1, Status.RUNNING, many)
    words = status_line(busy, False, "Computing…")
    assert "120 of 120 systems" in words and "systems/s" in words and "Computing…" in words
