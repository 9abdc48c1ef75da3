"""Whitened residuals: SciPy's curve_fit with a covariance; complex residuals: their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

import fitkit as fk

X = np.linspace(0.0, 3.0, 30)
# Noise of its own and noise that neighbours share.
COVARIANCE = 0.01 * np.eye(30) + 0.04 * np.exp(-np.abs(X[:, None] - X) / 0.7)
RNG = np.random.default_rng(5)
Y = 2.0 * np.exp(-1.3 * X) + 0.3 + RNG.multivariate_normal(np.zeros(30), COVARIANCE)
START = {"height": 1.0, "rate": 1.0, "sky": 0.0}


def decay(params):
    return params["height"] * jnp.exp(-params["rate"] * X) + params["sky"]


@pytest.mark.parametrize("where", ["global", "args"])
def test_minimum_and_errors_are_those_of_curve_fit(where):
    def residuals(params, args):
        return fk.whiten(decay(params) - Y, COVARIANCE if where == "global" else args)

    fit = fk.Fit(residuals=residuals, params=START, args=COVARIANCE)
    fit.run(progress=False)
    result = fit.result()
    values, covariance = curve_fit(
        lambda x, a, b, c: a * np.exp(-b * x) + c, X, Y, [1, 1, 0], sigma=COVARIANCE,
        absolute_sigma=True, xtol=1e-12, ftol=1e-12, gtol=1e-12,
    )  # fmt: skip
    found = [float(result.values[path]) for path in START]
    # SciPy's Jacobian is one of differences, of half the digits.
    assert found == pytest.approx(values, rel=1e-5)
    assert result.covariance == pytest.approx(covariance, rel=1e-5)
    r = np.asarray(decay(result.params) - Y)
    assert result.chi_square == pytest.approx(r @ np.linalg.solve(COVARIANCE, r), rel=1e-10)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (np.eye(2), r"residuals have shape \(3,\) and the covariance \(2, 2\)"),
        (np.diag([1.0, -1.0, 1.0]), "the variance of datum 1 is -1. Variances are squares"),
        (np.ones((3, 3)), "not positive definite: the smallest eigenvalue .* more samples"),
        (np.eye(3) + np.eye(3, k=1) / 2, r"not symmetric: \[0, 1\] is 0.5 and \[1, 0\] is 0"),
        (np.diag([1.0, np.inf, 1.0]), "the covariance is not finite. Leave out"),
    ],
)
def test_a_bad_covariance_is_refused(covariance, message):
    with pytest.raises(ValueError, match=message):
        fk.whiten(jnp.ones(3), covariance)
    with pytest.raises(TypeError, match="residuals have dtype complex128; must be real"):
        fk.whiten(jnp.ones(3) * 1j, np.eye(3))


def test_a_traced_covariance_that_is_none_gives_no_number():
    assert not np.any(np.isfinite(jax.jit(fk.whiten)(jnp.ones(2), jnp.ones((2, 2)))[1:]))


# A resonance, as a network analyser sees it, with noise in both parts.
FREQUENCY = np.linspace(-2.0, 2.0, 25)
MEASURED = 1.5 / (0.3 + 1j * (FREQUENCY - 0.2))
MEASURED = MEASURED + 0.1 * (RNG.normal(size=25) + 1j * RNG.normal(size=25))
RESONANCE = {"amplitude": 1.0, "centre": 0.0, "width": 0.5}
WEIGHTS = np.where(FREQUENCY > 1.5, 0.0, 1 + FREQUENCY**2)


def lorentzian(params, args):
    model = params["amplitude"] / (params["width"] + 1j * (FREQUENCY - params["centre"]))
    return (model - args) / 0.1


def by_hand(params, args):
    r = lorentzian(params, args)
    return r.real, r.imag


def test_complex_residuals_are_fitted_as_their_parts():
    def fitted(residuals):
        fit = fk.Fit(residuals=residuals, params=RESONANCE, args=MEASURED)
        fit.run(progress=False)
        return fit.loss, fit.result()

    (loss, result), (by_hand_loss, wanted) = fitted(lorentzian), fitted(by_hand)
    # The same arithmetic, which XLA may fuse in another way.
    assert loss == pytest.approx(by_hand_loss, rel=1e-12)
    assert result.degrees_of_freedom == wanted.degrees_of_freedom == 47
    assert result.covariance == pytest.approx(wanted.covariance, rel=1e-9)
    assert result.converged and result.residuals == pytest.approx(wanted.residuals, abs=1e-6)


def test_complex_residuals_have_a_fisher_matrix_with_weights():
    found, wanted = (
        fk.fisher_matrix(function, RESONANCE, MEASURED, weights=WEIGHTS if k else (WEIGHTS,) * 2)
        for k, function in ((1, lorentzian), (0, by_hand))
    )
    assert found.matrix == pytest.approx(wanted.matrix, rel=1e-13)


@pytest.mark.slow
def test_many_systems_have_complex_residuals_with_weights():
    data = MEASURED * np.array([[1.0], [2.0]])
    found, wanted = (
        fk.fit_many(function, RESONANCE, data, weights=weights, progress=False)
        for function, weights in ((lorentzian, WEIGHTS), (by_hand, (WEIGHTS, WEIGHTS)))
    )
    assert found.success.all()
    assert np.array_equal(found.degrees_of_freedom, wanted.degrees_of_freedom)
    for path in RESONANCE:
        assert found.values[path] == pytest.approx(wanted.values[path], rel=1e-9)
        assert found.errors[path] == pytest.approx(wanted.errors[path], rel=1e-9)
    assert found[1].degrees_of_freedom == 2 * np.count_nonzero(WEIGHTS) - 3


def test_robust_takes_the_parts_of_complex_residuals():
    changed = fk.robust(lorentzian, "huber")(RESONANCE, MEASURED)
    real, imaginary = fk.robust(by_hand, "huber")(RESONANCE, MEASURED)
    assert np.array_equal(changed, real + 1j * imaginary)
