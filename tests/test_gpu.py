"""What a fit does on a GPU; skipped where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX finds no GPU: {error}")


def residuals(params, data):
    x = jnp.linspace(0.0, 1.0, data.size)
    return (params["slope"] * x + params["offset"] - data) / 0.1


def problem(device):
    data = 3 * np.linspace(0.0, 1.0, 200) + 1 + 0.1 * np.random.default_rng(0).normal(size=200)
    start = {"slope": jnp.array(1.0), "offset": jnp.array(0.0)}
    params, args = jax.device_put((start, jnp.asarray(data)), device)
    return {"residuals": residuals, "params": params, "args": args}


def test_a_fit_stays_on_its_gpu_and_finds_what_the_cpu_finds(gpu):
    fit = fk.Fit(**problem(gpu), optimiser=optax.adam(0.05))
    fit.run(400, progress=False)
    assert fit.params["slope"].devices() == {gpu}
    host = fk.Fit(**problem(jax.devices("cpu")[0]), optimiser=optax.adam(0.05))
    host.run(400, progress=False)
    # Sums of 200 terms in another order, over 400 steps.
    for name in fit.names:
        np.testing.assert_allclose(fit.params[name], host.params[name], rtol=1e-6)
    np.testing.assert_allclose(fit.history.loss, host.history.loss, rtol=1e-6)


def test_the_fisher_matrix_of_a_gpu_is_that_of_a_straight_line(gpu):
    fisher = fk.fisher_matrix(**problem(gpu))
    x = np.linspace(0.0, 1.0, 200)
    columns = {"slope": x, "offset": np.ones(200)}
    wanted = [[columns[a] @ columns[b] / 0.01 for b in fisher.labels] for a in fisher.labels]
    np.testing.assert_allclose(fisher.matrix, wanted, rtol=1e-6)
