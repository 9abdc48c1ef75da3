"""Runs without a number of steps end where the fit has converged, or can get no further."""

import re
import threading

import jax
import jax.numpy as jnp
import nist
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._fit import stop_rule

X = np.linspace(0.0, 4.0, 50)
DATA = 3.0 * np.exp(-0.7 * X) + 0.1 * np.sin(40 * X)


def decay(params, args):
    return (params["a"] * jnp.exp(-params["k"] * X) - DATA) / 0.1


def loss(params, args):
    return 0.5 * jnp.sum(decay(params, args) ** 2)


def make(optimiser=None, start=(1.0, 0.2), **problem):
    problem = problem or {"residuals": decay}
    params = dict(zip("ak", start, strict=True))
    return fk.Fit(params=params, optimiser=optimiser or optax.adam(1e-2), **problem)


def away(fit):
    """Distance from the minimum in standard errors, by Gauss-Newton's own way there."""
    best = make(fk.gauss_newton(), start=tuple(map(float, fit.params.values())))
    best.run(progress=False)
    step = np.array([float(fit.params[name] - best.params[name]) for name in "ak"])
    return float(np.sqrt(step @ np.linalg.inv(np.asarray(best.fisher().covariance)) @ step))


def least_squares(problem, optimiser):
    """A fit of one of NIST's problems in units of its near start, and its distance at the end."""
    start = problem.starts[1]

    def residuals(params, args):
        return problem.residuals({name: params[name] * start[name] for name in start}, args)

    params = dict.fromkeys(start, 1.0)
    fit = fk.Fit(residuals=residuals, params=params, args=problem.args, optimiser=optimiser)
    fit.run(n=50_000, until="converged", progress=False)
    ends = {name: float(fit.params[name]) * start[name] for name in start}
    errors = [abs(ends[k] - problem.certified[k]) / problem.errors[k] for k in ends]
    return fit, max(errors)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Misra1a", "Gauss1", "Nelson", "MGH17", "Lanczos2", "MGH09"])
@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_no_run_ends_away_from_a_certified_minimum(name, method):
    optimiser = optax.adam(1e-2) if method == "adam" else optax.lbfgs()
    fit, distance = least_squares(nist.problems[name], optimiser)
    if fit.status == "converged":
        # A thousandth of a standard error is where a fit counts as converged.
        assert distance < 1e-3
        assert fit.result().converged
    else:
        # Two narrow valleys, through which a learning rate of 1 % does not lead to the end.
        assert method == "adam"
        assert name in ("MGH17", "Lanczos2")


@pytest.mark.parametrize("problem", [{"residuals": decay}, {"loss": loss}], ids=["res", "loss"])
@pytest.mark.parametrize("optimiser", [optax.adam(3e-2), optax.sgd(1e-4), optax.lbfgs()])
def test_a_run_without_a_number_ends_at_the_minimum(optimiser, problem):
    fit = make(optimiser, **problem)
    fit.run(progress=False)
    assert fit.status == "converged"
    assert "standard errors from the minimum" in fit.stop_reason
    assert fit.result().success
    assert away(fit) < 1e-3


def test_it_ends_within_twice_the_steps():
    fit = make(optax.adam(1e-2))
    fit.run(progress=False)

    def step(carry, _):
        params, state = carry
        updates, state = optax.adam(1e-2).update(jax.grad(loss)(params, None), state)
        params = optax.apply_updates(params, updates)
        return (params, state), loss(params, None)

    start = {"a": jnp.array(1.0), "k": jnp.array(0.2)}
    _, losses = jax.lax.scan(step, (start, optax.adam(1e-2).init(start)), length=5000)
    # A distance of d standard errors is d² / 2 of the loss.
    there = 1 + np.flatnonzero(losses - np.min(losses) > 1e-3**2 / 2)[-1]
    assert there < fit.step < 2 * there


def test_a_newton_step_finishes_what_is_close():
    # Steps of a fixed length jump from one side of the minimum to the other for ever.
    fit = fk.Fit(
        loss=lambda params, args: jnp.sum((params["a"] - 2.0) ** 2),
        params={"a": 3.03},
        optimiser=optax.sign_sgd(0.1),
    )
    fit.run(progress=False)
    assert fit.status == "converged"
    # 0.03 or 0.07 away, and a standard error is the root of a half.
    found = re.fullmatch(r"finished by a Newton step of (.*) standard errors", fit.events[-1].text)
    assert found and float(found[1]) in (0.042, 0.099)
    assert float(fit.params["a"]) == pytest.approx(2.0, abs=1e-9)
    assert len(fit.history) == fit.step
    assert fit.best.loss == fit.loss
    fit.rewind(fit.step)
    assert float(fit.params["a"]) == pytest.approx(2.0, abs=1e-9)


