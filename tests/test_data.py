"""Data as they come: files, tables and other libraries' arrays, converted or refused in words."""

import datetime
import fractions
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

pytestmark = pytest.mark.usefixtures("unchecked")

X = np.linspace(0.0, 1.0, 12)
Y = 2.0 * X + 1.0
START = {"slope": 0.5, "offset": 0.0}


def swapped(values):
    return np.asarray(values).astype(">f8")


class Quantity(np.ndarray):
    """What astropy's quantities look like."""

    unit = "nm"


class Column:
    """A column of some library, which NumPy can read."""

    def __init__(self, values):
        self.values, self.dtype, self.shape = values, values.dtype, values.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class Table:
    """A table of some library."""

    def __init__(self, **columns):
        self._held, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return Column(self._held[name])

    def __array__(self, dtype=None, copy=None):
        return np.stack(list(self._held.values()), 1)


def of_columns(params, args):
    return params["slope"] * args["x"] + params["offset"] - args["y"]


def of_pair(params, args):
    return params["slope"] * args[0] + params["offset"] - args[1]


def record():
    table = np.zeros(X.size, dtype=[("x", ">f8"), ("y", ">f4"), ("name", "U3")])
    table["x"], table["y"] = X, Y
    return table


def in_a_file(tmp_path):
    there = np.memmap(tmp_path / "x", dtype=">f8", mode="w+", shape=X.shape)
    there[:] = X
    return there


