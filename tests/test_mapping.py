import collections
import subprocess
import sys
import warnings
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zodiax as zdx

import fitkit as fk
from fitkit._optimisers.mapping import assign, injected_learning_rates, tolerant
from fitkit._paths import UnknownPathError, named_leaves

SGD, ADAM, ZERO = optax.sgd(0.5), optax.adam(1e-2), optax.set_to_zero()


class Star(zdx.base.Base):
    flux: jax.Array
    spots: list


def map_optimisers(params, optimisers) -> tuple[Any, Any]:
    """Map as fitkit does; to optax, states and updates are trees without known fields and keys."""
    return fk.map_optimisers(params, optimisers)


def fit(optimiser, state, params, loss, steps):
    """Run `steps` in one compiled scan."""

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(
            grad, state, params, value=value, grad=grad, value_fn=loss
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])((params, state))


def squares(params):
    return sum(jnp.sum((leaf - 1) ** 2) for leaf in jax.tree.leaves(params))


PARAMS = {
    "flat dictionary": {"flux": 3.0, "star.r2": jnp.ones(2)},
    "nested dictionary": {"a": {"x": 3.0, "y": jnp.zeros((2, 2))}, "b": 2},
    "list": [jnp.array(3.0), [np.zeros(2), 4]],
    "zodiax module": Star(jnp.array(3.0), [jnp.zeros(2), jnp.zeros(())]),
    "equinox module": eqx.nn.Linear(2, 1, key=jax.random.key(0)),
    "bare array": jnp.arange(3.0),
    "scalar": 3,
    "holes": {"a": 2.0, "b": None, "c": (None, 3.0)},
    "float32": {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros(2, jnp.float64)},
}


@pytest.mark.parametrize("with_params", [True, False], ids=["params", "no params"])
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_any_pytree_moves_as_with_the_plain_optimiser(params, with_params):
    paths = list(named_leaves(params))
    mapped, mapped_state = fk.map_optimisers(params, {path: optax.adam(0.1) for path in paths})
    plain = optax.adam(0.1)
    floats = jax.tree.map(lambda x: jnp.asarray(x, getattr(x, "dtype", float)), params)
    plain_state = plain.init(floats)
    grads = jax.tree.map(lambda x: x + 1, floats)
    passed = (floats,) if with_params else ()
    for _ in range(2):
        ours, mapped_state = mapped.update(grads, mapped_state, *passed)
        theirs, plain_state = plain.update(grads, plain_state, *passed)
        assert eqx.tree_equal(ours, theirs)


def test_numbers_become_floats_and_arrays_keep_their_width():
    params = {"i": 1, "f": 2.0, "b": np.array([True]), "h": jnp.ones(2, jnp.bfloat16)}
    _, state = fk.map_optimisers(params, {"*": optax.trace(0.9)})
    trace = optax.tree_utils.tree_get(state, "trace")
    assert {k: v.dtype for k, v in trace.items()} == {
        "i": jnp.float64,
        "f": jnp.float64,
        "b": jnp.float64,
        "h": jnp.bfloat16,
    }


def test_nothing_passed_in_is_changed():
    params = {"a": 1, "b": np.ones(2), "c": {"d": 2.0}}
    optimisers = {"a": SGD, ("b", "c"): ADAM}
    fk.map_optimisers(params, optimisers)
    assert list(params) == ["a", "b", "c"]
    assert params["a"] == 1
    assert isinstance(params["b"], np.ndarray)
    assert optimisers == {"a": SGD, ("b", "c"): ADAM}


def test_parameters_without_an_optimiser_do_not_move():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    optimiser, state = map_optimisers(params, {"a": SGD})
    updates, _ = optimiser.update(params, state, params)
    np.testing.assert_array_equal(updates["a"], [-0.5, -0.5])
    np.testing.assert_array_equal(updates["b"], [0, 0])


