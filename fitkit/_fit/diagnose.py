"""Why a fit went non-finite: the failing step replayed, and what happened in the steps before."""

import dataclasses
import itertools
import re
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from fitkit._fit.agree import require_all
from fitkit._fit.bad_block import in_bad_block
from fitkit._fit.loop import Program
from fitkit._fit.problem import Params, Problem
from fitkit._fit.snapshots import Failure, Place, Snapshot
from fitkit._fit.step import BAD_EVALUATION, Controls, FitState, Step
from fitkit._fit.story import TOO_LARGE, in_force, told
from fitkit._format import number
from fitkit._nonfinite import NonFiniteReport, advised, find_from, name_inputs
from fitkit._optimisers import GaussNewtonState
from fitkit._paths import element_name, named_leaves
from fitkit._programs import is_forked, no_debugging
from fitkit._residuals import WithPriors

#: Growth per step from which on a learning rate, and not the model, is to blame.
_RUNS_AWAY = 3.0
#: A single step to a value this many times as large as before (or as 1) is none of a sound fit.
_LEAP = 1e6


class Reports:
    """The report of the latest failure, which is made when somebody asks for it, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: tuple[Failure | None, NonFiniteReport | None] = (None, None)

    def known(self, snapshot: Snapshot) -> NonFiniteReport | None:
        """Return the report if it was made already."""
        failure, report = self._latest
        return report if failure is snapshot.failure else None

    def of(self, snapshot: Snapshot) -> NonFiniteReport | None:
        """Return the report of what ended the latest run; None where that was finite."""
        if snapshot.failure is None or snapshot.status.busy:
            return None
        if self._latest[0] is not snapshot.failure:
            require_all(snapshot.place.program.problem.mesh, "report")
        with self._lock:
            if self._latest[0] is not snapshot.failure:
                self._latest = snapshot.failure, explain_failure(snapshot)
            return self._latest[1]


def explain_failure(snapshot: Snapshot) -> NonFiniteReport | None:
    """Replay the step that ended the latest run; None where that was finite."""
    place, failure, timeline = snapshot.place, snapshot.failure, snapshot.timeline
    if failure is None:
        return None
    if is_forked():
        note = "not looked for: this process was forked, and JAX cannot compile in it"
        return NonFiniteReport("forward", "a non-finite value", note=note)
    program, latest, state = place.program, place.step - 1, place.state
    # Not those of the failing chunk: the step that led to its beginning was of another.
    controls = timeline.changes[-1][1]
    if failure.outcome == BAD_EVALUATION and failure.step > place.step:
        # The last finite state led to one where the loss or its gradient is not.
        latest = place.step
        steps = failure.step - place.step
        state = Place(latest, program.replay(place.kept, controls, steps)[0], program).state
    with program.settings.applied(), no_debugging():
        earlier = timeline.before(latest, 4)
        report = explain(program, state, controls, earlier)
        return report and told(report, snapshot)


def explain(
    program: Program, state: FitState, controls: Controls, before: list[Params]
) -> NonFiniteReport | None:
    """Replay the step that failed.

    Parameters
    ----------
    program
        What is fitted, and how one step of it is taken.
    state, controls
        Where the failing step started from.
    before
        The parameters at the steps before that, the latest first.

    Returns
    -------
    NonFiniteReport or None
        None in the rare case that the step, taken by itself, is finite.
    """
    frozen = np.asarray(controls.multipliers) == 0
    problem, args = program.problem.of_step, program.args
    try:
        data_of = program.step.draw(state)  # The batch that the step had.
        report = _of_evaluation(problem, state.params, args, frozen, data_of)
        if report is None:
            report = _of_update(problem, program.step, state, controls, args, data_of)
        if report is None and isinstance(state.optimiser, GaussNewtonState):
            # Made forward, its Jacobian has the slope of what is frozen in other columns too.
            nothing = np.zeros_like(frozen)
            report = _of_evaluation(problem, state.params, args, nothing, data_of)
        if report is None:
            return None
        report = _with_history(report, state.params, before)
        return advised(report, in_force(program, state.params, report.origin))
    except Exception as error:  # An explanation that fails must not take the fit with it.
        note = f"the replay of the step failed: {type(error).__name__}: {error}"
        return NonFiniteReport("forward", "a non-finite value", note=note)


def explain_start(program: Program, params: Params) -> NonFiniteReport | None:
    """Explain a loss that is not finite at the parameters given."""
    problem = program.problem
    report = _of_blocks(problem, params, program.args, lambda all: all, lambda one: one.loss)
    return report and advised(report, in_force(program, params, report.origin))


def explain_derivatives(snapshot: Snapshot) -> NonFiniteReport | None:
    """Explain a loss or gradient that is not finite where the fit stands; None where both are."""
    if is_forked():
        return None
    program, params = snapshot.place.program, snapshot.place.state.params
    frozen = np.asarray(snapshot.steering.controls.multipliers) == 0
    with program.settings.applied(), no_debugging():
        try:
            report = _of_evaluation(program.problem, params, program.args, frozen, lambda all: all)
            return report and advised(report, in_force(program, params, report.origin))
        except Exception:  # A result that lacks an explanation is one all the same.
            return None


def _of_evaluation(
    problem: Problem,
    params: Params,
    args: PyTree,
    frozen: np.ndarray,
    data_of: Callable[[PyTree], PyTree],
) -> NonFiniteReport | None:
    def evaluate(problem: Problem) -> Callable[[Params, PyTree], Any]:
        def value_and_free_gradient(params: Params, args: PyTree) -> Any:
            value, gradient = jax.value_and_grad(problem.loss)(params, args)
            structure = jax.tree.structure(gradient)
            free = jax.tree.unflatten(structure, [not f for f in frozen])
            return value, eqx.filter(gradient, free)

        return value_and_free_gradient

    return _of_blocks(problem, params, args, data_of, evaluate)


def _of_blocks(
    problem: Problem,
    params: Params,
    args: PyTree,
    data_of: Callable[[PyTree], PyTree],
    evaluate: Callable[[Problem], Callable[[Params, PyTree], Any]],
) -> NonFiniteReport | None:
    """Look for the cause in what `evaluate` makes of a problem, in one block if it has any."""
    there, data, begins = in_bad_block(problem, params, args, data_of, evaluate)
    of_data = data_of if data is args else lambda all: all
    function = _separately(lambda params, args: evaluate(there)(params, of_data(args)))
    inputs = _named(there, params, data)
    own = [k for k, argument in enumerate(inputs.argument) if argument == 1]
    begin = dict(zip(own, begins, strict=True)) if begins else {}
    return find_from(function, dataclasses.replace(inputs, begins=begin))


def _of_update(
    problem: Problem,
    step: Step,
    state: FitState,
    controls: Controls,
    args: PyTree,
    data_of: Callable[[PyTree], PyTree],
) -> NonFiniteReport | None:
    def moved(params: Params, args: PyTree, optimiser: PyTree) -> Params:
        started = dataclasses.replace(state, params=params, optimiser=optimiser)
        return step.on(started, controls, data_of(args))[0].params

    report = find_from(moved, name_inputs(moved, (state.params, args, state.optimiser)))
    if report is None or report.phase == "optimiser":
        return report
    # Loss and gradient are finite, so whatever the replay calls it, the update did it.
    return dataclasses.replace(report, phase="optimiser")


def _with_history(report: NonFiniteReport, params: Params, before: list[Params]) -> NonFiniteReport:
    sentences, leapt = [], False
    for origin in (report.origin, *report.other_origins[:2]):
        values = [value for tree in before if (value := _element(tree, origin)) is not None]
        if values and report.phase != "data":
            shown = ", ".join(number(value) for value in reversed(values))
            steps = "steps" if len(values) > 1 else "step"
            sentences.append(f"{origin} was {shown} at the {steps} before")
        here = _element(params, origin)
        if values and here is not None and abs(here) > _LEAP * max(abs(values[0]), 1.0):
            leapt = True
    too_large = report.family in TOO_LARGE | {"learning rate"}
    driven = leapt and too_large and report.phase != "data"
    growth = _growth([params, *before])
    fastest = max(growth, key=lambda path: growth[path], default=None)
    if fastest is not None and growth[fastest] > _RUNS_AWAY and report.family != "data":
        fast = [path for path in growth if growth[path] > growth[fastest] ** 0.5]
        sentences.append(
            f"parameters grew {number(growth[fastest], 2)}-fold per step: lower the learning rate "
            f"of {' and '.join(fast[:3])}"
        )
        driven |= report.phase == "forward" or too_large
    if driven:
        report = dataclasses.replace(report, phase="optimiser", family="learning rate")
    return dataclasses.replace(report, history=tuple(sentences))


def _growth(trees: list[Params]) -> dict[str, float]:
    """Compute by what factor the largest element of each leaf grew per step; latest first."""
    sizes: dict[str, list[float]] = {}
    for tree in trees[:4]:
        for path, leaf in named_leaves(tree).items():
            sizes.setdefault(path, []).append(float(np.max(np.abs(leaf))))
    growth = {}
    for path, size in sizes.items():
        ratios = [new / old for new, old in itertools.pairwise(size) if old > 0]
        # One overshoot is no run-away: it must have grown at every one of three steps.
        if len(ratios) >= 2 and all(np.isfinite(ratios)):
            growth[path] = float(min(ratios))
    return growth


def _element(tree: Params, name: str | None) -> float | None:
    """Read ``"star.r2[1]"`` from a tree; None where it is no single element of it."""
    if name is None:
        return None
    for path, leaf in named_leaves(tree).items():
        if name == path and np.size(leaf) == 1:
            return float(np.ravel(leaf)[0])
        if name.startswith(path + "["):
            found = re.fullmatch(r"\[([\d, ]+)\]", name[len(path) :])
            index = tuple(map(int, found[1].split(","))) if found else ()
            if len(index) == np.ndim(leaf) and name == element_name(path, index):
                return float(np.asarray(leaf)[index])
    return None


def _named(problem: Problem, params: Params, args: PyTree) -> Any:
    """Name what the loss is computed from, as the user's function does."""
    function: Any = problem.loss_function or problem.residuals_function
    if not isinstance(args, WithPriors):
        return name_inputs(function, (params, args))
    return name_inputs(lambda params, args, priors: None, (params, *args))


def _separately(function: Callable[[Params, PyTree], Any]) -> Callable[..., Any]:
    """Let a function take data and priors one by one."""
    return lambda params, *given: function(params, WithPriors(*given) if given[1:] else given[0])
