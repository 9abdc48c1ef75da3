"""fitkit works under the settings of JAX that refuse to promote ranks and dtypes silently."""

import contextlib
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

# They mostly compile.
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


PARAMS = {
    "float32": lambda: {"s": jnp.float32(2), "v": jnp.ones(3, jnp.float32)},
    "float64": lambda: {"s": jnp.float64(2), "v": jnp.ones(3), "m": jnp.ones((2, 2))},
    "mixed": lambda: {"s": jnp.float32(2), "v": jnp.ones(3), "m": jnp.ones((2, 2), jnp.float32)},
}
# Flattening promotes dtypes, which JAX does by itself under the strict setting too.
every_dtype = pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)


@pytest.fixture
def tree(params):
    return params()


def residuals(params, args=None):
    """Nonlinear, with a root, and of the dtype of each parameter."""

    def of(leaf):
        flat = jnp.ravel(leaf)
        return (flat - jnp.arange(1, flat.size + 1, dtype=flat.dtype)) ** 3 + flat

    return jax.tree.map(of, params)


def dtypes(tree):
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


@every_dtype
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("memory", [2**29, 100])
def test_fisher_matrix_of_residuals(tree, weighted, memory):
    weights = jax.tree.map(lambda leaf: jnp.full(leaf.size, 4.0), tree) if weighted else None
    expected = fk.fisher_matrix(residuals, tree, weights=weights, memory=memory)
    with strict():
        fisher = fk.fisher_matrix(lambda p, a: residuals(p), tree, weights=weights, memory=memory)
        words, condition, _ = repr(fisher + fisher), fisher.condition_number, fisher.degenerate
        arrays = fisher.covariance, fisher.correlations, fisher.errors, fisher.raw_eigenvalues
    np.testing.assert_array_equal(fisher.matrix, expected.matrix)
    assert words
    assert np.isfinite(condition)
    assert all(np.isfinite(array).all() for array in arrays)


@every_dtype
def test_fisher_matrix_of_a_loss_also_compiled(tree):
    def loss(params, args):
        return sum(0.5 * jnp.sum(r**2).astype(float) for r in jax.tree.leaves(residuals(params)))

    with strict():
        fisher = fk.fisher_matrix(loss=loss, params=tree)
        compiled = jax.jit(lambda p: fk.fisher_matrix(loss=loss, params=p).errors)(tree)
        assert fisher.rank == len(fisher.labels)
    # Three digits of float32 remain of errors from second derivatives.
    np.testing.assert_allclose(compiled, fisher.errors, rtol=1e-3)


@every_dtype
def test_gauss_newton(tree):
    optimiser = cast(Any, fk.gauss_newton())
    with strict():
        state = optimiser.init(tree)
        frozen = jax.tree.map(lambda leaf: jnp.array(False), tree)
        update = jax.jit(
            lambda s, p: optimiser.update(None, s, p, residuals=residuals, frozen=frozen)
        )
        updates, state = update(state, tree)
        for _ in range(30):
            tree = jax.tree.map(jnp.add, tree, updates)
            updates, state = update(state, tree)
    assert dtypes(updates) == dtypes(tree)
    assert state.verdict == 1


@every_dtype
@pytest.mark.parametrize("limit", [0.5, np.float32(0.5), jnp.float32(0.5), [0.5]])
def test_max_step_size(tree, limit):
    optimiser = fk.max_step_size(limit)
    with strict():
        updates, _ = jax.jit(optimiser.update)(tree, optimiser.init(tree))
    assert dtypes(updates) == dtypes(tree)
    assert float(abs(updates["s"])) <= 0.5


def test_max_step_size_of_systems():
    updates = {"x": jnp.ones((3, 2), jnp.float32), "y": jnp.ones(2)}
    with strict():
        systems = {"x": np.array([0, 1, 1]), "y": np.array([0, 1])}
        optimiser = cast(Any, fk.max_step_size(jnp.array([0.1, 0.2]), systems))
        limited, _ = optimiser.update(updates, optimiser.init(updates))
    np.testing.assert_allclose(limited["y"], [0.1 / np.sqrt(2), 0.2 / np.sqrt(2)], rtol=1e-6)


@every_dtype
def test_map_optimisers(tree):
    with strict():
        optimiser, state = fk.map_optimisers(tree, {"s": optax.sgd(0.1), "*": fk.gauss_newton()})
        updates, state = optimiser.update(tree, state, tree, residuals=residuals)
    assert dtypes(updates) == dtypes(tree)


@every_dtype
def test_eigen_projected(tree):
    fisher = fk.fisher_matrix(residuals, tree)
    with strict():
        optimiser = fk.eigen_projected(optax.sgd(0.5), fisher)
        updates, _ = optimiser.update(tree, optimiser.init(tree), tree)
        projection = fk.EigenProjection(tree, fisher)
        back = projection.from_latent(projection.to_latent(tree))
        plain = fk.EigenProjection(tree, np.asarray(fisher.projection)[:, :2])
        value = plain.reparametrise(lambda p, args: p["s"])([0.0, 0.0])
    assert dtypes(updates) == dtypes(back) == dtypes(tree)
    assert value == tree["s"]


@every_dtype
def test_finding_and_mending_what_is_not_finite(tree):
    def loss(params, args):
        return jnp.sum(jnp.sqrt(params["v"] - params["v"])) + params["s"].astype(params["v"].dtype)

    with strict():
        report = fk.find_nonfinite(loss, tree, None, gradient=True)
        bad = jax.tree.map(lambda leaf: leaf * jnp.array(np.nan, leaf.dtype), tree)
        mended = jax.jit(fk.zero_nan_check)(bad)
    assert report is not None
    assert report.operation == "derivative of sqrt at 0"
    assert dtypes(mended) == dtypes(tree)
    assert not any(leaf.any() for leaf in jax.tree.leaves(mended))


def test_zodiax_drop_ins():
    matrix = jnp.array([[4.0, 1.0], [1.0, 3.0]], jnp.float32)
    with strict():
        fk.decompose(matrix, normalise=True)
        fk.decompose(matrix, hermitian=False)
        projection = fk.eigen_projection(fmat=matrix)
        fk.eigen_projection(cov=[[4, 1], [1, 3]])
        assert fk.delay(0.1, 2)(3) == pytest.approx(0.1)
    np.testing.assert_allclose(np.linalg.inv(projection @ projection.T), matrix, rtol=1e-5)
