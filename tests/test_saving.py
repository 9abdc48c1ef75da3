"""A loaded fit goes on to the bit; a file of another fit, or a forged one, is refused."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit import _checkpoint as checkpoint

X = jnp.linspace(0.0, 1.0, 12)
SCHEDULE = optax.exponential_decay(0.05, 10, 0.9)
OPTIMISERS = {
    "adam": lambda: optax.adam(0.05),
    "momentum": lambda: optax.sgd(0.01, momentum=0.9),
    "schedule": lambda: optax.adam(SCHEDULE),
    "lbfgs": lambda: optax.lbfgs(),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.05),
    "noisy": lambda: optax.noisy_sgd(0.01, key=jax.random.key(3)),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05)),
    "mapped": lambda: {"a": optax.adam(0.05), "b": optax.sgd(0.01, momentum=0.5)},
    "gauss_newton": lambda: fk.gauss_newton(),
    "factored": lambda: optax.adafactor(0.05),
}


def residuals(params, args):
    return params["b"] * jnp.exp(-params["a"][0] * X) + params["a"][1] * X - args


def problem(**changes):
    given = {
        "residuals": residuals,
        "params": {"a": jnp.array([0.5, 0.1]), "b": 1.0},
        "args": 2 * jnp.exp(-1.5 * X) + 0.3 * X,
        "optimiser": optax.adam(0.05),
    }
    return {**given, **changes}


def bits(fit):
    now = fit.snapshot
    state = now.place.state, now.best.params, now.history.to_arrays()
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in map(jnp.asarray, jax.tree.leaves(state))
    ]
    return [np.asarray(leaf).tobytes() for leaf in leaves]


@pytest.mark.parametrize(
    "kind",
    ["adam", *(pytest.param(one, marks=pytest.mark.slow) for one in OPTIMISERS if one != "adam")],
)
def test_a_loaded_fit_goes_on_to_the_bit(kind, tmp_path):
    fit = fk.Fit(**problem(optimiser=OPTIMISERS[kind]()))
    fit.learning_rates["b"] = 0.5 * fit.learning_rates["b"]
    for _ in fit.steps(7):  # One by one: how the clock cuts a run into chunks changes no bit.
        pass
    fit.save(tmp_path / "fit")
    again = fk.Fit.load(tmp_path / "fit", **problem(optimiser=OPTIMISERS[kind]()))
    assert bits(again) == bits(fit)
    for one in (fit, again):
        for _ in one.steps(5):
            pass
    assert bits(again) == bits(fit)
    assert again.best[:2] == fit.best[:2]


def test_what_steers_is_kept_with_undo_target_and_status(tmp_path):
    fit = fk.Fit(**problem())
    fit.start(10**9)
    fit.freeze("b")
    fit.learning_rates["a"] = 0.3
    fit.pause()
    fit.save(tmp_path / "fit")
    again = fk.Fit.load(tmp_path / "fit", **problem())
    assert (again.status, again.target, again.step) == ("paused", 10**9, fit.step)
    assert (again.frozen, dict(again.learning_rates)) == (fit.frozen, dict(fit.learning_rates))
    assert again.events == fit.events
    assert again.best.loss == fit.best.loss
    again.undo()
    assert again.learning_rates["a"] == 1.0
    again.undo()
    assert not again.frozen
    again.resume()
    again.stop()
    assert again.step >= fit.step


def test_a_running_fit_is_saved_as_it_was_at_one_moment_and_runs_on(tmp_path):
    fit = fk.Fit(**problem(optimiser=optax.sgd(1e-6)))
    fit.start()
    version = fit.version
    while fit.step == 0:
        version = fit.wait_for_change(version, timeout=30)
    for _ in range(5):
        fit.save(tmp_path / "fit")
        assert fit.status.busy
        again = fk.Fit.load(tmp_path / "fit", **problem(optimiser=optax.sgd(1e-6)))
        assert again.status == "paused"
        assert len(again.history) == again.step
    fit.stop()


OTHERS = {
    "names": (
        {"params": {"a": jnp.array([0.5, 0.1]), "c": 1.0}, "residuals": None},
        "holds the par",
    ),
    "shape": ({"params": {"a": jnp.array([0.5, 0.1, 0.0]), "b": 1.0}}, r"\(2,\) float64"),
    "dtype": ({"params": {"a": jnp.array([0.5, 0.1], "float32"), "b": 1.0}}, "float32"),
    "adam to sgd": ({"optimiser": optax.sgd(0.1)}, "Pass the same `optimiser`"),
    "adam to amsgrad": ({"optimiser": optax.amsgrad(0.05)}, "Pass the same `optimiser`"),
    "skip": ({"on_nonfinite": "skip"}, "Pass the same `optimiser`"),
    "data": ({"args": jnp.zeros(12)}, "the loss at its present parameters was"),
    "function": ({"residuals": lambda p, a: residuals(p, a) * 1.01}, "the loss at its present"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_fit_is_refused(kind, tmp_path):
    fit = fk.Fit(**problem())
    fit.run(20, progress=False)
    fit.save(tmp_path / "fit")
    changes, words = OTHERS[kind]
    if kind == "names":
        changes = {**changes, "residuals": lambda p, a: p["c"] * X - p["a"][0]}
    with pytest.raises(fk.CheckpointError, match=words) as caught:
        fk.Fit.load(tmp_path / "fit", **problem(**changes))
    assert str(tmp_path / "fit") in str(caught.value)


def test_states_of_equal_shapes_are_told_apart(tmp_path):
    fit = fk.Fit(**problem(optimiser=optax.sgd(0.01, momentum=0.9)))
    fit.save(tmp_path / "fit")
    for other in (optax.rmsprop(0.05), optax.adagrad(0.05), optax.sgd(0.01)):
        with pytest.raises(fk.CheckpointError, match="Pass the same `optimiser`"):
            fk.Fit.load(tmp_path / "fit", **problem(optimiser=other))


FORGED = {
    "step": [None, "7", -5, 1e30, 2.5, True, 10**400],
    "loss": [None, "x", math.nan, 1e9],
    "best": [None, [1], "ab", [-1, 0.0], [5, math.nan], [500000, -5.0]],
    "factors": [
        None,
        [1, 2],
        {"a": 1.0},
        {"a": "x", "b": 1},
        {"a": -1.0, "b": 1.0},
        {"a": math.nan, "b": 1},
    ],
    "frozen": [None, "ab", ["nope"], [1]],
    "past": [None, "x", [[1]], [["w", [], {"a": 1.0}, []]]],
    "events": [None, "abc", [[1]], [["x", "y"]]],
    "status": [None, "nope", 3],
    "target": ["x", [1]],
    "names": [None, 3, [1, 2]],
    "params": [None, 3, [[1]]],
    "optimiser": [None, "x", [["a"]]],
    "start_loss": [None, "x"],
}


@pytest.mark.slow
@pytest.mark.parametrize("field", FORGED)
def test_a_forged_header_with_a_right_checksum_is_refused(field, tmp_path):
    fit = fk.Fit(**problem())
    fit.run(20, progress=False)
    fit.save(tmp_path / "fit")
    header, arrays = checkpoint.read(tmp_path / "fit")
    missing = {name: value for name, value in header.items() if name != field}
    forged = [missing, *({**header, field: value} for value in FORGED[field])]
    for one in forged:
        checkpoint.write(tmp_path / "forged", one, arrays)
        with pytest.raises(fk.CheckpointError, match="load: .*forged"):
            fk.Fit.load(tmp_path / "forged", **problem())


@pytest.mark.slow
def test_arrays_that_do_not_belong_together_are_refused(tmp_path):
    fit = fk.Fit(**problem())
    fit.run(20, progress=False)
    fit.save(tmp_path / "fit")
    header, arrays = checkpoint.read(tmp_path / "fit")
    for name, array in arrays.items():
        for other in (None, np.zeros((3, 3)), array.astype(np.complex64), array[..., None]):
            forged = {**arrays, name: other} if other is not None else {**arrays}
            if other is None:
                del forged[name]
            checkpoint.write(tmp_path / "forged", header, forged)
            with pytest.raises(fk.CheckpointError, match="load: .*forged"):
                fk.Fit.load(tmp_path / "forged", **problem())


def test_autosave_writes_while_the_fit_runs_and_at_its_end(tmp_path):
    path = tmp_path / "auto"
    fit = fk.Fit(**problem(), autosave=path, every=50, keep=2)
    fit.run(200, progress=False)
    again = fk.Fit.load(path, **problem())
    assert again.step == 200
    assert bits(again) == bits(fit)
    assert os.path.exists(f"{path}.1")


def test_a_disk_that_is_full_does_not_stop_the_fit(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    fit = fk.Fit(**problem(), autosave=folder / "auto", every=20)
    folder.rmdir()
    fit.run(100, progress=False)
    assert (fit.status, fit.step) == ("finished", 100)
    assert any("could not be written" in event.text for event in fit.events)
