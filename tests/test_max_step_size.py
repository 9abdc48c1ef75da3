import json
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

DATA = Path(__file__).parent / "data" / "max_step_size"
CASES = json.loads((DATA / "cases.json").read_text())
GROUPS = sorted({case["group"] for case in CASES})
WIDTHS = [np.float32, np.float64]


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "cases.npz") as file:
        return dict(file)


def build(tree, arrays):
    """Read the notation of the cases: see the README beside them."""
    if tree is None:
        return None
    if isinstance(tree, int):
        return arrays[tree]
    ((kind, children),) = tree.items()
    if kind == "d":
        return {name: build(child, arrays) for name, child in children.items()}
    return {"l": list, "t": tuple}[kind](build(child, arrays) for child in children)


def limited(updates, *args, **kwargs):
    transform = fk.max_step_size(*args, **kwargs)
    return jax.jit(transform.update)(updates, transform.init(updates))[0]


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_reference_cases(group, arrays):
    for case in (case for case in CASES if case["group"] == group and "eps" not in case["tags"]):
        name = case["name"]
        leaves = [arrays[f"{name}/leaves{i}"] for i in range(case["leaves"])]
        ids = [arrays[f"{name}/ids{i}"] for i in range(case["ids"])]
        outs = [arrays[f"{name}/out{i}"] for i in range(case["leaves"])]
        systems = build(case["systems"], ids)
        limit = jnp.array(case["limit"])
        ours = limited(build(case["tree"], leaves), limit, systems, case["num_systems"])
        # Tolerances from the README: rounding in float32, kUPS' 1e-12 in float64.
        tolerance = 1e-6 if leaves[0].dtype == np.float32 else 1e-8
        tolerance = 0 if "exact" in case["tags"] else tolerance
        expected = jax.tree.leaves(build(case["tree"], outs))
        inputs = jax.tree.leaves(build(case["tree"], leaves))
        bad = {-1}
        if "nonfinite" in case["tags"]:
            bad = {
                i
                for leaf, out, of in zip(inputs, expected, ids, strict=True)
                for i in of[~np.isfinite(leaf).all(-1) | ~np.isfinite(out).all(-1)]
            }
        for index, (our, out, leaf) in enumerate(
            zip(jax.tree.leaves(ours), expected, inputs, strict=True)
        ):
            good = ~np.isin(ids[index], list(bad)) if "nonfinite" in case["tags"] else ...
            np.testing.assert_allclose(our[good], out[good], tolerance, 0, err_msg=name)
            same = (out == leaf)[good]
            np.testing.assert_array_equal(our[good][same], leaf[good][same], err_msg=name)


