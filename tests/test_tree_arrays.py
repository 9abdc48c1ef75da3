"""Trees as flat arrays and back, and their structure as lists."""

import json
import subprocess
import sys
from collections import OrderedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fitkit._checkpoint.tree_arrays import difference, fingerprint, flatten, restore

PARAMS = {"flux": jnp.ones(3), "star": {"x": jnp.array(0.5), "y": jnp.zeros((2, 2))}}
OPTIMISERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "rmsprop": optax.rmsprop(0.1),
    "adagrad": optax.adagrad(0.1),
    "adam": optax.adam(0.1),
    "amsgrad": optax.amsgrad(0.1),
    "adabelief": optax.adabelief(0.1),
    "lion": optax.lion(0.1),
    "lbfgs": optax.lbfgs(),
    "noisy": optax.noisy_sgd(0.1, key=jax.random.key(3)),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "masked": optax.masked(optax.adam(0.1), {"flux": True, "star": False}),
    "partitioned": optax.partition(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1)}, {"flux": "a", "star": {"x": "b", "y": "a"}}
    ),
}


def same_leaf(one, other, like):
    assert type(one) is type(other)
    if isinstance(one, jax.Array):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        else:
            assert other.weak_type == like.weak_type
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def assert_round_trip(tree, like):
    again = restore({**flatten(tree, "state"), "other": np.zeros(1)}, like, "state")
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(same_leaf, tree, again, like)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "lbfgs")) for name in OPTIMISERS],
)
def test_states_of_optimisers_come_back(name):
    optimiser = OPTIMISERS[name]
    start = optimiser.init(PARAMS)
    extra = {}
    if name == "lbfgs":
        extra = {"value": 1.0, "grad": PARAMS, "value_fn": lambda p: jnp.sum(p["flux"] ** 2)}
    _, state = optimiser.update(PARAMS, start, PARAMS, **extra)
    assert_round_trip(state, start)


def test_leaves_of_every_kind_come_back():
    def tree(scale):
        return {
            "weak": jnp.asarray(1.5) * scale,
            "weak vector": jnp.full((3,), 1.5) * scale,
            "half": jnp.bfloat16(scale),
            "small": jnp.ones(2, jnp.float8_e4m3fn),
            "empty": jnp.zeros((0, 3)),
            "complex": jnp.ones(2) * 1j * scale,
            "keys": jax.random.split(jax.random.key(scale), 2),
            "rbg": jax.random.key(scale, impl="rbg"),
            "old key": jax.random.PRNGKey(scale),
            "none": None,
            "numbers": (True, 2 + scale, 0.1 * scale, 1j),
            "numpy": np.arange(3) * scale,
            "numpy scalar": np.float32(scale),
            "not finite": jnp.array([np.nan, -np.inf, -0.0, 5e-324]),
        }

    assert tree(1)["weak vector"].weak_type
    assert_round_trip(tree(7), tree(1))


def test_leaves_return_to_their_devices():
    device = jax.devices()[0]
    like = {"a": jax.device_put(jnp.zeros(2), device), "b": jnp.zeros(2)}
    again = restore({"a": np.ones(2), "b": np.ones(2)}, like)
    assert (again["a"].committed, again["b"].committed) == (True, False)
    assert again["a"].sharding == like["a"].sharding


def test_restored_leaves_do_not_share_memory_with_the_arrays():
    arrays = {"a": np.ones(64), "b": np.ones(64), "c": np.ones(64)}
    like = {
        "a": jnp.zeros(64),
        "b": jax.device_put(jnp.zeros(64), jax.devices()[0]),
        "c": np.zeros(64),
    }
    again = restore(arrays, like)
    for array in arrays.values():
        array[:] = 7
    assert all((np.asarray(leaf) == 1).all() for leaf in again.values())


def test_a_number_takes_what_a_compiled_step_made_of_it():
    assert restore({"a": np.array(0.5, np.float32)}, {"a": 0.1}) == {"a": 0.5}


def test_paths_that_look_alike_stay_apart():
    tree = {"a.b": jnp.zeros(1), "a": {"b": jnp.ones(1)}, "a\\": {"b": jnp.full(1, 2.0)}}
    assert len(flatten(tree)) == 3
    assert_round_trip(tree, jax.tree.map(jnp.zeros_like, tree))


