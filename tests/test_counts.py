"""Residuals of counts: values, derivatives, minimum and errors of Poisson's likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy.special import gammaln
from scipy.stats import poisson

import fitkit as fk


def negative_log_likelihood(n, m):
    """Of Poisson's distribution, less that of m = n; n need not be whole."""
    best = np.where(n > 0, n * np.log(np.maximum(n, 1)) - n, 0)
    return m - n * np.log(m) + best


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_half_the_square_is_the_likelihood_and_so_is_its_slope(dtype):
    n, m = map(np.ravel, np.meshgrid([0, 1, 2.5, 40, 1e6], [1e-6, 0.9, 1.0, 2.6, 44.1, 2e6]))
    exact = negative_log_likelihood(n, m)

    @jax.jit
    def both(m):
        residuals = lambda m: fk.poisson_residuals(jnp.asarray(n, dtype), m)  # noqa: E731
        return jax.jvp(residuals, (m,), (jnp.ones_like(m),))

    r, slope = (np.asarray(one, float) for one in both(jnp.asarray(m, dtype)))
    # The difference of m and n is known to a unit of rounding of both.
    eps = float(jnp.finfo(dtype).eps)
    assert r**2 / 2 == pytest.approx(exact, rel=100 * eps, abs=100 * eps)
    assert r * slope == pytest.approx(1 - n / m, rel=100 * eps, abs=10 * eps)
    assert np.array_equal(np.sign(r), np.sign(m - n))
    whole = n == n.round()
    below = poisson.logpmf(n[whole], m[whole]) + n[whole] * 0
    saturated = -np.where(n > 0, n * np.log(np.maximum(n, 1)) - n - gammaln(n + 1), 0)[whole]
    # The logarithm of a factorial of a million has lost six digits.
    assert exact[whole] == pytest.approx(-below - saturated, abs=1e-8, rel=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_two_derivatives_are_smooth_where_model_and_counts_meet(dtype):
    # r = (m - n)/√n (1 - δ/3 + 7 δ²/36 - …) with δ = (m - n)/n, so r″ = -2/(3 n^1.5) at m = n.
    n = jnp.asarray([1.0, 7.0, 1e4], dtype)
    relative = jnp.asarray([-0.101, -0.099, -1e-4, 0.0, 1e-6, 0.099, 0.101], dtype)

    @jax.jit
    @jax.vmap
    def derivatives(n, m):
        first = jax.grad(lambda m: fk.poisson_residuals(n, m))
        return jax.jvp(first, (m,), (jnp.ones_like(m),))

    for one in n:
        first, second = derivatives(jnp.full(7, one), one * (1 + relative))
        scale = np.sqrt(float(one))
        d = np.asarray(relative, float)
        # To the next orders, of which the third coefficients are 73/540 and 1331/12960.
        wanted = 1 - 2 * d / 3 + 7 * d**2 / 12 - 4 * 73 * d**3 / 540 + 5 * 1331 * d**4 / 12960
        assert np.asarray(first) * scale == pytest.approx(wanted, abs=2e-5)
        wanted = -2 / 3 + 7 * d / 6 - 12 * 73 * d**2 / 540 + 20 * 1331 * d**3 / 12960
        assert np.asarray(second) * scale**3 == pytest.approx(wanted, abs=6e-4)


# Forty bins of a peak on an exponential, and what iminuit 2.33.0 says of them: ExtendedBinnedNLL(
# COUNTS, EDGES, cdf) with the model's integral, strategy 2, tol 1e-8, migrad() and hesse().
COUNTS = np.array(
    [2, 4, 6, 4, 5, 4, 3, 5, 2, 1, 3, 3, 3, 3, 3, 6, 2, 6, 11, 13, 17, 15, 5, 0, 6, 1, 1, 2, 1, 1,
     0, 1, 1, 0, 1, 0, 0, 0, 0, 3]
)  # fmt: skip
EDGES = np.linspace(0, 2, 41)
IMINUIT = {
    "s": (57.58197765709387, 9.542732961756037),
    "b": (100.25345512295453, 15.57523283642778),
    "mu": (1.0069574287730187, 0.012964903629695861),
    "sig": (0.07510287470710594, 0.017489594250538146),
    "tau": (1.0098626882897546, 0.22233639986936932),
}


def spectrum(params, args):
    peak = params["s"] * norm.cdf(EDGES, params["mu"], params["sig"])
    return fk.poisson_residuals(
        args, jnp.diff(peak - params["b"] * jnp.exp(-EDGES / params["tau"]))
    )


@pytest.mark.slow
def test_a_binned_fit_is_that_of_iminuit():
    start = {"s": 50.0, "b": 90.0, "mu": 0.9, "sig": 0.2, "tau": 1.2}
    fit = fk.Fit(residuals=spectrum, params=start, args=COUNTS)
    fit.run(progress=False)
    result = fit.result(errors_from="hessian")
    assert result.success and not result.warnings
    assert result.chi_square == pytest.approx(39.59003560621747, rel=1e-8)
    for path, (value, error) in IMINUIT.items():
        # Minuit stops a little away from there, and its second derivatives are differences.
        assert result.values[path] == pytest.approx(value, abs=1e-4 * error)
        assert result.errors[path] == pytest.approx(error, rel=3e-3)


def test_sparse_counts_have_the_errors_of_the_closed_form():
    # Half of the bins are empty; the error of a mean is √(mean/N), from counts in each bin alone.
    counts = np.random.default_rng(0).poisson(0.6, 300)

    def constant(params, args):
        return fk.poisson_residuals(counts, jnp.full(300, params))

    fit = fk.Fit(residuals=constant, params=1.0)
    fit.run(progress=False)
    result = fit.result(errors_from="hessian")
    mean = counts.mean()
    # Half of the digits: where the loss is the same to rounding.
    assert result.values["params"] == pytest.approx(mean, rel=1e-7)
    assert result.errors["params"] == pytest.approx(np.sqrt(mean / 300), rel=1e-7)
    # What the Jacobian gives instead, as the docstring says.
    assert 1.03 < fit.result().errors["params"] / result.errors["params"] < 1.1


def test_where_there_is_nothing_there_is_no_datum_and_elsewhere_nothing_is_hidden():
    counts, expected = jnp.array([0, 0, 3, 3]), jnp.array([0.0, -1.0, 0.0, -1.0])
    r, slope = jax.jvp(
        lambda m: fk.poisson_residuals(counts, m), (expected,), (jnp.ones_like(expected),)
    )
    assert r[0] == 0 and slope[0] == 0
    assert not jnp.any(jnp.isfinite(r[1:]))


@pytest.mark.parametrize(
    ("counts", "expected", "message"),
    [
        (np.array([1.0, -2.0]), np.ones(2), r"1 counts are negative .* -2.0 at \[1\]"),
        (np.array([1, 2]), np.ones(3), r"counts have shape \(2,\) and expected \(3,\)"),
        (np.ma.masked_equal([1, 2], 2), np.ones(2), "counts is a masked array with 1 of 2"),
        (np.ones(2), np.array([1, 2]), "expected holds integers .* the two look swapped"),
    ],
)
def test_bad_input_is_refused(counts, expected, message):
    with pytest.raises(ValueError, match=message):
        fk.poisson_residuals(counts, expected)


def test_counts_come_in_any_form():
    counts = np.array([3, 0, 7], ">u2")
    r = fk.poisson_residuals(counts, jnp.array([3.0, 0.5, 7.0], jnp.float32))
    assert r.dtype == jnp.float32
    assert np.asarray(r).tolist() == [0, 1, 0]
