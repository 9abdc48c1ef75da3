"""A fit that goes non-finite: it stops, explains, and goes on once mended."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

T = jnp.linspace(0.1, 1.0, 8)


def decay(params, args):
    """A slope of 1 in `k` drives it below zero, where its logarithm ends."""
    k = params["decay"]["k"]
    return k + 0.001 * jnp.log(k) + (params["amp"] - 1.0) ** 2


def steep(params, args):
    y = T * params["slope"] + params["offset"]
    return jnp.mean((y - 3.0 * T) ** 2)


def line_of(function, text: str) -> int:
    import inspect

    lines, first = inspect.getsourcelines(function)
    return first + next(k for k, line in enumerate(lines) if text in line)


@pytest.fixture
def stopped() -> fk.Fit:
    params = {"decay": {"k": 0.7}, "amp": 1.0}
    fit = fk.Fit(loss=decay, params=params, optimiser=optax.sgd(0.3))
    fit.run(50, progress=False)
    return fit


def test_it_stops_at_the_last_finite_state(stopped) -> None:
    # 0.7 - 0.3 - 0.3 is finite and the next one is not; the loss there is that of step 3.
    assert stopped.status == "non-finite"
    assert stopped.step == 2
    assert 0 < stopped.params["decay"]["k"] < 0.4
    assert np.isfinite(stopped.loss)
    assert np.isfinite(stopped.history.loss).all()


def test_the_report_names_operation_line_element_and_history(stopped) -> None:
    report = stopped.report
    assert report is stopped.report  # made once
    assert (report.operation, report.phase) == ("log of a negative number", "forward")
    assert report.line == line_of(decay, "jnp.log")
    assert report.origin == "decay.k"
    assert any("decay.k was 0.7" in s and "at the steps before" in s for s in report.history)
    assert "log of a negative number at test_fit_nonfinite.py" in stopped.message


def test_run_and_wait_show_the_report(capsys) -> None:
    params = {"decay": {"k": 0.7}, "amp": 1.0}
    fit = fk.Fit(loss=decay, params=params, optimiser=optax.sgd(0.3))
    fit.start(50)
    fit.wait()
    assert "log of a negative number" in capsys.readouterr().out


def test_the_result_and_the_dashboard_tell_of_it() -> None:
    from fitkit._dashboard.widgets import fit_problem

    def residuals(params, args):
        return jnp.log(params["k"] - T / 2) + 3.0 * T

    fit = fk.Fit(residuals=residuals, params={"k": 1.0}, optimiser=optax.sgd(0.05))
    fit.run(50, progress=False)
    assert fit.status == "non-finite"
    assert "log of a negative number at test_fit_nonfinite.py" in fit_problem(fit, fit.snapshot)
    assert any("log of a negative number" in warning for warning in fit.result().warnings)


def test_lower_the_rate_and_resume(stopped) -> None:
    stopped.learning_rates["decay.k"] = 0.001
    stopped.resume()
    stopped.wait()
    assert stopped.status == "finished"
    assert stopped.report is None
    assert stopped.step == 50


def test_freeze_the_culprit_and_resume(stopped) -> None:
    before = stopped.params["decay"]["k"]
    stopped.freeze("decay")
    stopped.resume()
    stopped.wait()
    assert stopped.status == "finished"
    assert stopped.params["decay"]["k"] == before


def test_a_run_away_is_blamed_on_the_learning_rate() -> None:
    params = {"slope": jnp.float32(1.0), "offset": jnp.float32(0.0)}
    fit = fk.Fit(loss=steep, params=params, optimiser=optax.sgd(20.0))
    fit.run(200, progress=False)
    assert fit.status == "non-finite"
    report = fit.report
    assert report is not None
    assert (report.phase, report.family) == ("optimiser", "learning rate")
    assert any("-fold per step: lower the learning rate of" in s for s in report.history)
    assert "slope" in str(report)


def test_the_last_finite_optimiser_state_is_kept(stopped) -> None:
    params = {"decay": {"k": 0.7}, "amp": 1.0}
    fit = fk.Fit(loss=decay, params=params, optimiser=optax.adam(0.3))
    fit.run(50, progress=False)
    assert fit.status == "non-finite"
    short = fk.Fit(loss=decay, params=params, optimiser=optax.adam(0.3))
    short.run(fit.step, progress=False)
    assert fit.params["decay"]["k"] == short.params["decay"]["k"]
    fit.freeze("decay")
    short.freeze("decay")
    fit.run(3, progress=False)
    short.run(3, progress=False)
    # The same only if Adam's memory is the same too.
    assert fit.params["amp"] == short.params["amp"]


def test_an_update_that_is_not_finite_is_found_where_loss_and_gradient_are_finite() -> None:
    def loss(params, args):
        return (params["used"] - 3.0) ** 2 + 0.0 * params["unused"]

    fit = fk.Fit(loss=loss, params={"used": 1.0, "unused": 0.5}, optimiser=optax.adam(0.1, eps=0.0))
    fit.run(5, progress=False)
    assert fit.status == "non-finite"
    report = fit.report
    assert report is not None
    assert (report.phase, report.family) == ("optimiser", "without effect")
    assert report.origin == "unused"
    assert report.parameters == ("unused",)


def trapped(params, args):
    r2 = (T - 0.1) * params["scale"]  # zero in the first element
    return jnp.sum(jnp.sqrt(r2)) + jnp.sum((T * params["slope"] - 1.0) ** 2)


@pytest.mark.parametrize("policy", ["stop", "skip", "zero"])
def test_what_is_done_about_a_gradient_that_is_not_finite(
    policy: Literal["stop", "skip", "zero"],
) -> None:
    params = {"scale": 1.0, "slope": 0.0}
    fit = fk.Fit(loss=trapped, params=params, optimiser=optax.sgd(0.05), on_nonfinite=policy)
    fit.run(200, progress=False)
    if policy == "zero":
        assert fit.status == "finished"
        assert fit.zeroed == 200  # the one gradient of `scale`, at every step
        assert "200 non-finite elements zeroed" in fit.message
        best = float(jnp.sum(T) / jnp.sum(T**2))
        assert fit.params["slope"] == pytest.approx(best, rel=1e-6)  # 200 steps of rate 0.3
        assert fit.params["scale"] == 1.0
    else:
        assert fit.status == "non-finite"
        assert fit.report is not None
        assert fit.report.operation == "derivative of sqrt at 0"
        assert fit.report.phase == "gradient"
        assert fit.report.parameters == ("scale",)
    if policy == "skip":
        assert fit.skipped == 98  # 100 in a row, less the two that the stop takes back
        assert "steps skipped" in fit.message


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_policy_is_refused_before_anything_compiles() -> None:
    with pytest.raises(ValueError, match="'stop', 'skip' or 'zero'"):
        fk.Fit(
            loss=decay,
            params={"k": 1.0},
            optimiser=optax.sgd(1.0),
            on_nonfinite="ignore",  # pyright: ignore[reportArgumentType]
        )


def test_a_start_that_is_not_finite_is_explained() -> None:
    with pytest.raises(ValueError, match="log of a negative number") as caught:
        fk.Fit(loss=decay, params={"decay": {"k": -0.7}, "amp": 1.0}, optimiser=optax.sgd(0.3))
    assert "decay.k" in str(caught.value)


def test_a_frozen_parameter_without_a_slope_is_named() -> None:
    """Gauss-Newton's Jacobian is made forward, where it spoils the others' columns too."""

    def residuals(params, x):
        return jnp.sqrt(params["radius"]) + params["slope"] * x - 3.0 * x

    fit = fk.Fit(residuals=residuals, params={"radius": 0.0, "slope": 1.0}, args=T)
    fit.freeze("radius")
    fit.run(5, progress=False)
    assert fit.status == "non-finite"
    assert fit.report is not None
    assert fit.report.operation == "derivative of sqrt at 0"
    assert fit.report.origin == "radius"
    assert fit.report.line == line_of(residuals, "jnp.sqrt")


def test_a_result_says_which_derivative_is_not_finite_where_every_step_was() -> None:
    """Forward derivatives of a `where` are finite, as steps need them; a gradient's is not."""
    x = np.linspace(0.0, 2.0, 9)

    def residuals(params, x):
        return jnp.where(x > 0, jnp.sqrt(params["a"] * x), 0.0) + params["b"] - jnp.sqrt(x)

    fit = fk.Fit(residuals=residuals, params={"a": 0.7, "b": 0.3}, args=x)
    fit.run(20, progress=False)
    assert fit.status == "converged"
    result = fit.result()
    assert not result.success
    words = "derivative of sqrt at 0 at test_fit_nonfinite.py, line "
    assert result.warnings[0].startswith(f"{words}{line_of(residuals, 'jnp.where')}, from ")
    assert "where hides the value but not its gradient" in result.warnings[0]
