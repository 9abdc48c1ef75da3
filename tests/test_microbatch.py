"""Data evaluated in blocks: the same numbers as of all at once, in less memory."""

from typing import Any

import jax
import jax.numpy as jnp
import nist
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._fit.compress import compressed

X = np.linspace(-1.0, 1.0, 103)
NOISE = np.random.default_rng(0).normal(0.0, 0.1, X.size)
DATA = {"x": X, "y": np.exp(0.7 * X) + NOISE, "sigma": np.array(0.1)}
START = {"rate": 0.2, "height": 0.8}


def residuals(params, data):
    return (params["height"] * jnp.exp(params["rate"] * data["x"]) - data["y"]) / data["sigma"]


def summed(params, data):
    return 0.5 * jnp.sum(residuals(params, data) ** 2)


def averaged(params, data):
    return jnp.mean(residuals(params, data) ** 2)


@pytest.mark.parametrize("size", [1, 10, 50, 103, 1000])
@pytest.mark.parametrize(
    "problem", [{"residuals": residuals}, {"loss": summed}, {"loss": averaged}], ids=str
)
def test_the_fit_is_that_of_all_data_at_once(problem, size):
    optimiser = None if "residuals" in problem else optax.lbfgs()
    fits = [
        fk.Fit(**problem, params=START, args=DATA, optimiser=optimiser, microbatch=one)
        for one in (None, size)
    ]
    for fit in fits:
        fit.run(30, until="converged", progress=False)
    whole, blocks = (fit.result() for fit in fits)
    assert blocks.success
    # Sums of 103 terms in another order; where both have converged, to a thousandth of an error.
    for path, value in whole.values.items():
        assert float(blocks.values[path]) == pytest.approx(
            float(value), abs=1e-3 * float(whole.errors[path])
        )
        assert float(blocks.errors[path]) == pytest.approx(float(whole.errors[path]), rel=1e-6)
    assert fits[1].loss == pytest.approx(fits[0].loss, rel=1e-9)


def test_residuals_come_in_their_own_order_along_any_axis():
    images = np.random.default_rng(1).normal(size=(4, 7, 2))
    args = {"images": images, "scale": np.arange(1.0, 5.0)}

    def several(params, args):
        flat = jnp.einsum("ijk,i->ijk", args["images"], args["scale"]) * params["a"]
        return {"whole": flat, "turned": jnp.moveaxis(flat[0], 0, 1) * 1j, "each": flat[:, :, 0].T}

    axes = {"images": 1, "scale": None}
    fit = fk.Fit(
        residuals=several,
        params={"a": 2.0},
        args=args,
        microbatch=fk.Minibatch(3, axes=axes),
    )
    problem = fit.snapshot.place.program.problem
    ours = problem.raw_residuals({"a": jnp.array(2.0)}, jax.tree.map(jnp.asarray, args))
    jax.tree.map(np.testing.assert_array_equal, ours, several({"a": 2.0}, args))


def test_memory_is_that_of_a_block():
    x = np.linspace(0.0, 1.0, 20_000)

    def heavy(params, x):
        # A hundred numbers for each datum.
        waves = jnp.sin(params["a"] * jnp.outer(x, jnp.arange(100.0)))
        return jnp.sum(jnp.exp(jnp.cos(waves)), axis=1)

    sizes = []
    for microbatch in (None, 100):
        fit = fk.Fit(residuals=heavy, params={"a": 0.3}, args=x, microbatch=microbatch)
        loss = fit.snapshot.place.program.problem.loss
        compiled = jax.jit(jax.grad(loss)).lower({"a": jnp.array(0.3)}, jnp.asarray(x)).compile()
        analysis: Any = compiled.memory_analysis()
        sizes.append(analysis.temp_size_in_bytes)
    # 20,000 × 100 numbers of 8 bytes, of which XLA keeps one array at least; and some vectors.
    assert sizes[0] >= 16e6
    assert sizes[1] < 2e6


