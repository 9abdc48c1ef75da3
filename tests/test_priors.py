import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import fitkit as fk

RNG = np.random.default_rng(3)
# Three parameters of a line and a curve, in one array and one number.
DESIGN = RNG.normal(size=(12, 3))
SIGMA = 0.5
Y = DESIGN @ np.array([1.0, -2.0, 0.5]) + SIGMA * RNG.normal(size=12)
MEAN, WIDTH = np.array([0.5, -1.0, 0.0]), np.array([0.3, 0.2, 1.5])
PRIORS = {"pair": fk.Normal(MEAN[:2], WIDTH[:2]), "third": fk.Normal(0, 1.5)}
START = {"pair": jnp.zeros(2), "third": 0.0}


def linear(params, args):
    return (DESIGN[:, :2] @ params["pair"] + DESIGN[:, 2] * params["third"] - Y) / SIGMA


def half_squares(params, args):
    return 0.5 * jnp.sum(linear(params, args) ** 2)


def posterior():
    """Bayesian linear regression (Bishop, Pattern Recognition, equations 3.50 and 3.51)."""
    of_data = DESIGN.T @ DESIGN / SIGMA**2
    covariance = np.linalg.inv(of_data + np.diag(WIDTH**-2.0))
    mean = covariance @ (DESIGN.T @ Y / SIGMA**2 + MEAN / WIDTH**2)
    return mean, covariance, np.trace(covariance @ of_data)


@pytest.mark.parametrize("kind", ["residuals", "loss", "function"])
def test_a_linear_model_with_gaussian_priors_is_bayesian_regression(kind):
    problem = {"residuals": linear, "priors": PRIORS}
    if kind == "loss":
        problem = {"loss": half_squares, "priors": PRIORS, "optimiser": optax.lbfgs()}
    if kind == "function":  # The same density, of which fitkit does not know that it is Gaussian.
        priors = {**PRIORS, "third": lambda value: 0.5 * (value / 1.5) ** 2}
        problem |= {"priors": priors, "optimiser": optax.lbfgs()}
    fit = fk.Fit(params=START, **problem)
    fit.run(progress=False)
    result = fit.result()
    mean, covariance, determined = posterior()
    assert result.success
    # L-BFGS ends where a thousandth of an error is left, Gauss-Newton at rounding.
    found = np.append(result.values["pair"], result.values["third"])
    np.testing.assert_allclose(found, mean, atol=1e-10 if kind == "residuals" else 3e-4)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-9)
    np.testing.assert_allclose(fit.fisher().covariance, covariance, rtol=1e-9)
    chi_square = np.sum(((DESIGN @ found - Y) / SIGMA) ** 2)
    of_priors = np.sum(((found - MEAN) / WIDTH) ** 2)
    assert result.prior_chi_square == pytest.approx(of_priors)
    assert result.loss == pytest.approx((chi_square + of_priors) / 2)
    assert fit.loss == pytest.approx(result.loss)
    if kind == "loss":
        assert result.chi_square is None
    else:
        assert result.chi_square == pytest.approx(chi_square)
        assert result.residuals is not None and result.residuals.shape == Y.shape
        assert result.degrees_of_freedom == pytest.approx(Y.size - determined)


def test_a_prior_alone_determines_what_the_data_leave_free():
    fit = fk.Fit(
        residuals=lambda params, args: params["a"] + params["b"] - jnp.array([3.0, 5.0]),
        params={"a": 1.0, "b": 1.0},
        priors={"b": fk.Normal(1.5, 0.25)},
    )
    assert fit.fisher().rank == 2
    fit.run(progress=False)
    result = fit.result()
    # a + b is 4 with an error of √½, and b what the prior says.
    assert result.values["a"] == pytest.approx(2.5)
    assert result.errors["b"] == pytest.approx(0.25)
    assert result.errors["a"] == pytest.approx(np.hypot(0.25, 0.5**0.5))
    assert (result.degrees_of_freedom, result.chi_square) == (pytest.approx(1), pytest.approx(2))
    assert result.prior_chi_square == pytest.approx(0, abs=1e-20)


X = np.arange(10.0)
COUNTS = np.array([4.95, 3.10, 1.80, 1.25, 0.66, 0.45, 0.20, 0.21, 0.03, 0.10])