@pytest.mark.parametrize(
    ("optimisers", "expected"),
    [
        ({"wfe": SGD}, [SGD, SGD, SGD, None, None]),
        ({"wfe.*": SGD, "wfe.1": ADAM}, [SGD, ADAM, SGD, None, None]),
        ({"wfe.1": ADAM, "wfe": SGD}, [SGD, ADAM, SGD, None, None]),
        ({"*": SGD, "wfe": ADAM}, [ADAM, ADAM, ADAM, SGD, SGD]),
        ({"*": SGD, "wfe.*": ADAM}, [ADAM, ADAM, ADAM, SGD, SGD]),
        ({"wfe": SGD, "wfe.*.tilt": ADAM}, [SGD, SGD, ADAM, None, None]),
        ({"wfe.*": SGD, "wfe": ADAM}, [ADAM, ADAM, ADAM, None, None]),
        ({"*flux": SGD, "star": ADAM}, [None, None, None, ADAM, SGD]),
        ({("wfe.0", "star.flux"): SGD, "flux": ADAM}, [SGD, None, None, SGD, ADAM]),
        ({("wfe.0", ("wfe.*",)): SGD}, [SGD, SGD, SGD, None, None]),
        ({"wfe.*": SGD, "*.tilt": SGD}, [SGD, SGD, SGD, None, None]),
    ],
)
def test_the_most_specific_key_wins(optimisers, expected):
    paths = ("wfe.0", "wfe.1", "wfe.2.tilt", "star.flux", "flux")
    assert list(assign(paths, optimisers).values()) == expected


@pytest.mark.parametrize(
    "optimisers",
    [{"a.*": SGD, "*.x": ADAM}, {"a.x": SGD, ("a.x", "a.y"): ADAM}, {"a.*": SGD, "a.?": ADAM}],
)
def test_equally_specific_keys_are_refused(optimisers):
    with pytest.raises(ValueError, match=r"claim the parameter 'a\.x' for different optimisers"):
        fk.map_optimisers({"a": {"x": 1.0, "y": 2.0}, "b": {"x": 1.0}}, optimisers)


def test_one_optimiser_serves_all():
    assert assign(("a", "b"), SGD) == {"a": SGD, "b": SGD}


def test_an_unknown_key_moves_nothing_and_says_so():
    params = {"flux": jnp.ones(2), "r2": jnp.ones(2)}
    with pytest.warns(UserWarning, match=r"no parameter 'fluxx'\. Nearest: 'flux'"):
        optimiser, state = map_optimisers(params, {("fluxx", "r2"): SGD, "r2": SGD})
    updates, _ = optimiser.update(params, state)
    assert updates["flux"].sum() == 0
    assert updates["r2"].sum() == -1


def test_the_warning_of_an_unknown_key_names_the_line_of_the_caller():
    # In a process of its own, where no checks stand between the caller and fitkit.
    code = "import fitkit as fk, optax\nfk.map_optimisers({'a': 1.0}, {'b': optax.sgd(1.0)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.startswith("<string>:2: UserWarning: "), done.stderr


def test_strict_refuses_unknown_keys_and_forgotten_parameters():
    params = {"flux": 1.0, "r2": 2.0}
    with pytest.raises(UnknownPathError, match=r"'fluxx'\. Nearest: 'flux'") as error:
        fk.map_optimisers(params, {"fluxx": SGD, "r2": SGD}, strict=True)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, KeyError)
    with pytest.raises(ValueError, match="no optimiser for 'r2'"):
        fk.map_optimisers(params, {"flux": SGD}, strict=True)
    fk.map_optimisers(params, {"*": SGD}, strict=True)


@pytest.mark.parametrize("wrong", [1e-3, optax.adam, None, "adam"])
@pytest.mark.usefixtures("unchecked")
def test_a_value_that_is_no_optimiser_is_refused(wrong):
    with pytest.raises(TypeError, match=r"the optimiser of 'a' is .* must be an optax optimiser"):
        fk.map_optimisers({"a": 1.0}, {"a": wrong})


@pytest.mark.parametrize("wrong", ["x", jax.nn.relu, np.array(["x"])])
@pytest.mark.usefixtures("unchecked")
def test_a_parameter_that_is_no_number_is_refused(wrong):
    with pytest.raises(TypeError, match=r"the parameter 'a\.b' is"):
        fk.map_optimisers({"a": {"b": wrong}}, {"a": SGD})


