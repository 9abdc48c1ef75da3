"""The contract of the engine: one owner of the state, whatever many threads ask of it, and when."""

import copy
import gc
import inspect
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._fit.loop import Pace

X = jnp.linspace(0.0, 1.0, 20)
OPTIMISER = optax.sgd(3e-4, momentum=0.97)
DOCUMENTED = ("running already", "nothing is left", "nothing was changed", "not in the eigenbasis")


def residuals(params, args):
    curve = params["m"]["s"] * X + params["o"] + jnp.sum(params["v"]) * X**2
    return (curve - 3 * X - 1) / 0.1


@jax.jit
def loss_at(params):
    return 0.5 * jnp.sum(residuals(params, None) ** 2)


def make_fit(**changes):
    start = {"m": {"s": 0.5}, "o": -1.0, "v": jnp.array([0.1, 0.2])}
    return fk.Fit(**{"residuals": residuals, "params": start, "optimiser": OPTIMISER, **changes})


def check(now):
    """One moment: best, history, step and loss agree, and are true when evaluated again."""
    best = now.best
    # Steps and losses are compiled separately, so they round differently.
    np.testing.assert_allclose(loss_at(best.params), best.loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(loss_at(now.params), now.loss, rtol=1e-9, atol=1e-12)
    assert len(now.history) == now.step >= best.step
    assert len(now.history.steps) == len(now.history.loss)
    if now.step:
        assert best.loss <= now.history.summary("loss").minimum.min() * (1 + 1e-9) + 1e-12


def one_call(fit, chance, folder):
    """Make a random public call, as a person or a program might."""
    calls = {
        "run": lambda: fit.run(chance.choice([1, 7, 60, 3000]), progress=False),
        "steps": lambda: [None for _ in fit.steps(6, every=2)],
        "rate": lambda: fit.learning_rates.update({"*": chance.choice([0.1, 0.5, 1.0, 2.0])}),
        "freeze": lambda: fit.freeze(chance.choice(fit.names)),
        "thaw": lambda: fit.thaw("*"),
        "undo": fit.undo,
        "rewind": lambda: fit.rewind(chance.randint(fit.snapshot.timeline.first, fit.step)),
        "best": lambda: fit.rewind(fit.best.step),
        "restart": fit.restart,
        "optimiser": lambda: fit.change_optimiser(OPTIMISER),
        "save": lambda: fit.save(folder / "fit"),
        "enter": fit.enter_eigenbasis,
        "leave": fit.leave_eigenbasis,
        "start": lambda: fit.start(chance.choice([None, 100, 10**6])),
        "pause": lambda: fit.pause(block=chance.random() < 0.7),
        "stop": lambda: fit.stop(block=chance.random() < 0.7),
        "wait": lambda: fit.wait(timeout=0.02),
        "resume": fit.resume,
        "result": fit.result,
    }
    name = chance.choice([*calls, "run", "rewind", "best", "steps"])
    try:
        calls[name]()
    except (TimeoutError, IndexError):
        pass
    except RuntimeError as error:
        assert any(words in str(error) for words in DOCUMENTED), error
    except ValueError as error:
        # Another thread has rewound, gone on or frozen the rest meanwhile.
        expected = ("is not between", "empty range", "all parameters are frozen")
        assert any(words in str(error) for words in expected), error


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 9), marks=pytest.mark.slow)])
def test_random_calls_of_one_thread(seed, tmp_path):
    for one in [seed] if isinstance(seed, int) else seed:
        fit, chance = make_fit(), random.Random(one)
        for _ in range(40):
            one_call(fit, chance, tmp_path)
            check(fit.snapshot)
        fit.stop()
        check(fit.snapshot)


@pytest.mark.slow
def test_random_calls_of_four_threads(tmp_path):
    fit, errors = make_fit(), []
    end = time.monotonic() + 15

    def work(seed):
        chance = random.Random(seed)
        while time.monotonic() < end and not errors:
            try:
                one_call(fit, chance, tmp_path)
                check(fit.snapshot)
            except Exception:
                errors.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive(), "deadlock"
    assert not errors, errors[0]
    fit.stop()
    check(fit.snapshot)


