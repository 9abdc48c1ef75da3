"""Results that people who fit for a living would call false: each kind, by the result alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from fitkit._optimisers import bounded
from fitkit._result import assess, make_result
from fitkit._result.goodness import deviation

# They mostly compile.
pytestmark = pytest.mark.slow

X = np.linspace(0.0, 1.0, 30)
Y = 2 * np.exp(-1.3 * X) + 0.01 * np.sin(50 * X)


def decay(params, args):
    return (params["a"] * jnp.exp(-params["b"] * X) - Y) / 0.01


def curve_fit():
    best, covariance = scipy.optimize.curve_fit(
        lambda x, a, b: a * np.exp(-b * x),
        X,
        Y,
        sigma=np.full(X.size, 0.01),
        absolute_sigma=True,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    return {"a": best[0], "b": best[1]}, covariance


def test_what_was_converged_is_forgotten_with_what_was_frozen():
    a = float(np.exp(-X) @ Y / (np.exp(-X) @ np.exp(-X)))
    here = {"a": np.float64(a), "b": np.float64(1.0)}
    arguments = {"residuals": decay, "params": here, "status": "converged"}
    assert make_result(**arguments, frozen="b").success
    thawed = make_result(**arguments)
    assert not thawed.success
    assert not thawed.converged
    assert thawed.distance > 5


def test_nothing_free_still_has_a_chi_square():
    best, _ = curve_fit()
    result = make_result(residuals=decay, params=best, frozen=("a", "b"))
    assert not result.converged
    assert not result.success
    assert result.chi_square == pytest.approx(float(np.sum(np.square(decay(best, None)))))
    assert result.degrees_of_freedom == X.size
    assert result.errors == {"a": 0, "b": 0}
    assert "all parameters are frozen" in str(result)
    assert result._repr_html_()
    loss = make_result(loss=lambda p, args: jnp.sum(decay(p, args) ** 2), params=best, frozen="*")
    assert loss.chi_square is None


def test_a_prior_on_two_parameters_makes_no_mean():
    def loss(params, args):
        c = params["c"]
        residuals = (c[0] + c[1] * X - Y) / 0.1
        return 0.5 * jnp.sum(residuals**2) + 0.5 * jnp.sum((c / 10.0) ** 2)

    design = np.stack([np.ones_like(X), X], 1) / 0.1
    hessian = design.T @ design + np.eye(2) / 100
    best = np.linalg.solve(hessian, design.T @ Y / 0.1)
    result = make_result(loss=loss, params={"c": best}, gain=100.0)
    assert result.warnings == ()
    assert result.success
    np.testing.assert_allclose(
        result.errors["c"], np.sqrt(np.diag(np.linalg.inv(hessian))), rtol=1e-8
    )

    def wide(params, args):
        # A variance of two, and four parameters: the sum is divided by their number.
        return 0.5 * jnp.sum((params - args) ** 2) + jnp.sum(params**2) / (2 * 2.0)

    assert make_result(loss=wide, params=np.ones(4), args=np.ones(4)).warnings == (
        "nothing says in what unit the loss is, because the fit has gained nothing that is known "
        "of: the distance takes it for a log-likelihood",
    )


def test_masked_residuals_leave_errors_and_chi_square():
    x = np.linspace(0, 1, 400)
    y = 1 + 2 * x + 0.3 * np.random.default_rng(0).normal(size=400)
    mask = np.arange(400) % 4 == 0

    def residuals(params, args):
        model = params["c"] + params["s"] * x
        return jnp.where(args[1], model - jnp.where(args[1], args[0], 0), 0)

    (slope, offset), covariance = np.polyfit(x[mask], y[mask], 1, cov=True)
    result = make_result(
        residuals=residuals,
        params={"c": offset, "s": slope},
        args=(np.where(mask, y, np.nan), mask),
        absolute_sigma=False,
    )
    assert result.degrees_of_freedom == 98
    np.testing.assert_allclose(result.errors["s"], covariance[0, 0] ** 0.5, rtol=1e-8)
    np.testing.assert_allclose(result.errors["c"], covariance[1, 1] ** 0.5, rtol=1e-8)
    assert "300 residuals are no data" in result.warnings[0]


@pytest.mark.parametrize("freedom", [3, 10, 1000])
def test_the_deviation_of_chi_square_is_that_of_its_distribution(freedom):
    for sigmas in (-2.0, 0.0, 2.0, 4.0):
        chi_square = float(scipy.stats.chi2.isf(scipy.stats.norm.sf(sigmas), freedom))
        # The cube root is normal to a tenth or two from three degrees of freedom on.
        assert deviation(chi_square, freedom) == pytest.approx(sigmas, abs=0.2)


@pytest.mark.parametrize(
    ("factor", "absolute", "warned"),
    [
        (1.0, True, False),
        (1.2, True, True),
        (0.8, True, True),
        (1.02, True, False),
        (1.2, False, False),
        (30.0, False, True),
        (1e-3, False, False),
    ],
)
def test_significance_decides_about_chi_square(factor, absolute, warned):
    n = 2000
    noise = np.random.default_rng(0).normal(size=n)
    noise = (noise - noise.mean()) / noise.std() * ((n - 1) / n) ** 0.5

    def residuals(params, args):
        return (params["c"] - noise) * factor

    result = make_result(residuals=residuals, params={"c": np.float64(0)}, absolute_sigma=absolute)
    assert result.reduced_chi_square == pytest.approx(factor**2)
    assert any("standard deviations from 1" in one for one in result.warnings) == warned
    assert result.success


def test_exact_data_are_met():
    x = np.zeros(16)
    x[1] = 1
    spectrum, w = np.fft.rfft(x), np.linspace(0, np.pi, 9)
    data = spectrum * np.exp(-1j * 1.35 * w)

    def residuals(params, args):
        off = spectrum * jnp.exp(-1j * params * w) - data
        return off.real, off.imag

    for delay in (1.35, np.nextafter(1.35, 2)):
        result = make_result(residuals=residuals, params=np.float64(delay))
        assert result.success
        assert result.distance < 1e-3
        assert "met to rounding" in result.message


def test_a_line_without_end_has_an_effect():
    def loss(params, args):
        return -params["a"] + 0.5 * (params["b"] - 1) ** 2 + 0 * params["idle"]

    params = {"a": np.float64(20), "b": np.float64(1), "idle": np.float64(0)}
    result = make_result(loss=loss, params=params, gain=20.0)
    assert not result.converged
    assert "the loss falls along a " in result.message
    assert result.unconstrained == (
        "a is unconstrained: it has a slope and no curvature",
        "idle is unconstrained: it has no effect",
    )


def test_nothing_is_said_of_the_effect_of_a_parameter_on_its_bound():
    # At 0 the square has no derivative, and yet the loss is least there.
    def residuals(params, args):
        return jnp.stack([params["a"] ** 2 + 1.0, params["b"] - 2.0, params["b"] - 3.0])

    params = {"a": np.float64(0), "b": np.float64(2.5)}
    result = make_result(residuals=residuals, params=params)
    assert result.assessment.kind == "minimum"
    assert not result.success
    assert result.unconstrained == ("a is unconstrained: it has no effect to first order",)

    def falling(params, args):
        return jnp.stack([params["a"] + 1.0, params["b"] - 2.0 + params["a"], params["b"] - 3.0])

    params = {"a": np.float64(0), "b": np.float64(2.5)}
    bounds = bounded({"a": (0, None)}, params)
    result = make_result(residuals=falling, params=params, bounds=bounds)
    assert result.success
    assert result.unconstrained == ()
    assert np.all(np.isfinite(result.errors["b"]))
    assert "a is on its bound" in result.warnings[-1]


def test_null_eigenvectors_are_no_alarm_of_single_precision():
    x, y = X.astype(np.float32), Y.astype(np.float32)

    def residuals(params, args):
        return (params["a"] + params["b"] - x * y) / np.float32(0.01)

    mean = np.float32(np.mean(x * y) - 1)
    result = make_result(residuals=residuals, params={"a": mean, "b": np.float32(1)})
    assert not any("float32" in one for one in result.warnings)
    assert result.converged
    assert not result.success


def test_functions_of_other_precision_settings():
    with jax.numpy_rank_promotion("raise"):
        best, _ = curve_fit()
        assert assess(decay, best).success
