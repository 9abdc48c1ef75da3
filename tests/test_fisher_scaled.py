"""Steps in units of conditional standard errors: against closed forms, in loops and in fits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

# Residuals that are linear in two parameters of very different units, each in data of its own.
SIGMA = {"flux": 1e3, "tilt": jnp.array([1e-10, 2e-10])}
TRUE = {"flux": 1e6, "tilt": jnp.array([3e-9, -1e-9])}
START = {"flux": jnp.array(2e6), "tilt": jnp.zeros(2)}
DIAGONAL = {"flux": 1e-6, "tilt": jnp.array([1e20, 0.25e20])}  # 1/σ², by hand


def residuals(params, args):
    return jax.tree.map(lambda p, true, sigma: (p - true) / sigma, params, TRUE, SIGMA)


def loss(params, function=residuals):
    return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(function(params, None)))


def step(optimiser: Any, params, state: Any = None, **extra) -> tuple[Any, Any]:
    state = optimiser.init(params) if state is None else state
    gradient = jax.grad(loss)(params)
    updates, state = optimiser.update(gradient, state, params, **extra)
    return optax.apply_updates(params, updates), state


def errors_of(fit) -> Any:
    return optax.tree_utils.tree_get(fit.snapshot.place.state.optimiser, "errors")


def at_the_minimum(params) -> bool:
    # From 1e6 away to rounding: a few units of it of the distance.
    distance = jax.tree.map(lambda p, true, s: jnp.max(jnp.abs(p - true) / s), params, TRUE, SIGMA)
    return max(map(float, jax.tree.leaves(distance))) < 1e-8


@pytest.mark.parametrize(
    "source",
    [
        {"residuals": residuals},
        {"residuals": residuals, "probes": 3},  # exact where no column overlaps another
        {"fisher": DIAGONAL},
        {"fisher": fk.fisher_matrix(residuals, START)},
    ],
    ids=["residuals", "probes", "tree", "matrix"],
)
def test_a_learning_rate_of_one_is_newtons_step_in_each_parameter(source):
    params, _ = step(fk.fisher_scaled(optax.sgd(1.0), **source), START)
    assert at_the_minimum(params)


@pytest.mark.slow
def test_in_a_chain_and_by_path_with_the_residuals_that_update_is_told():
    chain = optax.chain(fk.fisher_scaled(optax.sgd(1.0), residuals=residuals), optax.scale(0.5))
    params, _ = step(chain, START)
    assert float(params["flux"]) == pytest.approx(1.5e6, rel=1e-12)
    late = fk.fisher_scaled(optax.sgd(fk.delay(1.0, start=1)))
    both = {"flux": fk.fisher_scaled(optax.sgd(1.0)), "tilt": late}
    optimiser, state = fk.map_optimisers(START, both)
    params = START
    for taken in range(3):
        assert at_the_minimum(params) is False
        assert bool(jnp.all(params["tilt"] == 0)) and (taken == 0 or float(params["flux"]) == 1e6)
        params, state = step(optimiser, params, state, residuals=lambda p: residuals(p, None))
    assert at_the_minimum(params)


@jax.custom_vjp
def reverse_only(x):
    return x


reverse_only.defvjp(lambda x: (x, None), lambda _, g: (g,))


@pytest.mark.parametrize("way", [lambda x: x, reverse_only], ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_units_are_those_of_the_jacobian_and_what_has_no_effect_stays(way, dtype):
    matrix = np.random.default_rng(0).normal(size=(20, 5)) * [1.0, 1e-25, 1e12, 0.0, 3.0]
    matrix[:, 3] = 0
    params = jnp.arange(1, 6, dtype=dtype)
    optimiser: Any = fk.fisher_scaled(
        optax.sgd(1.0), residuals=lambda x, args: args @ way(x), args=jnp.asarray(matrix, dtype)
    )
    updates, state = optimiser.update(jnp.ones_like(params), optimiser.init(params), params)
    expected = np.array([1 / np.linalg.norm(c) if c.any() else np.inf for c in matrix.T])
    # Sums of twenty squares.
    rounding = 20 * float(jnp.finfo(dtype).eps)
    assert np.asarray(state.errors) == pytest.approx(expected, rel=rounding)
    steps = np.asarray(updates)
    assert steps[3] == 0 and np.isfinite(steps[[0, 2, 3, 4]]).all()


@pytest.mark.slow
def test_random_signs_estimate_the_diagonal_without_bias():
    many = 600
    matrix = np.random.default_rng(1).normal(size=(50, many)) * np.geomspace(1e-3, 1e3, many)
    true = np.sum(matrix**2, axis=0)

    def ratio(probes):
        optimiser: Any = fk.fisher_scaled(
            optax.sgd(1.0), residuals=lambda x, args: matrix @ x, probes=probes
        )
        params = jnp.zeros(many)
        _, state = optimiser.update(params, optimiser.init(params), params)
        return np.asarray(state.errors) ** -2.0 / true

    # An estimate has a variance of (2 - 2 Σc⁴/(Σc²)²)/probes, of which the last term is small here;
    # the mean of 600 of them, which share their signs, has less than a fifth of that scatter: they
    # are as good as 50 independent ones, the rank of the matrix.
    for probes, told in ((64, None), (256, 256)):
        found = ratio(told)
        scatter = np.sqrt(2 / probes)
        assert found.std() == pytest.approx(scatter, rel=0.2)
        assert abs(found.mean() - 1) < 4 * scatter / np.sqrt(50)


X = np.linspace(0.0, 2.0, 20)
DECAY = 3 * np.exp(-1.5 * X)


def bent(params, args):
    return 100 * (params["height"] * jnp.exp(-params["rate"] * X / args) - DECAY)


@pytest.mark.slow
def test_the_way_of_adam_does_not_depend_on_the_units():
    ways = []
    for unit in (1.0, 1e-9):
        fit = fk.Fit(
            residuals=bent,
            params={"height": 1.0, "rate": 1.0 * unit},
            args=unit,
            optimiser=fk.fisher_scaled(optax.adam(1.0)),
        )
        fit.run(30, progress=False)
        ways.append([fit.loss, float(fit.params["height"]), float(fit.params["rate"]) / unit])
    # Rounding, which thirty steps along a valley amplify a little.
    assert ways[0] == pytest.approx(ways[1], rel=1e-9)


@pytest.mark.slow
def test_lbfgs_runs_with_its_line_search():
    fit = fk.Fit(
        residuals=bent,
        params={"height": 1.0, "rate": 1e-9},
        args=1e-9,
        optimiser=fk.fisher_scaled(optax.lbfgs()),
    )
    fit.run(60, progress=False)
    assert float(fit.params["rate"]) == pytest.approx(1.5e-9, rel=1e-6)


@pytest.mark.slow
def test_one_call_puts_a_fit_into_these_units_and_renews_them_without_compiling():
    traced = []

    def counted(params, args):
        traced.append(None)
        return bent(params, args)

    fit = fk.Fit(residuals=counted, params={"height": 2.5, "rate": 1.0}, args=1.0)
    fit.change_optimiser(fk.fisher_scaled(optax.sgd(1.0)))
    assert dict(fit.learning_rates) == {"height": 1.0, "rate": 1.0}
    fit.run(3, progress=False)
    first = errors_of(fit)
    before = len(traced)
    fit.change_optimiser(fk.fisher_scaled(optax.sgd(1.0)))
    here = fit.params
    fit.run(1, progress=False)
    assert len(traced) == before
    renewed = errors_of(fit)
    assert float(first["height"]) != float(renewed["height"])
    diagonal = np.sum(np.square(jax.jacfwd(bent)(here, 1.0)["height"]))
    assert float(renewed["height"]) == pytest.approx(diagonal**-0.5, rel=1e-12)


def test_a_parameter_that_is_thawed_gets_its_unit_then():
    fit = fk.Fit(
        residuals=bent,
        params={"height": 2.9, "rate": 1.5},
        args=1.0,
        optimiser=fk.fisher_scaled(optax.sgd(1.0)),
    )
    fit.freeze("height")
    fit.run(2, progress=False)
    assert float(errors_of(fit)["height"]) == 0
    fit.freeze("rate")
    fit.thaw("height")
    start = fit.loss
    fit.run(1, progress=False)
    # The loss is a parabola of the height.
    shape = np.exp(-float(fit.params["rate"]) * X)
    assert float(fit.params["height"]) == pytest.approx(shape @ DECAY / (shape @ shape), rel=1e-12)
    assert fit.loss < start


@pytest.mark.slow
def test_a_fit_of_a_loss_takes_its_fisher_matrix():
    fit = fk.Fit(loss=lambda p, args: loss(p), params=START, optimiser=optax.sgd(1e-30))
    fit.change_optimiser(fk.fisher_scaled(optax.sgd(1.0), fisher=fit.fisher()))
    fit.run(1, progress=False)
    assert at_the_minimum(fit.params)


def scaled(**source):
    return fk.fisher_scaled(optax.sgd(1.0), **source)


OTHER = fk.fisher_matrix(lambda params, args: params["a"][None], {"a": 1.0})
ALONE = {"flux": scaled(residuals=residuals)}
WIDE = {"flux": 1.0, "tilt": np.ones(3)}


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (TypeError, "the inner optimiser", lambda: fk.fisher_scaled(0.1)),  # pyright: ignore
        (ValueError, "one at most", lambda: scaled(fisher=DIAGONAL, residuals=residuals)),
        (ValueError, "1 or more", lambda: scaled(probes=0)),
        (ValueError, "no 'tilt'", lambda: scaled(fisher={"flux": 1.0}).init(START)),
        (ValueError, r"'tilt' has shape \(2,\)", lambda: scaled(fisher=WIDE).init(START)),
        (ValueError, "is about 'a'", lambda: scaled(fisher=OTHER).init(START)),
        (TypeError, "there are no residuals", lambda: step(scaled(), START)),
        (TypeError, "beside others", lambda: step(fk.map_optimisers(START, ALONE)[0], START)),
    ],
)
def test_bad_input_is_answered_with_the_cure(unchecked, error, match, make):
    with pytest.raises(error, match=match):
        make()
