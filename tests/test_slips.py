"""Slips: what people write who come from NumPy, SciPy and others, named with its cure."""

import math
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from jax.scipy.special import erf
from scipy import stats

import fitkit as fk

pytestmark = pytest.mark.usefixtures("unchecked")

X = np.linspace(0.0, 1.0, 8)
Y = 2.0 * np.exp(-X)
START = {"a": 1.0, "b": 1.0}


def decay(params, args):
    return params["a"] * jnp.exp(-params["b"] * X) - Y


def half_sum(params, args):
    return 0.5 * jnp.sum(decay(params, args) ** 2)


def assign_to_jax(params, args):
    model = jnp.zeros(8)
    model[0] = params["a"]
    return model


def assign_to_numpy(params, args):
    model = np.zeros(8)
    model[0] = params["a"]
    return model


def unpacks(params, args):
    x, y = args
    return params["a"] * x - y


IN_THE_FUNCTION = [
    (lambda p, _: np.exp(-p["b"] * X), r"to np\.exp, which needs plain numbers.*write jnp\.exp\."),
    (lambda p, _: math.sin(p["b"]) * X, r"math\.sin.*write jnp\.sin\."),
    (lambda p, _: scipy.special.erf(p["b"] * X), r"write jax\.scipy\.special\.erf\."),
    (lambda p, _: stats.norm.pdf(p["b"] * X), r"write jax\.scipy\.stats\.norm\.pdf\."),
    (lambda p, _: np.linalg.inv(p["b"] * jnp.eye(2)), r"write jnp\.linalg\.inv\."),
    (lambda p, _: np.asarray([p["a"], p["b"]]), r"write jnp\.asarray\."),
    (lambda p, _: float(p["b"]) * X, r"plain number.*`float\(p\[\"b\"\]\)`.*leave out float"),
    (lambda p, _: p["b"].item() * X, r"leave out .*\.item\(\)"),
    (lambda p, _: X if p["b"] > 0 else -X, r"decides by a value.*`p\[\"b\"\] > 0`.*jnp\.where"),
    (lambda p, _: max(p["a"], p["b"]) * X, r"decides by a value.*jnp\.maximum"),
    (lambda p, _: sum(X * i for i in range(p["a"])), "as an index, a count or a shape"),
    (lambda p, _: (p["a"] * X - Y)[p["b"] * X > 0.5], r"as an index a mask.*jnp\.where\(mask"),
    (lambda p, _: X[p["b"] * X > 0.5], r"the NumPy array `X` by a traced value.*jnp\.asarray\(X\)"),
    (lambda p, _: jnp.unique(p["a"] * X), r"calls jnp\.unique, whose result would have a shape"),
    (assign_to_jax, r"never changes.*\.at\[index\]\.set"),
    (assign_to_numpy, r"of the NumPy array `model`.*model = model\.at\[index\]\.set"),
    (lambda p, _: p["amplitude"] * X, r"finds no 'amplitude'.*The parameters are 'a', 'b'"),
    (lambda p, _: p.a * X, r"looks for \.a, an attribute of a dictionary.*write \[\"a\"\]"),
    (lambda p, _: (p["a"] * X).to_numpy(), r"looks for \.to_numpy, which JAX's arrays do not have"),
    (lambda p, a: p["a"] * a[0] - a[1], r"computes with None.*pass the data as `args`"),
    (unpacks, r"computes with None.*pass the data as `args`"),
    (lambda p, _: p["a"] * X - Y[:3], r"fails, at .*`p\[\"a\"\] \* X - Y\[:3\]`.*\(8,\), \(3,\)"),
]


@pytest.mark.parametrize(("function", "words"), IN_THE_FUNCTION)
def test_slips_in_the_function_are_named_with_their_place(function, words):
    with pytest.raises((TypeError, ValueError), match=rf"^Fit: `residuals` .*{words}") as caught:
        fk.Fit(residuals=function, params=START)
    assert "test_slips.py, line " in str(caught.value)
    assert caught.value.__cause__ is not None
    # Nothing has compiled, and JAX's own words are still there for who wants them.
    assert str(caught.value.__cause__)


def test_a_value_that_was_kept():
    kept = []

    def leaks(params, args):
        kept.append(params["a"])
        return kept[0] * X

    with pytest.raises(TypeError, match=r"^Fit: `residuals` uses a value .*from an earlier call"):
        fk.Fit(residuals=leaks, params=START)


