"""The norm, against exact arithmetic on numbers of every size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitkit._fisher import norm

EXACT = np.longdouble


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 9), (2, 1, 40)])
@pytest.mark.parametrize("power", [-40, -36, -30, -20, -14, -12, 0, 12, 19, 30, 37])
def test_float32_of_every_size(shape, power):
    values = np.random.default_rng(0).uniform(-1, 1, shape) * 10.0**power
    array = jnp.asarray(values, jnp.float32)
    # Subnormal numbers, which processors may take for zero, have few digits.
    atol = 0 if power > -36 else 1e-37
    expected = np.sqrt(np.sum(np.asarray(array, EXACT) ** 2))
    for function in (norm, jax.jit(norm)):
        result = function(array)
        assert result.dtype == jnp.float32
        # A few roundings of float32.
        np.testing.assert_allclose(np.asarray(result, EXACT), expected, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("size", [2, 9, 50])
@pytest.mark.parametrize("power", [-290, -160, -140, 0, 140, 160, 300])
def test_float64_of_every_size(power, size):
    array = jnp.asarray(np.random.default_rng(0).normal(size=size) * 10.0**power)
    expected = np.sqrt(np.sum(np.asarray(array, EXACT) ** 2))
    np.testing.assert_allclose(np.asarray(norm(array), EXACT), expected, rtol=1e-15)


def test_many_small_elements_are_not_lost():
    array = jnp.full(1_000_000, 1e-20, jnp.float32)
    np.testing.assert_allclose(norm(array), 1e-17, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_it_is_not_finite_just_where_an_element_is_not(dtype, bad):
    huge = float(jnp.finfo(dtype).max) / 4
    for array in ([huge, 1.0], [huge, huge, 0.0], [0.0, 0.0], [float(jnp.finfo(dtype).tiny), 0.0]):
        array = jnp.array(array, dtype)
        assert jnp.isfinite(norm(array))
        assert not jnp.isfinite(norm(array.at[0].set(bad)))


def test_what_is_empty_has_no_length():
    assert norm(jnp.zeros(0)) == 0
    assert norm(jnp.zeros((0, 3), jnp.float32)) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    result = norm(jnp.full(100_000, 8.0, dtype))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, 8 * np.sqrt(1e5), rtol=1e-6)


def test_a_batch_of_norms():
    rows = jnp.array([[3.0, 4.0], [3e-30, 4e-30], [3e30, 4e30]], jnp.float32)
    np.testing.assert_allclose(jax.vmap(norm)(rows), [5.0, 5e-30, 5e30], rtol=1e-6)
