"""Bounds against SciPy's bounded least squares, closed forms and a catalogue of bad input."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import least_squares

import fitkit as fk
from fitkit._fit.chunk import make_chunk
from fitkit._fit.problem import make_problem
from fitkit._fit.step import GOOD, Controls, initial_state, make_step
from fitkit._optimisers.bounds import blocked, bounded
from fitkit._paths import UnknownPathError

x = np.linspace(0.0, 3.0, 20)
# Without bounds the best amplitude is 1.93, the best offset -0.36.
y = 2.0 * np.exp(-0.7 * x) - 0.4 + 0.05 * np.cos(9 * x)
START = {"amplitude": jnp.array([1.0]), "rate": jnp.array(1.0), "offset": jnp.array(0.1)}


def residuals(params, args):
    return params["amplitude"] * jnp.exp(-params["rate"] * x) + params["offset"] - y


def reference(lower, upper):
    """Amplitude, rate and offset from SciPy."""
    return least_squares(
        lambda v: v[0] * np.exp(-v[1] * x) + v[2] - y,
        np.clip([1.0, 1.0, 0.1], np.add(lower, 1e-3), upper),
        bounds=(lower, upper),
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    ).x


def run(optimiser, bounds, steps, start=START):
    problem, params, args = make_problem(None, residuals, start, None)
    limits = bounded(bounds, params)
    chunk = make_chunk(make_step(problem, optimiser, limits))
    controls = Controls.of([1, 1, 1])
    state = initial_state(params, optimiser)
    return limits, chunk(state, controls, args, np.int32(steps), np.int32(GOOD))


def values(params):
    return np.array([params["amplitude"][0], params["rate"], params["offset"]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimiser", "steps", "rtol"),
    [
        (fk.gauss_newton(), 50, 1e-6),  # SciPy stops at about half of the digits
        (optax.sgd(0.03, momentum=0.8), 3000, 1e-5),
        (optax.adam(0.02), 3000, 1e-5),
        (optax.lbfgs(), 200, 1e-5),
    ],
    ids=["gauss_newton", "momentum", "adam", "lbfgs"],
)
def test_every_optimiser_keeps_to_a_bound_that_the_data_push_against(optimiser, steps, rtol):
    limits, chunk = run(optimiser, {"offset": (0, None), "amp*": (None, 5)}, steps)
    params = chunk.state.tree.params
    np.testing.assert_allclose(
        values(params), reference([-np.inf, -np.inf, 0], [5, np.inf, np.inf]), rtol=rtol, atol=1e-8
    )
    assert limits.touched(params) == ("offset",)
    assert params["offset"] == 0


@pytest.mark.slow
def test_gauss_newton_converges_on_bounds():
    bounds = {"offset": (0.3, None), "amplitude": (0, [1.2])}
    limits, chunk = run(fk.gauss_newton(), bounds, 50, {**START, "offset": jnp.array(0.4)})
    params = chunk.state.tree.params
    assert chunk.verdict == 1
    assert limits.touched(params) == ("amplitude[0]", "offset")
    np.testing.assert_allclose(
        values(params), reference([0, -np.inf, 0.3], [1.2, np.inf, np.inf]), rtol=1e-6, atol=1e-8
    )


@pytest.mark.slow
def test_bounds_that_are_not_reached_change_nothing():
    _, free = run(fk.gauss_newton(), {}, 50)
    limits, chunk = run(fk.gauss_newton(), {"*": (-100, 100)}, 50)
    np.testing.assert_array_equal(values(chunk.state.tree.params), values(free.state.tree.params))
    np.testing.assert_array_equal(chunk.rows[: chunk.steps], free.rows[: free.steps])
    assert limits.touched(chunk.state.tree.params) == ()


@pytest.mark.slow
def test_a_parameter_leaves_its_bound_when_the_push_turns_round():
    start = {**START, "offset": jnp.array(0.5), "rate": jnp.array(2.0)}
    bounds = {"offset": (-2, 0.5), "rate": (0, 2)}
    _, chunk = run(fk.gauss_newton(), bounds, 50, start)
    _, free = run(fk.gauss_newton(), {}, 50)
    assert chunk.verdict == 1
    np.testing.assert_allclose(
        values(chunk.state.tree.params), values(free.state.tree.params), rtol=1e-8
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", [None, {"a": fk.gauss_newton(), "b": fk.gauss_newton()}])
def test_a_step_from_a_bound_into_the_inside_is_a_whole_one(optimiser):
    fit = fk.Fit(
        residuals=lambda p, _: jnp.array([10 * (p["a"] - 12.0), p["b"] - 1.0]),
        params={"a": jnp.array(10.0), "b": jnp.array(0.5)},
        optimiser=optimiser,
        bounds={"a": (10.0, None)},
    )
    fit.run(1)
    # Of a linear problem a step of Gauss-Newton is the solution, to rounding.
    assert {path: float(fit.params[path]) for path in "ab"} == pytest.approx(
        {"a": 12.0, "b": 1.0}, rel=1e-14
    )


def test_nothing_is_evaluated_outside():
    """The logarithm of a negative number would make the loss NaN, and end the fit."""

    def logarithm(params, args):
        return jnp.log(params["a"] + 1e-3) + 10 + params["b"] * x

    start = {"a": jnp.array(3.0), "b": jnp.array(1.0)}
    problem, params, args = make_problem(None, logarithm, start, None)
    for optimiser in (optax.sgd(1.0), optax.lbfgs(), fk.gauss_newton()):
        step = make_step(problem, optimiser, bounded({"a": (0, None)}, params))
        chunk = make_chunk(step)(
            initial_state(params, optimiser),
            Controls.of([1, 0]),
            args,
            np.int32(20),
            np.int32(GOOD),
        )
        assert chunk.outcome == GOOD
        assert chunk.state.tree.params["a"] == 0


def test_the_parts():
    params = {"a": jnp.array([-1.0, 0.5, 2.0, jnp.nan]), "b": jnp.array(3.0, jnp.float32)}
    start = {"a": jnp.full(4, 0.5), "b": jnp.array(3.0, jnp.float32)}
    limits = bounded({"a": (0, np.array([1, 1, 2, 2]))}, start)
    projected = limits.project(params)
    np.testing.assert_array_equal(projected["a"], [0, 0.5, 2, np.nan])
    assert (projected["b"], projected["b"].dtype) == (3, jnp.float32)
    assert limits.upper["b"].dtype == jnp.float32
    assert limits.touched(projected) == ("a[0]", "a[2]")
    gradient = {"a": jnp.array([1.0, 1.0, 1.0, 1.0]), "b": jnp.array(1.0)}
    assert limits.blocked(projected, gradient)["a"].tolist() == [True, False, False, False]
    gradient = {"a": jnp.array([-1.0, -1.0, -1.0, -1.0]), "b": jnp.array(1.0)}
    assert limits.blocked(projected, gradient)["a"].tolist() == [False, False, True, False]


@pytest.mark.parametrize("library", [np, jnp])
def test_blocked_elements_of_either_library(library):
    values, lower, upper = map(library.asarray, ([0.0, 0.0, 1.0, 1.0, 0.5], [0.0] * 5, [1.0] * 5))
    up = blocked(values, library.ones(5), lower, upper)
    down = blocked(values, -library.ones(5), lower, upper)
    assert isinstance(up, library.ndarray)
    assert up.tolist() == [True, True, False, False, False]
    assert down.tolist() == [False, False, True, True, False]


def test_limits_of_elements_by_name():
    params = {"a": jnp.array([0.5, 0.5]), "b": jnp.array(3.0, jnp.float32)}
    limits = bounded({"a": (0, np.array([1, 2])), "b": (None, 7)}, params)
    lower, upper = limits.of_elements(("b", "a[1]"))
    np.testing.assert_array_equal(lower, [-np.inf, 0])
    np.testing.assert_array_equal(upper, [7, 2])


@pytest.mark.parametrize(
    ("bounds", "error", "words"),
    [
        ({"flx": (0, 1)}, UnknownPathError, "bounds: no parameter 'flx'. Nearest: 'flux'"),
        ({"flux": 3}, TypeError, "'flux' has 3; must be a pair"),
        ({"flux": (0, 1, 2)}, TypeError, "'flux' has (0, 1, 2); must be a pair"),
        ({"flux": ("a", 1)}, TypeError, "'flux' has the limit 'a'; must be a number"),
        ({"r": (0, [1, 2, 3])}, ValueError, "'r' has shape (2,), and its limit (3,)"),
        ({"flux": (0, np.nan)}, ValueError, "'flux' has a limit of NaN; use None"),
        ({"flux": (2, 1)}, ValueError, "'flux' has the limits 2.0 and 1.0, with nothing between"),
        ({"flux": (1, 1)}, ValueError, "To keep a parameter at a value, freeze it"),
        ({"flux": (2, None)}, ValueError, "starts outside of them, at 1.0. Start inside"),
        ({"r": (None, 1.5)}, ValueError, "'r[1]' has the limits -inf and 1.5"),
        ({"flux": (0, 2), "f*": (0, 3)}, ValueError, "'flux' is bounded twice"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_bounds_are_refused(bounds, error, words):
    with pytest.raises(error) as caught:
        bounded(bounds, {"flux": jnp.array(1.0), "r": jnp.array([1.0, 2.0])})
    assert words in str(caught.value)


def test_fit_keeps_to_its_bounds_and_says_so():
    fit = fk.Fit(residuals=residuals, params=START, bounds={"offset": (0, None)})
    fit.run(100, progress=False)
    assert fit.status == "converged"
    np.testing.assert_allclose(
        values(fit.params), reference([-np.inf, -np.inf, 0], np.inf), rtol=1e-6, atol=1e-8
    )
    assert any("offset is on its bound" in line for line in fit.result().warnings)
    with pytest.raises(ValueError, match="starts outside"):
        fk.Fit(residuals=residuals, params=START, bounds={"offset": (1, None)})
