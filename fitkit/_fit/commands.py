"""What a command makes of a fit: functions from one snapshot to what is different in the next."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import equinox as eqx
import optax
from jaxtyping import PyTree

from fitkit._fit.additive import in_batches_of, require_parts
from fitkit._fit.advance import at_lowest, with_event
from fitkit._fit.diagnose import explain_start
from fitkit._fit.history import History
from fitkit._fit.loop import Program
from fitkit._fit.problem import Params, traced_shapes
from fitkit._fit.rates import own_learning_rates, rate_changes
from fitkit._fit.record import Columns
from fitkit._fit.snapshots import Lowest, Mark, Place, Snapshot, Timeline
from fitkit._fit.status import Status
from fitkit._fit.step import FitState, started
from fitkit._input import OptaxLike, as_optax, checked_params, explained, left_on_disk, split_args
from fitkit._optimisers import Assignment, assign, knows_verdict, map_optimisers, own_counts
from fitkit._paths import Paths, named_leaves
from fitkit._programs import JaxSettings
from fitkit._residuals import WithPriors, check_starts, with_other_data

One: TypeAlias = optax.GradientTransformation | OptaxLike
Optimiser: TypeAlias = One | Mapping[Paths, One]


def rewound(now: Snapshot, step: int) -> dict[str, Any]:
    """Go back to an earlier step, optimiser and all."""
    lowest, timeline, program = now.lowest, now.timeline, now.place.program
    # Where values were set by hand at the best step, it is still the best that is meant.
    if timeline.first <= step <= now.step and not timeline.first == step == lowest.step:
        mark, known = timeline.at(step)
        place = mark.place
        timeline = timeline.truncated(step)
        if lowest.step > step:
            lowest = at_lowest(mark.lowest, place, mark.controls)
    elif step == lowest.step:
        place, known = lowest.place, None
        if place.program.chunk is not program.chunk:
            place = Place(step, started(place.state, program.optimiser), program)
        timeline = Timeline.starting(Mark(place, now.steering.controls, lowest))
    else:
        raise ValueError(
            f"rewind: step {step:,} is not between {timeline.first:,} and {now.step:,}, the steps "
            f"that can be gone back to, nor the best one, {lowest.step:,}."
        )
    return {
        "place": place,
        "lowest": lowest,
        "timeline": timeline,
        "history": now.history.truncated(step, known),
        "failure": None,
        "events": with_event(now, f"rewound to step {step:,}", step, code=f"fit.rewind({step})"),
        **_standing(now, step, f"rewound to step {step:,}"),
    }


def with_program(
    now: Snapshot,
    program: Program,
    text: str,
    factors: Mapping[str, float] | None = None,
    code: str = "",
) -> dict[str, Any]:
    """Go on with another optimiser, started anew. Of earlier states only the best stays."""
    place = Place(now.step, started(now.place.state, program.optimiser), program)
    steering = now.steering.for_optimiser(program.unmapped, factors)
    rates = rate_changes(
        (now.steering, own_learning_rates(now.place)), (steering, own_learning_rates(place))
    )
    return {
        "place": place,
        "steering": steering,
        "timeline": Timeline.starting(Mark(place, steering.controls, now.lowest)),
        "optimiser_status": "",
        "events": with_event(now, text, code=code, rates=rates),
    }


def program_for(now: Snapshot, optimiser: Optimiser) -> Program:
    """Build the program of another optimiser, or of several by path."""
    one, assignment = resolved(optimiser, now.place.state.params, "change_optimiser")
    program = now.place.program.but(optimiser=one, assignment=assignment)
    refuse_judging("change_optimiser", program, program.begin(now.place.state.params))
    return program


def refuse_judging(event: str, program: Program, state: FitState) -> None:
    """Raise if an optimiser that judges by the loss when it is done would see only batches."""
    if program.problem.batches is not None and knows_verdict(state.optimiser):
        raise ValueError(
            f"{event}: this optimiser compares the losses of steps to tell when it is done, which "
            "means nothing where every step sees another minibatch. Use a first-order one, such "
            "as optax.adam(1e-2), or leave `minibatch` out."
        )


def resolved(
    optimiser: Optimiser, params: Params, event: str = "Fit"
) -> tuple[optax.GradientTransformation, Assignment]:
    """Make one transformation of what the user gave, and note which optimiser moves what."""
    if not isinstance(optimiser, Mapping):
        one: Any = as_optax(optimiser)
        assignment = assign(named_leaves(params), one, event=event)
        return own_counts(one), assignment
    # One object for several keys stays one.
    converted = {id(one): as_optax(one) for one in optimiser.values()}
    mapped = {key: converted[id(one)] for key, one in optimiser.items()}
    assignment = assign(named_leaves(params), mapped, event=event)
    own = {id(one): own_counts(one) for one in mapped.values()}
    return map_optimisers(params, {k: own[id(one)] for k, one in mapped.items()})[0], assignment


def restarted(now: Snapshot, params: Params, program: Program, code: str) -> dict[str, Any]:
    """Begin anew at step 0; controls and events stay."""
    if program.bounds is not None:
        program.bounds.check(params)
    place = Place(0, program.begin(params), program)
    require_finite("restart", place)
    controls = now.steering.controls
    lowest = Lowest(0, place.loss, place, controls)
    return {
        "place": place,
        "lowest": lowest,
        "timeline": Timeline.starting(Mark(place, controls, lowest)),
        "history": History.empty(Columns.of(params)),
        "earlier": now.history if len(now.history) else now.earlier,
        "failure": None,
        "known_fisher": None,
        "known_spectrum": None,
        "start_loss": place.loss,
        "optimiser_status": "",
        "events": with_event(now, "restarted", 0, code=code),
        **_standing(now, 0, "restarted"),
    }


def leapt(now: Snapshot, params: Params, words: str) -> dict[str, Any]:
    """Go on from other parameters, with the optimiser started anew; `leapt_back` takes it back."""
    begun = started(
        dataclasses.replace(now.place.state, params=params), now.place.program.optimiser
    )
    place = Place(now.step, begun, now.place.program)
    controls = now.steering.controls
    lowest = at_lowest(now.lowest, place, controls)
    return {
        "place": place,
        "lowest": lowest,
        "timeline": Timeline.starting(Mark(place, controls, lowest)),
        "steering": now.steering.leapt(words, now),
        "failure": None,
        "events": with_event(now, words),
        **_standing(now, now.step, words),
    }


def leapt_back(now: Snapshot) -> dict[str, Any]:
    """Go back to where the fit was before it leapt, whatever was done since."""
    change = now.steering.past[-1]
    before, words = change.before, f"undid: {change.words}"
    if before.place.program.args is not now.place.program.args or before.step > now.step:
        raise RuntimeError(
            f"undo: the fit was restarted or rewound since it {change.words}, so that there is "
            "nothing to go back to. Use restart(params)."
        )
    program, place = now.place.program, before.place
    if place.program.chunk is not program.chunk:
        place = Place(before.step, started(place.state, program.optimiser), program)
    return {
        "place": place,
        "lowest": before.lowest,
        "timeline": before.timeline,
        "steering": now.steering.undone(),
        "history": now.history.truncated(before.step),
        "failure": None,
        "events": with_event(now, words, before.step),
        **_standing(now, before.step, words),
    }


def reread(now: Snapshot, start: Params, params: PyTree, args: Any) -> tuple[Params, Program]:
    """Check new parameters (None: `start`) and data (None: as before); find their program."""
    program = now.place.program
    problem, data = program.problem, program.args
    arrays, static_params = start, problem.static_params
    if params is not None:
        arrays, static_params = checked_params(params, "restart")
        if tuple(named_leaves(arrays)) != now.steering.names:
            raise ValueError(
                f"restart: `params` has {', '.join(named_leaves(arrays))}; this fit has "
                f"{', '.join(now.steering.names)}. Make another Fit for other parameters."
            )
    static_args = problem.static_args
    if args is not None:
        args = args if problem.blocks is None else left_on_disk(args)
        given, static_args = split_args(args, "restart")
        data = with_other_data(data, given)
        require_parts(problem, program.args, data, "restart")
    if isinstance(data, WithPriors):
        check_starts(data.priors, arrays)
    same = eqx.tree_equal(
        (static_params, static_args), (problem.static_params, problem.static_args)
    )
    if same is not True:
        problem = dataclasses.replace(problem, static_params=static_params, static_args=static_args)
    if args is not None or params is not None:
        problem = problem.checked(arrays, data, "restart")
    if args is not None:
        problem = in_batches_of(problem, arrays, data, "restart")
    return arrays, program.but(problem=problem, args=data, shapes=traced_shapes(arrays))


def refreshed(now: Snapshot, settings: JaxSettings) -> dict[str, Any]:
    """Read the user's functions again, and take JAX's settings: for whatever comes next.

    A global that a function reads may have another value since it was traced; then it is traced
    again, and of earlier states none can be gone back to.
    """
    old, place = now.place.program, now.place
    program = old.but(settings=settings)
    if program.traced.content.digest == old.traced.content.digest:
        same = program.traced is old.traced and program.compiled is old.compiled
        return {} if same else {"place": Place(place.step, place.kept, program)}
    problem = old.problem.checked(place.state.params, old.args)
    place = Place(place.step, place.kept, old.but(problem=problem, settings=settings))
    controls = now.steering.controls
    lowest = Lowest(place.step, place.loss, place, controls)
    return {
        "place": place,
        "lowest": lowest,
        "timeline": Timeline.starting(Mark(place, controls, lowest)),
        "known_fisher": None,
        "known_spectrum": None,
        # What was gained stays so, whatever the loss is now.
        "start_loss": now.start_loss + place.loss - now.place.loss,
        "events": with_event(now, "what the function reads has changed"),
    }


def require_finite(event: str, place: Place) -> None:
    """Raise unless the loss is finite here; say where the value came from."""
    kind = "residuals" if place.program.problem.loss_function is None else "loss"
    with explained(event, kind, None):
        loss = place.loss
    if not math.isfinite(loss):
        report = explain_start(place.program, place.state.params)
        raise ValueError(
            f"{event}: the loss is {loss} at the start. Start where the model is finite.\n"
            f"{report or ''}"
        )


def _standing(now: Snapshot, step: int, reason: str) -> dict[str, Any]:
    """Return the status of a fit that was put somewhere; one that runs goes on from there."""
    if now.status.busy:
        return {}
    status = Status.STOPPED if step else Status.READY
    changes = {"status": status, "stop_reason": reason, "error": None}
    return {**changes, "target": step, "until": None, "optimiser_status": ""}