def test_the_best_is_exact_after_every_rewind():
    """In a run longer than the history's bins, with a loss that rises and falls."""
    fit = make_fit()
    losses = np.array([float(info.loss) for info in fit.steps(300)])
    fit.restart()
    fit.run(5000, progress=False)
    for step in (4000, 1000, 267, 100, 50, 13, 7, 5, 2, 1, 0):
        fit.rewind(step)
        check(fit.snapshot)
        if step < 300:
            lowest = min(*losses[: step + 1], fit.loss) if step else fit.loss
            assert fit.best.loss == pytest.approx(lowest, rel=1e-12)


# Commands that cannot be carried out.


def test_what_cannot_be_done_raises_and_leaves_a_running_fit_running():
    fit = make_fit(optimiser=optax.sgd(1e-9))
    fit.start()
    try:
        for call, error, words in [
            (lambda: fit.rewind(10**12), ValueError, "is not between 0 and"),
            (lambda: fit.rewind(-1), ValueError, "is not between"),
            (lambda: fit.start(5), RuntimeError, "running already"),
            (lambda: fit.resume(), RuntimeError, "running already"),
            (lambda: fit.restart(params={"other": 1.0}), ValueError, "'?m.s"),
            (lambda: fit.change_optimiser({"nope": OPTIMISER}), fk.UnknownPathError, "nope"),
            (lambda: fit.leave_eigenbasis(), RuntimeError, "not in the eigenbasis"),
        ]:
            with pytest.raises(error, match=words):
                call()
            assert fit.status.busy
        step, version = fit.step, fit.version
        while fit.step == step:
            version = fit.wait_for_change(version, timeout=30)
    finally:
        fit.stop()
    check(fit.snapshot)


def test_a_fit_cannot_be_copied_and_says_what_to_do():
    fit = make_fit()
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"save\(path\).*fit\.params"):
            copied(fit)


@pytest.mark.parametrize(
    "params", [{"": 1.0}, {"": {"a": 1.0}, "b": 2.0}, {"": 1.0, "params": 2.0}]
)
def test_an_empty_key_is_named(params):
    with pytest.raises(ValueError, match="empty string as a key"):
        fk.Fit(loss=lambda params, args: 0.0, params=params, optimiser=OPTIMISER)


def test_a_fit_lives_as_long_as_its_loop_and_ends_when_nobody_holds_it():
    assert len([None for _ in make_fit().steps(5)]) == 5
    fit = make_fit(optimiser=optax.sgd(1e-9))
    fit.start()
    engine = fit._engine
    del fit
    gc.collect()
    engine.wait(timeout=60)
    assert engine.snapshot.status == "stopped"


# Callbacks.


def test_callbacks_come_at_their_steps_and_at_the_end():
    fit, seen = make_fit(), []
    fit.add_callback(lambda fit: seen.append(fit.step), every=100)
    fit.run(250, progress=False)
    fit.run(250, progress=False)
    assert seen == [100, 200, 250, 300, 400, 500]
    assert fit.status == "finished"


def test_a_callback_may_call_any_public_method():
    fit = make_fit()
    calls = iter(
        [lambda: fit.rewind(50), lambda: fit.freeze("o"), fit.fisher, fit.enter_eigenbasis]
    )

    def meddle(fit):
        next(calls, lambda: None)()
        check(fit.snapshot)
        with pytest.raises(RuntimeError, match="running already"):
            fit.start(1)
        with pytest.raises(RuntimeError, match="its own callback"):
            fit.wait()

    fit.add_callback(meddle, every=100)
    fit.run(400, progress=False)
    assert fit.step == 400
    assert fit.frozen == {"o"}
    assert not any("raised" in event.text for event in fit.events)
    fit.remove_callback(meddle)
    with pytest.raises(ValueError, match="no callback of this fit"):
        fit.remove_callback(meddle)


def test_what_a_callback_raises_is_shown_and_the_fit_goes_on(capsys):
    fit = make_fit()

    def broken_callback(fit):
        raise ZeroDivisionError("in my callback")

    fit.add_callback(broken_callback, every=50)
    fit.run(100, progress=False)
    assert fit.status == "finished"
    assert [
        event for event in fit.events if "broken_callback raised ZeroDivisionError" in event.text
    ]
    shown = capsys.readouterr().err
    assert "in my callback" in shown
    assert "broken_callback" in shown


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("every", [0, -1, 2.5, True, "10", "s", "-3s", "0s", "nans", "1e999s"])
def test_a_bad_interval_is_refused(every):
    with pytest.raises(ValueError, match="must be a number of steps such as 100, or a time"):
        make_fit().add_callback(print, every=every)


