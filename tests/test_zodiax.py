"""The drop-in promise: where zodiax's answers are finite and right, fitkit's are the same."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zodiax.optimisation

import fitkit as fk

NAMES = sorted(zodiax.optimisation.__all__)
WELL_CONDITIONED = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, -0.2], [0.5, -0.2, 0.3]])


@pytest.mark.parametrize("name", NAMES)
def test_signatures_begin_as_zodiax_has_them(name):
    def shape(function):
        return [
            (parameter.name, parameter.default)
            for parameter in inspect.signature(function).parameters.values()
        ]

    theirs = shape(getattr(zodiax.optimisation, name))
    assert shape(getattr(fk, name))[: len(theirs)] == theirs


@pytest.mark.parametrize("strict", [False, True])
def test_mapped_optimisers_move_parameters_the_same_way(strict):
    params = {"flux": 3.0, "position": np.array([1, 2]), "wfe": {"x": 1.0, "y": jnp.ones(2)}}
    optimisers = {
        ("flux", "wfe"): optax.adam(zodiax.optimisation.delay(0.1, 1, 2)),
        "position": optax.sgd(0.5, momentum=0.9),
    }
    if not strict:
        params |= {"background": 2.0}
    runs = []
    for module in (zodiax.optimisation, fk):
        optimiser, state = module.map_optimisers(params, optimisers, strict=strict)
        moved = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params)
        for _ in range(4):
            updates, state = optimiser.update(moved, state, moved)
            moved = optax.apply_updates(moved, updates)
        runs.append(moved)
    # Tolerance: none is needed, the arithmetic is the same.
    jax.tree.map(np.testing.assert_array_equal, *runs)


def test_strict_refuses_the_same():
    for module in (zodiax.optimisation, fk):
        for optimisers in ({"b": optax.sgd(0.1)}, {"a": optax.sgd(0.1), "b": optax.sgd(0.1)}, {}):
            with pytest.raises(ValueError):
                module.map_optimisers({"a": 1.0}, optimisers, strict=True)


@pytest.mark.parametrize("arguments", [(0.1, 3), (0.1, 0, 4), (2, 5, 2)])
def test_delay(arguments):
    ours, theirs = fk.delay(*arguments), zodiax.optimisation.delay(*arguments)
    assert [ours(step) for step in range(9)] == [theirs(step) for step in range(9)]


@pytest.mark.parametrize("hermitian", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_decompose(hermitian, normalise):
    values, vectors = fk.decompose(jnp.array(WELL_CONDITIONED), hermitian, normalise)
    their_values, their_vectors = zodiax.optimisation.decompose(
        jnp.array(WELL_CONDITIONED), hermitian, normalise
    )
    # Tolerance: rounding of two routes to one spectrum; the sign of an eigenvector is free.
    np.testing.assert_allclose(values, their_values, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(vectors * their_vectors, 1)), 1, rtol=1e-12)


@pytest.mark.parametrize("kind", ["fmat", "cov"])
def test_eigen_projection(kind):
    ours = fk.eigen_projection(**{kind: jnp.array(WELL_CONDITIONED)})
    theirs = zodiax.optimisation.eigen_projection(**{kind: jnp.array(WELL_CONDITIONED)})
    # Tolerance: as above. The sign of a column is free, the product of the matrix is not.
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-10)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, rtol=1e-10)


def test_nan_checks():
    grads = {"a": jnp.array([1.0, np.nan]), "b": [jnp.array(2.0, jnp.float32)]}
    ours, theirs = fk.zero_nan_check(grads), zodiax.optimisation.zero_nan_check(grads)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert [leaf.dtype for leaf in jax.tree.leaves(ours)] == [jnp.float64, jnp.float32]
    finite = {"a": jnp.ones(2)}
    assert fk.debug_nan_check(finite) is finite