def decay(params, args):
    return (params["height"] * jnp.exp(-params["rate"] * X) - COUNTS) / 0.1


def gamma(rate):
    return -jax.scipy.stats.gamma.logpdf(rate, 3.0, scale=0.1)


@pytest.mark.parametrize(
    ("priors", "values", "errors"),
    [
        # Of iminuit 2.33.0: migrad and hesse, strategy 2, of χ² - 2 ln(prior), written with NumPy
        # and scipy.stats.
        (
            {"height": fk.Normal(5, 0.05), "rate": fk.LogNormal(np.log(0.4), 0.1)},
            (4.98501967, 0.4811614559),
            None,
        ),
        ({"rate": gamma}, (4.960298803, 0.4851897762), (0.09247224906, 0.01596079866)),
    ],
    ids=["log-normal", "gamma"],
)
def test_other_priors_agree_with_minuit(priors, values, errors):
    fit = fk.Fit(
        residuals=decay,
        params={"height": 4.0, "rate": 0.3},
        priors=priors,
        optimiser=None if errors is None else optax.lbfgs(),
    )
    fit.run(progress=False)
    result = fit.result()
    assert result.success
    found = [float(result.values[path]) for path in ("height", "rate")]
    # Minuit's digits; and a thousandth of an error, at which L-BFGS is stopped.
    np.testing.assert_allclose(found, values, rtol=1e-7 if errors is None else 1e-4)
    if errors is not None:
        # Minuit's second derivatives are finite differences.
        np.testing.assert_allclose(list(result.errors.values()), errors, rtol=1e-3)


def test_densities_are_those_of_scipy_but_for_a_constant():
    value = np.linspace(0.5, 9.0, 30)
    pairs = [
        (fk.Normal(3, 0.7), scipy.stats.norm(3, 0.7)),
        (fk.LogNormal(1.2, 0.4), scipy.stats.lognorm(s=0.4, scale=np.exp(1.2))),
    ]
    for prior, scipys in pairs:
        off = np.array([float(prior(one)) for one in value]) + scipys.logpdf(value)
        # Logarithms of up to 40, a dozen operations.
        np.testing.assert_allclose(off, off[0], atol=1e-12)


def test_restart_keeps_priors():
    def residuals(params, data):
        return params["a"] - data

    fit = fk.Fit(
        residuals=residuals,
        params={"a": 1.0},
        args=jnp.array([1.0, 2.0]),
        priors={"a": fk.LogNormal(0.0, 1.0)},
    )
    fit.run(progress=False)
    first = fit.loss
    fit.restart(args=jnp.array([2.0, 1.0]))
    fit.run(progress=False)
    assert fit.loss == pytest.approx(first)
    with pytest.raises(ValueError, match="'a' starts at -1.0, and has a LogNormal"):
        fit.restart(params={"a": -1.0})


def test_what_is_frozen_or_masked_counts_neither_as_datum_nor_as_parameter():
    mask = np.arange(12) < 8
    fit = fk.Fit(
        residuals=lambda params, args: jnp.where(mask, linear(params, args), 0),
        params=START,
        priors=PRIORS,
    )
    fit.freeze("pair")  # Whose prior is then a constant, 1.5²/0.3² + ….
    fit.run(progress=False)
    result = fit.result()
    of_data = np.sum((DESIGN[:8, 2] / SIGMA) ** 2)
    determined = of_data / (of_data + 1.5**-2)
    assert result.degrees_of_freedom == pytest.approx(8 - determined)
    assert result.errors["third"] == pytest.approx((of_data + 1.5**-2) ** -0.5)
    assert "4 residuals are no data" in result.warnings[0]