@pytest.mark.usefixtures("unchecked")
def test_a_run_ends_when_a_function_of_the_snapshot_says_so():
    fit = make_fit()
    fit.run(until=lambda now: now.step >= 100, progress=False)
    assert fit.step >= 100
    assert (fit.status, fit.stop_reason) == ("finished", "`until` was met")
    with pytest.raises(ValueError, match="must be 'converged' or a function"):
        fit.run(until="best", progress=False)  # pyright: ignore[reportArgumentType]

    def broken(now):
        raise ZeroDivisionError("in my rule")

    with pytest.raises(ZeroDivisionError, match="in my rule"):
        fit.run(until=broken, progress=False)
    fit.run(3, progress=False)
    check(fit.snapshot)


def test_without_a_number_a_fit_runs_until_it_is_stopped_or_has_converged():
    fit = make_fit(optimiser=optax.sgd(1e-9))
    fit.start()
    assert fit.target is None
    fit.pause()
    fit.resume()
    assert fit.target is None
    fit.stop()
    fit = make_fit(optimiser=None)
    fit.run(progress=False)
    assert fit.status == "converged"
    assert fit.snapshot.optimiser_status == "converged"
    assert "converged" in fit.stop_reason


# Restart and other optimisers.


def test_restart_compiles_nothing_and_keeps_what_steers():
    traces = []

    def counted(params, args):
        traces.append(1)
        return params["a"] * args - 3.0

    fit = fk.Fit(
        residuals=counted, params={"a": jnp.ones(3)}, args=jnp.ones(3), optimiser=optax.sgd(0.1)
    )
    fit.learning_rates["a"] = 0.5
    fit.run(5, progress=False)
    first = fit.params["a"]
    count = len(traces)
    fit.restart()
    assert (fit.step, fit.status, len(fit.history)) == (0, "ready", 0)
    fit.run(5, progress=False)
    np.testing.assert_array_equal(fit.params["a"], first)
    fit.restart(params={"a": 2 * np.ones(3)}, args=2 * jnp.ones(3))
    assert len(traces) <= count + 2  # To look at shapes; compiling would trace more than that.
    fit.run(300, progress=False)
    np.testing.assert_allclose(fit.params["a"], 1.5, rtol=1e-9)
    assert fit.learning_rates["a"] == 0.5


def test_restart_refuses_a_start_that_is_not_finite_and_changes_nothing():
    fit = fk.Fit(
        loss=lambda params, args: jnp.log(params["a"]) ** 2,
        params={"a": 2.0},
        optimiser=optax.sgd(0.1),
        bounds={"a": (None, 5.0)},
    )
    fit.run(3, progress=False)
    before = fit.snapshot
    with pytest.raises(ValueError, match="loss is nan at the start"):
        fit.restart(params={"a": -1.0})
    with pytest.raises(ValueError, match="starts outside"):
        fit.restart(params={"a": 6.0})
    assert fit.snapshot is before


def test_another_optimiser_goes_on_where_the_first_was():
    fit = make_fit()
    fit.freeze("o")
    fit.run(20, progress=False)
    before = fit.params
    fit.change_optimiser({"m": optax.adam(0.1), "v": optax.sgd(1e-4)})
    jax.tree.map(np.testing.assert_array_equal, fit.params, before)
    assert fit.frozen == {"o"}
    best = fit.best
    fit.run(20, progress=False)
    assert fit.step == 40
    fit.rewind(best.step)
    assert fit.loss == pytest.approx(best.loss, rel=1e-12)
    fit.run(5, progress=False)
    check(fit.snapshot)


# Memory.


