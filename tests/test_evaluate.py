"""Products of rows: right however many rows and data there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitkit._many.evaluate import ONE_PASS, products


@pytest.mark.parametrize(
    ("rows", "data", "dtype"),
    [
        (3, 14, np.float64),
        (ONE_PASS, 250, np.float64),
        (ONE_PASS + 1, 250, np.float64),
        # Blocks that leave a rest; summed in a row, float32 would be 1e-5 off.
        (3, 100_001, np.float64),
        (3, 100_001, np.float32),
    ],
)
def test_products_of_all_rows(rows, data, dtype):
    draw = np.random.default_rng(0)
    given = draw.normal(size=(2, rows, data)).astype(dtype)
    found = jax.jit(products)((jnp.asarray(given[:, :-1]), jnp.asarray(given[:, -1:])))
    expected = np.einsum("wim,wjm->ijw", *[given.astype(np.float64)] * 2)
    # Roundings of some 256 additions after one another, at random.
    assert np.abs(found - expected).max() < 16 * np.finfo(dtype).eps * expected.max()
    assert found.dtype == dtype
