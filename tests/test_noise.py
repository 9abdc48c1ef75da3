"""Every block of docs/noise.md runs, and finds what closed forms and SciPy find."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import fitkit as fk

PAGE = Path(__file__).parent.parent / "docs" / "noise.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def page():
    """What the blocks define, run one after the other."""
    assert all(language == "python" for language, _ in BLOCKS)
    names = {}
    with jax.numpy_rank_promotion("allow"):
        for _, code in BLOCKS:
            exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.slow
def test_every_fit_finds_what_was_put_in(page):
    truths = {
        "robust": {"height": 5, "centre": 4, "width": 1.2, "background": 1},
        "counting": {"log_height": np.log(8), "centre": 4, "log_background": np.log(2)},
        "whitening": {"height": 2, "length": 3},
        "noisy": {"height": 2, "length": 3, "log_jitter": np.log(0.2)},
        "analyser": {"height": 1.5, "width": 0.3, "centre": 0.2},
    }
    sources = {"robust": "sandwich", "counting": "hessian"}
    for name, truth in truths.items():
        result = page[name].result(errors_from=sources.get(name))
        assert result.success, (name, result)
        pulls = [float((result.values[p] - v) / result.errors[p]) for p, v in truth.items()]
        # Of 15 normal numbers one is beyond 3.5 in 140 drawings, and these are drawn once for all.
        assert np.all(np.abs(pulls) < 3.5), (name, pulls)
    plain = page["plain"].result()
    assert abs(plain.values["background"] - 1) > 10 * plain.errors["background"]


@pytest.mark.slow
def test_counts_have_the_minimum_of_the_likelihood(page):
    middle, width, counts = page["middle"], page["width"], page["counts"]

    def expected(p):
        return width * (np.exp(p[0] - ((middle - p[1]) / 1.2) ** 2) + np.exp(p[2]))

    def likelihood(p):
        return np.sum(expected(p) - counts * np.log(expected(p)))

    result = page["counting"].result(errors_from="hessian")
    found = [float(result.values[p]) for p in ("log_height", "centre", "log_background")]
    scipy = minimize(likelihood, [1.0, 3.5, 0.0], method="Nelder-Mead", options={"fatol": 1e-10})
    # Where the likelihood is within 1e-10 of the minimum: 1e-5 errors, of 0.2 at most.
    assert found == pytest.approx(scipy.x, abs=1e-4)


@pytest.mark.slow
def test_the_noise_level_is_the_minimum_of_the_likelihood_with_the_error_of_its_hessian(page):
    x, y, known = page["x"], page["jittered"], page["known"]

    def likelihood(p):
        variance = known**2 + np.exp(2 * p[2])
        return 0.5 * np.sum((p[0] * np.exp(-x / p[1]) - y) ** 2 / variance + np.log(variance))

    result = page["noisy"].result()
    scipy = minimize(likelihood, [2, 3, -1.5], method="Nelder-Mead", options={"fatol": 1e-10})
    found = np.array([float(result.values[p]) for p in ("height", "length", "log_jitter")])
    errors = np.array([float(result.errors[p]) for p in ("height", "length", "log_jitter")])
    # A fit ends within a thousandth of a standard error.
    assert found == pytest.approx(scipy.x, abs=2e-3 * errors.min())
    h = 0.01 * errors
    hessian = np.array(
        [
            [
                sum(
                    s * t * likelihood(found + s * h * np.eye(3)[i] + t * h * np.eye(3)[j])
                    for s in (1, -1)
                    for t in (1, -1)
                )
                / (4 * h[i] * h[j])
                for j in range(3)
            ]
            for i in range(3)
        ]
    )
    # Differences over a hundredth of an error.
    assert errors == pytest.approx(np.sqrt(np.diag(np.linalg.inv(hessian))), rel=1e-3)


@pytest.mark.slow
def test_a_free_noise_level_of_plain_data_has_the_closed_form():
    y = np.random.default_rng(8).normal(3.0, 0.5, 100)

    def loss(params, args):
        off = (params["mean"] - y) / params["sigma"]
        return 0.5 * jnp.sum(off**2) + 100 * jnp.log(params["sigma"])

    fit = fk.Fit(loss=loss, params={"mean": 2.0, "sigma": 1.0}, optimiser=optax.lbfgs())
    fit.run(progress=False)
    result = fit.result()
    sigma = y.std()
    # A fit ends within a thousandth of a standard error.
    assert result.values["sigma"] == pytest.approx(sigma, rel=1e-4)
    assert result.errors["sigma"] == pytest.approx(sigma / np.sqrt(200), rel=1e-3)
    assert result.errors["mean"] == pytest.approx(sigma / 10, rel=1e-3)