FORMS = {
    "big-endian": lambda _: (swapped(X), swapped(Y)),
    "memory map": lambda path: (in_a_file(path), Y),
    "longdouble": lambda _: (X.astype(np.longdouble), Y),
    "float32 and float16": lambda _: (X.astype(np.float32), Y.astype(np.float16)),
    "Python objects": lambda _: (X.astype(object), Y),
    "fractions": lambda _: (np.array([fractions.Fraction(i, 11) for i in range(12)]), Y),
    "masked nowhere": lambda _: (np.ma.array(X), np.ma.array(Y, mask=False)),
    "columns": lambda _: (Column(X), Column(swapped(Y))),
    "table": lambda _: Table(x=X, y=swapped(Y)),
    "record array": lambda _: record(),
    "recarray": lambda _: record().view(np.recarray),
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_in_other_forms_are_converted(form, tmp_path):
    args = FORMS[form](tmp_path)
    function = of_pair if isinstance(args, tuple) else of_columns
    fit = fk.Fit(residuals=function, params={"slope": 2.0, "offset": 1.0}, args=args)
    # Float16 keeps three digits of numbers up to 3, float32 seven.
    assert fit.loss == pytest.approx(0.0, abs=1e-5 if "float" in form else 1e-11)


def test_every_door_converts_alike():
    args = Table(x=swapped(X), y=Column(Y.astype(np.longdouble)))
    fit = fk.Fit(residuals=of_columns, params=START, args=args)
    fit.restart(args=args, params={"slope": swapped(0.5), "offset": np.array(0.0, object)})
    fit.run(5, progress=False)
    assert fit.params["slope"] == pytest.approx(2.0, rel=1e-12)
    assert fk.find_nonfinite(of_columns, START, args) is None
    design = np.stack([X, np.ones_like(X)], 1)
    fisher = fk.fisher_matrix(of_columns, START, args)
    np.testing.assert_allclose(
        np.asarray(fisher.covariance)[::-1, ::-1], np.linalg.inv(design.T @ design), rtol=1e-8
    )


def test_pandas_columns_and_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": X, "y": Y, "name": ["star"] * X.size})
    for args, function in ((frame, of_columns), ((frame["x"], frame["y"]), of_pair)):
        fit = fk.Fit(residuals=function, params={"slope": 2.0, "offset": 1.0}, args=args)
        assert fit.loss < 1e-28
    with pytest.raises(TypeError, match=r'looks for \.x, an attribute of a dictionary.*\["x"\]'):
        fk.Fit(residuals=lambda p, a: p["slope"] * a.x, params=START, args=frame)
    series = pandas.Series(Y)
    with pytest.raises(TypeError, match=r"`series`, a pandas Series.*np\.asarray\(series\)"):
        fk.Fit(residuals=lambda p, a: p["slope"] * X - series, params=START)


def test_bytes_are_swapped_exactly():
    params = {"a": swapped([0.1, np.pi, 1e-300])}
    fit = fk.Fit(loss=lambda p, _: jnp.sum(p["a"] ** 2), params=params, optimiser=optax.sgd(0.1))
    assert np.asarray(fit.params["a"]).tolist() == [0.1, np.pi, 1e-300]


@pytest.mark.parametrize(
    "params",
    [
        {"slope": swapped(0.5), "offset": np.longdouble(0)},
        {"slope": fractions.Fraction(1, 2), "offset": np.float32(0)},
        np.array((0.5, 0.0), dtype=[("slope", ">f8"), ("offset", ">f8")]).view(np.recarray),
        {"slope": Column(np.array(0.5)), "offset": np.array(0.0, dtype=object)},
    ],
)
def test_params_in_other_forms(params):
    fit = fk.Fit(residuals=of_pair, params=params, args=(X, Y))
    assert set(fit.names) == {"slope", "offset"}
    assert fit.loss == pytest.approx(0.5 * np.sum((0.5 * X - Y) ** 2), rel=1e-12)


def test_big_endian_numbers_everywhere():
    params = {"a": swapped([1.0, 2.0])}
    optimiser: Any = fk.map_optimisers(params, {"a": optax.sgd(0.5)})[0]
    ones = {"a": jnp.ones(2)}
    assert optimiser.update(ones, optimiser.init(ones), ones)[0]["a"].tolist() == [-0.5, -0.5]
    newton: Any = fk.gauss_newton()
    step, _ = newton.update(None, newton.init(params), params, residuals=lambda p: p["a"] - 3.0)
    # Gauss-Newton solves a linear problem in one step, if its trust region allows.
    assert np.all(np.asarray(step["a"]) > 0)
    limited: Any = fk.max_step_size(swapped(0.1)[()], np.array([0, 1], ">i4"))
    steps, _ = limited.update(swapped([1.0, 2.0]), limited.init(jnp.ones(2)))
    np.testing.assert_allclose(steps, [0.1, 0.1], rtol=1e-15)
    bounds: Any = {"a": (swapped([0.0, 0.0]), swapped([5.0, 1.5]) + 1)}
    fit = fk.Fit(residuals=lambda p, _: p["a"] - 9.0, params=params, bounds=bounds)
    fit.run(20, progress=False)
    assert np.asarray(fit.params["a"]).tolist() == [6.0, 2.5]
    values, _ = fk.decompose(swapped(np.diag([2.0, 1.0])))
    assert np.asarray(values).tolist() == [2.0, 1.0]
    projection = fk.EigenProjection(params, swapped(np.eye(2)))
    assert np.asarray(projection.matrix).tolist() == np.eye(2).tolist()


MASKED = np.ma.masked_greater(Y, 2.5)
REFUSED = [
    (MASKED, ValueError, r"masked array with 3 of 12 .*filled\(0\).*jnp\.where"),
    (Y.view(Quantity), TypeError, r"units of 'nm'.*to_value\('nm'\)"),
]


@pytest.mark.parametrize(("data", "error", "words"), REFUSED)
def test_what_would_be_lost_is_refused_wherever_it_comes(data, error, words):
    def alone(params, args):
        return params["slope"] * X - args["y"]

    with pytest.raises(error, match=rf"^Fit: args\.y is .*{words}"):
        fk.Fit(residuals=alone, params=START, args={"y": data})
    fit = fk.Fit(residuals=alone, params={"slope": 1.0}, args={"y": Y})
    with pytest.raises(error, match=rf"^restart: args\.y is .*{words}"):
        fit.restart(args={"y": data})
    with pytest.raises(error, match=rf"^fisher_matrix: args\.y is .*{words}"):
        fk.fisher_matrix(alone, {"slope": 1.0}, {"y": data})
    with pytest.raises(error, match=rf"^find_nonfinite: args\.y is .*{words}"):
        fk.find_nonfinite(alone, {"slope": 1.0}, {"y": data})
    with pytest.raises(error, match=rf"^gauss_newton: params\.a is .*{words}"):
        fk.gauss_newton().init({"a": data})
    with pytest.raises(error, match=rf"^Fit: params\.a is .*{words}"):
        fk.Fit(residuals=lambda p, _: p["a"] - Y, params={"a": data})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Y.astype(str), r"an array of text.*astype\(float\)"),
        (np.arange(12).astype("datetime64[D]"), "dates or times.*timedelta64"),
        (np.array([None, *Y[1:]], dtype=object), "array of Python objects"),
        (Y.tolist(), r"a list of numbers.*np\.asarray\(a\)"),
        (list(Y), r"a list of numbers.*np\.asarray\(a\)"),
    ],
)
def test_what_does_not_compute_is_named(data, words):
    with pytest.raises(TypeError, match=rf"^Fit: `residuals` computes with `a`, .*{words}"):
        fk.Fit(residuals=lambda p, a: p["slope"] * X - a, params=START, args=data)