def test_a_single_leaf_is_a_tree():
    assert_round_trip(jnp.ones(2), jnp.zeros(2))
    assert list(flatten(jnp.ones(2), "params")) == ["params"]


def test_what_is_no_number_is_refused_by_name():
    with pytest.raises(TypeError, match=r"'state\.f' is of type builtin_function_or_method"):
        flatten({"f": print}, "state")
    assert fingerprint({"f": print}) == [["f", "() builtin_function_or_method"]]


@pytest.mark.parametrize(
    "array", [np.zeros(4), np.zeros((3, 1)), np.zeros(3, np.float32), np.zeros(3, int)]
)
def test_restoring_something_else_is_refused(array):
    with pytest.raises(ValueError, match=r"'a' is .* in the checkpoint, and the fit has \(3,\)"):
        restore({"a": array}, {"a": jnp.zeros(3)})
    with pytest.raises(ValueError, match="holds no array 'a'"):
        restore({"b": array}, {"a": jnp.zeros(3)})


def test_every_two_optimisers_are_told_apart():
    prints = {name: fingerprint(one.init(PARAMS)) for name, one in OPTIMISERS.items()}
    for name, saved in prints.items():
        saved = json.loads(json.dumps(saved))
        for other, present in prints.items():
            assert (difference(saved, present) is None) == (name == other), (name, other)


def test_the_difference_in_words():
    def words(saved, present):
        found = difference(fingerprint(saved), fingerprint(present))
        assert found is not None
        return found

    assert words({"a": jnp.zeros(3)}, {"a": jnp.zeros(4)}) == (
        "saved with a (3,) float64, and the fit has a (4,) float64"
    )
    assert words({"a": jnp.zeros(3)}, {"a": jnp.zeros(3), "b": 1}) == (
        "saved with nothing more, and the fit has b () int64"
    )
    assert words({"a": 1.0, "b": 1.0}, {"b": 1.0}) == (
        "saved with a () float64, and the fit has nothing in its place"
    )
    params = {"flux": jnp.ones(3)}
    momentum, rmsprop = (OPTIMISERS[name].init(params) for name in ("momentum", "rmsprop"))
    assert words(momentum, rmsprop) == (
        "saved with TraceState at 0, 0.trace.flux (3,) float64, and the fit has "
        "ScaleByRmsState at 0, 0.nu.flux (3,) float64, EmptyState at 2"
    )
    assert "key<fry>" in words(jax.random.key(0), jnp.zeros(2, jnp.uint32))
    many = words({str(i): 1.0 for i in range(10)}, {})
    assert many.startswith("saved with 0 () float64, 1 () float64, 2 () float64 and 7 more, and")


def test_names_of_classes_count_where_all_leaves_agree():
    class One(eqx.Module):
        x: jax.Array

    class Two(eqx.Module):
        x: jax.Array

    assert difference(fingerprint(One(jnp.zeros(1))), fingerprint(Two(jnp.zeros(1)))) == (
        "saved with One at the root, and the fit has Two at the root"
    )
    assert fingerprint([1.0, (2.0, {"a": None})]) == fingerprint((1.0, [2.0, {"a": ()}]))
    assert fingerprint(OrderedDict(a=1.0)) != fingerprint({"a": 1.0})


def test_numbers_and_what_a_compiled_step_makes_of_them_agree():
    state = {"a": 0.5, "b": 2, "c": True}
    assert fingerprint(state) == fingerprint(jax.jit(lambda tree: tree)(state))


@pytest.mark.parametrize("saved", [None, 3, "abc", [1], [[1]], [[1, 2, 3]], {"a": 1}])
def test_a_foreign_fingerprint_is_a_difference(saved):
    words = difference(saved, fingerprint({"a": 1.0}))
    assert words is not None and words.startswith("saved with")


@pytest.mark.slow
def test_fingerprints_are_the_same_in_another_process():
    code = (
        "import json, jax, jax.numpy as jnp, optax\n"
        "jax.config.update('jax_enable_x64', True)\n"
        "from fitkit._checkpoint.tree_arrays import fingerprint\n"
        "params = {'b': jnp.ones(3), 'a': {'x': jnp.zeros((2, 2))}}\n"
        "print(json.dumps(fingerprint(optax.adam(0.1).init(params))))"
    )
    params = {"b": jnp.ones(3), "a": {"x": jnp.zeros((2, 2))}}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == fingerprint(optax.adam(0.1).init(params))