def test_update_names_what_does_not_fit_the_mapped_parameters():
    optimiser, state = fk.map_optimisers({"a": 1.0, "b": 2.0}, {"a": SGD})
    with pytest.raises(ValueError, match=r"gradients passed to update .* missing 'b'; unknown 'c'"):
        optimiser.update({"a": 1.0, "c": 1.0}, state)
    with pytest.raises(ValueError, match=r"parameters passed to update .* missing 'a', 'b'"):
        optimiser.update({"a": 1.0, "b": 1.0}, state, {})
    with pytest.raises(ValueError, match=r"gradients .* instead of"):
        optimiser.update(collections.OrderedDict(a=1.0, b=1.0), state)


def test_tuple_keys_of_parameters_are_unpacked_as_zodiax_does():
    optimiser, state = map_optimisers({("a", "b"): 1.0}, {"a": SGD, "b": ADAM})
    updates, _ = optimiser.update({"a": jnp.array(1.0), "b": jnp.array(1.0)}, state)
    assert updates["a"] == -0.5


def test_shared_optimisers_share_a_group():
    params = {"a": jnp.array(3.0), "b": jnp.array(4.0), "c": jnp.array(1.0)}
    clip = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    optimiser, state = map_optimisers(params, {("a", "b"): clip, "c": SGD})
    updates, _ = optimiser.update(params, state)
    # The norm of (3, 4) is 5.
    assert float(updates["a"]) == pytest.approx(-0.6)
    assert float(updates["b"]) == pytest.approx(-0.8)
    assert len(state.inner_states) == 2
    _, state = map_optimisers(params, dict.fromkeys(params, clip))
    assert len(state.inner_states) == 1


def rosenbrock(params):
    x, y = params["x"], params["y"]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2 + 0.1 * jnp.sum((params["z"] - x) ** 2)


@pytest.fixture(scope="module")
def rosenbrock_fit():
    start = {"x": jnp.array(-1.2), "y": jnp.array(1.0), "z": jnp.zeros(2)}
    return start, fit(*fk.map_optimisers(start, {("x", "y"): optax.lbfgs()}), start, rosenbrock, 4)


@pytest.mark.slow
def test_line_search_moves_its_group_with_the_others_held(rosenbrock_fit):
    start, (ours, _) = rosenbrock_fit
    # Independently: plain L-BFGS on the function of two parameters alone.
    part = {"x": start["x"], "y": start["y"]}
    plain = optax.lbfgs()
    theirs, _ = fit(plain, plain.init(part), part, lambda p: rosenbrock(p | {"z": start["z"]}), 4)
    for name in part:
        # Tolerance: the same arithmetic, compiled as part of two programs.
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9)
    np.testing.assert_array_equal(ours["z"], start["z"])


@pytest.mark.slow
def test_line_search_beside_other_optimisers_reaches_the_minimum():
    start = {"x": jnp.array(-1.2), "y": jnp.array(1.0), "z": jnp.zeros(2)}
    mapped = fk.map_optimisers(start, {("x", "y"): optax.lbfgs(), "z": optax.sgd(1.0)})
    params, _ = fit(*mapped, start, rosenbrock, 200)
    # The minimum is at one in every parameter; sgd contracts its error by 0.8 a step.
    assert {name: np.allclose(leaf, 1, atol=1e-6) for name, leaf in params.items()} == {
        "x": True,
        "y": True,
        "z": True,
    }, params


def test_extra_arguments_reach_those_who_need_them():
    seen = {}

    def update(updates, state, params=None, **extra_args):
        seen.update(residuals=extra_args["residuals"](params), tags=extra_args["tags"])
        return updates, state

    asks = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    params = {"a": jnp.array(1.0), "b": jnp.array(2.0), "c": jnp.array(3.0)}
    optimiser, state = fk.map_optimisers(params, {"a": asks, "b": optax.lbfgs(), "c": SGD})
    jax.jit(optimiser.update, static_argnames=("value_fn", "residuals"))(
        params,
        state,
        params,
        value=squares(params),
        grad=params,
        value_fn=squares,
        residuals=lambda p: {"sum": p["a"] + p["b"] + p["c"]},
        tags={"a": 1, "b": 2, "c": 3},
    )
    assert list(seen["residuals"]) == ["sum"]
    assert list(named_leaves(seen["tags"])) == ["a"]


