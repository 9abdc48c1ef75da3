"""The live object: bad input, running, steering, stopping, going back."""

import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._optimisers.mapping import injected_learning_rates
from fitkit._paths import UnknownPathError

X = jnp.linspace(0.0, 1.0, 30)
TRUTH = {"amplitude": 2.0, "rate": 1.3, "offset": 0.3}
START = {"amplitude": 1.0, "rate": 0.5, "offset": 0.1}


def model(params, x):
    return params["amplitude"] * jnp.exp(-params["rate"] * x) + params["offset"]


def residuals(params, args):
    return model(params, args) - model(TRUTH, args)


def make(optimiser=None, **changes):
    optimiser = optax.adam(1e-2) if optimiser is None else optimiser
    return fk.Fit(
        **{"residuals": residuals, "params": START, "args": X, "optimiser": optimiser, **changes}
    )


def quadratic(params, args):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


# Bad input.


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, "dtype int64.*write 1.0"),
        (True, "dtype bool"),
        ("x", r"is 'x' \(str\)"),
        (np.zeros(0), "is empty"),
        (np.nan, "is nan at the start"),
        (1j, "is complex"),
        (np.arange(3), "dtype int64"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_parameter_is_named(value, words):
    with pytest.raises((TypeError, ValueError), match=rf"'star\.a'.*{words}"):
        fk.Fit(loss=quadratic, params={"star": {"a": value}, "b": 1.0}, optimiser=optax.sgd(0.1))


@pytest.mark.usefixtures("unchecked")
def test_bad_element_is_named():
    with pytest.raises(ValueError, match=r"'a\[1, 0\]' is inf"):
        fk.Fit(loss=quadratic, params={"a": np.array([[1.0], [np.inf]])}, optimiser=optax.sgd(0.1))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda p, a: p["a"] * jnp.ones(3), r"shape \(3,\)"),
        (lambda p, a: jnp.int32(p["a"]), "dtype int32"),
        (lambda p, a: p["a"] * 1j, "dtype complex128.*real part"),
        (lambda p, a: "low", "returned 'low'"),
        (lambda p, a: None, "returned None"),
        (lambda p, a: p["a"] * jnp.nan, "loss is nan at the start"),
        (3, "must be a function"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_loss(loss, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fk.Fit(loss=loss, params={"a": 1.0}, optimiser=optax.sgd(0.1))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda p, a: "r", "are 'r'"),
        (lambda p, a: None, "holds no array"),
        (lambda p, a: {"v": jnp.arange(3)}, "int64 at 'v'"),
        (lambda p, a: jnp.zeros(0) * p["a"], "no elements"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_residuals(function, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fk.Fit(residuals=function, params={"a": 1.0}, optimiser=optax.sgd(0.1))


def test_loss_or_residuals():
    for both in ({}, {"loss": quadratic, "residuals": residuals}):
        with pytest.raises(ValueError, match="exactly one"):
            fk.Fit(params=START, args=X, optimiser=optax.sgd(0.1), **both)
    with pytest.raises(ValueError, match="no leaves"):
        fk.Fit(loss=quadratic, params={}, optimiser=optax.sgd(0.1))


def test_unknown_paths_list_the_nearest():
    with pytest.raises(UnknownPathError, match=r"'amplitud'.*'amplitude'"):
        make({"amplitud": optax.sgd(0.1)})
    fit = make()
    with pytest.raises(UnknownPathError, match=r"learning_rates: no parameter 'rat'.*'rate'"):
        fit.learning_rates["rat"] = 0.1
    for method in (fit.freeze, fit.thaw):
        with pytest.raises(UnknownPathError, match=r"'ofset'.*'offset'"):
            method("ofset")


@pytest.mark.parametrize("rate", [-1.0, np.nan, np.inf])
@pytest.mark.usefixtures("unchecked")
def test_bad_learning_rate(rate):
    fit = make()
    with pytest.raises(ValueError, match="'rate'; a learning rate is finite and not negative"):
        fit.learning_rates["rate"] = rate
    assert fit.learning_rates["rate"] == 1.0


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
@pytest.mark.parametrize("method", ["run", "start", "steps"])
@pytest.mark.usefixtures("unchecked")
def test_bad_number_of_steps(method, n):
    fit = make()
    with pytest.raises(ValueError, match=f"{method}: {n!r} steps; must be a whole number"):
        getattr(fit, method)(n)
    assert fit.status == "ready"


def test_the_users_exception_comes_through():
    def broken(params, args):
        raise ZeroDivisionError("my own mistake")

    with pytest.raises(ZeroDivisionError, match="my own mistake") as caught:
        fk.Fit(loss=broken, params={"a": 1.0}, optimiser=optax.sgd(0.1))
    assert any(entry.name == "broken" for entry in caught.traceback)


def failing_after(calls):
    """A loss whose host callback raises at the given call: it fails while the fit runs."""
    count = iter(range(10**9))

    def check(value):
        if next(count) >= calls:
            raise ZeroDivisionError("detector is gone")
        return value

    def loss(params, args):
        value = jnp.asarray(quadratic(params, args))
        return jax.pure_callback(check, jax.ShapeDtypeStruct((), value.dtype), value) * 0 + value

    return jax.custom_jvp(loss), loss


def make_failing(calls):
    wrapped, plain = failing_after(calls)

    @wrapped.defjvp
    def derivative(primals, tangents):
        params, args = primals
        tangent = sum(
            jnp.sum(2 * p * t) for p, t in zip(params.values(), tangents[0].values(), strict=True)
        )
        return plain(params, args), tangent

    return fk.Fit(loss=wrapped, params={"a": 1.0}, optimiser=optax.sgd(0.01))


def test_an_exception_while_it_runs_reaches_run_and_wait_and_loses_nothing():
    fit = make_failing(200)
    with pytest.raises(Exception, match="detector is gone"):
        fit.run(100_000, progress=False)
    assert fit.status == "failed"
    assert "detector is gone" in fit.message
    assert 0 < fit.step == len(fit.history)
    assert 0 < fit.params["a"] < 1
    fit = make_failing(200)
    fit.start(100_000)
    with pytest.raises(Exception, match="detector is gone"):
        fit.wait()
    assert fit.error is not None


# Running.


def test_run_fits(capsys):
    fit = make()
    fit.run(20_000)
    assert fit.status == "finished"
    assert fit.step == len(fit.history) == 20_000
    for name, true in TRUTH.items():
        # Adam's last steps are about 1e-6 of its learning rate here.
        np.testing.assert_allclose(fit.params[name], true, atol=1e-3)
    assert "finished: step 20,000" in capsys.readouterr().out
    assert fit.loss == pytest.approx(float(0.5 * jnp.sum(residuals(fit.params, X) ** 2)))


def test_run_without_progress_is_silent(capsys):
    make().run(10, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_steps_hands_over_control_after_every_step():
    fit, whole = make(), make()
    losses = []
    for info in fit.steps(10):
        losses.append(float(info.loss))
        assert fit.step == len(losses)
        assert info.step_norms.shape == (3,)
    assert fit.status == "finished"
    whole.run(10, progress=False)
    np.testing.assert_array_equal(losses, whole.history.loss)
    np.testing.assert_array_equal(fit.params["rate"], whole.params["rate"])


def test_leaving_steps_leaves_the_fit_where_it_is():
    fit = make()
    for _ in fit.steps():
        if fit.step == 4:
            break
    assert fit.step == 4
    assert fit.status == "paused"
    fit.run(2, progress=False)
    assert fit.step == 6
    assert len(list(fit.steps(10, every=5))) == 2


def test_background():
    fit = make(optax.sgd(1e-7))  # So slow that it still moves however long the test takes.
    fit.start(10**8)
    version = fit.version
    while fit.step == 0:
        version = fit.wait_for_change(version, timeout=30)
    with pytest.raises(RuntimeError, match="running already"):
        fit.start(10)
    with pytest.raises(RuntimeError, match="running already"):
        fit.run(10)
    with pytest.raises(TimeoutError):
        fit.wait(timeout=0.01)
    fit.pause()
    assert fit.status == "paused"
    step, params = fit.step, fit.params
    assert step == len(fit.history) > 0
    fit.resume()
    while fit.step == step:
        version = fit.wait_for_change(version, timeout=30)
    fit.stop()
    assert fit.status == "stopped"
    assert fit.step > step
    assert not np.array_equal(fit.params["rate"], params["rate"])
    with pytest.raises(RuntimeError, match="nothing is left"):
        fit.resume()
    fit.run(5, progress=False)
    assert fit.status == "finished"


def test_interrupt_pauses_and_keeps_everything():
    fit = make()
    fit.run(1, progress=False)
    main = threading.get_ident()

    def interrupt():
        version = fit.version
        while fit.step == 1:
            version = fit.wait_for_change(version, timeout=30)
        signal.pthread_kill(main, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    fit.run(10**8, progress=False)
    helper.join()
    assert fit.status == "paused"
    assert len(fit.history) == fit.step
    fit.resume()
    fit.stop()


def test_arguments_of_the_function_stay_what_they_are():
    def loss(params, args):
        size, data, transform = args
        return jnp.sum((transform(params["a"]) * jnp.ones(size) - data) ** 2)

    fit = fk.Fit(
        loss=loss,
        params={"a": 0.0},
        args=(4, np.full(4, 0.5), jnp.tanh),
        optimiser=optax.adam(0.1),
    )
    fit.run(400, progress=False)
    np.testing.assert_allclose(fit.params["a"], np.arctanh(0.5), rtol=1e-6)


def test_data_come_as_files_hold_them():
    """Big-endian numbers and record arrays, as FITS has them, and masks used as indices."""
    x = np.linspace(0.0, 1.0, 30)
    y = 2.0 * x + 1.0

    def big_endian(values):
        return np.asarray(values).astype(">f8")

    def straight(params, args):
        return (params["slope"] * args["x"] + params["offset"] - args["y"])[args["good"]]

    start = {"slope": big_endian(0.5), "offset": 0.0}
    good = np.arange(30) % 4 > 0
    y[~good] = 1e6
    table = np.zeros(30, dtype=[("x", ">f8"), ("y", ">f8"), ("good", bool)])
    table["x"], table["y"], table["good"] = x, y, good
    for args in (table, {"x": big_endian(x), "y": big_endian(y), "good": good}):
        fit = fk.Fit(residuals=straight, params=start, args=args)
        fit.run(20, progress=False)
        # Gauss-Newton solves a linear problem in one step, to rounding.
        assert fit.params["slope"] == pytest.approx(2.0, rel=1e-12)
        assert fit.result().degrees_of_freedom == int(good.sum()) - 2


def test_params_come_back_as_they_came():
    params = {"star": [1.0, {"flux": np.ones((2, 2), np.float32)}], "f": jnp.tanh}

    def loss(params, args):
        return params["star"][0] ** 2 + jnp.sum(params["star"][1]["flux"] ** 2)

    fit = fk.Fit(loss=loss, params=params, optimiser=optax.sgd(0.1))
    fit.run(3, progress=False)
    assert fit.names == ("star.0", "star.1.flux")
    assert fit.params["f"] is jnp.tanh
    assert fit.params["star"][1]["flux"].dtype == np.float32
    assert params["star"][0] == 1.0


# Steering.


def test_steering_never_compiles_again():
    traces = []

    def counted(params, args):
        traces.append(1)
        return residuals(params, args)

    fit = make({"amplitude": optax.adam(1e-2), "*": optax.sgd(1e-3)}, residuals=counted)
    fit.run(20, progress=False)
    before = len(traces)
    for rate in (0.5, 3, np.float32(0.1), jnp.array(0.2)):
        fit.learning_rates["rate"] = rate
        fit.run(7, progress=False)
    fit.freeze("rate")
    fit.run(500, progress=False)
    fit.thaw("rate")
    fit.rewind(3)
    fit.run(1, progress=False)
    assert fit.best.loss <= fit.loss
    assert len(traces) == before


def test_learning_rate_scales_the_step():
    # Sgd without memory: the step is the rate times the gradient, exactly.
    fit, slow = make(optax.sgd(1e-2)), make(optax.sgd(1e-2))
    slow.learning_rates["rate"] = 0.25
    assert slow.learning_rates.relative("rate")
    fit.run(1, progress=False)
    slow.run(1, progress=False)
    assert fit.history.step_norms["rate"][0] == 4 * slow.history.step_norms["rate"][0]
    assert fit.params["offset"] == slow.params["offset"]


def test_injected_learning_rate_is_shown_and_set():
    optimiser = {
        "amplitude": optax.inject_hyperparams(optax.sgd)(learning_rate=1e-2),
        ("rate", "offset"): optax.sgd(1e-3),
    }
    fit = make(optimiser)
    assert fit.learning_rates["amplitude"] == pytest.approx(1e-2, rel=1e-6)
    assert not fit.learning_rates.relative("amplitude")
    assert fit.learning_rates.relative("rate")
    fit.learning_rates["amplitude"] = 3e-2
    assert fit.learning_rates["amplitude"] == pytest.approx(3e-2, rel=1e-6)
    fit.run(1, progress=False)
    ratio = fit.history.step_norms["amplitude"][0] / fit.history.gradient_norms["amplitude"][0]
    # The factor travels as float32.
    assert ratio == pytest.approx(3e-2, rel=1e-6)
    assert "amplitude" in repr(fit.learning_rates)
    assert len(fit.learning_rates) == 3


def test_learning_rates_are_fetched_from_the_device_once_for_a_state(monkeypatch):
    fit = make(optax.inject_hyperparams(optax.sgd)(learning_rate=1e-2))
    fetched = []

    def counted(*args):
        fetched.append(1)
        return injected_learning_rates(*args)

    monkeypatch.setattr("fitkit._fit.rates.injected_learning_rates", counted)
    for _ in range(5):
        assert fit.learning_rates["rate"] == pytest.approx(1e-2, rel=1e-6)
    assert len(fetched) == 1
    fit.run(1, progress=False)
    fit.learning_rates.snapshot()
    assert len(fetched) == 2


def test_a_running_fit_is_steered():
    fit = make(optax.sgd(1e-4))
    fit.start(10**9)
    version = fit.version
    while fit.step == 0:
        version = fit.wait_for_change(version, timeout=30)
    fit.freeze(("rate", "off*"))
    assert fit.frozen == {"rate", "offset"}
    step = fit.step
    while fit.history.step_norms["rate"][-1] > 0 or fit.step <= step:
        version = fit.wait_for_change(version, timeout=30)
    fit.stop()
    assert fit.history.step_norms["rate"][-1] == 0
    assert any("froze offset, rate" in event.text for event in fit.events)


def test_parameters_without_optimiser_stay_frozen():
    fit = make({"amplitude": optax.sgd(1e-2)})
    assert fit.frozen == {"rate", "offset"}
    assert "frozen: offset, rate" in repr(fit)
    fit.run(5, progress=False)
    assert fit.params["rate"] == START["rate"]
    with pytest.raises(ValueError, match="no optimiser moves 'rate'"):
        fit.thaw("rate")


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimiser",
    [
        optax.lbfgs(),
        optax.polyak_sgd(),
        optax.contrib.sam(optax.sgd(0.01), optax.sgd(1e-3)),
        optax.contrib.sam(optax.sgd(0.01), optax.sgd(1e-3), opaque_mode=True),
        optax.contrib.schedule_free_sgd(0.1),
    ],
    ids=["lbfgs", "polyak", "sam", "opaque sam", "schedule-free"],
)
def test_optimisers_that_ask_for_more_than_a_gradient(optimiser):
    fit = make(optimiser)
    start = fit.loss
    fit.run(100, progress=False)
    assert fit.status == "finished"
    assert fit.loss < 0.2 * start


@pytest.mark.slow
def test_result_of_parameters_with_functions_among_them():
    def loss(params, args):
        return 0.5 * (params["transform"](params["a"]) - 0.5) ** 2 / 0.1**2

    params = {"a": 0.3, "transform": jnp.tanh}
    fit = fk.Fit(loss=loss, params=params, optimiser=optax.lbfgs())
    fit.run(30, progress=False)
    # The error of a is that of its tanh divided by the slope there, 1 - 0.5².
    assert fit.result().errors["a"] == pytest.approx(0.1 / 0.75, rel=1e-6)
    assert fit.fisher().labels == ("a",)


# Going back.


def test_rewind_is_exact():
    fit = make()
    fit.run(700, progress=False)
    fit.learning_rates["rate"] = 0.3
    fit.run(300, progress=False)
    other = make()
    other.run(700, progress=False)
    other.learning_rates["rate"] = 0.3
    other.run(111, progress=False)
    fit.rewind(811)
    assert fit.step == len(fit.history) == 811
    for name in TRUTH:
        assert fit.params[name] == other.params[name]
    np.testing.assert_array_equal(fit.history.loss, other.history.loss)
    fit.run(50, progress=False)
    other.run(50, progress=False)
    assert fit.params["rate"] == other.params["rate"]
    with pytest.raises(ValueError, match="not between 0 and 861"):
        fit.rewind(862)


def test_best_is_the_lowest_step_with_its_parameters():
    fit = make(optax.adam(0.5))  # Too large: it overshoots.
    fit.run(60, progress=False)
    losses = [*fit.history.loss, fit.loss]
    step = int(np.argmin(losses))
    best = fit.best
    assert best.step == step
    assert best.loss == losses[step]
    loss = float(0.5 * jnp.sum(residuals(best.params, X) ** 2))
    assert loss == pytest.approx(best.loss, rel=1e-9)
    fit.rewind(best.step)
    assert fit.loss == pytest.approx(best.loss, rel=1e-9)
    assert fit.best.step == step


def test_saved_fit_goes_on_as_if_nothing_had_happened(tmp_path):
    fit = make()
    fit.freeze("offset")
    fit.run(300, progress=False)
    fit.learning_rates["rate"] = 0.5
    fit.save(tmp_path / "fit")
    problem = {"residuals": residuals, "params": START, "args": X, "optimiser": optax.adam(1e-2)}
    again = fk.Fit.load(tmp_path / "fit", **problem)
    assert (again.step, again.loss, again.frozen) == (300, fit.loss, fit.frozen)
    assert again.events == fit.events
    assert again.best.loss == fit.best.loss
    assert again.best.params == fit.best.params
    np.testing.assert_array_equal(again.history.loss, fit.history.loss)
    for one in (fit, again):
        one.run(100, progress=False)
    assert again.params == fit.params
    assert again.learning_rates["rate"] == 0.5
    with pytest.raises(ValueError, match="not between 300"):
        again.rewind(100)


def test_bad_checkpoints(tmp_path):
    fit = make()
    fit.save(tmp_path / "fit")
    (tmp_path / "text").write_text("hello")
    problem = {"residuals": residuals, "params": START, "args": X, "optimiser": optax.adam(1e-2)}
    with pytest.raises(ValueError, match="not a fitkit checkpoint"):
        fk.Fit.load(tmp_path / "text", **problem)
    with pytest.raises(ValueError, match="same `optimiser`"):
        fk.Fit.load(tmp_path / "fit", **problem | {"optimiser": optax.lbfgs()})
    with pytest.raises(ValueError, match="holds the parameters"):
        fk.Fit.load(tmp_path / "fit", loss=quadratic, params={"a": 1.0}, optimiser=optax.sgd(0.1))


# What goes non-finite.


def test_stops_at_the_first_bad_step_with_the_last_finite_state():
    def loss(params, args):
        return jnp.where(params["a"] > 100, jnp.nan, 1.0) * params["a"] ** 2

    # sgd(-0.5) doubles a at every step: 1, 2, 4 … 64, and then 128, where the loss is nan.
    fit = fk.Fit(loss=loss, params={"a": 1.0}, optimiser=optax.sgd(-0.5))
    fit.run(1000, progress=False)
    assert fit.status == "non-finite"
    assert fit.params["a"] == 64
    assert fit.step == len(fit.history) == 6
    assert fit.loss == 64.0**2
    assert "non-finite at step 7" in fit.message
    fit.learning_rates["a"] = -0.0
    fit.run(3, progress=False)
    assert fit.status == "finished"
    assert fit.params["a"] == 64


def test_bad_step_found_when_stepping_one_by_one():
    def loss(params, args):
        return jnp.where(params["a"] > 100, jnp.nan, 1.0) * params["a"] ** 2

    fit = fk.Fit(loss=loss, params={"a": 1.0}, optimiser=optax.sgd(-0.5))
    for _ in fit.steps():
        pass
    assert fit.status == "non-finite"
    assert (fit.step, fit.params["a"]) == (6, 64)


@pytest.mark.slow
def test_a_fit_goes_on_while_one_of_its_optimisers_has_to():
    optimiser = {"amplitude": fk.gauss_newton(), ("rate", "offset"): optax.adam(1e-2)}
    fit = make(optimiser)
    fit.run(300, progress=False)
    assert (fit.status, fit.step) == ("finished", 300)
    both = make({"amplitude": fk.gauss_newton(), ("rate", "offset"): fk.gauss_newton()})
    both.freeze("offset")
    both.run(300, progress=False)
    assert both.status == "converged"


def test_float32_stays_float32():
    params = {name: jnp.float32(value) for name, value in START.items()}
    fit = make(params=params, args=X.astype(jnp.float32))
    fit.run(10, progress=False)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(fit.params))
