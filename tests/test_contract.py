"""What every transformation of an update promises, whatever it does to it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

pytestmark = pytest.mark.slow


def gauss_newton_of_residuals():
    inner = fk.gauss_newton()

    def update(updates, state, params=None, **extra):
        extra["residuals"] = jax.tree.leaves  # each element is to become zero
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


# Each is made for the tree of `grads`.
TRANSFORMS = {
    "max_step_size": lambda: fk.max_step_size(0.5),
    "max_step_size of systems": lambda: fk.max_step_size(
        0.5, {"a": np.array([0, 1]), "b": np.array([0, 1, 2]), "c": 2}
    ),
    "mapped": lambda: fk.map_optimisers(grads(), {"a": optax.adam(0.1), "*": optax.sgd(0.1)})[0],
    "eigen_projected": lambda: fk.eigen_projected(optax.sgd(0.1), np.eye(8) + 0.1),
    "gauss_newton": gauss_newton_of_residuals,
}


def grads(dtype=jnp.float64):
    return {
        "a": jnp.arange(4.0, dtype=dtype).reshape(2, 2),
        "b": jnp.array([0, -1, 2], dtype),
        "c": jnp.array(3, dtype),
    }


@pytest.fixture(params=TRANSFORMS.values(), ids=list(TRANSFORMS))
def transform(request):
    return optax.with_extra_args_support(request.param())


def shapes(tree):
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_types_and_shapes_stay(transform, dtype):
    params = grads(dtype)
    state = transform.init(params)
    updates, later = transform.update(grads(dtype), state, params)
    assert shapes(updates) == shapes(params)
    assert shapes(later) == shapes(state)
    assert jax.tree.structure(later) == jax.tree.structure(state)


def test_compiled_and_eager_agree(transform):
    params = grads()
    state = transform.init(params)
    eager = transform.update(grads(), state, params)
    compiled = jax.jit(transform.update)(grads(), state, params)
    # Tolerance: compilers contract multiplications with additions.
    assert eqx.tree_equal(eager, compiled, rtol=1e-14, atol=1e-15)


def test_nothing_passed_in_is_changed(transform):
    params, gradients = grads(), grads()
    state = transform.init(params)
    before = jax.tree.map(np.array, (params, gradients, state))
    transform.update(gradients, state, params)
    assert eqx.tree_equal(before, jax.tree.map(np.array, (params, gradients, state)))


def test_it_chains_and_scans(transform):
    chained = optax.chain(optax.clip(2.0), transform, optax.scale(-1.0))

    def step(carry, _):
        params, state = carry
        updates, state = chained.update(grads(), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = grads(), chained.init(grads())
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=3))(start)
    assert all(np.isfinite(leaf).all() for leaf in params.values())


def test_zero_stays_zero(transform):
    zeros = jax.tree.map(jnp.zeros_like, grads())
    updates, _ = transform.update(zeros, transform.init(zeros), zeros)
    assert all((leaf == 0).all() for leaf in updates.values())
