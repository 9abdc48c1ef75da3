"""What a loss returns beside the loss, against the same fit without it and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from browser import wait_until
from controls import live

import fitkit as fk
from fitkit._format import number

X = np.linspace(0.0, 1.0, 9)
Y = 1.0 + 2.0 * X + 0.1 * np.cos(20.0 * X)
START = {"offset": 0.0, "slope": 0.0}


def loss(params, args):
    x, y = args
    return 0.5 * jnp.sum((params["offset"] + params["slope"] * x - y) ** 2)


def loss_and_model(params, args):
    model = params["offset"] + params["slope"] * args[0]
    return loss(params, args), {"model": model, "count": 9}


def make_fit(function=loss_and_model, **options):
    optimiser = options.pop("optimiser", optax.adam(0.1))
    return fk.Fit(loss=function, params=START, args=(X, Y), optimiser=optimiser, **options)


def model_at(params):
    return np.asarray(params["offset"]) + np.asarray(params["slope"]) * X


def check(now):
    # One multiplication and one addition: the compiled one may fuse them.
    np.testing.assert_allclose(now.aux["model"], model_at(now.params), rtol=1e-15, atol=1e-15)
    assert int(now.aux["count"]) == 9


def test_aux_is_that_of_the_present_parameters_wherever_they_come_from(tmp_path):
    fit = make_fit()
    check(fit)
    fit.run(20, progress=False)
    check(fit)
    late = fit.snapshot
    fit.rewind(5)
    check(fit)
    assert fit.snapshot.aux is fit.aux
    fit.set_values({"slope": 7.0})
    check(fit)
    check(late)  # What was a snapshot stays one.
    fit.save(tmp_path / "fit")
    again = fk.Fit.load(
        tmp_path / "fit", loss=loss_and_model, params=START, args=(X, Y), optimiser=optax.adam(0.1)
    )
    np.testing.assert_array_equal(again.aux["model"], fit.aux["model"])
    fit.restart(args=(X, Y + 1.0))
    check(fit)


@pytest.mark.parametrize(
    "optimiser",
    [
        pytest.param(optax.adam(0.1), id="adam"),
        pytest.param(optax.lbfgs(), id="lbfgs", marks=pytest.mark.slow),
    ],
)
def test_the_fit_is_the_same_to_the_bit_as_without(optimiser):
    fits = [make_fit(f, optimiser=optimiser) for f in (loss, loss_and_model)]
    for fit in fits:
        fit.run(30, progress=False)
    plain, pair = fits
    assert plain.aux is None
    assert (plain.loss, plain.params) == (pair.loss, pair.params)
    one, other = plain.result(), pair.result()
    assert one.errors == other.errors
    assert one.message == other.message


def test_what_analyses_a_loss_leaves_it_aside():
    # The Hessian of half a sum of squares is the same everywhere.
    design = np.stack([np.ones_like(X), X], axis=1)
    hessian = design.T @ design
    matrix = fk.fisher_matrix(loss=loss_and_model, params=START, args=(X, Y))
    np.testing.assert_allclose(matrix.covariance, np.linalg.inv(hessian), rtol=1e-12)
    largest = fk.fisher_spectrum(
        loss=loss_and_model, params=START, args=(X, Y), k=1, units={"offset": 1.0, "slope": 1.0}
    )
    assert largest.eigenvalues[0] == pytest.approx(np.linalg.eigvalsh(hessian)[-1])

    def root_and_more(params):
        return jnp.sqrt(params["slope"]), jnp.log(0.0 * params["offset"])

    report = fk.find_nonfinite(root_and_more, START, gradient=True)
    assert report is not None
    assert report.origin == "slope"


def test_no_step_computes_it_and_its_infinities_stop_nothing():
    def with_infinity(params, args):
        return loss(params, args), {"log": jnp.log(0.0 * params["slope"])}

    fit = make_fit(with_infinity, priors={"slope": fk.Normal(2.0, 1.0)})
    fit.run(3, progress=False)
    assert fit.status == "finished"
    assert float(fit.aux["log"]) == -np.inf
    assert np.isfinite(float(fit.loss))


def test_a_report_explains_the_loss_and_not_what_is_beside_it():
    def falls_off(params, args):
        beside = jnp.log(0.0 * params["slope"])
        return jnp.sqrt(0.5 - params["offset"]) - 9.0 * params["offset"], beside

    fit = make_fit(falls_off)
    fit.run(30, progress=False)
    assert fit.status == "non-finite"
    assert fit.report is not None
    assert fit.report.operation.startswith("sqrt")


def test_residuals_have_nothing_beside_them():
    fit = fk.Fit(residuals=lambda p, _: (p["a"] - jnp.ones(2), p["a"] - 3.0), params={"a": 0.0})
    fit.run(progress=False)
    assert fit.aux is None
    np.testing.assert_allclose(fit.params["a"], 5 / 3, rtol=1e-12)  # The mean of 1, 1 and 3.


def test_a_dashboard_shows_it():
    def several(p, args):
        key = jax.random.key(0)
        return loss(p, args), {"key": key, "model": X, "lengths": [p["slope"] ** 2, 7]}

    fit = make_fit(several)
    dashboard = fk.Dashboard(fit)
    line = (dashboard.widget, live(dashboard).beside_loss.line)[1]
    fit.run(5, progress=False)
    wait_until(lambda: "at step 5" in line.value, "the values of the last step")
    squared = float(fit.params["slope"]) ** 2
    assert f"lengths.0 {number(squared, typeset=True)}" in line.value
    assert "lengths.1 7" in line.value
    assert "model float64 of shape (9,)" in line.value
    assert "key key&lt;fry&gt; of shape ()" in line.value
    dashboard.close()


def test_a_dashboard_of_a_loss_alone_has_no_line_for_it():
    dashboard = fk.Dashboard(make_fit(loss))
    _ = dashboard.widget
    assert "fitkit-none" in live(dashboard).beside_loss.line._dom_classes
    dashboard.close()