def test_a_fit_that_leaves_its_minimum_again_and_again_ends_there():
    def update(updates, state, params=None):
        # At the minimum in every fiftieth step, five standard errors away in all others.
        goal = {"a": jnp.where(state % 50 == 0, 2.0, 7.0)}
        return jax.tree.map(jnp.subtract, goal, params), state + 1

    fit = fk.Fit(
        loss=lambda params, args: 0.5 * jnp.sum((params["a"] - 2.0) ** 2),
        params={"a": 30.0},
        optimiser=optax.GradientTransformation(lambda params: jnp.array(0), update),
    )
    fit.run(progress=False)
    assert fit.status == "converged"
    assert fit.result().converged
    assert float(fit.params["a"]) == pytest.approx(2.0, abs=1e-9)


def test_it_keeps_to_the_bounds():
    fit = make(optax.adam(3e-2), residuals=decay)
    bounded = fk.Fit(
        residuals=decay,
        params={"a": 1.0, "k": 0.2},
        optimiser=optax.adam(3e-2),
        bounds={"k": (0.0, 0.5)},
    )
    fit.run(progress=False)
    bounded.run(progress=False)
    assert float(bounded.params["k"]) == 0.5 < float(fit.params["k"])
    assert bounded.status == "converged"


def test_where_no_progress_can_be_made_the_fit_is_stalled():
    fit = fk.Fit(
        loss=lambda params, args: (params["a"] ** 2 - 1.0) ** 2,
        params={"a": 0.0},
        optimiser=optax.sgd(0.1),
    )
    fit.run(progress=False)
    assert fit.status == "stalled"
    assert "no progress that could matter in" in fit.stop_reason
    assert not fit.result().converged


def test_a_number_of_steps_is_taken_to_the_end():
    fit = make(optax.adam(3e-2))
    fit.run(5000, progress=False)
    assert (fit.status, fit.step) == ("finished", 5000)


def test_a_number_limits_a_run_until_converged():
    fit = make(optax.adam(3e-2))
    fit.run(20, until="converged", progress=False)
    assert (fit.status, fit.step) == ("finished", 20)
    fit.run(100_000, until="converged", progress=False)
    assert fit.status == "converged"


def test_after_a_thaw_it_goes_on_to_the_new_minimum():
    fit = make(optax.adam(3e-2))
    fit.freeze("k")
    fit.run(progress=False)
    assert fit.status == "converged"
    assert float(fit.params["k"]) == pytest.approx(0.2)
    fit.thaw("k")
    fit.resume()
    fit.wait()
    assert fit.status == "converged"
    assert away(fit) < 1e-3


def test_another_optimiser_may_come_while_the_fit_is_assessed(monkeypatch):
    asked, changed, judge = threading.Event(), threading.Event(), stop_rule.judge

    def slow(now):
        asked.set()
        assert changed.wait(60)
        return judge(now)

    monkeypatch.setattr(stop_rule, "judge", slow)
    fit = make(optax.adam(3e-2))
    fit.start()
    assert asked.wait(60)
    fit.change_optimiser(fk.gauss_newton())
    # Gauss-Newton ends the run by itself, whatever becomes of the question.
    fit.wait(60)
    changed.set()
    assert (fit.status, fit.stop_reason) == ("converged", "the optimiser has converged")


def test_a_loaded_fit_still_ends_where_it_has_converged(tmp_path):
    fit = make(optax.adam(1e-2))
    fit.add_callback(lambda fit: fit.pause(), every=20)
    fit.run(progress=False)
    assert fit.status == "paused"
    fit.save(tmp_path / "fit")
    params, optimiser = {"a": 1.0, "k": 0.2}, optax.adam(1e-2)
    loaded = fk.Fit.load(tmp_path / "fit", residuals=decay, params=params, optimiser=optimiser)
    loaded.resume()
    loaded.wait()
    assert loaded.status == "converged"


def test_what_cannot_be_assessed_still_runs(monkeypatch):
    def judge(now):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("fitkit._fit.stop_rule.judge", judge)
    fit = fk.Fit(
        loss=lambda params, args: params["a"] ** 2, params={"a": 1.0}, optimiser=optax.sgd(0.4)
    )
    fit.run(3000, until="converged", progress=False)
    assert fit.status == "finished"
    assert "whether it has converged cannot be told" in fit.events[0].text
