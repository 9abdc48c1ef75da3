"""Learning rates over the steps, as the events of a fit tell them."""

import numpy as np
import optax
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fitkit as fk
from fitkit._fit import rates_at
from fitkit._plotting import PANELS, Entry, Frame, set_up
from fitkit._plotting.rates import rate_lines

RATES = PANELS["rates"]


SHOWN = optax.inject_hyperparams(optax.adam)


def problem(adam=SHOWN):
    return {
        "loss": lambda p, args: p["a"] ** 2 + p["b"] ** 2 + p["c"] ** 2,
        "params": {"a": 1.0, "b": 1.0, "c": 1.0},
        "optimiser": {"a": adam(learning_rate=0.25), ("b", "c"): adam(learning_rate=0.5)},
    }


def make_fit():
    return fk.Fit(**problem())


@pytest.fixture
def steered(fit):
    fit.run(4, progress=False)
    fit.learning_rates["a"] = 1.0
    fit.run(4, progress=False)
    fit.freeze("b")
    fit.run(4, progress=False)
    return fit


def lines_of(fit):
    """The lines as lists, with None in a gap."""
    now = fit.snapshot
    lines = rate_lines(now.events, now.step, rates_at(now))
    return {
        path: [(step, None if np.isnan(rate) else rate) for step, rate in line.tolist()]
        for path, line in lines.items()
    }


AS_STEERED = {
    "a": [(0, 0.25), (4, 0.25), (4, 1.0), (12, 1.0)],
    "b": [(0, 0.5), (8, 0.5), (8, None), (12, None)],
    "c": [(0, 0.5), (12, 0.5)],
}


def test_a_line_has_a_step_at_each_change_and_a_gap_where_it_was_frozen(steered):
    assert lines_of(steered) == AS_STEERED


def test_they_survive_a_file(steered, tmp_path):
    steered.save(tmp_path / "fit")
    again = fk.Fit.load(tmp_path / "fit", **problem())
    assert again.events == steered.events and lines_of(again) == AS_STEERED


def test_after_a_rewind_a_line_goes_on_from_there_with_its_latest_rate(steered):
    steered.rewind(2)
    steered.undo()  # Thaws b.
    steered.run(3, progress=False)
    lines = lines_of(steered)
    assert lines["a"] == [(0, 0.25), (2, 0.25), (2, 1.0), (5, 1.0)]
    assert lines["b"][-1] == (5, 0.5) and lines["b"][-2] == (2, 0.5)
    steered.restart()
    assert all(step == 0 for line in lines_of(steered).values() for step, _ in line)


def test_another_optimiser_begins_with_its_own(steered):
    steered.change_optimiser(optax.inject_hyperparams(optax.sgd)(learning_rate=0.125))
    steered.run(1, progress=False)
    lines = lines_of(steered)
    assert lines["a"][-3:] == [(12, 1.0), (12, 0.125), (13, 0.125)]
    assert lines["c"][-3:] == [(12, 0.5), (12, 0.125), (13, 0.125)]
    assert lines["b"][-1] == (13, None)  # It is still frozen.


def test_a_slider_on_its_way_is_one_change(fit):
    for rate in (0.3, 0.4, 0.6):
        fit.learning_rates["a"] = rate
    (event,) = fit.events
    assert event.rates == (("a", 0.25, 0.6),)


def test_equal_rates_are_drawn_side_by_side_within_the_axes(steered):
    entries = tuple(Entry(path, (path,), number) for number, path in enumerate("abc"))
    frame = Frame(steered.snapshot, entries)
    figure = Figure(dpi=72)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    view = RATES.view(frame)
    set_up(axes, view)
    assert view.title == "Learning rate" and view.y[0] < 0.25 and view.y[1] >= 1.0
    _, b, c = RATES.marks(axes, frame)
    first, second = (line.get_transform().transform((0, 0.5))[1] for line in (b, c))
    assert first - second == pytest.approx(1.8)  # At 72 dots an inch a point is a pixel.


def test_of_an_optimiser_that_keeps_its_own_they_are_factors():
    view = RATES.view(Frame(fk.Fit(**problem(optax.adam)).snapshot))
    assert view.title == "Learning rate, relative" and view.y[0] < 1.0 <= view.y[1]
