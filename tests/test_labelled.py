"""A result for other libraries: labels and correlations arrive."""

import jax.numpy as jnp
import numpy as np
import pytest

import fitkit as fk

X = np.array([0.0, 1.0, 2.0, 4.0])
DESIGN = np.stack([np.ones(4), X, X**2], axis=1)
SIGMA = 0.1


@pytest.fixture(scope="module")
def result():
    data = DESIGN @ [1.0, 2.0, 0.5] + SIGMA * np.array([1.0, -1.0, 1.0, -1.0])
    design = jnp.asarray(DESIGN)

    def residuals(params, args):
        model = design @ jnp.append(params["c"], params["d"])
        return (model - args) / SIGMA + 0 * params["fixed"]

    params = {"c": jnp.zeros(2), "d": 0.0, "fixed": 3.0}
    fit = fk.Fit(residuals=residuals, params=params, args=jnp.asarray(data))
    fit.freeze("fixed")
    fit.run(progress=False)
    return fit.result()


COVARIANCE = SIGMA**2 * np.linalg.inv(DESIGN.T @ DESIGN)
# Both are of a linear problem with a condition number below 1e3: rounding alone.
RTOL = 1e-10


def test_xarray_selects_by_name(result):
    dataset = result.to_xarray()
    assert list(dataset.parameter.values) == ["c[0]", "c[1]", "d"]
    np.testing.assert_allclose(dataset.covariance, COVARIANCE, rtol=RTOL)
    found = float(dataset.covariance.sel(parameter="d", other="c[0]"))
    assert found == pytest.approx(COVARIANCE[2, 0], rel=RTOL)
    assert float(dataset.error.sel(parameter="d")) == pytest.approx(
        COVARIANCE[2, 2] ** 0.5, rel=RTOL
    )


def test_uncertainties_propagate_the_correlations(result):
    of = result.to_uncertainties()
    assert of["fixed"] == 3.0
    model = of["c[0]"] + of["c[1]"] * 3 + of["d"] * 9
    row = np.array([1.0, 3.0, 9.0])
    assert model.std_dev == pytest.approx(np.sqrt(row @ COVARIANCE @ row), rel=1e-8)


def test_infinite_errors_are_refused_by_uncertainties():
    fit = fk.Fit(
        residuals=lambda params, args: (params["a"] * params["b"] - 2.0).reshape(1),
        params={"a": 1.0, "b": 1.0},
    )
    fit.run(progress=False)
    with pytest.raises(ValueError, match="'a', 'b' has an infinite error"):
        fit.result().to_uncertainties()
