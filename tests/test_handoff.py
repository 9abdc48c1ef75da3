"""What samplers are handed: the density, against closed forms; the way back; what is refused."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import fitkit as fk

X = np.array([0.0, 1.0, 2.0, 4.0])
DESIGN = np.stack([np.ones(4), X, X**2], axis=1)
DATA = DESIGN @ [1.0, 2.0, 0.5] + 0.1 * np.array([1.0, -1.0, 1.0, -1.0])
PRIOR = 2.0, 0.2  # of d
# Rows of a linear Gaussian problem in (d, c[0], c[1]), the prior's last, in units of σ.
ROWS = np.vstack([DESIGN[:, [2, 0, 1]] / 0.1, [[1 / PRIOR[1], 0, 0]]])
SEEN = np.append(DATA / 0.1, PRIOR[0] / PRIOR[1])


class Model(eqx.Module):
    d: jax.Array
    c: jax.Array
    still: jax.Array


def residuals(model, data):
    return (jnp.asarray(DESIGN) @ jnp.append(model.c, model.d) * model.still - data) / 0.1


@pytest.fixture(scope="module")
def fit():
    params = Model(jnp.array(0.0), jnp.zeros(2), jnp.array(1.0))
    priors = {"d": fk.Normal(*PRIOR)}
    fit = fk.Fit(residuals=residuals, params=params, args=DATA, priors=priors)
    fit.freeze("still")
    fit.run(progress=False)
    return fit


@pytest.fixture(scope="module")
def posterior(fit):
    return fk.handoff.blackjax(fit)


LATENT = np.random.default_rng(0).normal(scale=3, size=(2, 50, 3))


def test_the_density_is_that_of_the_closed_form(posterior):
    covariance = np.linalg.inv(ROWS.T @ ROWS)
    best = covariance @ ROWS.T @ SEEN
    exact = scipy.stats.multivariate_normal(mean=best, cov=covariance)  # pyright: ignore[reportArgumentType]
    latent = jnp.asarray(LATENT.reshape(-1, 3))
    found = jax.vmap(posterior.log_density)(latent)
    expected = exact.logpdf(np.asarray(posterior.elements(latent)))
    at_best = posterior.log_density(posterior.start)
    # Ten thousand units of rounding: chi-square is in the hundreds, of squares of hundreds.
    np.testing.assert_allclose(found - at_best, expected - exact.logpdf(best), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found - at_best, -np.sum(latent**2, axis=1) / 2, rtol=1e-6)
    gradients = jax.vmap(jax.grad(posterior.log_density))(latent)
    np.testing.assert_allclose(gradients, -latent, atol=1e-6)


def test_draws_become_parameters(posterior):
    assert posterior.labels == ("d", "c[0]", "c[1]")
    elements = np.asarray(posterior.elements(LATENT))
    many, by_path = posterior.unravel(LATENT), posterior.by_path(LATENT)
    assert isinstance(many, Model)
    assert list(by_path) == ["d", "c"]
    for d, c in ((many.d, many.c), by_path.values()):
        np.testing.assert_array_equal(d, elements[..., 0])
        np.testing.assert_array_equal(c, elements[..., 1:])
    np.testing.assert_array_equal(many.still, np.ones((2, 50)))
    one = posterior.unravel(LATENT[0, 0])
    assert (one.d.shape, one.c.shape) == ((), (2,))


def test_the_start_is_where_the_fit_is(fit, posterior):
    start = posterior.unravel(posterior.start)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), start, fit.params))
    np.testing.assert_array_equal(posterior.inverse_mass_matrix, np.ones(3))


def test_numpyro_has_the_same_density(fit, posterior):
    numpyro = pytest.importorskip("numpyro")
    model = fk.handoff.numpyro(fit)
    with jax.numpy_rank_promotion("allow"):
        trace = numpyro.handlers.trace(
            numpyro.handlers.substitute(model, {"_latent": LATENT[0, 0]})
        )
        sites = trace.get_trace()
        density, _ = numpyro.infer.util.log_density(model, (), {}, {"_latent": LATENT[0, 0]})
    assert [*sites] == ["_latent", "_log_density", "d", "c"]
    # A reordered sum.
    assert float(density) == pytest.approx(float(posterior.log_density(LATENT[0, 0])), rel=1e-12)
    np.testing.assert_array_equal(sites["c"]["value"], posterior.by_path(LATENT[0, 0])["c"])


@pytest.fixture(scope="module")
def bounded():
    fit = fk.Fit(
        # Not to be evaluated below zero.
        residuals=lambda params, args: (jnp.sqrt(params["x"]) ** 2 - 1.0).reshape(1),
        params={"x": 0.5},
        bounds={"x": (0, None)},
    )
    fit.run(progress=False)
    return fk.handoff.blackjax(fit)


def test_bounds_cut_the_density(bounded):
    latent = jnp.array([[-1.01], [-0.99], [3.0]])
    found = np.asarray(jax.vmap(bounded.log_density)(latent))
    np.testing.assert_allclose(found, [-np.inf, -(0.99**2) / 2, -4.5], rtol=1e-5)
    assert np.isfinite(jax.vmap(jax.grad(bounded.log_density))(latent)).all()


@pytest.mark.slow
def test_nuts_within_bounds_is_a_truncated_normal(bounded):
    blackjax = pytest.importorskip("blackjax")
    options = {"step_size": 0.5, "inverse_mass_matrix": bounded.inverse_mass_matrix}
    with jax.numpy_rank_promotion("allow"):
        nuts = blackjax.nuts(bounded.log_density, **options)
        keys = jax.random.split(jax.random.key(0), 4000)
        _, draws = jax.lax.scan(
            lambda state, key: 2 * (nuts.step(key, state)[0],), nuts.init(bounded.start), keys
        )
    samples = bounded.by_path(draws.position)["x"]
    exact = scipy.stats.truncnorm(-1, np.inf, loc=1)
    assert samples.min() >= 0
    # Of so many draws, a few times correlated, the mean is known to 0.03 and the width to 3 %.
    assert float(samples.mean()) == pytest.approx(exact.mean(), abs=0.1)
    assert float(samples.std()) == pytest.approx(exact.std(), rel=0.1)


def run(**given):
    fit = fk.Fit(**given)
    fit.run(progress=False)
    return fit


def test_what_has_no_posterior_is_refused():
    product = run(
        residuals=lambda params, args: (params["a"] * params["b"] - 2.0).reshape(1),
        params={"a": 1.0, "b": 1.0},
    )
    with pytest.raises(ValueError, match=r"handoff.blackjax: a .* b is unconstrained.*a prior"):
        fk.handoff.blackjax(product)

    ten = jnp.arange(10.0)
    given = {"params": {"x": 0.0}, "args": ten, "optimiser": optax.lbfgs()}
    mean = run(loss=lambda params, args: jnp.mean((params["x"] - args) ** 2) / 2, **given)
    with pytest.raises(ValueError, match=r"a mean over data.*Use the sum"):
        fk.handoff.blackjax(mean)

    started = fk.Fit(loss=lambda params, args: jnp.sum((params["x"] - args) ** 2) / 2, **given)
    with pytest.raises(ValueError, match=r"has not converged.*fit\.run\(\)"):
        fk.handoff.blackjax(started)

    started.freeze("*")
    with pytest.raises(ValueError, match="all parameters are frozen; thaw"):
        fk.handoff.blackjax(started)


def test_a_missing_numpyro_says_how_to_get_it(fit, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(ImportError, match=r"pip install 'fitkit\[numpyro\]'"):
        fk.handoff.numpyro(fit)