@pytest.mark.parametrize(
    ("data", "words"),
    [(swapped(Y), "big-endian"), (MASKED, "masked array"), (Y.astype(str), "text")],
)
def test_what_the_function_closes_over_is_named(data, words):
    def residuals(params, args):
        return params["slope"] * X - data

    with pytest.raises(TypeError, match=rf"`data`, .*{words}.*test_data\.py, line \d+"):
        fk.Fit(residuals=residuals, params=START)
    with pytest.raises(TypeError, match=rf"^fisher_matrix: .*`data`, .*{words}"):
        fk.fisher_matrix(residuals, START)


def test_text_and_dates_may_lie_beside_the_data():
    args = {"y": Y, "name": np.array(["star"] * 12), "when": datetime.date(2024, 1, 1)}
    fk.Fit(residuals=lambda p, a: p["slope"] * X - a["y"], params={"slope": 1.0}, args=args)
    assert fk.find_nonfinite(lambda p, a: p["slope"] * X - a["y"], START, args) is None


def test_masks_as_indices():
    good = Y < 2.5

    def residuals(params, args):
        return (params["slope"] * X + params["offset"] - args[0])[args[1]]

    fit = fk.Fit(residuals=residuals, params=START, args=(Y, good))
    fit.run(5, progress=False)
    assert fit.result().degrees_of_freedom == good.sum() - 2
    assert fk.find_nonfinite(residuals, START, (Y, good)) is None
    with pytest.raises(TypeError, match=r"index a mask that JAX traces.*jnp\.where.*np\.asarray"):
        fk.Fit(residuals=residuals, params=START, args=(Y, jnp.asarray(good)))
    with pytest.raises(TypeError, match=r"^fisher_matrix: .*jnp\.where.*close over"):
        fk.fisher_matrix(residuals, START, (Y, good))


def test_numbers_too_large_for_single_precision_are_refused():
    nanoseconds = 1_700_000_000_000_000_000 + np.arange(12)
    with jax.enable_x64(False):
        for data, held in ((nanoseconds, "int32"), (Y * 1e300, "float32")):
            with pytest.raises(ValueError, match=rf"args .*too large for {held}.*jax_enable_x64"):
                fk.Fit(residuals=lambda p, a: p["slope"] - a, params=START, args=data)


class Plain:
    flux = 1.0


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (Plain(), r"no pytree.*equinox\.Module"),
        ({"a": Plain()}, "parameter 'a' .*no pytree"),
        ({"a": "1.0"}, "parameter 'a' is '1.0'"),
        ({"a": np.array(["1", "2"])}, "parameter 'a' is array"),
        ({"a": np.datetime64("2024-01-01")}, "parameter 'a'"),
        (None, "`params` is None.*no leaves"),
        ({"f": jnp.tanh}, "no leaves that can be fitted"),
    ],
)
def test_params_that_cannot_be_fitted(params, words):
    with pytest.raises((TypeError, ValueError), match=rf"^Fit: {words}|^Fit: .*{words}"):
        fk.Fit(loss=lambda p, _: 0.0, params=params, optimiser=optax.sgd(0.1))


def test_a_checkpoint_is_loaded_with_data_as_they_come(tmp_path):
    problem = {"residuals": of_pair, "params": START, "args": (swapped(X), swapped(Y))}
    fit = fk.Fit(**problem)
    fit.run(2, progress=False)
    fit.save(tmp_path / "fit")
    again = fk.Fit.load(tmp_path / "fit", **problem)
    assert again.loss == fit.loss
    with pytest.raises(ValueError, match=re.escape("args.1 is a masked array")):
        fk.Fit.load(tmp_path / "fit", **{**problem, "args": (X, MASKED)})
