"""A parameter that moves again takes steps as it would have, whatever its optimiser remembers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

pytestmark = pytest.mark.slow

LR = 1e-2
x = np.linspace(0.0, 1.0, 30)
y = 2 * np.exp(-1.3 * x) + 0.01 * np.sin(50 * x)
START = {"a": 1.0, "b": 1.0}

# By how many learning rates each may move a parameter in one step of its own accord.
OPTIMISERS = {
    "adam": (lambda: optax.adam(LR), 1.2),
    "adamw": (lambda: optax.adamw(LR), 1.2),
    "nadam": (lambda: optax.nadam(LR), 2.0),
    "amsgrad": (lambda: optax.amsgrad(LR), 1.2),
    "adabelief": (lambda: optax.adabelief(LR), 1.2),
    "lion": (lambda: optax.lion(LR), 1.2),
    "rmsprop": (lambda: optax.rmsprop(LR), 1.2),
    "chain": (lambda: optax.chain(optax.clip(1e3), optax.scale_by_adam(), optax.scale(-LR)), 1.2),
    "schedule": (lambda: optax.adam(optax.exponential_decay(LR, 100, 0.99)), 1.2),
    "injected": (lambda: optax.inject_hyperparams(optax.adam)(LR), 1.2),
}


def residuals(p, args):
    return (p["a"] * jnp.exp(-p["b"] * x) - y) / 0.01


def largest_step(fit, name, steps=8):
    values = [float(fit.params[name])]
    for _ in fit.steps(steps):
        values.append(float(fit.params[name]))
    return np.max(np.abs(np.diff(values)))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_no_leap_after_a_thaw(name, shared):
    make, most = OPTIMISERS[name]
    optimiser: Any = make() if shared else {"a": make(), "b": make()}
    fit = fk.Fit(residuals=residuals, params=START, optimiser=optimiser)
    fit.run(5, progress=False)
    for _ in range(2):
        fit.freeze("b")
        fit.run(500, progress=False)
        fit.thaw("b")
        assert largest_step(fit, "b") < most * LR
    fit.learning_rates["b"] = 0.0
    fit.run(500, progress=False)
    fit.learning_rates.reset("b")
    assert largest_step(fit, "b") < most * LR


@pytest.mark.parametrize("name", ["adam", "nadam", "adabelief", "schedule", "injected"])
def test_frozen_from_the_start_begins_as_a_new_fit_does(name):
    """Of parameters that do not know of each other; rounding apart, as programs differ."""

    def apart(p, args):
        return jnp.stack([p["a"] - 3.0, p["b"] ** 2 - 2.0])

    make, _ = OPTIMISERS[name]
    fit = fk.Fit(residuals=apart, params=START, optimiser=make())
    fit.freeze("b")
    fit.run(300, progress=False)
    fit.thaw("b")
    fit.run(20, progress=False)
    fresh = fk.Fit(residuals=apart, params=START, optimiser=make())
    fresh.run(20, progress=False)
    np.testing.assert_allclose(fit.params["b"], fresh.params["b"], rtol=1e-12)
    fresh.run(300, progress=False)
    # The other one never noticed.
    np.testing.assert_allclose(fit.params["a"], fresh.params["a"], rtol=1e-12)


@pytest.mark.parametrize(
    "optimiser", [optax.sgd(1e-2, momentum=0.9), optax.adam(LR), optax.adamax(LR)]
)
def test_a_pause_of_one_parameter_changes_nothing_for_it(optimiser):
    def apart(p, args):
        return jnp.concatenate([p["a"] - 3.0, p["b"] ** 2 - 2.0])

    start = {"a": jnp.zeros(3), "b": jnp.ones(2)}
    fit = fk.Fit(residuals=apart, params=start, optimiser=optimiser)
    straight = fk.Fit(residuals=apart, params=start, optimiser=optimiser)
    straight.run(40, progress=False)
    fit.run(20, progress=False)
    fit.freeze("b")
    fit.run(33, progress=False)
    fit.thaw("b")
    fit.run(20, progress=False)
    np.testing.assert_allclose(fit.params["b"], straight.params["b"], rtol=1e-12)


def test_a_delay_counts_the_steps_that_were_taken():
    optimiser = optax.sgd(fk.delay(1e-6, start=10))
    fit = fk.Fit(residuals=residuals, params=START, optimiser=optimiser)
    fit.freeze("b")
    fit.run(50, progress=False)
    fit.thaw("b")
    fit.run(11, progress=False)
    assert fit.params["b"] == 1.0
    fit.run(2, progress=False)
    assert fit.params["b"] != 1.0


def test_saved_within_a_freeze_and_rewound_across_a_thaw(tmp_path):
    def begin():
        return fk.Fit(residuals=residuals, params=START, optimiser=optax.adam(LR))

    fit = begin()
    fit.run(20, progress=False)
    fit.freeze("b")
    fit.run(50, progress=False)
    fit.save(tmp_path / "fit")
    fit.thaw("b")
    fit.run(50, progress=False)
    after = fit.params
    loaded = fk.Fit.load(
        tmp_path / "fit", residuals=residuals, params=START, optimiser=optax.adam(LR)
    )
    loaded.thaw("b")
    loaded.run(50, progress=False)
    # A step is a pure function of the state: the same bits.
    assert jax.tree.all(jax.tree.map(jnp.array_equal, loaded.params, after))
    fit.rewind(45)
    fit.freeze("b")
    fit.run(25, progress=False)
    fit.thaw("b")
    fit.run(50, progress=False)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, fit.params, after))


def test_freezing_does_not_compile_again():
    count = 0

    def counted(p, args):
        nonlocal count
        count += 1
        return residuals(p, args)

    fit = fk.Fit(residuals=counted, params=START, optimiser=optax.adam(LR))
    fit.run(5, progress=False)
    before = count
    fit.freeze("b")
    fit.run(5, progress=False)
    fit.thaw("b")
    fit.run(5, progress=False)
    assert count == before


def test_lbfgs_and_the_eigenbasis_begin_anew():
    """The first step after a thaw is that of a fit that begins there."""

    def begin(params, eigenbasis):
        fit = fk.Fit(residuals=residuals, params=params, optimiser=optax.lbfgs())
        if eigenbasis:
            fit.enter_eigenbasis(optax.adam(0.1))
        return fit

    fit = begin(START, False)
    fit.run(4, progress=False)
    fit.freeze("b")
    fit.run(6, progress=False)
    fit.thaw("b")
    fresh = begin(fit.params, False)
    fit.run(1, progress=False)
    fresh.run(1, progress=False)
    np.testing.assert_allclose(fit.params["b"], fresh.params["b"], rtol=1e-12)

    fit = begin(START, True)
    fit.run(10, progress=False)
    fit.freeze("b")
    fit.run(300, progress=False)
    fit.thaw("b")
    error = fit.fisher().errors[1]
    assert largest_step(fit, "b") < 2 * 0.1 * error  # two eigenvectors, a tenth of an error each