@pytest.mark.slow
def test_memory_of_events_changes_and_states_is_bounded():
    fit = make_fit()
    for number in range(2100):
        fit.learning_rates[fit.names[number % 3]] = 0.5 + number % 7
        if number % 10 == 0:
            fit.run(1, progress=False)
    now = fit.snapshot
    assert len(now.events) <= 2000
    assert len(now.timeline.changes) <= 2000
    assert len(now.timeline.marks) <= 128
    fit.rewind(now.timeline.first)
    check(fit.snapshot)
    # 20 MB of parameters and as much of moments: not 128 of those.
    big = fk.Fit(
        loss=lambda params, args: jnp.sum(params["a"] ** 2),
        params={"a": jnp.ones(5_000_000, jnp.float32)},
        optimiser=optax.sgd(0.1, momentum=0.9),
    )
    for _ in big.steps(8):
        pass
    places = {id(mark.place.state) for mark in big.snapshot.timeline.marks}
    origins = {id(mark.lowest.origin.kept) for mark in big.snapshot.timeline.marks}
    assert len(places | origins) <= 4
    assert big.best.loss == pytest.approx(float(jnp.sum(big.best.params["a"] ** 2)), rel=1e-6)


# The caller's settings.


@pytest.mark.slow
def test_a_run_sees_the_settings_of_its_caller():
    seen = []

    def loss(params, args):
        config = cast(Any, jax.config)  # jax annotates no settings
        device = str(config.jax_default_device)
        seen.append((config.jax_default_matmul_precision, config.jax_disable_jit, device))
        return jnp.sum((params["a"] @ params["a"] - 1) ** 2)

    for context, wanted in [
        (jax.default_matmul_precision("highest"), ("highest", False, "None")),
        (jax.disable_jit(), (None, True, "None")),
        (jax.default_device(jax.devices()[0]), (None, False, "cpu:0")),
    ]:
        with context:
            fit = fk.Fit(loss=loss, params={"a": jnp.eye(2)}, optimiser=optax.sgd(1e-3))
            seen.clear()
            fit.run(3, progress=False)
            assert set(seen) == {wanted}
    with jax.enable_x64(False):
        fit = fk.Fit(
            loss=lambda params, args: params["a"] ** 2,
            params={"a": np.float64(0.5)},
            optimiser=optax.adam(0.1),
        )
        fit.run(3, progress=False)
        assert fit.params["a"].dtype == np.float32
    assert fit.best.params["a"].dtype == np.float32


def test_under_debug_nans_a_fit_ends_in_our_report(capfd):
    with jax.debug_nans(True):
        fit = fk.Fit(
            loss=lambda params, args: jnp.log(params["a"]) + 3 * params["a"],
            params={"a": 0.5},
            optimiser=optax.sgd(0.2),
        )
        fit.run(100, progress=False)
    assert fit.status == "non-finite"
    assert fit.report is not None
    assert fit.report.origin == "a"
    assert "log of a negative number" in capfd.readouterr().out


# Interrupts and ends.


def interrupts(code_of, call):
    """Call with a KeyboardInterrupt at every line of a function, one after the other."""
    lines = {line for _, _, line in code_of.co_lines() if line and line > code_of.co_firstlineno}
    for target in sorted(lines):
        hit = []

        def trace(frame, event, arg, target=target, hit=hit):
            if frame.f_code is not code_of:
                return None

            def at_line(frame, event, arg):
                if event == "line" and frame.f_lineno == target and not hit:
                    hit.append(target)
                    sys.settrace(None)
                    raise KeyboardInterrupt
                return at_line

            return at_line

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
        if hit:
            yield target


def test_an_interrupt_at_any_line_between_claim_and_start_pauses():
    fit = make_fit()
    fit.run(5, progress=False)
    engine = fit._engine
    tried = 0
    for function in (
        type(engine).start,
        type(engine)._claim,
        type(engine).wait,
        type(engine)._join,
    ):
        for _ in interrupts(inspect.unwrap(function).__code__, lambda: fit.run(3, progress=False)):
            tried += 1
            assert not engine.active
            assert not fit.status.busy
            assert fit.step == len(fit.history)
            fit.run(1, progress=False)
    assert tried > 20