def test_tolerant_hides_what_a_function_does_not_take():
    def loss(params, data):
        return params + data

    wrapped = tolerant(loss, ("data", "residuals"))
    assert wrapped(1, data=2, residuals=3) == 3
    assert tolerant(loss, ("data",)) is loss


def test_optax_tools_understand_the_state():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    optimiser, state = fk.map_optimisers(params, {"a": ADAM, "b": SGD})
    doubled = optax.tree_map_params(optimiser, lambda x: 2 * x, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)
    chained = cast(Any, optax.chain(optimiser, optax.scale(2.0)))
    updates, _ = chained.update(params, chained.init(params), params)
    np.testing.assert_array_equal(updates["b"], [-1, -1])


@pytest.mark.parametrize("steps", [0, 3])
def test_injected_learning_rates_of_a_mapped_optimiser(steps):
    params = {"a": {"x": jnp.array(1.0), "y": jnp.array(2.0)}, "b": 3.0, "c": 4.0, "d": 5.0}
    optimisers = {
        "a": optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.adam)(0.25)),
        "b": optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.0, 4)),
        "c": SGD,
    }
    optimiser, state = fk.map_optimisers(params, optimisers)
    floats = jax.tree.map(jnp.asarray, params)
    _, state = fit(optimiser, state, floats, squares, steps)
    rates = injected_learning_rates(state, assign(named_leaves(params), optimisers))
    # The schedule was last read before the latest step.
    expected = {"a.x": 0.25, "a.y": 0.25, "b": 1 - max(steps - 1, 0) / 4}
    assert {path: float(rate) for path, rate in rates.items()} == expected


def test_injected_learning_rates_of_one_optimiser():
    params = {"a": jnp.array(1.0), "b": jnp.array(2.0)}
    for optimiser, expected in (
        (optax.inject_hyperparams(optax.adam)(0.25), {"a": 0.25, "b": 0.25}),
        (ADAM, {}),
        (optax.chain(*[optax.inject_hyperparams(optax.sgd)(0.25)] * 2), {}),
    ):
        rates = injected_learning_rates(optimiser.init(params), assign(params, optimiser))
        assert rates == expected


@pytest.mark.parametrize("make", [lambda: optax.sgd(0.1), lambda: optax.adamw(0.1)])
def test_under_jit_scan_and_vmap(make):
    def run(start):
        params = {"a": start, "b": jnp.array(0.0)}
        optimiser, state = fk.map_optimisers(params, {"a": make(), "b": make()})

        def step(carry, _):
            params, state = carry
            updates, state = optimiser.update(jax.grad(squares)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return cast(Any, jax.lax.scan(step, (params, state), length=4)[0][0])

    starts = jnp.array([0.0, 2.0, 5.0])
    batch = jax.jit(jax.vmap(run))(starts)
    one = run(starts[1])
    # Tolerance: batched and single programs may round differently.
    np.testing.assert_allclose(batch["a"][1], one["a"], rtol=1e-12)


@pytest.mark.parametrize(("start", "length"), [(0, 1), (3, 1), (3, 5)])
def test_delay(start, length):
    schedule = fk.delay(0.2, start, length)
    steps = np.arange(12)
    expected = 0.2 * np.clip((steps - start) / length, 0, 1)
    # Tolerance: optax computes (start value − end value) · fraction + end value.
    np.testing.assert_allclose(np.asarray([schedule(i) for i in steps]), expected, atol=1e-15)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(steps), expected, atol=1e-15)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 0), (2, -3)])
def test_delay_refuses_what_means_nothing(start, length):
    with pytest.raises(ValueError, match="delay: "):
        fk.delay(0.1, start, length)


def test_no_warnings_when_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fk.map_optimisers({"a": 1, "b": 2.0}, {"a": SGD, "b": ADAM}, strict=True)
