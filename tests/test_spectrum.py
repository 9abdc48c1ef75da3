"""The spectrum of large Fisher matrices, against closed forms and dense decompositions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitkit as fk


def diagonal(params, d):
    return d * params["image"].ravel()


def dense(n: int, seed: int = 0):
    """Residuals that are not linear, of parameters in two leaves, and where they are."""
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(2 * n, n)) * np.logspace(0, -3, n)

    def residuals(params, args):
        return jnp.tanh(args @ jnp.concatenate([params["a"].ravel(), params["b"]]))

    params = {"a": 0.1 * draw.normal(size=(3, n // 6)), "b": 0.1 * draw.normal(size=n - n // 6 * 3)}
    return residuals, params, matrix


@pytest.mark.parametrize("kind", ["residuals", "loss"])
def test_it_is_the_upper_end_of_the_dense_spectrum(kind):
    residuals, params, matrix = dense(300)

    def loss(params, args):
        return 0.5 * jnp.sum(residuals(params, args) ** 2)

    given: Any = {"residuals": residuals} if kind == "residuals" else {"loss": loss}
    dense_one = fk.fisher_matrix(params=params, args=matrix, **given)
    spectrum = fk.fisher_spectrum(params=params, args=matrix, k=10, **given)
    expected = np.asarray(dense_one.raw_eigenvalues)
    # The square of rtol over a relative gap of a few percent.
    assert spectrum.eigenvalues == pytest.approx(expected[:10], rel=1e-9)
    assert spectrum.size == 300 and spectrum.paths == ("a", "b")
    for i in (0, 9):
        vector = spectrum.eigenvector(i)
        assert vector["a"].shape == (3, 50)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(vector)])
        left = np.linalg.norm(dense_one.matrix @ flat - spectrum.eigenvalues[i] * flat)
        # What is stated, to the rounding of a product.
        rounding = 1e-13 * expected[0]
        assert left == pytest.approx(spectrum.residual_norms[i], rel=0.01, abs=rounding)
        assert np.abs(expected - spectrum.eigenvalues[i]).min() <= left + rounding
    # Four standard errors, of eight probes.
    assert abs(spectrum.trace - expected.sum()) <= 4 * spectrum.trace_error
    assert spectrum.lowest >= expected[-1] - 1e-9 * expected[0]


@pytest.mark.slow
def test_a_hundred_thousand_elements_of_known_spectrum():
    n = 100_000
    values = 1e4 / np.arange(1.0, n + 1)
    order = np.random.default_rng(1).permutation(n)
    args = jnp.sqrt(jnp.asarray(values[order]))
    spectrum = fk.fisher_spectrum(diagonal, {"image": jnp.zeros((100, 1000))}, args)
    assert spectrum.eigenvalues == pytest.approx(values[:20], rel=1e-9)
    assert (spectrum.residual_norms <= 1e-6 * spectrum.eigenvalues).all()
    assert spectrum.eigenvector(0)["image"].ravel()[order == 0] ** 2 == pytest.approx(1, rel=1e-6)
    assert abs(spectrum.trace - values.sum()) <= 4 * spectrum.trace_error
    assert spectrum.trace_error < 0.02 * values.sum()
    assert spectrum.numbers.sum() == pytest.approx(n)
    # Of 32 products some ten levels lie there, and between two of them this is a line.
    for count in (100, 1000):
        assert spectrum.count_above(1e4 / count) == pytest.approx(count, rel=0.2)
    assert spectrum.count_above(1e4 / 4.5) == 4
    assert "100,000 elements" in repr(spectrum)


def test_few_elements_are_all_there():
    residuals, params, matrix = dense(24)
    spectrum = fk.fisher_spectrum(residuals, params, matrix, frozen="a", units={"b": 1e-3}, k=40)
    expected = fk.fisher_matrix(residuals, params, matrix, frozen="a").raw_eigenvalues
    assert spectrum.eigenvalues == pytest.approx(1e-6 * np.asarray(expected), rel=1e-9)
    assert spectrum.eigenvector(0)["a"] is None
    assert spectrum.trace == pytest.approx(1e-6 * np.sum(expected))
    assert spectrum.count_above(1e-6 * float(expected[3])) in (3, 4)


def test_float32_is_right_to_what_it_says():
    residuals, params, matrix = dense(300)
    expected = fk.fisher_spectrum(residuals, params, matrix, k=5).eigenvalues
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, matrix))
    found = fk.fisher_spectrum(residuals, *single, k=5)
    # Seven digits of the largest eigenvalue, in sums of 600 terms.
    assert np.abs(found.eigenvalues - expected).max() < 1e-5 * expected[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"frozen": "c"}, "no parameter 'c'"),
        ({"units": {"a": 0.0}}, "the unit of 'a' is 0.0; must be positive"),
        ({"units": {"a": np.ones(7)}}, r"the unit of 'a' has shape \(7,\)"),
        ({"args": np.full((600, 300), np.nan)}, "600 of 600 values are not finite"),
        ({"residuals": lambda p, a: jnp.sqrt(0 * p["a"])}, "with respect to 'a'"),
        ({"residuals": lambda p, a: p["a"].astype(int)}, "residuals have dtype int"),
        ({"loss": lambda p, a: p["a"], "residuals": None}, "loss must return one real number"),
        ({"loss": lambda p, a: 0.0}, "either residuals or loss=, got both"),
    ],
)
def test_what_has_no_spectrum_is_refused(change, message, unchecked):
    residuals, params, matrix = dense(300)
    given: Any = {"residuals": residuals, "params": params, "args": matrix} | change
    with pytest.raises((ValueError, TypeError), match=message):
        fk.fisher_spectrum(**given)
