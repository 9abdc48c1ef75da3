"""The step and the chunk against plain optax loops."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zodiax as zdx
from jax.flatten_util import ravel_pytree

import fitkit as fk
from fitkit._fit.chunk import make_chunk
from fitkit._fit.problem import make_problem
from fitkit._fit.record import Columns, StepInfo, recorded
from fitkit._fit.step import (
    BAD_EVALUATION,
    BAD_UPDATE,
    GOOD,
    Controls,
    initial_state,
    make_step,
)

DATA = jnp.linspace(0.0, 1.0, 30)


def straight(params, args):
    return params["slope"] * args + params["offset"] - (3.0 * args + 1.0)


def controls(*factors):
    return Controls.of(factors)


def make(residuals, params, optimiser, args=DATA):
    problem, params, args = make_problem(None, residuals, params, args)
    step = make_step(problem, optimiser)
    return problem, step, initial_state(params, optimiser), args


START = {"offset": 0.0, "slope": 1.0}


@pytest.mark.parametrize("priors", [None, {"line.slope": fk.Normal(2.0, 0.5)}])
def test_gauss_newton_gets_loss_and_gradient_from_its_jacobian(priors):
    start = {"line": {"offset": np.float32(0.25), "slope": 1.5}, "bend": np.array([0.1, -0.2])}

    def residuals(params, x):
        bend = params["bend"] @ jnp.stack([x**2, jnp.sin(x)])
        return {"data": straight(params["line"], x) + bend, "one": jnp.exp(params["bend"])}

    problem, params, args = make_problem(None, residuals, start, DATA, priors)

    def evaluated(optimiser):
        return make_step(problem, optimiser).evaluate(initial_state(params, optimiser), args)

    evaluation = evaluated(fk.gauss_newton())
    loss, gradient = jax.value_and_grad(problem.loss)(params, args)
    jacobian = jax.jacrev(lambda p: ravel_pytree(problem.residuals(p, args))[0])(params)
    # Sums of some thirty terms, in another order; the gradient of the offset is a float32.
    assert float(evaluation.loss) == pytest.approx(float(loss), rel=1e-14)
    for ours, theirs in zip(
        jax.tree.leaves(evaluation.gradient), jax.tree.leaves(gradient), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6 if ours.dtype == "float32" else 1e-14)
    assert evaluation.linear is not None
    rows = jnp.concatenate([one.reshape(len(one), -1).T for one in jax.tree.leaves(jacobian)])
    np.testing.assert_allclose(evaluation.linear.rows, rows, rtol=1e-7)
    assert evaluated(optax.sgd(0.1)).linear is None


@pytest.mark.parametrize("changed", ["residuals", "params"])
def test_the_jacobian_at_hand_is_not_that_of_what_a_wrapper_asks_for(changed):
    """Of tanh of the residuals, or at other parameters, Gauss-Newton makes its own."""
    inner = fk.gauss_newton()

    def asked(residuals, params):
        if changed == "residuals":
            return lambda there: jnp.tanh(residuals(there)), params
        return residuals, jax.tree.map(lambda leaf: leaf + 0.1, params)

    def wrapped(keep):
        def update(gradient, state, params=None, *, residuals, **extra):
            function, place = asked(residuals, params)
            extra = extra if keep else {}
            return inner.update(gradient, state, place, residuals=function, **extra)

        return optax.GradientTransformationExtraArgs(
            inner.init,
            update,  # pyright: ignore[reportArgumentType]
        )

    moved = []
    for keep in (True, False):
        fit = fk.Fit(
            residuals=lambda p, x: p["height"] * jnp.exp(-p["rate"] * x) - 2.0 / (1.0 + x),
            params={"height": 1.0, "rate": 0.3},
            args=np.linspace(0.0, 2.0, 9),
            optimiser=wrapped(keep),
        )
        fit.run(1, progress=False)
        moved.append([float(fit.params[path]) for path in ("height", "rate")])
    # The same computation, in which XLA may fuse other operations.
    np.testing.assert_allclose(*moved, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimiser",
    [
        optax.sgd(1e-2, momentum=0.9),
        optax.adam(1e-1),
        optax.lbfgs(),
        optax.contrib.dog(),
        optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-1)),
    ],
    ids=["momentum", "adam", "lbfgs", "dog", "clipped"],
)
def test_chunk_is_the_loop_one_would_write(optimiser):
    problem, step, state, args = make(straight, START, optimiser)
    chunk = make_chunk(step)(state, controls(1, 1), args, np.int32(20), np.int32(GOOD))

    @jax.jit
    def by_hand(params, state):
        value, grad = jax.value_and_grad(problem.loss)(params, args)
        extra = {"value": value, "grad": grad, "value_fn": lambda p: problem.loss(p, args)}
        updates, state = optax.with_extra_args_support(optimiser).update(
            grad, state, params, **extra
        )
        return optax.apply_updates(params, updates), state, value, grad, updates

    params, optimiser_state, rows = state.params, state.optimiser, []
    for _ in range(20):
        values = [float(params[name]) for name in START]
        params, optimiser_state, value, grad, updates = by_hand(params, optimiser_state)
        norms = [abs(float(tree[name])) for tree in (grad, updates) for name in START]
        rows.append([float(value), *norms, *values])
    assert int(chunk.steps) == 20
    assert int(chunk.outcome) == GOOD
    # The same operations, but fused differently: rounding, not more.
    np.testing.assert_allclose(chunk.rows[:20], rows, rtol=1e-9, atol=1e-12)
    for name in START:
        np.testing.assert_allclose(chunk.state.tree.params[name], params[name], rtol=1e-10)


def test_factor_and_freezing():
    _, step, state, args = make(straight, START, optax.sgd(1e-2))
    moved, info, _ = step(state, controls(1, 1), args)
    half, _, _ = step(state, controls(0.5, 0), args)
    assert half.params["slope"] == state.params["slope"]
    np.testing.assert_allclose(
        half.params["offset"] - 0.0, 0.5 * (moved.params["offset"] - 0.0), rtol=1e-15
    )
    assert info.gradient_norms.shape == info.step_norms.shape == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", [optax.lbfgs(), optax.adam(0.1)], ids=["lbfgs", "adam"])
def test_frozen_parameter_is_a_constant_to_the_others(optimiser):
    """With the slope frozen, the offset goes where the one-parameter fit goes."""
    _, step, state, args = make(straight, START, optimiser)
    run = make_chunk(step)
    frozen = run(state, controls(1, 0), args, np.int32(15), np.int32(GOOD)).state.tree.params

    def one(params, args):
        return straight({**params, "slope": 1.0}, args)

    _, step, state, args = make(one, {"offset": 0.0}, optimiser)
    alone = make_chunk(step)(state, controls(1), args, np.int32(15), np.int32(GOOD))
    assert frozen["slope"] == 1.0
    # The line search of L-BFGS stops at a tolerance, so its path magnifies rounding a little.
    np.testing.assert_allclose(frozen["offset"], alone.state.tree.params["offset"], rtol=1e-8)


def test_nan_gradient_of_a_frozen_parameter_does_no_harm():
    def residuals(params, args):
        return jnp.stack([params["a"] - 1.0, jnp.sqrt(params["b"])])

    _, step, state, args = make(residuals, {"a": 0.0, "b": 0.0}, optax.adam(0.1))
    moved, _, outcome = step(state, controls(1, 0), args)
    assert int(outcome) == GOOD
    assert moved.params["a"] > 0
    assert int(step(state, controls(1, 1), args)[2]) == BAD_EVALUATION


@pytest.mark.parametrize(("limit", "outcome"), [(3.0, BAD_EVALUATION), (np.inf, BAD_UPDATE)])
def test_chunk_stops_at_the_first_bad_step(limit, outcome):
    def residuals(params, args):
        return jnp.where(params["a"] > limit, jnp.nan, 1.0) * params["a"][None]

    # sgd(-1) doubles a: 1, 2, 4 … up to the limit, or the largest float64 after 1023 doublings.
    optimiser = optax.sgd(-1.0)
    _, step, state, args = make(residuals, {"a": 1.0}, optimiser)
    run = make_chunk(step)
    chunk = run(state, controls(1), args, np.int32(5000), np.int32(GOOD))
    assert int(chunk.outcome) in (outcome, BAD_EVALUATION)
    assert int(chunk.steps) < 5000
    after = run(chunk.state, controls(1), args, np.int32(5000), chunk.outcome)
    assert int(after.steps) == 0
    assert int(after.outcome) == int(chunk.outcome)


def test_tiny_steps_do_not_vanish_in_their_square():
    def residuals(params, args):
        return params["a"] * jnp.float32(1e-20) + 1

    params = {"a": jnp.ones(4, jnp.float32)}
    _, step, state, args = make(residuals, params, optax.sgd(1e-6))
    # sqrt(4) * 1e-6 * 1e-20; its square is far below the smallest float32.
    _, info, _ = step(state, controls(1), args)
    assert info.loss.dtype == jnp.float32
    np.testing.assert_allclose(info.step_norms, [2e-26], rtol=1e-6)


def test_verdict_is_read_from_the_optimiser_state():
    # To optax a state is a tree of arrays, and the one of a class is not.
    def init(params) -> Any:
        return fk.Diagnostics(jnp.int32(0))

    def update(updates, state, params=None) -> tuple[Any, Any]:
        done = updates["slope"] ** 2 < 1e-4
        return updates, fk.Diagnostics(jnp.where(done, 1, 0).astype(jnp.int32))

    optimiser = optax.chain(optax.sgd(1e-2), optax.GradientTransformation(init, update))
    _, step, state, args = make(straight, START, optimiser)
    run = make_chunk(step)
    chunk = run(state, controls(1, 1), args, np.int32(3000), np.int32(GOOD))
    assert int(chunk.verdict) == 1
    assert 0 < int(chunk.steps) < 3000
    again = run(chunk.state, controls(1, 1), args, np.int32(3000), np.int32(GOOD))
    assert int(again.steps) == 0


class Line(zdx.base.Base):
    slope: jax.Array | float
    offset: jax.Array | float
    name: str = eqx.field(static=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {"line.slope": jnp.array(1.0), "line.offset": jnp.zeros(())},
        {"line": {"slope": 1.0, "offset": np.float64(0.0)}},
        [1.0, [0.0]],
        (jnp.array([1.0, 0.0]),),
        jnp.array([1.0, 0.0]),
        Line(jnp.array(1.0), jnp.array(0.0), "a line"),
        {"net": Line(1.0, jnp.zeros((1, 1)), "a line"), "activation": jnp.tanh},
    ],
    ids=["flat", "nested", "list", "array", "bare", "zodiax", "function"],
)
def test_any_tree_of_parameters(params):
    def residuals(params, args):
        leaves = [leaf for leaf in jax.tree.leaves(params) if eqx.is_array(leaf)]
        slope, offset = jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
        return slope * args + offset - (3.0 * args + 1.0)

    optimiser = optax.adam(0.1)
    problem, step, state, args = make(residuals, params, optimiser)
    count = len(jax.tree.leaves(state.params))
    run = make_chunk(step)
    chunk = run(state, controls(*[1] * count), args, np.int32(5), np.int32(GOOD))
    whole = problem.whole_params(chunk.state.tree.params)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    assert chunk.rows[4, 0] < chunk.rows[0, 0]


def test_row_and_back():
    params = {"a": jnp.array(6.0), "b": jnp.arange(4.0).reshape(2, 2)}
    info = StepInfo(jnp.array(1.0), jnp.array([2.0, 3.0]), jnp.array([4.0, 5.0]), recorded(params))
    again = Columns.of(params).read(np.asarray(info.row()))
    assert again.loss == 1.0
    np.testing.assert_array_equal(again.gradient_norms, [2.0, 3.0])
    np.testing.assert_array_equal(again.step_norms, [4.0, 5.0])
    assert again.values["a"] == 6.0
    np.testing.assert_array_equal(again.values["b"], params["b"])