def test_every_door_names_the_slip():
    def slip(params, args=None):
        return np.exp(params["a"] * X)

    newton: Any = fk.gauss_newton()
    for words, action in {
        "Fit: `loss`": lambda: fk.Fit(loss=slip, params=START, optimiser=optax.sgd(0.1)),
        "fisher_matrix: `residuals`": lambda: fk.fisher_matrix(slip, START),
        "fisher_matrix: `loss`": lambda: fk.fisher_matrix(loss=slip, params=START),
        "find_nonfinite: `function`": lambda: fk.find_nonfinite(slip, START),
        "gauss_newton: `residuals`": lambda: newton.update(
            None, newton.init({"a": 1.0}), {"a": 1.0}, residuals=slip
        ),
    }.items():
        with pytest.raises(TypeError, match=rf"^{words} .*write jnp\.exp\."):
            action()
    fit = fk.Fit(residuals=lambda p, a: p["a"] * X - a["y"], params=START, args={"y": Y})
    with pytest.raises(TypeError, match=r"^restart: `residuals` fails, at .*\(8,\), \(3,\)"):
        fit.restart(args={"y": Y[:3]})


def test_what_users_raise_themselves_comes_through():
    def refuses(params, args):
        raise ValueError("no such star")

    with pytest.raises(ValueError, match=r"^no such star"):
        fk.Fit(residuals=refuses, params=START)
    own = {"known": 1.0}
    with pytest.raises(KeyError, match=r"^'other'"):
        fk.Fit(residuals=lambda p, _: own["other"] * p["a"] * X, params=START)


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        (lambda p: p["a"] * X, None, r"takes one argument only.*not of \(p\).*\(p, args\)"),
        (lambda p, x, y: p["a"] * x - y, (X, Y), r"two arguments.*\(p, x, y\).*x, y = args"),
        (lambda a, p: p["a"] * a["x"], {"x": X}, "the other way round.*parameters first"),
        (lambda a, p: p["a"] * a[0] - a[1], (X, Y), "the other way round"),
    ],
)
def test_signatures(function, args, words):
    with pytest.raises(TypeError, match=rf"^Fit: `residuals` .*{words}"):
        fk.Fit(residuals=function, params=START, args=args)
    with pytest.raises(TypeError, match=rf"^fisher_matrix: `residuals` .*{words}"):
        fk.fisher_matrix(function, START, args)


RETURNS = [
    ({"residuals": half_sum}, "one number and no array.*`loss=`"),
    ({"loss": decay}, r"shape \(8,\).*`residuals=`"),
    ({"loss": lambda p, _: (half_sum(p, None), 1.0, 2.0)}, r"a pair of it and .*Fit\.aux"),
    ({"loss": lambda p, _: (1.0, half_sum(p, None))}, "`loss` returned 1.0"),
    ({"loss": lambda p, _: (half_sum(p, None), {"of": "stars"})}, "`aux`, holds 'stars' at 'of'"),
    ({"loss": lambda p, _: (half_sum(p, None), "stars")}, "`aux`, is 'stars'"),
    ({"loss": lambda p, _: None}, "`return` is missing"),
    ({"residuals": lambda p, _: None}, "`return` is missing"),
    ({"residuals": lambda p, _: jnp.arange(3)}, "no gradient: compute in floats"),
    ({"residuals": lambda p, _: p["a"] * X > 1}, "no gradient: compute in floats"),
    ({"residuals": lambda p, _: (decay(p, None), "model")}, "are 'model' at '1'"),
    ({"residuals": decay(START, None)}, "without calling it"),
]


@pytest.mark.parametrize(("functions", "words"), RETURNS)
def test_what_the_function_returns(functions, words):
    with pytest.raises((TypeError, ValueError), match=rf"^Fit: .*{words}"):
        fk.Fit(**functions, params=START, optimiser=optax.sgd(0.1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"optimizer": optax.adam(0.1)}, r"called `optimiser`: Fit\(optimiser=…\)"),
        ({"parameters": START}, "called `params`"),
        ({"x0": [1.0]}, "called `params`"),
        ({"limits": {"a": (0, 1)}}, "called `bounds`"),
        ({"data": Y}, "called `args`"),
        ({"loss_fn": half_sum}, "called `loss`"),
        ({"lr": 0.1}, r"learning rate belongs to the optimiser.*optax\.adam"),
        ({"maxiter": 10}, r"fit\.run\(1000\)"),
        ({"fixed": "a"}, r"fit\.freeze"),
        ({"sigma": 0.1}, r"\(model - data\) / sigma"),
        ({"on_nonfinte": "skip"}, "Nearest: 'on_nonfinite'"),
        ({"wavelength": 1}, "The arguments are 'loss', 'residuals', 'params'"),
    ],
)
def test_arguments_by_the_names_of_others(arguments, words):
    known = {"residuals": decay, "params": START}
    with pytest.raises(TypeError, match=rf"^Fit: there is no argument `.*{words}"):
        fk.Fit(**{**known, **arguments})


