"""Steps that see a few of the data, and statements that are of all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

COUNT, SIZE = 1000, 20
RATE = 1e-6
TRUTH = np.array([1.0, -2.0, 3.0], np.float32)


@functools.cache
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(COUNT, 3)).astype(np.float32)
    return {"x": x, "y": x @ TRUTH + 0.1 * rng.normal(size=COUNT).astype(np.float32)}


def residuals(params, args):
    return (args["x"] @ params["w"] - args["y"]) / 0.1


def total(params, args):
    return 0.5 * jnp.sum(residuals(params, args) ** 2)


def mean(params, args):
    return 0.5 * jnp.mean(residuals(params, args) ** 2)


def weighted_mean(params, args):
    return jnp.average(residuals(params, args) ** 2, weights=jnp.ones(len(args["y"]))) / 2


def make(minibatch: int | fk.Minibatch = SIZE, **changes):
    given: dict = {
        "residuals": residuals,
        "params": {"w": np.zeros(3, np.float32)},
        "args": data(),
        "optimiser": optax.sgd(RATE),
        "minibatch": minibatch,
    }
    return fk.Fit(**given | changes)


def batch(step, seed=0):
    key = jax.random.fold_in(jax.random.key(seed), step)
    return np.asarray(jax.random.randint(key, (SIZE,), 0, COUNT))


def descend(steps, rate, scale, seed=0):
    """Stochastic gradient descent, written out in NumPy: the values and the losses of steps."""
    w, losses = np.zeros(3), []
    for step in range(steps):
        x, y = (data()[name].astype(float)[batch(step, seed)] for name in ("x", "y"))
        r = (x @ w - y) / 0.1
        losses.append(scale * r @ r / 2)
        w = w - rate * scale * x.T @ r / 0.1
    return w, np.array(losses)


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ({}, COUNT / SIZE),
        ({"residuals": None, "loss": total}, COUNT / SIZE),
        ({"residuals": None, "loss": mean}, 1 / SIZE),
        ({"residuals": None, "loss": weighted_mean}, 1 / SIZE),
    ],
    ids=["residuals", "sum", "mean", "weighted mean"],
)
def test_steps_are_those_of_a_loop_in_numpy(kind, scale):
    rate = RATE * COUNT / SIZE / scale
    fit = make(optimiser=optax.sgd(rate), **kind)
    fit.run(30, progress=False)
    w, losses = descend(30, rate, scale)
    # Thirty steps in single precision, each of sums of twenty terms.
    np.testing.assert_allclose(fit.params["w"], w, rtol=1e-4)
    np.testing.assert_allclose(fit.history.summary("loss").last, losses, rtol=1e-3)


def test_axes_say_where_the_data_are_and_a_seed_what_is_drawn():
    def turned(params, args):
        return residuals(params, {"x": args["x"].T, "y": args["y"]}) * args["one"]

    args = {"x": data()["x"].T, "y": data()["y"], "one": np.ones(1, np.float32)}
    axes = {"x": 1, "y": 0, "one": None}
    fit = make(fk.Minibatch(SIZE, axes=axes, seed=7), residuals=turned, args=args)
    fit.run(30, progress=False)
    w, _ = descend(30, RATE, COUNT / SIZE, seed=7)
    np.testing.assert_allclose(fit.params["w"], w, rtol=1e-4)
    assert not np.allclose(w, descend(30, RATE, COUNT / SIZE)[0], rtol=1e-3)


def test_priors_count_in_full():
    fit = make(priors={"w": fk.Normal(10.0, 0.01)})
    fit.run(1, progress=False)
    x, y = (data()[name].astype(float)[batch(0)] for name in ("x", "y"))
    gradient = COUNT / SIZE * x.T @ (-y) / 0.01 - 10 / 0.01**2
    np.testing.assert_allclose(fit.params["w"], -RATE * gradient, rtol=1e-5)


def test_the_same_steps_after_rewind_restart_and_load(tmp_path):
    given: dict = {"optimiser": optax.adam(0.01)}
    fit = make(**given)
    fit.run(40, progress=False)
    end = np.asarray(fit.params["w"])
    fit.rewind(17)
    fit.save(tmp_path / "fit")
    fit.run(23, progress=False)
    np.testing.assert_array_equal(fit.params["w"], end)
    loaded = fk.Fit.load(
        tmp_path / "fit",
        residuals=residuals,
        params={"w": np.zeros(3, np.float32)},
        args=data(),
        minibatch=SIZE,
        **given,
    )
    loaded.run(23, progress=False)
    np.testing.assert_array_equal(loaded.params["w"], end)
    fit.restart()
    fit.run(40, progress=False)
    np.testing.assert_array_equal(fit.params["w"], end)
    with pytest.raises(fk.CheckpointError, match="minibatch of .*size 20.*None here"):
        fk.Fit.load(
            tmp_path / "fit",
            residuals=residuals,
            params={"w": np.zeros(3, np.float32)},
            args=data(),
            **given,
        )


def test_what_a_fit_says_is_of_all_data():
    fit = make()
    fit.run(100, progress=False)
    r = residuals({"w": np.float64(fit.params["w"])}, data())
    assert fit.loss == pytest.approx(r @ r / 2, rel=1e-4)
    # Some batch has a lower loss than all data can have.
    x, y = data()["x"], data()["y"]
    closed, rest, *_ = np.linalg.lstsq(np.float64(x), np.float64(y))
    lowest = float(rest[0]) / 0.01 / 2
    assert fit.history.summary("loss").last.min() < lowest
    assert fit.best.loss >= lowest * (1 - 1e-4)
    curvature = np.float64(x).T @ x / 0.01
    np.testing.assert_allclose(
        fit.result().errors["w"], np.sqrt(np.diag(np.linalg.inv(curvature))), rtol=1e-4
    )
    # At this rate it wanders about the minimum within a standard error, and one Newton step on
    # all data ends it at the minimum in closed form.
    fit.change_optimiser(optax.sgd(3e-8))
    fit.run(progress=False)
    assert fit.status == "converged"
    np.testing.assert_allclose(fit.params["w"], closed, atol=1e-5)


def test_noise_of_batches_is_no_convergence():
    fit = make(2, optimiser=optax.adam(0.3))
    fit.run(2000, until="converged", progress=False)
    x, y = np.float64(data()["x"]), np.float64(data()["y"])
    closed = np.linalg.lstsq(x, y)[0]
    off = np.float64(fit.params["w"]) - closed
    away = np.sqrt(off @ x.T @ x @ off) / 0.1
    assert (fit.status == "converged") == (away < 1e-2), (fit.message, away)


def test_a_report_names_the_datum_of_the_batch():
    t = np.linspace(1, 2, COUNT, dtype=np.float32)
    t[617] = 0.3

    def loss(params, args):
        return jnp.sum((jnp.sqrt(args["t"] - params["start"]) - 1) ** 2)

    given: dict = {"residuals": None, "loss": loss, "params": {"start": 0.0}, "args": {"t": t}}
    fit = make(optimiser=optax.sgd(1e-5), **given)
    fit.run(5000, progress=False)
    assert fit.status == "non-finite"
    assert 617 in batch(fit.step + 1)
    assert fit.report is not None
    assert "t[617]" in str(fit.report)
    skipping = make(optimiser=optax.sgd(1e-5), on_nonfinite="skip", **given)
    skipping.run(2000, progress=False)
    # The next batch is another one, so that it goes on.
    assert 0 < skipping.skipped < 200
    assert skipping.step == 2000


def test_other_data_of_another_length():
    fit = make()
    half = {name: array[: COUNT // 2] for name, array in data().items()}
    fit.restart(args=half)
    fit.run(1, progress=False)
    key = jax.random.fold_in(jax.random.key(0), 0)
    chosen = np.asarray(jax.random.randint(key, (SIZE,), 0, COUNT // 2))
    x, y = (half[name].astype(float)[chosen] for name in ("x", "y"))
    expected = RATE * COUNT / 2 / SIZE * x.T @ y / 0.01
    np.testing.assert_allclose(fit.params["w"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="restart: a minibatch of 20 is not smaller than the 10"):
        fit.restart(args={name: array[:10] for name, array in data().items()})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"minibatch": 0}, TypeError, "size 0; must be a whole number, 1 or more"),
        ({"minibatch": fk.Minibatch(5, seed=-1)}, TypeError, "seed -1"),
        ({"minibatch": COUNT}, ValueError, "1,000 is not smaller than the 1,000 data"),
        ({"minibatch": fk.Minibatch(5, axes={"z": 0})}, ValueError, "does not fit 'args'"),
        ({"minibatch": fk.Minibatch(5, axes=1)}, ValueError, r"'args.y' has shape \(1000,\)"),
        ({"args": None, "residuals": lambda p, a: p["w"]}, ValueError, "needs data in `args`"),
        ({"args": data() | {"psf": np.ones(9)}}, ValueError, r"'args.psf' \(9,\).*None"),
        ({"optimiser": None}, ValueError, "needs all data in every step"),
        ({"optimiser": fk.gauss_newton()}, ValueError, "another minibatch"),
        (
            {"residuals": lambda p, a: (residuals(p, a), p["w"])},
            ValueError,
            "20 data have 23 and 40 have 43.*priors",
        ),
        (
            {"residuals": None, "loss": lambda p, a: total(p, a) + 1e3 * jnp.sum(p["w"] ** 2)},
            ValueError,
            "neither their sum nor their mean.*priors",
        ),
        (
            {"residuals": lambda p, a: residuals(p, a) - data()["y"]},
            TypeError,
            "Fit with a minibatch",
        ),
    ],
)
def test_what_is_refused(changes, error, words):
    with pytest.raises(error, match=words):
        make(**changes)


def test_an_optimiser_that_judges_is_refused_later_too():
    fit = make()
    with pytest.raises(ValueError, match="change_optimiser: .*another minibatch"):
        fit.change_optimiser(fk.gauss_newton())
    fit.run(1, progress=False)