def test_it_goes_with_priors_minibatches_and_other_data():
    fit, plain = (
        fk.Fit(
            residuals=residuals,
            params=START,
            args=DATA,
            priors={"rate": fk.Normal(0.5, 0.1)},
            optimiser=optax.adam(0.01),
            minibatch=64,
            microbatch=size,
        )
        for size in (10, None)
    )
    for one in (fit, plain):
        one.run(50, progress=False)
    np.testing.assert_allclose(fit.history.loss, plain.history.loss, rtol=1e-10)
    more = {"x": np.tile(X, 2), "y": np.tile(DATA["y"], 2), "sigma": DATA["sigma"]}
    fit.restart(args=more)
    fit.run(5, progress=False)
    with pytest.raises(ValueError, match=r"restart: `args` has 4 arrays, and had 3 when"):
        fit.restart(args=DATA | {"z": X})
    with pytest.raises(ValueError, match=r"'args.sigma' has the shape \(103,\), and had \(\) when"):
        fit.restart(args=DATA | {"sigma": np.full(X.size, 0.1)})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"microbatch": 0}, TypeError, r"microbatch has the size 0; must be a whole number"),
        (
            {"args": None, "residuals": lambda p, _: p["rate"] * X},
            ValueError,
            r"microbatch needs data in `args`",
        ),
        ({"args": DATA | {"z": X[1:]}}, ValueError, r"differ in it: .*'args\.z' \(102,\)"),
        (
            {"residuals": lambda p, d: {"data": residuals(p, d), "prior": p["rate"][None]}},
            ValueError,
            r"one axis that counts the data; .* \(1,\) .*belongs into `priors`",
        ),
        (
            {"residuals": None, "loss": lambda p, d: summed(p, d) + p["rate"] ** 2},
            ValueError,
            r"loss of a part of the data does not tell that of all",
        ),
        (
            {"residuals": lambda p, d: jnp.cumsum(residuals(p, d))},
            ValueError,
            r"must depend on its own datum alone",
        ),
        (
            {"residuals": lambda p, d: jnp.convolve(residuals(p, d), jnp.ones(3), "same")},
            ValueError,
            r"must depend on its own datum alone",
        ),
        (
            {"residuals": lambda p, d: residuals(p, d) / jnp.sqrt(d["x"].size)},
            ValueError,
            r"must depend on its own datum alone",
        ),
        (
            {"residuals": None, "loss": summed, "args": DATA | {"y": np.full(103, np.nan)}},
            ValueError,
            r"the loss is nan at the start.*NaN in the data",
        ),
        (
            {"residuals": None, "loss": lambda p, d: (summed(p, d), d["x"])},
            ValueError,
            r"with microbatch .* beside the loss",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(changes, error, words):
    given = {"residuals": residuals, "params": START, "args": DATA, "microbatch": 10} | changes
    with pytest.raises(error, match=f"(?s){words}"):
        fk.Fit(**given, optimiser=optax.adam(0.1))


def test_rows_of_blocks_have_the_singular_values_of_all_rows():
    # Powers up to the ninth, whose products have no digit of the smallest left.
    x = np.linspace(0.5, 1.5, 211)

    def powers(params, x):
        return jnp.polyval(params["c"], x) - 1.0

    start = {"c": jnp.arange(10.0)}
    fit = fk.Fit(residuals=powers, params=start, args=x, microbatch=20)
    problem = fit.snapshot.place.program.problem
    linear = compressed(problem, start, jnp.asarray(x))
    assert linear is not None and linear.rows.shape == (10, 11)
    jacobian = np.vander(x, 10)
    ours, theirs = (np.linalg.svd(one, compute_uv=False) for one in (linear.rows, jacobian))
    # Backward error: some units of rounding of the largest, 1e8 times the smallest.
    np.testing.assert_allclose(ours, theirs, atol=50 * 2.2e-16 * theirs[0])
    assert theirs[-1] < 1e-6 * theirs[0]
    gradient = jacobian.T @ np.asarray(powers(start, x))
    np.testing.assert_allclose(linear.gradient(), gradient, rtol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "Bennett5",
        pytest.param("Gauss1", marks=pytest.mark.slow),
        "Lanczos2",
        pytest.param("MGH17", marks=pytest.mark.slow),
        "Nelson",
    ],
)
def test_certified_values_in_blocks(name):
    problem = nist.problems[name]
    fit = fk.Fit(
        residuals=problem.residuals, params=problem.starts[0], args=problem.args, microbatch=7
    )
    fit.run(progress=False)
    assert fit.result().success
    assert problem.digits(fit.params) >= 6


def test_gauss_newton_in_blocks_knows_bounds_priors_and_what_is_frozen():
    options = {
        "residuals": residuals,
        "params": START | {"height": 0.8},
        "args": DATA,
        "priors": {"rate": fk.Normal(0.5, 0.01)},
        "bounds": {"height": (None, 0.9)},
    }
    fits = [fk.Fit(**options, microbatch=size) for size in (10, None)]
    for freeze in (False, True):
        for fit in fits:
            if freeze:
                fit.restart()
                fit.freeze("height")
            fit.run(progress=False)
        (ours, theirs) = (fit.params for fit in fits)
        assert ours["height"] == (0.8 if freeze else 0.9) == theirs["height"]
        assert float(ours["rate"]) == pytest.approx(float(theirs["rate"]), rel=1e-8)


def test_residuals_with_derivatives_in_reverse_mode_only():
    @jax.custom_vjp
    def exponential(x):
        return jnp.exp(x)

    exponential.defvjp(lambda x: (jnp.exp(x), jnp.exp(x)), lambda value, factor: (value * factor,))

    def reverse_only(params, data):
        return params["height"] * exponential(params["rate"] * data["x"]) - data["y"]

    fit = fk.Fit(residuals=reverse_only, params=START, args=DATA, microbatch=10)
    plain = fk.Fit(residuals=residuals, params=START, args=DATA)
    for one in (fit, plain):
        one.run(progress=False)
    assert float(fit.params["rate"]) == pytest.approx(float(plain.params["rate"]), rel=1e-8)