def test_arguments_without_a_name_and_steps():
    with pytest.raises(TypeError, match=r"^Fit: .*Name every argument: Fit\(residuals=…, params=…"):
        fk.Fit(decay, START)  # pyright: ignore
    with pytest.raises(TypeError, match=r"^Fit: missing .*'params'"):
        fk.Fit(residuals=decay)  # pyright: ignore
    with pytest.raises(TypeError, match=r"^fisher_matrix: .*`x0`; .*`params`"):
        fk.fisher_matrix(decay, x0=START)  # pyright: ignore
    fit: Any = fk.Fit(residuals=decay, params=START)
    with pytest.raises(TypeError, match=r"^restart: .*`data`; .*`args`: restart\(args=…\)"):
        fit.restart(data=Y)
    with pytest.raises(TypeError, match=r"^enter_eigenbasis: .*write optax\.adam"):
        fit.enter_eigenbasis(optax.adam)
    for name in ("steps", "n_steps", "maxiter"):
        with pytest.raises(TypeError, match=rf"^run: there is no argument `{name}`; .*`n`: run\("):
            fit.run(**{name: 10})


@pytest.mark.parametrize(
    ("optimiser", "words"),
    [
        (optax.adam, r"not called: write optax\.adam\(1e-2\)"),
        (fk.gauss_newton, r"not called: write fitkit\.gauss_newton\(\)"),
        ({"a": optax.sgd}, r"optimiser of 'a'.*write optax\.sgd\(1e-2\)"),
        ("adam", r"write optax\.adam\(1e-2\)"),
        ("L-BFGS-B", r"write optax\.lbfgs\(\)"),
        ("lm", r"write fitkit\.gauss_newton\(\)"),
        (0.1, r"write optax\.adam\(0\.1\)"),
        (fk.map_optimisers({"a": 1.0}, {"a": optax.sgd(0.1)}), "the optimiser and its state"),
        (type("Adam", (), {"init": None, "update": None}), "If it makes one, call it"),
    ],
)
def test_optimisers_that_are_none(optimiser, words):
    with pytest.raises(TypeError, match=rf"^Fit: the .*{words}"):
        fk.Fit(residuals=decay, params=START, optimiser=optimiser)
    fit = fk.Fit(residuals=decay, params=START)
    with pytest.raises(TypeError, match=rf"^change_optimiser: the .*{words}"):
        fit.change_optimiser(optimiser)


@pytest.mark.parametrize(
    "bounds",
    [([0, 0.5], [5, np.inf]), [(0, 5), (0.5, None)], np.array([[0, 5], [0.5, np.inf]])],
)
def test_bounds_as_scipy_takes_them(bounds):
    with pytest.raises(TypeError, match=r"^bounds: .*\{'a': \(0\.0, 5\.0\), 'b': \(0\.5, None\)\}"):
        fk.Fit(residuals=decay, params=START, bounds=bounds)


def test_a_hole_in_the_parameters():
    with pytest.raises(TypeError, match=r"None, which params hold at 'b'.*Give it a number"):
        fk.Fit(residuals=decay, params={"a": 1.0, "b": None})
    # Modules have such holes, which nobody computes with.
    fk.Fit(residuals=lambda p, _: p["a"] * X - Y, params={"a": 1.0, "bias": None})


def test_slips_are_found_before_anything_compiles():
    def slip(params, args):
        # What would take long to compile: unrolled a thousand times.
        for _ in range(1000):
            params = {**params, "a": jnp.tanh(params["a"] * erf(params["b"]))}
        return np.exp(params["a"] * X)

    begin = time.process_time()
    with pytest.raises(TypeError, match=r"write jnp\.exp\."):
        fk.Fit(residuals=slip, params=START)
    # Tracing takes about a second, compiling half a minute.
    assert time.process_time() - begin < 10
