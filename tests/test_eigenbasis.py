"""A fit that goes on in the Fisher eigenbasis and back; undo, reset; who holds a run meanwhile."""

import threading

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from browser import wait_until

import fitkit as fk

X = np.linspace(0.0, 1.0, 40)
Y = 3.0 * X + 1.0


def residuals(params, args):
    # Two parameters of one line, in units that differ by a million.
    return 1e6 * params["slope"] * X + params["offset"] - Y


def make_fit(**more):
    start = {"offset": jnp.array(0.2), "slope": jnp.array(1e-7)}
    given = {"residuals": residuals, "params": start, "optimiser": optax.adam(1e-9)}
    return fk.Fit(**{**given, **more})


@pytest.mark.slow
def test_the_eigenbasis_reaches_what_least_squares_says_and_back():
    fit = make_fit()
    fit.run(20, progress=False)
    assert not fit.in_eigenbasis
    before = fit.best
    fit.learning_rates["slope"] = 5.0
    fit.enter_eigenbasis()
    assert fit.in_eigenbasis
    assert fit.learning_rates["slope"] == 1.0
    assert fit.best.loss == before.loss
    fit.run(30, progress=False)
    slope, offset = np.polyfit(X, Y, 1)
    # A line search in float64 ends where the loss no longer tells steps apart, √eps from the end.
    assert float(fit.params["slope"]) * 1e6 == pytest.approx(slope, rel=1e-7)
    assert float(fit.params["offset"]) == pytest.approx(offset, rel=1e-7)
    assert fit.step == len(fit.history.loss) == 50
    fit.leave_eigenbasis()
    assert fit.learning_rates["slope"] == 5.0
    fit.run(5, progress=False)
    assert fit.step == 55
    assert [event.text.split(",")[0] for event in fit.events[-2:]] == [
        "entered the eigenbasis",
        "left the eigenbasis",
    ]
    with pytest.raises(RuntimeError, match="not in the eigenbasis"):
        fit.leave_eigenbasis()


@pytest.mark.slow
def test_a_converged_fit_stays_finite_in_the_eigenbasis():
    fit = make_fit(optimiser=None)
    fit.run(50, progress=False)
    fit.enter_eigenbasis()
    fit.run(200, progress=False)
    assert fit.status in ("finished", "converged")
    assert np.isfinite(fit.loss)


@pytest.mark.slow
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 0.5), (100.0, 100.0), (100.0, 0.3)])
def test_gauss_newton_in_the_eigenbasis(factors):
    """Learning rates are those of parameters, and what is judged are the steps they lead to."""
    fit = make_fit()
    fit.enter_eigenbasis(fk.gauss_newton())
    fit.learning_rates.update(dict(zip(("offset", "slope"), factors, strict=True)))
    losses = [fit.loss, *(fit.loss for _ in fit.steps(200))]
    # At the end rounding, relative to the first loss.
    assert np.all(np.diff(losses) <= 1e-12 * losses[0])
    slope, offset = np.polyfit(X, Y, 1)
    np.testing.assert_allclose(fit.params["slope"] * 1e6, slope, rtol=1e-5)
    np.testing.assert_allclose(fit.params["offset"], offset, rtol=1e-5)


def test_frozen_parameters_stay_out_of_the_eigenbasis():
    fit = make_fit()
    fit.freeze("offset")
    fit.enter_eigenbasis(optax.sgd(1.0))
    fit.run(3, progress=False)
    assert float(fit.params["offset"]) == 0.2
    # The slope that fits best with the offset given: a projection onto x.
    assert float(fit.params["slope"]) * 1e6 == pytest.approx(X @ (Y - 0.2) / (X @ X), rel=1e-9)


@pytest.mark.slow
def test_a_renewed_basis_is_not_compiled_again():
    traces = []

    def counted(params, args):
        traces.append(1)
        return residuals(params, args)

    fit = fk.Fit(
        residuals=counted, params={"offset": 0.2, "slope": 1e-7}, optimiser=optax.adam(1e-9)
    )
    fit.enter_eigenbasis()
    fit.run(3, progress=False)
    count = len(traces)
    fit.enter_eigenbasis()
    fit.run(3, progress=False)
    assert len(traces) == count


@pytest.mark.slow
def test_a_basis_that_never_ran_is_still_to_be_compiled():
    seen = []

    def watched(params, args):
        seen.append(fit.status if fit is not None else "")
        return residuals(params, args)

    fit = None
    fit = make_fit(residuals=watched)
    fit.enter_eigenbasis()
    fit.leave_eigenbasis()
    fit.enter_eigenbasis()
    seen.clear()
    fit.run(3, progress=False)
    assert seen[0] == "compiling"