@pytest.mark.slow
def test_interrupts_at_random_moments_two_within_50_ms():
    fit, chance = make_fit(optimiser=optax.sgd(1e-9)), random.Random(0)
    fit.run(5, progress=False)
    main = threading.get_ident()
    paused = 0
    for _ in range(40):
        before = fit.status
        go = threading.Event()
        pauses = chance.choice([0.2, 0.002]) * chance.random(), 0.05 * chance.random()

        def interrupt(go=go, pauses=pauses):
            go.wait()
            for pause in pauses:
                time.sleep(pause)
                signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        begun = returned = False
        while True:
            try:
                if not begun:
                    begun = True
                    go.set()
                    fit.run(10**9, progress=False)
                    returned = True
                while (
                    thread.is_alive()
                ):  # Not by join, which Python 3.11 gives up when interrupted.
                    time.sleep(0.001)
                break
            except KeyboardInterrupt:
                continue  # One that came before the run had begun, or after it had paused.
        assert not fit._engine.active
        assert not fit.status.busy
        # A run that returned has paused; one that had not begun has left the fit as it was.
        assert fit.status == "paused" or (fit.status == before and not returned)
        paused += fit.status == "paused"
        assert len(fit.history) == fit.step
        fit.stop()
    assert paused > 20


SCRIPT = """
import os, sys, threading, jax.numpy as jnp, optax, fitkit as fk
fit = fk.Fit(
    residuals=lambda p, args: p["a"] - jnp.arange(3.0),
    params={{"a": jnp.zeros(3)}},
    optimiser=optax.sgd(1e-3),
)
{}
"""
ENDINGS = {
    "run": "fit.run(500, progress=True)",
    "start": "fit.start()",
    "start and raise": "fit.start(); sys.exit(0)",
    "loop": "steps = fit.steps(); next(steps)",
    "forgotten": "fit.start(); del fit",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_script_that_ends_soon_ends_well(ending):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT.format(ENDINGS[ending])]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_bad_fit_in_a_forked_child_ends():
    code = """
import os, warnings, jax.numpy as jnp, optax, fitkit as fk
warnings.simplefilter("ignore")
fit = fk.Fit(
    loss=lambda p, args: jnp.log(p["a"]) + 3 * p["a"], params={"a": 0.5}, optimiser=optax.sgd(1e-3)
)
fit.run(5, progress=False)
fit.learning_rates["a"] = 1000.0
going = fk.Fit(loss=lambda p, args: p["a"] ** 2, params={"a": 0.5}, optimiser=optax.sgd(1e-9))
going.start()
child = os.fork()
if child == 0:
    assert going.status == "paused", going.status
    fit.run(100, progress=False)
    assert fit.status == "non-finite" and "forked" in fit.report.note
    try:
        fk.Fit(loss=lambda p, args: p["a"] ** 2, params={"a": 0.5}, optimiser=optax.sgd(0.1))
    except RuntimeError as error:
        assert "spawn" in str(error)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
going.stop()
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seconds", [1e-5, 0.02, 0.07, 0.1, 0.25, 2.0])
def test_heavy_steps_share_a_chunk_that_still_answers(seconds, monkeypatch):
    now = 100.0
    clock = types.SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("fitkit._fit.loop.time", clock)
    pace = Pace(0.0)
    for _ in range(6):
        began, now = now, now + pace.size * seconds
        pace.read(pace.size, began)
    last = pace.size * seconds
    assert last < 0.31 or pace.size == 1
    if seconds <= 0.07:
        assert pace.size >= 4
        assert last > 0.045
    # Where a chunk is longer than the answer to a slider may take, none waits behind it.
    assert pace.depth == (2 if 4 * seconds < 0.05 else 1)


def test_slow_steps_are_looked_at_one_by_one(monkeypatch):
    """Where the user says when it is enough, none is taken for nothing."""
    model = lambda p, x: p["a"] * jnp.exp(-p["b"] * x)  # noqa: E731
    x = jnp.linspace(0.0, 2.0, 20)
    data = model({"a": 2.0, "b": 1.5}, x)
    monkeypatch.setattr("fitkit._fit.loop._CHUNK_SECONDS", 0.0)
    fit = fk.Fit(
        residuals=lambda p, _: model(p, x) - data,
        params={"a": 1.0, "b": 1.0},
        optimiser=optax.sgd(1e-3),
    )
    seen = []
    fit.run(until=lambda now: seen.append(now.step) or now.step == 5, progress=False)
    assert seen == [1, 2, 3, 4, 5]
