"""Models that JAX can differentiate one way only, or in no way."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import fitkit as fk

X = np.linspace(0, 1, 30)
Y = 2 * np.exp(-1.3 * X) + 0.01 * np.sin(50 * X)
SIGMA = 0.01
START = {"a": 1.9, "k": 1.2}


@jax.custom_vjp
def reverse_only(u):
    return jnp.exp(-u)


reverse_only.defvjp(lambda u: (jnp.exp(-u), u), lambda u, g: (-g * jnp.exp(-u),))


@jax.custom_vjp
def reverse_once(u):
    return jnp.exp(-u)


def host_rule(u, g):
    # A function of the host has no derivative: there is no second one, in whatever mode.
    shape = jax.ShapeDtypeStruct(u.shape, u.dtype)
    host = lambda g, u: np.asarray(-g * np.exp(-u))  # noqa: E731
    return (jax.pure_callback(host, shape, g, u, vmap_method="broadcast_all"),)


reverse_once.defvjp(lambda u: (jnp.exp(-u), u), host_rule)


def forward_only(u):
    def step(carry):
        total, term, k = carry
        return total + term, -term * u / (k + 1), k + 1

    def goes_on(carry):
        # A bound, for a step of an optimiser may lead to where the series overflows.
        return jnp.any(jnp.abs(carry[1]) > 1e-17) & (carry[2] < 200)

    return jax.lax.while_loop(goes_on, step, (jnp.zeros_like(u), jnp.ones_like(u), 0.0))[0]


def neither(u):
    shape = jax.ShapeDtypeStruct(u.shape, u.dtype)
    return jax.pure_callback(lambda u: np.exp(-np.asarray(u)), shape, u)


ONE_WAY = pytest.mark.parametrize("exponential", [reverse_only, reverse_once, forward_only])


def residuals_of(exponential):
    return lambda params, args: (params["a"] * exponential(params["k"] * X) - Y) / SIGMA


def loss_of(exponential):
    residuals = residuals_of(exponential)
    return lambda params, args: 0.5 * jnp.sum(residuals(params, args) ** 2)


def answer():
    """Parameters and errors by SciPy."""
    best, covariance = scipy.optimize.curve_fit(
        lambda x, a, k: a * np.exp(-k * x),
        X,
        Y,
        p0=[1, 1],
        sigma=np.full(X.size, SIGMA),
        absolute_sigma=True,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    return best, np.sqrt(np.diag(covariance))


def check(fit, tolerance=1e-2):
    # A Hessian differs from SciPy's JᵀJ by its second derivatives, 2e-5 here; a hundredth of a
    # standard error is where a fit may stop.
    best, errors = answer()
    result = fit.result()
    assert result.success, result.message
    for i, name in enumerate(("a", "k")):
        assert abs(float(fit.params[name]) - best[i]) < tolerance * errors[i]
        assert float(result.errors[name]) == pytest.approx(errors[i], rel=1e-3)
    assert not any("cannot be told" in event.text for event in fit.events)


@ONE_WAY
def test_residuals_by_gauss_newton(exponential):
    fit = fk.Fit(residuals=residuals_of(exponential), params=START)
    fit.run(progress=False)
    assert fit.status == "converged"
    check(fit)


@ONE_WAY
@pytest.mark.parametrize("kind", [pytest.param("loss", marks=pytest.mark.slow), "residuals"])
def test_any_optimiser_to_the_end_by_itself(exponential, kind):
    given: dict[str, Any] = {
        "loss": {"loss": loss_of(exponential), "optimiser": {"*": optax.lbfgs()}},
        "residuals": {"residuals": residuals_of(exponential), "optimiser": optax.adam(0.02)},
    }[kind]
    fit = fk.Fit(params=START, **given)
    fit.run(progress=False)
    assert fit.status == "converged"
    check(fit)


@ONE_WAY
def test_eigenbasis_checkpoint_and_restart(exponential, tmp_path):
    given = {"loss": loss_of(exponential), "params": START, "optimiser": optax.adam(0.02)}
    fit = fk.Fit(**given)
    fit.run(50, progress=False)
    fit.enter_eigenbasis(optax.lbfgs())
    fit.run(progress=False)
    check(fit)
    fit.save(tmp_path / "fit")
    loaded = fk.Fit.load(tmp_path / "fit", **given)
    check(loaded)
    loaded.restart(params={"a": 1.95, "k": 1.25})
    loaded.run(progress=False)
    check(loaded)


@ONE_WAY
def test_fisher_matrices(exponential):
    best, errors = answer()
    params = {"a": best[0], "k": best[1]}
    residuals = residuals_of(exponential)
    whole = fk.fisher_matrix(residuals, params)
    np.testing.assert_allclose(whole.errors, errors, rtol=1e-6)
    # Too little memory for a Jacobian.
    np.testing.assert_allclose(
        fk.fisher_matrix(residuals, params, memory=100).errors, errors, rtol=1e-6
    )
    # The Hessian by SciPy's own differences, of an ordinary model.
    steps = 1e-4 * best
    gradient = jax.grad(
        lambda p: loss_of(lambda u: jnp.exp(-u))(dict(zip("ak", p, strict=True)), 0)
    )
    rows = [
        (gradient(best + step) - gradient(best - step)) / (2 * step.sum())
        for step in np.diag(steps)
    ]
    by_loss = fk.fisher_matrix(loss=loss_of(exponential), params=params)
    # Central differences of step 1e-4 are right to its square.
    np.testing.assert_allclose(by_loss.matrix, np.stack(rows), rtol=1e-6)


@pytest.mark.parametrize("exponential", [reverse_only, forward_only])
def test_float32(exponential):
    start = {"a": np.float32(1.9), "k": np.float32(1.2)}
    model = lambda p, args: (p["a"] * exponential(p["k"] * X.astype("f4")) - Y.astype("f4")) * 100  # noqa: E731
    best, errors = answer()
    small = fk.fisher_matrix(model, {"a": np.float32(best[0]), "k": np.float32(best[1])}, memory=64)
    np.testing.assert_allclose(small.errors, errors, rtol=1e-4)
    fit = fk.Fit(residuals=model, params=start)
    fit.run(progress=False)
    # Float32 holds the parameters to a ten-thousandth of their errors.
    check(fit)


@ONE_WAY
def test_nan_search(exponential):
    loss = loss_of(exponential)

    def bad(params, args):
        return loss(params, args) + jnp.sum(jnp.sqrt(params["edge"]))

    params = {**START, "edge": jnp.array([1.0, 0.0])}
    report = fk.find_nonfinite(bad, params, None, gradient=True)
    assert report is not None
    assert (report.operation, report.origin) == ("derivative of sqrt at 0", "edge[1]")
    fit = fk.Fit(
        loss=bad, params={**START, "edge": jnp.array([1.0, 0.15])}, optimiser=optax.adam(0.1)
    )
    fit.run(5, progress=False)
    assert fit.status == "non-finite"
    assert fit.report is not None and fit.report.origin == "edge[1]"


def test_a_saddle_without_second_derivatives_is_one():
    @jax.custom_vjp
    def product(x, y):
        return x * y

    def backward(saved, g):
        shape = jax.ShapeDtypeStruct((), jnp.result_type(float))
        host = lambda a, b: np.asarray(a * b)  # noqa: E731
        return tuple(
            jax.pure_callback(host, shape, g, other, vmap_method="broadcast_all")
            for other in saved[::-1]
        )

    product.defvjp(lambda x, y: (x * y, (x, y)), backward)
    fit = fk.Fit(
        loss=lambda p, args: product(p["x"], p["y"]),
        params={"x": 0.0, "y": 0.0},
        optimiser=optax.sgd(0.1),
    )
    fit.run(3, progress=False)
    assert fit.result().assessment.kind == "saddle"


MIXED = {
    "no rule": neither,
    # Forward through the one and backward through the other.
    "one of each": lambda u: reverse_only(u) * forward_only(0 * u),
}


@pytest.mark.parametrize("name", MIXED)
def test_neither_way_is_refused_with_a_cure(name):
    residuals, loss = residuals_of(MIXED[name]), loss_of(MIXED[name])
    for event, refused in {
        "Fit": lambda: fk.Fit(residuals=residuals, params=START),
        "fisher_matrix": lambda: fk.fisher_matrix(residuals, START),
        "find_nonfinite": lambda: fk.find_nonfinite(loss, START, None, gradient=True),
        "gauss_newton": lambda: _one_step(residuals),
    }.items():
        with pytest.raises(fk.NotDifferentiableError, match=f"^{event}: .*jax.custom_jvp"):
            refused()


def _one_step(residuals):
    optimiser: Any = fk.gauss_newton()
    params = jax.tree.map(jnp.asarray, START)
    return optimiser.update(
        None, optimiser.init(params), params, residuals=lambda p: residuals(p, None)
    )


def test_what_the_data_alone_pass_through_needs_no_derivative():
    def residuals(params, args):
        return params["a"] * neither(jnp.asarray(args)) - Y

    fit = fk.Fit(residuals=residuals, params={"a": 1.0}, args=1.3 * X)
    fit.run(progress=False)
    design = np.exp(-1.3 * X)
    assert float(fit.params["a"]) == pytest.approx(design @ Y / (design @ design), rel=1e-12)


def test_the_users_own_errors_are_passed_on():
    def residuals(params, args):
        if args is not None:
            raise TypeError("the user's own")
        return params["a"] * X

    with pytest.raises(TypeError, match="^the user's own"):
        fk.fisher_matrix(residuals, {"a": 1.0}, 1)


def test_a_restart_with_data_of_another_kind_finds_the_mode_anew():
    def residuals(params, args):
        exponential = {"while": forward_only, "vjp": reverse_only}[args]
        return residuals_of(exponential)(params, None)

    fit = fk.Fit(residuals=residuals, params=START, args="vjp", optimiser=optax.adam(0.02))
    fit.run(3, progress=False)
    fit.restart(args="while")
    fit.run(progress=False)
    check(fit)


def test_without_jit():
    with jax.disable_jit():
        fit = fk.Fit(residuals=residuals_of(reverse_only), params=START)
        fit.run(3, progress=False)
    assert fit.loss < 10