def test_nothing_constrained_is_no_basis():
    fit = fk.Fit(
        residuals=lambda params, args: jnp.ones(3) + 0.0 * params["x"],
        params={"x": 1.0},
        optimiser=optax.sgd(1.0),
    )
    with pytest.raises(ValueError, match="constrain no eigenvector"):
        fit.enter_eigenbasis()
    assert not fit.in_eigenbasis


def test_a_running_fit_changes_its_basis_and_goes_on_while_somebody_waits():
    fit = make_fit()
    waiting = threading.Thread(target=lambda: fit.run(10**9, progress=False))
    waiting.start()
    wait_until(lambda: fit.status == "running", "the fit to run")
    fit.enter_eigenbasis(optax.sgd(0.1))
    step = fit.step
    wait_until(lambda: fit.step > step, "the fit to go on")
    assert waiting.is_alive()
    assert fit.status == "running"
    fit.leave_eigenbasis()
    fit.stop()
    waiting.join()


@pytest.mark.slow
def test_a_fit_saved_in_the_eigenbasis_goes_on_outside(tmp_path):
    fit = make_fit()
    fit.learning_rates["slope"] = 2.0
    fit.enter_eigenbasis()
    fit.run(30, progress=False)
    fit.save(tmp_path / "fit")
    assert fit.in_eigenbasis
    start = {"offset": jnp.array(0.2), "slope": jnp.array(1e-7)}
    again = fk.Fit.load(
        tmp_path / "fit", residuals=residuals, params=start, optimiser=optax.adam(1e-9)
    )
    assert again.params == fit.params
    assert again.learning_rates["slope"] == 2.0
    again.run(5, progress=False)
    assert again.step == 35


def test_saving_between_two_steps_and_while_it_runs(tmp_path):
    fit = make_fit()
    for _ in fit.steps(3):
        fit.save(tmp_path / "fit")
    fit.start(10**9)
    fit.save(tmp_path / "fit")
    step = fit.step
    wait_until(lambda: fit.step > step, "the fit to go on")
    fit.stop()


def test_undo_takes_back_one_change_after_the_other():
    fit = make_fit()
    assert fit.undoable == ""
    fit.learning_rates["slope"] = 2.0
    fit.learning_rates["slope"] = 3.0  # The same slider on its way: one change.
    fit.freeze("offset")
    assert fit.undoable == "froze offset"
    fit.undo()
    assert fit.frozen == frozenset()
    assert fit.learning_rates["slope"] == 3.0
    fit.undo()
    assert fit.learning_rates["slope"] == 1.0
    with pytest.raises(RuntimeError, match="undo"):
        fit.undo()


def test_several_learning_rates_are_set_and_undone_as_one():
    fit = make_fit()
    fit.learning_rates.update({"slope": 2.0, "offset": 3.0})
    assert dict(fit.learning_rates) == {"offset": 3.0, "slope": 2.0}
    with pytest.raises(ValueError, match="learning_rates"):
        fit.learning_rates.update({"slope": 7.0, "offset": -1.0})
    assert fit.learning_rates["slope"] == 2.0
    fit.undo()
    assert set(fit.learning_rates.values()) == {1.0}


def test_reset_gives_the_learning_rate_that_the_fit_was_made_with():
    fit = make_fit(optimiser=optax.inject_hyperparams(optax.adam)(learning_rate=0.25))
    fit.learning_rates["slope"] = 3.0
    fit.learning_rates.reset("slope")
    assert fit.learning_rates["slope"] == pytest.approx(0.25)
    fit.undo()
    # The rate is stored in single precision.
    assert fit.learning_rates["slope"] == pytest.approx(3.0, rel=1e-6)


def test_the_latest_fisher_matrix_is_known_with_its_step():
    fit = make_fit()
    assert fit.known_fisher is None
    fit.run(7, progress=False)
    fisher = fit.fisher()
    assert fit.known_fisher == (7, fisher)


def test_skipped_steps_are_one_event_where_they_began():
    fit = fk.Fit(
        loss=lambda params, args: -params["x"] + 0.0 * jnp.sqrt(10.5 - params["x"]),
        params={"x": 0.0},
        optimiser=optax.sgd(1.0),
        on_nonfinite="skip",
    )
    fit.run(300, progress=False)
    (event,) = fit.events
    # From step 11 on the square root has no value, and nothing changes any more.
    assert event.step == 11
    assert event.text.startswith("skipped")
