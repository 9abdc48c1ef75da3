"""Robust residuals: minimum and cost of SciPy's, derivatives, and standard errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import least_squares

import fitkit as fk

TUKEY: Any = "tukey"  # Which there is not.
LOSSES = ("soft_l1", "huber", "cauchy")
X = np.linspace(0, 10, 80)
RNG = np.random.default_rng(3)
Y = 5 * np.exp(-(((X - 4) / 1.2) ** 2)) + 1 + RNG.normal(0, 0.2, X.size)
Y[RNG.choice(80, 8, replace=False)] += RNG.normal(0, 4, 8)
START = {"background": 0.5, "centre": 3.7, "height": 4.0, "width": 1.5}


def peak(params, args):
    shape = jnp.exp(-(((X - params["centre"]) / params["width"]) ** 2))
    return (params["height"] * shape + params["background"] - Y) / 0.2


def with_numpy(x):
    background, centre, height, width = x
    return (height * np.exp(-(((X - centre) / width) ** 2)) + background - Y) / 0.2


def identity(params, args):
    return params


def of(loss, scale=1.0):
    """The change of one residual."""
    changed = fk.robust(identity, loss, scale)
    return lambda r: changed(r, None)


@pytest.mark.parametrize(("loss", "scale"), [("soft_l1", 0.5), ("huber", 1.0), ("cauchy", 2.0)])
def test_minimum_and_cost_are_those_of_scipy(loss, scale):
    fit = fk.Fit(residuals=fk.robust(peak, loss, scale), params=START)
    fit.run(progress=False)
    result = fit.result()
    scipy = least_squares(
        with_numpy, list(START.values()), loss=loss, f_scale=scale, x_scale="jac", xtol=1e-12,
        ftol=1e-12, gtol=1e-12,
    )  # fmt: skip
    found = np.array([result.values[path] for path in START])
    # Both stop where the cost is the same to rounding, which leaves half the digits of a minimum.
    assert found == pytest.approx(scipy.x, rel=1e-7)
    assert result.loss == pytest.approx(scipy.cost, rel=1e-12)
    assert result.converged
    # SciPy's curvature is that of the loss wherever it is positive, and gains a step now and then.
    assert fit.step <= 2 * scipy.nfev


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_two_derivatives_over_the_whole_range(loss, dtype):
    scale = 2.0
    rho = {
        "soft_l1": lambda z: 2 * z / (1 + np.sqrt(1 + z)),
        "huber": lambda z: np.where(z <= 1, z, 2 * np.sqrt(z) - 1),
        "cauchy": np.log1p,
    }[loss]
    # Beside zero, both sides of where a series or a branch begins, and squares that overflow.
    u = np.array([1e-30, 1e-9, 1e-4, 0.1, 0.199, 0.201, 0.999, 1.001, 3, 1e3, 2e9, 1e17, 1e25])
    r = jnp.asarray(np.concatenate([-u[::-1], u]) * scale, dtype)
    exact = np.sign(r) * scale * np.sqrt(rho((np.asarray(r, float) / scale) ** 2))
    rtol = 8 * float(jnp.finfo(dtype).eps)
    assert np.asarray(of(loss, scale)(r)) == pytest.approx(exact, rel=rtol)

    @jax.jit
    @jax.vmap
    def derivatives(r):
        return of(loss, scale)(r), *jax.jvp(jax.grad(of(loss, scale)), (r,), (jnp.ones_like(r),))

    assert jnp.all(jnp.isfinite(jnp.stack(derivatives(r))))
    assert np.ravel(derivatives(jnp.zeros(1, dtype))).tolist() == [0, 1, 0]


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_are_those_of_differences(loss):
    r = np.array([-3.0, -0.9, -0.25, -0.15, 1e-3, 0.15, 0.25, 0.9, 1.1, 40.0])
    h = 1e-6
    first = jax.jit(jax.vmap(jax.grad(of(loss))))
    second = jax.jit(jax.vmap(jax.grad(jax.grad(of(loss)))))
    for function, derivative in ((of(loss), first), (first, second)):
        central = (function(r + h) - function(r - h)) / (2 * h)
        # Rounding over the step: 1e-10, in units of values up to 9.
        assert np.asarray(derivative(r)) == pytest.approx(np.asarray(central), abs=2e-9)


def test_masked_rows_stay_no_data():
    def masked(params, args):
        return jnp.where(X < 8, peak(params, args), 0)

    fit = fk.Fit(residuals=fk.robust(masked, "cauchy"), params=START)
    assert fit.result().degrees_of_freedom == np.sum(X < 8) - 4


# Oxidation of ammonia, the example of statsmodels' RLM; its Huber fit with the scale that it found,
# statsmodels 0.15.0: RLM(y, X, M=HuberT()).fit(tol=1e-14, maxiter=500).
STACK = np.array(
    [[80, 27, 89, 42], [80, 27, 88, 37], [75, 25, 90, 37], [62, 24, 87, 28], [62, 22, 87, 18],
     [62, 23, 87, 18], [62, 24, 93, 19], [62, 24, 93, 20], [58, 23, 87, 15], [58, 18, 80, 14],
     [58, 18, 89, 14], [58, 17, 88, 13], [58, 18, 82, 11], [58, 19, 93, 12], [50, 18, 89, 8],
     [50, 18, 86, 7], [50, 19, 72, 8], [50, 19, 79, 8], [50, 20, 80, 9], [56, 20, 82, 15],
     [70, 20, 91, 15]], float,
)  # fmt: skip
DESIGN, LOST = np.column_stack([np.ones(21), STACK[:, :3]]), STACK[:, 3]
SCALE = 2.4405360917210057
COEFFICIENTS = [-41.02649835, 0.82938433, 0.92606597, -0.12784672]


def stack(params, args):
    return (DESIGN @ params - LOST) / SCALE


def test_huber_regression_is_that_of_statsmodels_with_sandwich_errors():
    fit = fk.Fit(residuals=fk.robust(stack, "huber", 1.345), params=jnp.zeros(4))
    fit.run(progress=False)
    result = fit.result(errors_from="sandwich")
    # As many digits as are printed.
    assert result.values["params"] == pytest.approx(COEFFICIENTS, rel=2e-7)
    r = stack(np.array(COEFFICIENTS), None)
    psi, slope = np.clip(r, -1.345, 1.345), np.abs(r) <= 1.345
    rows = DESIGN / SCALE
    bread = np.linalg.inv(rows.T @ (slope[:, None] * rows))
    exact = bread @ (rows.T @ (psi[:, None] ** 2 * rows)) @ bread * 21 / 17
    assert result.errors["params"] == pytest.approx(np.sqrt(np.diag(exact)), rel=1e-5)
    assert "scatter of the residuals" in str(result) and not result.warnings


def test_sandwich_of_plain_residuals_is_hc1():
    fit = fk.Fit(residuals=stack, params=jnp.zeros(4))
    fit.run(progress=False)
    r = stack(np.linalg.lstsq(DESIGN, LOST, rcond=None)[0], None)
    bread = np.linalg.inv(DESIGN.T @ DESIGN) * SCALE
    exact = bread @ (DESIGN.T @ (r[:, None] ** 2 * DESIGN)) @ bread * 21 / 17
    result = fit.result(errors_from="sandwich")
    # Rounding of a Hessian with a condition number of 1e6.
    assert result.covariance == pytest.approx(exact, rel=1e-7)
    assert result.fisher.rank == 4


def test_sandwich_says_what_the_data_leave_free():
    def product(params, args):
        return (params["a"] * params["b"] * X + params["c"] - Y) / 0.2

    fit = fk.Fit(residuals=fk.robust(product), params={"a": 1.0, "b": 2.0, "c": 0.0})
    result = fit.result(errors_from="sandwich")
    assert result.fisher.rank == 2
    assert np.isinf([result.errors["a"], result.errors["b"]]).all()
    assert np.isfinite(result.errors["c"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda fit: fk.robust(peak, TUKEY), ValueError, "no loss 'tukey'; must be one of"),
        (lambda fit: fk.robust(peak, scale=0.0), ValueError, "scale is 0.0; must be positive"),
        (lambda fit: fit.result(False, "sandwich"), ValueError, "would count it twice"),
        (lambda fit: fit.result(errors_from="bootstrap"), ValueError, "must be one of jacobian"),
    ],
)
def test_bad_input_is_refused(call, error, message, unchecked):
    fit = fk.Fit(residuals=identity, params=jnp.ones(2))
    with pytest.raises(error, match=message):
        call(fit)


def test_a_loss_has_errors_from_its_hessian_only():
    fit = fk.Fit(
        loss=lambda params, args: jnp.sum(params**2), params=jnp.ones(2), optimiser=optax.sgd(0.1)
    )
    with pytest.raises(ValueError, match="whose errors come from its Hessian"):
        fit.result(errors_from="jacobian")
