"""What is drawn is what the snapshot holds: values of artists, not pictures."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

import fitkit as fk
from fitkit._fit import Event, History, Status
from fitkit._fit.record import Columns
from fitkit._plotting import PANELS, Entry, Frame, LossLook
from fitkit._plotting import axes as axes_module
from fitkit._plotting.curves import COLUMNS, merge_columns
from fitkit._plotting.spectrum import spectrum_marks, spectrum_view

LOSS, STEPS, SPECTRUM, VALUES, GRADIENTS = (
    PANELS[name] for name in ("loss", "steps", "spectrum", "values", "gradients")
)


def history_of(losses, norms=None, names=("a", "b")):
    losses = np.asarray(losses, dtype=float)
    norms = np.ones((len(losses), len(names))) if norms is None else np.asarray(norms)
    rows = np.column_stack([losses, np.ones((len(losses), len(names))), norms])
    return History.empty(Columns(names, {})).extended(rows)


def coloured(**numbers):
    return tuple(Entry(path, (path,), number) for path, number in numbers.items())


@pytest.fixture(scope="module")
def start():
    fit = fk.Fit(
        loss=lambda p, a: p["a"] ** 2 + p["b"] ** 2,
        params={"a": 1.0, "b": 2.0},
        optimiser=optax.sgd(0.1),
    )
    return fit.snapshot


@pytest.fixture
def frame_of(start):
    """Make the frame of a running fit with this history, its lowest loss as the engine keeps it."""

    def make(history, end=10, status=Status.RUNNING, events=(), **more):
        losses = np.where(np.isfinite(history.loss), history.loss, np.inf)
        lowest = start.lowest
        if len(losses):
            step = int(history.steps[np.argmin(losses)])
            lowest = dataclasses.replace(lowest, step=step, loss=float(losses.min()))
        now = start.but(
            history=history, target=end, status=status, lowest=lowest, events=tuple(events)
        )
        return Frame(now, **more)

    return make


@pytest.fixture
def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def curves(marks):
    """List the ordinates of every line, whether drawn one by one or together."""
    together = [segment[:, 1] for mark in marks for segment in segments_of(mark)]
    return together + [mark.get_ydata() for mark in marks if hasattr(mark, "get_ydata")]


def segments_of(mark):
    # `get_segments` leaves out what is not finite.
    return [path.vertices for path in mark.get_paths()] if hasattr(mark, "get_segments") else []


def test_the_loss_is_logarithmic_while_positive_and_linear_otherwise(frame_of):
    assert LOSS.view(frame_of(history_of([3.0, 1.0, 0.2]), 10)).log
    view = LOSS.view(frame_of(history_of([3.0, 1.0, -0.2]), 10))
    assert not view.log
    assert view.y[0] <= -0.2 and view.y[1] >= 3.0


def test_an_empty_history_is_drawn_as_words(axes, frame_of):
    frame = frame_of(history_of([]), 0, Status.READY, entries=coloured(a=0, b=1))
    for panel, note in ((LOSS, "no steps yet"), (STEPS, "no steps yet"), (SPECTRUM, "no spectrum")):
        view = panel.view(frame)
        assert view.note.startswith(note)
        axes_module.set_up(axes, view)
        assert not any(len(curve) for curve in curves(panel.marks(axes, frame)))


def test_the_best_is_ringed_where_the_loss_is_lowest(axes, frame_of):
    events = [Event(2, "froze a"), Event(2, "thawed a")]
    frame = frame_of(history_of([5.0, 2.0, 1.5, 4.0]), events=events)
    marks = LOSS.marks(axes, frame)
    ring = next(m for m in marks if isinstance(m, Line2D) and m.get_marker() == "o")
    assert np.asarray(ring.get_xydata()).tolist() == [[2.0, 1.5]]
    assert any("best 1.5 at step 2" in m.get_text() for m in marks if isinstance(m, Text))
    (ticks,) = [m for m in marks if isinstance(m, LineCollection)]
    assert [segment[0, 0] for segment in ticks.get_segments()] == [2.0]


def test_the_run_before_is_a_faint_line_as_far_as_the_axes_reach(axes, frame_of):
    earlier = history_of(np.geomspace(1e6, 1e-6, 100))
    frame = frame_of(history_of([5.0, 2.0, 1.5]), end=40)
    frame = Frame(frame.snapshot.but(earlier=earlier))
    view = LOSS.view(frame)
    axes_module.set_up(axes, view)
    assert view.x == (0, 10) and view.y[0] < earlier.loss[10] and view.y[1] >= 1e6
    marks = LOSS.marks(axes, frame)
    faint = next(mark for mark in marks if isinstance(mark, Line2D))
    assert np.asarray(faint.get_xydata()).tolist() == np.c_[:11, earlier.loss[:11]].tolist()
    assert "before" in [mark.get_text() for mark in marks if isinstance(mark, Text)]
    # Another fit to compare with comes in its place.
    marks = LOSS.marks(axes, dataclasses.replace(frame, compared=history_of([7.0, -1.0])))
    assert "other fit" in [mark.get_text() for mark in marks if isinstance(mark, Text)]


def test_a_restart_keeps_the_history_of_before(unchecked):
    fit = fk.Fit(loss=lambda p, a: p["a"] ** 2, params={"a": 1.0}, optimiser=optax.sgd(0.25))
    fit.run(5, progress=False)
    losses = fit.history.loss
    for _ in range(2):  # That of a restart without a step is no run.
        fit.restart()
    earlier = fit.snapshot.earlier
    assert earlier is not None and earlier.loss.tolist() == losses.tolist()
    fit.run(3, progress=False)
    other = fk.Dashboard(fit, panels=["loss"], compare=fit).figure.axes[0]
    assert "other fit" in [text.get_text() for text in other.texts]
    with pytest.raises(TypeError, match="compare is a History; must be another Fit"):
        fk.Dashboard(fit, compare=fit.history)  # pyright: ignore


def test_the_best_may_be_where_the_fit_stands_beyond_the_last_row(frame_of):
    frame = frame_of(history_of([5.0, 2.0]), 2, Status.FINISHED)
    lowest = dataclasses.replace(frame.snapshot.lowest, step=2, loss=1e-6)
    frame = Frame(frame.snapshot.but(lowest=lowest))
    assert LOSS.view(frame).y[0] <= 1e-6


def test_a_run_without_an_end_has_a_step_axis_that_grows_by_round_numbers(frame_of):
    ends = {LOSS.view(frame_of(history_of(np.ones(n)), None)).x[1] for n in range(1, 1000, 7)}
    assert ends == {10, 20, 50, 100, 200, 500, 1000}


def test_limits_are_round_so_that_a_frame_rarely_changes_them(frame_of):
    losses = np.geomspace(3.1e4, 7.7, 1000)
    views = {LOSS.view(frame_of(history_of(losses[:n]), 1000)) for n in range(10, 1000)}
    # 1, 2, 5 in each of the four decades of the loss, and the steps of the other axis.
    assert len(views) < 35
    for view in views:
        assert str(f"{view.y[0]:.6g}".strip("0.e+"))[0] in "125"


def test_limits_hold_all_that_was_recorded(frame_of):
    rng = np.random.default_rng(1)
    for _ in range(50):
        losses = 10 ** rng.uniform(-20, 20, 30) * rng.choice([1, -1], 30, p=[0.95, 0.05])
        view = LOSS.view(frame_of(history_of(losses), 30))
        assert view.y[0] <= losses.min() and losses.max() <= view.y[1]
        assert view.x[0] <= 0 and view.x[1] >= 29


@pytest.mark.parametrize("losses", [[], [3.0], [-3.0, np.nan, -5.0]])
@pytest.mark.parametrize("shown", [(0.9, 1.0), (0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_any_part_of_the_steps_has_a_step_axis(losses, shown, frame_of):
    frame = dataclasses.replace(frame_of(history_of(losses)), loss_look=LossLook(shown=shown))
    begin, end = LOSS.view(frame).x
    # Of equal limits matplotlib warns.
    assert begin < end
    assert begin <= max(len(losses) - 1, 0)


def test_non_finite_losses_leave_a_gap_not_an_error(axes, frame_of):
    frame = frame_of(history_of([3.0, np.nan, np.inf, 1.0]), 4)
    view = LOSS.view(frame)
    assert np.isfinite(view.y).all()
    axes_module.set_up(axes, view)
    for mark in LOSS.marks(axes, frame):
        axes.add_artist(mark)
    axes.figure.canvas.draw()


def test_step_sizes_are_the_running_median_in_the_parameter_s_colour(axes, frame_of):
    noise = np.random.default_rng(0).lognormal(size=(900, 1))
    norms = np.hstack([noise, np.full((900, 1), 7.0)])
    norms[450, 1] = 1e6  # one wild step does not move a median
    frame = frame_of(history_of(np.ones(900), norms), entries=coloured(a=0, b=1))
    marks = STEPS.marks(axes, frame)
    smooth, flat = curves(marks)
    assert np.std(np.log(smooth)) < 0.5 * np.std(np.log(noise))
    assert np.all(flat == 7.0)
    (lines,) = marks
    assert isinstance(lines, LineCollection)
    assert [to_hex(shade).upper() for shade in np.asarray(lines.get_colors())] == [
        axes_module.colour(0),
        axes_module.colour(1),
    ]


def test_a_frozen_parameter_leaves_a_gap_in_its_line(axes, frame_of):
    norms = np.ones((40, 2))
    norms[10:30, 1] = 0.0
    frame = frame_of(history_of(np.ones(40), norms), entries=coloured(b=1))
    behind, front = curves(STEPS.marks(axes, frame))
    assert np.isfinite(behind).all()
    assert np.isnan(front).sum() == 20


def test_step_sizes_in_units_of_the_error_bar(axes, frame_of):
    errors = {"a": np.array(4.0), "b": np.array(0.5)}
    frame = frame_of(history_of(np.ones(20)), entries=coloured(a=0, b=1), errors=errors)
    assert STEPS.view(frame).title == "Step size / error bar"
    assert [curve[-1] for curve in curves(STEPS.marks(axes, frame))] == [0.25, 2.0]


@pytest.mark.parametrize("errors", [{}, {"a": np.array(1.0)}, {"a": np.array(1.0), "b": np.inf}])
def test_steps_have_units_where_all_that_move_have_a_finite_error(errors, frame_of):
    frame = frame_of(history_of(np.ones(20)), errors=errors)
    assert frame.units is None
    assert STEPS.view(frame).title == "Step size"


def test_many_parameters_are_thin_lines_behind_the_coloured(axes, frame_of):
    names = tuple(f"p{i}" for i in range(40))
    history = history_of(np.ones(500), np.ones((500, 40)), names)
    behind, front = STEPS.marks(axes, frame_of(history, entries=coloured(p0=0, p1=1)))
    assert isinstance(behind, LineCollection) and isinstance(front, LineCollection)
    assert len(behind.get_segments()) == 38
    assert len(front.get_segments()) == 2


def test_a_spectrum_shows_what_the_data_leave_free(axes):
    eigenvalues = np.array([2.0, 0.5, 1e-3, 1e-18, -1e-19])
    view = spectrum_view(eigenvalues)
    axes_module.set_up(axes, view)
    marks = spectrum_marks(axes, eigenvalues, 3, chosen=1)
    kept, free, cut, words, ring = marks
    assert isinstance(words, Text)
    lines = [mark for mark in marks if isinstance(mark, Line2D)]
    assert lines == [kept, free, cut, ring]
    abscissae = [np.asarray(line.get_xdata()).tolist() for line in lines]
    assert abscissae == [[1, 2, 3], [4, 5], [3.5, 3.5], [2]]
    assert np.all(lines[1].get_ydata() == view.y[0])  # zero and negative lie on the axis
    assert words.get_text() == "2 unconstrained"


def test_merging_columns_keeps_the_extremes():
    values = np.zeros(10_000)
    values[1234], values[4321] = 9.0, -9.0
    steps, low, high = merge_columns(np.arange(10_000), (values, np.fmin), (values, np.fmax))
    assert len(steps) <= COLUMNS
    assert steps[-1] == 9_999
    assert low.min() == -9.0 and high.max() == 9.0


def test_parameters_are_told_apart_by_colour_and_pattern():
    looks = {(axes_module.colour(i), axes_module.dash(i)[0]) for i in range(18)}
    assert len(looks) == 18


def test_gradients_are_the_recorded_norms(axes, frame_of):
    rows = np.column_stack([np.ones(900), np.full((900, 2), (3.0, 40.0)), np.ones((900, 2))])
    history = History.empty(Columns(("a", "b"), {})).extended(rows)
    frame = frame_of(history, entries=coloured(a=0, b=1))
    first, second = curves(GRADIENTS.marks(axes, frame))
    assert np.all(first == 3.0) and np.all(second == 40.0)
    low, high = GRADIENTS.view(frame).y
    assert low <= 3.0 and high >= 40.0


@pytest.fixture
def walked():
    """Make a frame of a fit that halves a = 1 and b = (2, 4) at every step."""

    def make(**more):
        fit = fk.Fit(
            loss=lambda p, args: p["a"] ** 2 + jnp.sum(p["b"] ** 2),
            params={"a": 1.0, "b": jnp.array([2.0, 4.0])},
            optimiser=optax.sgd(0.25),
        )
        fit.run(3, progress=False)
        return Frame(fit.snapshot, coloured(a=0, b=1), **more)

    return make


def test_values_are_drawn_element_by_element(axes, walked):
    frame = walked()
    assert VALUES.view(frame).title == "Value"
    first, *both = curves(VALUES.marks(axes, frame))
    np.testing.assert_allclose(first, [1.0, 0.5, 0.25], rtol=1e-12)
    np.testing.assert_allclose(both, [[2.0, 1.0, 0.5], [4.0, 2.0, 1.0]], rtol=1e-12)


def test_values_are_in_error_bars_from_now_where_those_are_known(axes, walked):
    frame = walked(errors={"a": np.array(0.125), "b": np.array([0.5, 0.25])})
    view = VALUES.view(frame)
    assert view.title == "(Value - now) / error bar"
    assert view.y[0] <= -1 and view.y[1] >= 14.0
    axes_module.set_up(axes, view)
    # Now is 0.125 and (0.25, 0.5): (1 - 0.125) / 0.125 = 7.
    starts = [curve[0] for curve in curves(VALUES.marks(axes, frame))]
    np.testing.assert_allclose(starts, [7.0, 3.5, 14.0], rtol=1e-12)


def test_values_that_are_not_recorded_are_said_to_be_missing(frame_of):
    assert "not recorded" in VALUES.view(frame_of(history_of([1.0, 2.0]))).note
