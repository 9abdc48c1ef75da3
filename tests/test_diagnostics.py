"""Verdicts and spectra in the states of optimisers: read by class, restarted one by one."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._optimisers import knows_verdict, restart_judged, spectrum_of, verdict_of

RUNNING, CONVERGED, STALLED, FAILED = fk.Verdict
PARAMS = {"a": jnp.array(1.0), "b": jnp.array(2.0), "c": jnp.array(3.0)}


class State(NamedTuple):
    steps: jax.Array
    knows: fk.Diagnostics


def says(verdict, after=0, eigenvalues=None):
    """An optimiser that gives its verdict after so many updates."""
    rank = None if eigenvalues is None else jnp.int32(len(eigenvalues))

    def knows(count):
        number = jnp.where(count >= after, jnp.int32(verdict), 0)
        return fk.Diagnostics(number, eigenvalues, rank)

    # To optax a state is a tree of arrays, and the one of a class is not.
    def init(params) -> Any:
        return State(jnp.int32(0), knows(jnp.int32(-1)))

    def update(updates, state, params=None) -> tuple[Any, Any]:
        return updates, State(state.steps + 1, knows(state.steps + 1))

    return optax.GradientTransformation(init, update)


def after_steps(optimiser, steps=1):
    state = optimiser.init(PARAMS)
    update = jax.jit(optimiser.update)
    for _ in range(steps):
        _, state = update(PARAMS, state, PARAMS)
    return state


def mapped(**optimisers):
    return fk.map_optimisers(PARAMS, optimisers)[0]


class Impostor(NamedTuple):
    verdict: jax.Array
    eigenvalues: jax.Array
    rank: jax.Array


def test_fields_of_other_classes_count_for_nothing():
    state = (Impostor(jnp.int32(1), jnp.ones(3), jnp.int32(3)), optax.EmptyState())
    assert not knows_verdict(state)
    assert verdict_of(state) == RUNNING
    assert spectrum_of(state) is None


@pytest.mark.parametrize("verdict", fk.Verdict)
def test_the_verdict_is_read_wherever_it_stands(verdict):
    one = says(verdict)
    for optimiser in (one, optax.chain(optax.clip(1.0), one), mapped(a=one, b=one, c=one)):
        state = after_steps(optimiser)
        assert knows_verdict(state)
        assert verdict_of(state) == jax.jit(verdict_of)(state) == verdict
        assert optax.tree.get(state, "verdict") == verdict


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (says(1), says(1), CONVERGED),
        (says(1), says(0), RUNNING),
        (says(1), says(2), STALLED),
        (says(3), says(2), FAILED),
        (says(1), optax.adam(0.1), RUNNING),
        (says(1), optax.set_to_zero(), CONVERGED),
        (says(1), optax.chain(optax.clip(1.0), says(2)), STALLED),
    ],
)
def test_side_by_side_the_fit_goes_on_while_any_does_or_one_never_knows(first, second, expected):
    optimiser = mapped(a=first, b=second)  # and nothing moves c
    for whole in (optimiser, optax.chain(optimiser, optax.scale(0.5))):
        assert verdict_of(after_steps(whole)) == expected


def test_a_fit_that_nothing_moves_knows_no_verdict():
    assert not knows_verdict(mapped().init(PARAMS))


def test_the_spectrum_is_that_of_an_optimiser_that_has_one():
    eigenvalues = jnp.array([2.0, 1.0])
    optimiser = mapped(a=says(0), b=optax.adam(0.1), c=says(0, eigenvalues=eigenvalues))
    spectrum = spectrum_of(after_steps(optimiser))
    assert spectrum is not None
    found, rank = spectrum
    np.testing.assert_array_equal(found, eigenvalues)
    assert rank == 2
    assert spectrum_of(after_steps(says(1))) is None


def test_only_those_that_gave_a_verdict_begin_anew():
    optimiser = mapped(a=says(1), b=says(2, after=5), c=optax.adam(0.1))
    state = after_steps(optimiser, 3)
    again = cast(Any, restart_judged(state, optimiser, PARAMS))
    groups = {name: group.inner_state for name, group in again.inner_states.items()}
    assert (groups["a"].steps, groups["a"].knows.verdict) == (0, RUNNING)
    assert groups["b"].steps == 3
    assert optax.tree.get(groups["c"], "count") == 3
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_inside_a_chain_everything_begins_anew_after_a_verdict():
    optimiser = optax.chain(optax.trace(0.9), says(1, after=2))
    running, done = after_steps(optimiser, 1), after_steps(optimiser, 2)
    assert restart_judged(running, optimiser, PARAMS) is running
    assert optax.tree.get(restart_judged(done, optimiser, PARAMS), "trace")["a"] == 0


def test_gauss_newton_restarts_where_the_parameters_are_now():
    optimiser = cast(Any, fk.gauss_newton())
    params, state = {"a": jnp.array(1.0)}, optimiser.init({"a": jnp.array(1.0)})
    while state.verdict == RUNNING:
        updates, state = optimiser.update(None, state, params, residuals=lambda p: p["a"] - 3.0)
        params = optax.apply_updates(params, updates)
    assert state.diagnostics.verdict == state.verdict == CONVERGED
    assert (state.rank, state.eigenvalues) == (1, 1.0)
    again = cast(Any, restart_judged(state, optimiser, params))
    assert (again.verdict, again.radius) == (RUNNING, 0)