@pytest.mark.parametrize(
    ("priors", "error", "words"),
    [
        ({"thrid": fk.Normal(0, 1)}, fk.UnknownPathError, "priors: no parameter 'thrid'.*'third'"),
        ({"third": fk.Normal(0, 0)}, ValueError, r"'third' has a prior with sigma = 0.0.*freeze"),
        ({"pair": fk.Normal(0, [1, -1])}, ValueError, r"sigma\[1\] = -1.0; must be positive"),
        ({"pair": fk.Normal(np.inf, 1)}, ValueError, "mean = inf; must be finite"),
        ({"pair": fk.Normal(np.zeros(3), 1)}, ValueError, r"'pair' has shape \(2,\).*mean.*\(3,\)"),
        ({"pair": fk.Normal("zero", 1)}, TypeError, "'pair' has a prior with mean array.'zero'"),
        ({"pair": (0, 1)}, TypeError, r"'pair' has \(0, 1\); must be fitkit.Normal"),
        ({"pair": fk.Normal}, TypeError, "must be fitkit.Normal"),
        ({"pair": lambda value: value**2}, TypeError, r"'pair' returned an array of shape \(2,\)"),
        ({"pair": lambda value: None}, TypeError, "'pair' returned None"),
        ({"*": fk.Normal(0, 1), "third": fk.Normal(0, 1)}, ValueError, "'third' has two priors"),
        ({"pair": fk.LogNormal(0, 1)}, ValueError, r"'pair\[0\]' starts at 0.0.*Start above 0"),
        (fk.Normal(0, 1), TypeError, "names no parameters"),
        ({"third": lambda value: value**2}, ValueError, "'third' is a function.*optax.lbfgs"),
    ],
)
def test_bad_priors_are_named_by_path(priors, error, words, unchecked):
    with pytest.raises(error, match=words):
        fk.Fit(residuals=linear, params=START, priors=priors)


def test_errors_to_which_priors_contribute_are_not_scaled():
    fit = fk.Fit(residuals=linear, params=START, priors=PRIORS)
    with pytest.raises(ValueError, match="priors know nothing"):
        fit.result(absolute_sigma=False)


@pytest.mark.slow
def test_many_systems_with_priors_of_their_own():
    slopes = np.array([0.3, -0.2, 0.8])
    x = np.linspace(0, 1, 6)
    y = slopes[:, None] * x + 0.1 * RNG.normal(size=(3, 6))
    weights = np.array([1.0, 1, 1, 0, 1, 1])

    def residuals(params, y):
        return (params["slope"] * x + params["offset"] - y) / 0.1

    start = {"slope": 0.0, "offset": 1.0}
    means = np.array([0.25, 0.0, 0.7])
    priors = {"slope": fk.Normal(means, 0.05), "offset": fk.LogNormal(-3.0, 1.0)}
    many = fk.fit_many(residuals, start, y, priors=priors, weights=weights, progress=False)
    assert many.success.all()
    for k in range(3):
        fit = fk.Fit(
            residuals=lambda params, y: residuals(params, y)[weights > 0],
            params=start,
            args=y[k],
            priors={"slope": fk.Normal(means[k], 0.05), "offset": priors["offset"]},
        )
        fit.run(progress=False)
        one = fit.result()
        for other in (many[k], one):
            # Both at the minimum to a millionth of an error.
            assert many.values["slope"][k] == pytest.approx(float(other.values["slope"]), rel=1e-6)
            assert many.errors["offset"][k] == pytest.approx(other.errors["offset"], rel=1e-6)
            assert many.chi_square[k] == pytest.approx(other.chi_square, rel=1e-6)
            assert many.prior_chi_square[k] == pytest.approx(other.prior_chi_square, rel=1e-6)
            assert many.degrees_of_freedom[k] == pytest.approx(other.degrees_of_freedom, rel=1e-6)
    with pytest.raises(TypeError, match="prior of 'slope' is a function"):
        fk.fit_many(residuals, start, y, priors={"slope": jnp.square}, progress=False)


def test_complex_residuals_beside_a_prior():
    """As stacked by hand, also for the loss itself."""
    data = jnp.array([1.0 + 2.0j, 3.0 - 1.0j])

    def residuals(params, args):
        return params["a"] * data - 2.0

    def stacked(params, args):
        return jnp.concatenate(
            [jnp.real(residuals(params, args)), jnp.imag(residuals(params, args))]
        )

    prior = {"a": fk.Normal(0.5, 0.1)}
    fits = [fk.Fit(residuals=r, params={"a": 1.0}, priors=prior) for r in (residuals, stacked)]
    for fit in fits:
        fit.run(progress=False)
    one, other = (fit.result() for fit in fits)
    # The sums are of the same numbers in another order.
    assert one.values["a"] == pytest.approx(other.values["a"], rel=1e-12)
    assert one.loss == pytest.approx(other.loss, rel=1e-12)
    assert one.prior_chi_square == pytest.approx(other.prior_chi_square, rel=1e-12)