STEPS = {
    "sgd": optax.sgd(0.7),
    "momentum": optax.sgd(0.3, momentum=0.9),
    "adam": optax.adam(0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("before", STEPS.values(), ids=STEPS)
def test_a_system_in_a_batch_is_the_system_alone_to_the_bit(before, dtype):
    random = np.random.default_rng(7)
    ids = {"x": np.sort(random.integers(0, 3, 29)), "y": random.integers(0, 3, 11)}
    start = {"x": random.normal(size=(29, 3)), "y": random.normal(size=11)}
    start = {name: jnp.array(value, dtype) for name, value in start.items()}
    grads = random.normal(size=(20, 29 * 3)), random.normal(size=(20, 11))

    def run(chosen, systems):
        transform = optax.chain(before, fk.max_step_size(0.02, systems))

        @jax.jit
        def step(params, state, grad):
            updates, state = transform.update(grad, state, params)
            return optax.apply_updates(params, updates), state

        params = {name: start[name][chosen[name]] for name in start}
        state = transform.init(params)
        for x, y in zip(*grads, strict=True):
            grad = {"x": jnp.array(x.reshape(29, 3), dtype), "y": jnp.array(y, dtype)}
            grad = {name: grad[name][chosen[name]] for name in grad}
            params, state = step(params, state, grad)
        return params

    batch = run({"x": slice(None), "y": slice(None)}, ids)
    chosen = {name: np.flatnonzero(of == 1) for name, of in ids.items()}
    alone = run(chosen, {name: np.zeros(len(of), int) for name, of in chosen.items()})
    for name, of in chosen.items():
        np.testing.assert_array_equal(batch[name][of], alone[name])
        # The limit was felt.
        assert not np.array_equal(alone[name], start[name][of])


@pytest.mark.parametrize("dtype", WIDTHS)
def test_norms_neither_overflow_nor_vanish(dtype):
    info = np.finfo(dtype)
    big, small = info.max / 2, info.tiny * 4
    updates = jnp.array([[big, big], [small, small], [3.0, 4.0], [big, 0]], dtype)
    limit = jnp.array([1.0, small, 1.0, small], dtype)
    ours = limited(updates, limit, jnp.arange(4))
    root = np.sqrt(dtype(0.5))
    expected = np.array([[root, root], [small * root] * 2, [0.6, 0.8], [small, 0]], dtype)
    # Tolerance: a few roundings.
    np.testing.assert_allclose(ours, expected, rtol=4 * info.eps)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_dtypes_are_kept(dtype):
    updates = {"a": jnp.array([[300.0, 400.0]], dtype), "b": jnp.array(300.0, jnp.float32)}
    ours = limited(updates, 50.0)
    assert ours["a"].dtype == dtype
    assert ours["b"].dtype == jnp.float32
    # Tolerance: the precision of bfloat16.
    np.testing.assert_allclose(np.asarray(ours["a"], float), [[30, 40]], rtol=1e-2)


def test_what_counts_as_an_element():
    vector, number = jnp.array([3.0, 4.0]), jnp.array(-10.0)
    # Without systems a vector is one element and a number another.
    np.testing.assert_allclose(limited(vector, 1.0), [0.6, 0.8], rtol=1e-15)
    np.testing.assert_allclose(limited({"a": vector, "b": number}, 5.0)["a"], [1.5, 2], rtol=1e-15)
    # With ids of its own shape each number is one.
    ours = limited(vector, 2.0, jnp.array([0, 1]))
    np.testing.assert_allclose(ours, [2, 2], rtol=1e-15)
    # Ids that leave off axes hold for all below them, so a number names the system of a leaf.
    ours = limited({"a": vector, "b": number}, jnp.array([1.0, 20]), {"a": 0, "b": 1})
    np.testing.assert_allclose(ours["a"], [0.6, 0.8], rtol=1e-15)
    assert ours["b"] == -10


def test_padding_counts_for_nothing_and_does_not_move():
    updates = jnp.array([[3.0, 4.0], [np.nan, 1.0], [900.0, 0.0]])
    for systems in ([0, -1, 7], np.array([0, 2**40, -(2**40)])):
        ours = limited(updates, 10.0, jnp.array(systems), num_systems=2)
        np.testing.assert_array_equal(ours, [[3, 4], [0, 0], [0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_poisoned_system_is_alone_with_it(poison):
    updates = jnp.array([[3.0, 4.0], [0.1, poison], [0.6, 0.8]])
    ours = limited(updates, jnp.array([1.0, 1, 1]), jnp.arange(3))
    clean = limited(updates.at[1].set(0), jnp.array([1.0, 1, 1]), jnp.arange(3))
    np.testing.assert_array_equal(ours[jnp.array([0, 2])], clean[jnp.array([0, 2])])
    assert np.isnan(ours[1, 1])


@pytest.mark.slow
def test_gradients_are_finite_at_zero_and_right_elsewhere():
    transform = fk.max_step_size(1.0, jnp.array([0, 1, 0]))

    def moved(updates, limit):
        transform = fk.max_step_size(limit, np.array([0, 1, 0]), 2)
        return transform.update(updates, transform.init(updates))[0]

    updates = jnp.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]])
    jacobian = jax.jit(jax.jacrev(moved))(updates, 1.0)
    assert np.isfinite(jacobian).all()
    # u / |u| along the first row: (1 - n n') / |u|; systems at rest move freely.
    n = np.array([0.6, 0.8])
    np.testing.assert_allclose(jacobian[0, :, 0], (np.eye(2) - np.outer(n, n)) / 5, atol=1e-15)
    np.testing.assert_array_equal(jacobian[1, :, 1], np.eye(2))
    slope = jax.jacfwd(moved, 1)(updates, 1.0)
    np.testing.assert_allclose(slope[0], n, rtol=1e-15)
    assert cast(Any, transform.init(updates)).systems.shape == (3,)


def test_the_limit_may_be_traced_and_moved_by_a_slider():
    updates = jnp.array([[3.0, 4.0], [0.0, 10.0]])
    systems = np.array([0, 1])
    steered = optax.inject_hyperparams(fk.max_step_size, static_args=("systems", "num_systems"))(
        limit=1.0, systems=systems
    )
    traces = []

    @jax.jit
    def update(updates, state):
        traces.append(1)
        return steered.update(updates, state)

    state = cast(Any, steered.init(updates))
    for limit in (1.0, 0.5, 0.0):
        state.hyperparams["limit"] = jnp.array(limit)
        ours, state = update(updates, state)
        np.testing.assert_allclose(ours, updates * jnp.array([[limit / 5], [limit / 10]]))
    assert len(traces) == 1
    for wrong in (-1.0, np.nan):
        state.hyperparams["limit"] = jnp.array(wrong)
        assert np.isnan(update(updates, state)[0]).all()


@pytest.mark.slow
def test_under_vmap_as_one_at_a_time():
    batch = jax.random.normal(jax.random.key(0), (4, 5, 3)) * 10
    limits = jnp.array([0.0, 0.1, 1.0, 100.0])

    def one(updates, limit):
        transform = fk.max_step_size(limit, np.array([0, 1, 1, 0, -1]))
        return transform.update(updates, transform.init(updates))[0]

    together = jax.jit(jax.vmap(one))(batch, limits)
    single = jax.jit(one)
    for updates, limit, ours in zip(batch, limits, together, strict=True):
        np.testing.assert_array_equal(ours, single(updates, limit))


def test_what_was_captured_stays():
    systems = np.array([0, 1])
    transform = fk.max_step_size(1.0, systems)
    systems[:] = 0
    np.testing.assert_array_equal(cast(Any, transform.init(jnp.ones((2, 3)))).systems, [0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1.0,), ValueError, "limit is -1.0, must be 0 or more"),
        ((np.nan,), ValueError, "limit is nan"),
        (([1.0, -1.0], np.array([0, 1, 1, 0])), ValueError, r"limit is \[ 1. -1.\]"),
        (([1.0, 2.0, 3.0], np.array([0, 1, 1, 0])), ValueError, "limit has shape .*2 systems"),
        ((1.0, np.array([0.0, 1, 1, 0])), TypeError, "dtype float64, must be integers"),
        ((1.0, np.array([0, 1, 1])), ValueError, r"'a' of shape \(4, 3\) has system ids of shape"),
        ((1.0, {"b": np.zeros(4, int)}), ValueError, "systems is no tree prefix of the updates"),
        ((1.0, None, 3), ValueError, "num_systems is 3 without systems"),
        ((1.0, np.zeros(4, int), 0), ValueError, "num_systems is 0, must be 1 or more"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        fk.max_step_size(*arguments).init({"a": jnp.ones((4, 3))})


def test_traced_ids_need_a_count():
    with pytest.raises(ValueError, match="Pass num_systems"):
        jax.jit(lambda ids: fk.max_step_size(1.0, ids).init(jnp.ones((2, 3))))(jnp.array([0, 1]))


def test_integers_are_no_updates():
    with pytest.raises(TypeError, match="'a' has dtype int64"):
        fk.max_step_size(1.0).init({"a": jnp.ones(3, jnp.int64)})
