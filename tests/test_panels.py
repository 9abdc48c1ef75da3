"""What is drawn is what the history holds: values of artists, not pictures."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fitkit._fit.history import History
from fitkit._plotting import axes as axes_module
from fitkit._plotting import panels


def history_of(losses, norms=None, names=("a", "b")):
    losses = np.asarray(losses, dtype=float)
    norms = np.ones((len(losses), len(names))) if norms is None else np.asarray(norms)
    history = History(names)
    history.append(np.column_stack([losses, np.ones((len(losses), len(names))), norms]))
    return history


@pytest.fixture
def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def curves(marks):
    """Give the ordinates of every line, whether drawn one by one or together."""
    together = [segment[:, 1] for mark in marks for segment in segments_of(mark)]
    return together + [mark.get_ydata() for mark in marks if hasattr(mark, "get_ydata")]


def segments_of(mark):
    # `get_segments` leaves out what is not finite.
    return [path.vertices for path in mark.get_paths()] if hasattr(mark, "get_segments") else []


def test_the_loss_is_logarithmic_while_positive_and_linear_otherwise():
    assert panels.loss_view(history_of([3.0, 1.0, 0.2]), 10).log
    view = panels.loss_view(history_of([3.0, 1.0, -0.2]), 10)
    assert not view.log
    assert view.y[0] <= -0.2 and view.y[1] >= 3.0


def test_an_empty_history_is_drawn_as_words(axes):
    empty = history_of([])
    view = panels.loss_view(empty, 0)
    assert view.note == "no steps yet"
    axes_module.dress(axes, view)
    assert panels.loss_marks(axes, empty) == []
    assert len(panels.steps_marks(axes, empty, {"a": 0})[0].get_xdata()) == 0


def test_the_best_is_ringed_where_the_loss_is_lowest(axes):
    history = history_of([5.0, 2.0, 1.5, 4.0])
    marks = panels.loss_marks(axes, history, events=[2, 2])
    ring = next(m for m in marks if getattr(m, "get_marker", lambda: "")() == "o")
    assert ring.get_xydata().tolist() == [[2.0, 1.5]]
    assert any("best 1.5 at step 2" in m.get_text() for m in marks if hasattr(m, "get_text"))


def test_limits_are_round_so_that_a_frame_rarely_changes_them():
    losses = np.geomspace(3.1e4, 7.7, 1000)
    views = {panels.loss_view(history_of(losses[:n]), 1000) for n in range(10, 1000)}
    # 1, 2, 5 in each of the four decades of the loss, and the steps of the other axis.
    assert len(views) < 35
    for view in views:
        assert str(f"{view.y[0]:.6g}".strip("0.e+"))[0] in "125"


def test_limits_hold_all_that_was_recorded():
    rng = np.random.default_rng(1)
    for _ in range(50):
        losses = 10 ** rng.uniform(-20, 20, 30) * rng.choice([1, -1], 30, p=[0.95, 0.05])
        view = panels.loss_view(history_of(losses), 30)
        assert view.y[0] <= losses.min() and losses.max() <= view.y[1]
        assert view.x[0] <= 0 and view.x[1] >= 29


def test_non_finite_losses_leave_a_gap_not_an_error(axes):
    history = history_of([3.0, np.nan, np.inf, 1.0])
    view = panels.loss_view(history, 4)
    assert np.isfinite(view.y).all()
    axes_module.dress(axes, view)
    for mark in panels.loss_marks(axes, history):
        axes.add_artist(mark)
    axes.figure.canvas.draw()


def test_step_sizes_are_the_running_median_in_the_parameter_s_colour(axes):
    noise = np.random.default_rng(0).lognormal(size=(900, 1))
    norms = np.hstack([noise, np.full((900, 1), 7.0)])
    norms[450, 1] = 1e6  # one wild step does not move a median
    marks = panels.steps_marks(axes, history_of(np.ones(900), norms), {"a": 0, "b": 1})
    smooth, flat = curves(marks)
    assert np.std(np.log(smooth)) < 0.5 * np.std(np.log(noise))
    assert np.all(flat == 7.0)
    (lines,) = marks
    assert [to_hex(shade).upper() for shade in lines.get_colors()] == [
        axes_module.colour(0),
        axes_module.colour(1),
    ]


def test_a_frozen_parameter_leaves_a_gap_in_its_line(axes):
    norms = np.ones((40, 2))
    norms[10:30, 1] = 0.0
    marks = panels.steps_marks(axes, history_of(np.ones(40), norms), {"b": 1})
    assert np.isnan(curves(marks)[0]).sum() == 20


def test_step_sizes_in_units_of_the_error_bar(axes):
    marks = panels.steps_marks(
        axes, history_of(np.ones(20)), {"a": 0, "b": 1}, units={"a": 4.0, "b": 0.5}
    )
    assert [curve[-1] for curve in curves(marks)] == [0.25, 2.0]


def test_many_parameters_are_thin_lines_behind_the_coloured(axes):
    names = tuple(f"p{i}" for i in range(40))
    history = history_of(np.ones(500), np.ones((500, 40)), names)
    behind, front = panels.steps_marks(axes, history, {"p0": 0, "p1": 1}, dict.fromkeys(names[2:]))
    assert len(behind.get_segments()) == 38
    assert len(front.get_segments()) == 2


def test_a_spectrum_shows_what_the_data_leave_free(axes):
    eigenvalues = np.array([2.0, 0.5, 1e-3, 1e-18, -1e-19])
    view = panels.spectrum_view(eigenvalues, 3)
    axes_module.dress(axes, view)
    marks = panels.spectrum_marks(axes, eigenvalues, 3, chosen=1)
    kept, free, cut, words, ring = marks
    assert kept.get_xdata().tolist() == [1, 2, 3]
    assert free.get_xdata().tolist() == [4, 5]
    assert np.all(free.get_ydata() == view.y[0])  # zero and negative lie on the axis
    assert cut.get_xdata() == (3.5, 3.5)
    assert words.get_text() == "2 unconstrained"
    assert ring.get_xdata() == [2]


def test_merging_columns_keeps_the_extremes():
    values = np.zeros(10_000)
    values[1234], values[4321] = 9.0, -9.0
    steps, low, high = panels._columns(np.arange(10_000), (values, np.fmin), (values, np.fmax))
    assert len(steps) <= panels.COLUMNS
    assert steps[-1] == 9_999
    assert low.min() == -9.0 and high.max() == 9.0


def test_parameters_are_told_apart_by_colour_and_pattern():
    looks = {(axes_module.colour(i), axes_module.dash(i)[0]) for i in range(18)}
    assert len(looks) == 18


@pytest.mark.parametrize(
    ("number", "text"),
    [(1234.5678, "1235"), (1e-9, "1e−9"), (-0.25, "−0.25"), (1.5e20, "1.5e20"), (None, "–")],
)
def test_numbers_are_short(number, text):
    assert axes_module.figures(number) == text
