import jax.numpy as jnp
import numpy as np
import pytest

import fitkit as fk

X = np.arange(10.0)
Y = np.array([4.95, 3.10, 1.80, 1.25, 0.66, 0.45, 0.20, 0.21, 0.03, 0.10])


def decay(params, args):
    return (params["height"] * jnp.exp(-params["rate"] * X) - Y) / 0.1


def of_decay(params):
    height, rate = params["height"], params["rate"]
    return {"twice": 2 * height, "life": jnp.log(2) / rate, "area": height / rate}


# Of lmfit 1.3.4: `minimize` of the same residuals, scale_covar=False, with parameters of the
# expressions 2*h, log(2)/k and h/k.
LMFIT = {
    "height": (4.964854663, 0.09264422747),
    "rate": (0.4866977204, 0.0161324114),
    "twice": (9.929709326, 0.1852884547),
    "life": (1.424184153, 0.0472069699),
    "area": (10.20110523, 0.2881982523),
}


@pytest.fixture(scope="module")
def fitted():
    start = {"rate": 0.3, "height": 4.0}
    fit = fk.Fit(residuals=decay, params=start, derived=of_decay)
    fit.run(progress=False)
    return fit


def test_derived_quantities_agree_with_lmfit(fitted):
    result = fitted.result()
    assert list(result.derived) == ["twice", "life", "area"]
    for path, (value, error) in LMFIT.items():
        mine = (result.values | result.derived)[path], (result.errors | result.derived_errors)[path]
        # lmfit's derivatives are finite differences; MINPACK stops at 1e-8 of the sum of squares.
        np.testing.assert_allclose(mine, (value, error), rtol=2e-5)
    scaled = fitted.result(absolute_sigma=False)
    factor = result.reduced_chi_square**0.5
    assert scaled.derived_errors["area"] == pytest.approx(factor * result.derived_errors["area"])


def test_the_table_keeps_the_users_order_and_where_it_began(fitted):
    result = fitted.result()
    assert [row.name for row in result.rows()] == ["rate", "height", "twice", "life", "area"]
    assert [row.initial for row in result.rows()] == pytest.approx(
        [0.3, 4.0, 8.0, np.log(2) / 0.3, 4.0 / 0.3]
    )
    lines = str(result).splitlines()[-5:]
    assert lines[0].startswith("  rate") and lines[0].endswith("(init = 0.3)")
    assert lines[4].startswith("  area") and lines[4].endswith("(derived)")
    assert ">0.3</td>" in result._repr_html_()
    table = result.to_dataframe()
    assert table.loc["area", "derived"] and table.loc["height", "initial"] == 4.0
    fitted.restart(params={"height": 5.0, "rate": 0.5})
    again = fitted.result()
    assert list(again.values) == ["rate", "height"]
    assert again.initial["height"] == 5.0


def test_nested_parameters_come_in_their_order():
    fit = fk.Fit(
        residuals=lambda params, args: jnp.stack([params["b"][1]["z"] - 1, params["a"] - 2]),
        params={"b": [3.0, {"z": 0.0, "y": 1.0}], "a": 0.0},
    )
    fit.freeze(("b.0", "b.1.y"))
    result = fit.result()
    assert list(result.values) == list(result.errors) == ["b.0", "b.1.z", "b.1.y", "a"]


def test_what_is_free_makes_infinite_errors_where_it_matters():
    fit = fk.Fit(
        # Of a and b the data know the sum, of `idle` nothing, and c is frozen.
        residuals=lambda params, args: (
            (params["a"] + params["b"]) * jnp.ones(4) - 3.0 + 0.0 * params["idle"]
        ),
        params={"a": 1.0, "b": 1.0, "idle": 0.0, "c": 2.0},
        derived=lambda params: {
            "sum": params["a"] + params["b"],
            "difference": params["a"] - params["b"],
            "constant": jnp.array(3.0),
            "known": params["c"] ** 2,
            "both": jnp.stack([params["a"] + params["b"], 1e-9 * params["idle"]]),
            "root": jnp.sqrt(params["idle"]),  # Whose derivative is infinite at 0.
            "ratio": params["idle"] / params["idle"],  # Not a number, and its derivative neither.
        },
    )
    fit.freeze("c")
    fit.run(progress=False)
    errors = fit.result().derived_errors
    # Four data of error 1, of a mean.
    assert errors["sum"] == pytest.approx(0.5)
    np.testing.assert_allclose(errors["both"], [0.5, np.inf])
    assert errors["difference"] == errors["root"] == errors["ratio"] == np.inf
    assert errors["constant"] == errors["known"] == 0


def test_on_a_bound_the_others_are_as_if_it_were_known():
    fit = fk.Fit(
        residuals=lambda params, args: (
            params["a"] + params["b"] - jnp.array([1.0, 3.0]) + 0.0 * params["idle"]
        ),
        params={"a": 0.5, "b": 1.0, "idle": 0.0},
        bounds={"a": (0.5, 2.0)},
        priors={"a": fk.Normal(-1.0, 0.1)},
        derived=lambda params: {"square": params["b"] ** 2, "sum": params["a"] + params["b"]},
    )
    fit.run(progress=False)
    result = fit.result()
    assert (result.values["a"], result.errors["a"]) == (0.5, np.inf)
    # b is 1.5 ± √½, so its square has 2 b times that error.
    assert result.derived_errors["square"] == pytest.approx(3 * 0.5**0.5)
    assert result.derived_errors["sum"] == np.inf


@pytest.mark.parametrize(
    ("derived", "error", "words"),
    [
        ({"total": 1.0}, TypeError, "`derived` is .*; must be a function of the parameters"),
        (lambda params: params["height"], TypeError, "by their names"),
        (lambda params: {"count": 3}, TypeError, "returned 'count' of dtype"),
        (lambda params: {"rate": params["rate"]}, ValueError, "'rate', which is a parameter"),
        (lambda params: {"total": params["hieght"]}, fk.UnknownPathError, "finds no 'hieght'"),
        (lambda params: None, TypeError, "returned None"),
    ],
)
def test_bad_functions_are_refused(derived, error, words, unchecked):
    with pytest.raises(error, match=words):
        fk.Fit(residuals=decay, params={"height": 4.0, "rate": 0.3}, derived=derived)
