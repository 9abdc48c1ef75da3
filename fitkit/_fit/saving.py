"""A snapshot as a checkpoint, and back."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fitkit._checkpoint import CheckpointError, difference, fingerprint, flatten, restore
from fitkit._fit.events import Event, RateChange
from fitkit._fit.loop import Program
from fitkit._fit.run import CONVERGED
from fitkit._fit.snapshots import Lowest, Mark, Place, Snapshot, Timeline
from fitkit._fit.status import Status
from fitkit._fit.steering import Change, Steering
from fitkit._fit.step import FitState, started
from fitkit._format import number
from fitkit._paths import named_leaves

#: Two evaluations of one loss may differ by rounding between devices and versions of XLA: sums of
#: millions of terms in another order lose three digits or so of their precision.
_LOST_DIGITS = 1e3

Record = tuple[dict[str, Any], dict[str, np.ndarray]]


def to_record(now: Snapshot) -> Record:
    """Lay a snapshot out as a header and arrays."""
    # A leap holds a whole fit, and values set by hand are not in the file: neither can be undone
    # after loading.
    steering = now.steering.past
    past = [change for change in steering if change.before is None and not change.values]
    states = [_under(now.place.program, one) for one in (now.place, now.lowest.place)]
    header = {
        "names": list(now.steering.names),
        "params": fingerprint(states[0].params),
        "optimiser": fingerprint((states[0].optimiser, states[0].nonfinite)),
        "minibatch": _drawn_from(now.place),
        "step": now.step,
        "loss": now.loss,
        "start_loss": now.start_loss,
        "best": [now.lowest.step, now.lowest.loss],
        "status": (Status.PAUSED if now.status.busy else now.status).value,
        "stop_reason": now.stop_reason,
        "optimiser_status": str(now.optimiser_status),
        "target": now.target,
        # A function cannot be saved.
        "until": CONVERGED if now.until == CONVERGED else None,
        "factors": dict(now.factors),
        "frozen": sorted(now.frozen),
        "past": [[c.words, list(c.kind), dict(c.factors), sorted(c.frozen)] for c in past],
        "events": [list(event) for event in now.events],
    }
    arrays = flatten(states[0], "state") | flatten(states[1], "best")
    history = {f"history.{name}": array for name, array in now.history.to_arrays().items()}
    return header, arrays | history


def from_record(fresh: Snapshot, record: Record, file: str) -> Snapshot:
    """Build the snapshot that `to_record` laid out.

    Parameters
    ----------
    fresh
        The first snapshot of a fit of the same functions, parameters and optimiser.
    record
        Header and arrays.
    file
        The name of the file, for errors.

    Raises
    ------
    CheckpointError
        If something of it does not fit, and nothing of it is used then.
    """
    header, arrays = record
    place, program = fresh.place, fresh.place.program
    _compare(header, place, file)
    try:
        return _rebuilt(fresh, header, arrays, program)
    except CheckpointError as error:
        raise CheckpointError(f"load: {file!r}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"load: {file!r} is no checkpoint of a fit: {type(error).__name__}: {error}. Load "
            "another file."
        ) from error


def _compare(header: Mapping[str, Any], place: Place, file: str) -> None:
    """Raise unless the file is of the same parameters and the same optimiser."""
    names = list(named_leaves(place.state.params))
    saved = header.get("names")
    if saved != names:
        shown = ", ".join(map(str, saved)) if isinstance(saved, list) else repr(saved)
        raise CheckpointError(
            f"load: {file!r} holds the parameters {shown}; the fit to load it into has "
            f"{', '.join(names)}. Pass the same `params` as when it was saved."
        )
    state = place.state
    for what, tree, cure in (
        ("params", state.params, "Pass the same `params`"),
        ("optimiser", (state.optimiser, state.nonfinite), "Pass the same `optimiser`"),
    ):
        words = difference(header.get(what), fingerprint(tree))
        if words is not None:
            raise CheckpointError(
                f"load: the {what} of {file!r} were {words}. {cure} as when it was saved."
            )
    drawn, here = header.get("minibatch"), _drawn_from(place)
    if drawn != here:
        raise CheckpointError(
            f"load: the minibatch of {file!r} was {_batch_words(drawn)}, and is "
            f"{_batch_words(here)} here. Pass the same `minibatch` as when it was saved."
        )


def _drawn_from(place: Place) -> dict[str, Any] | None:
    """Return what decides which data steps see, as JSON has it; None where they see all."""
    batches = place.program.problem.batches
    if batches is None:
        return None
    return {"size": batches.size, "axes": list(batches.axes), "seed": batches.seed}


def _batch_words(drawn: Any) -> str:
    if not isinstance(drawn, Mapping):
        return "None"
    return ", ".join(f"{name} {value}" for name, value in drawn.items())


def _rebuilt(
    fresh: Snapshot, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], program: Program
) -> Snapshot:
    step, best_step = _count(header, "step"), int(header["best"][0])
    place = Place(step, restore(arrays, fresh.place.state, "state"), program)
    best = Place(best_step, restore(arrays, fresh.place.state, "best"), program)
    history = fresh.history.from_arrays(
        {name: arrays[f"history.{name}"] for name in ("bins", "parts", "pending", "counts")}
    )
    if len(history) != step or not best_step >= 0:
        raise ValueError(f"step {step} and a history of {len(history)} steps")
    best_loss = float(header["best"][1])
    scale = abs(float(header["start_loss"]))
    _check_loss("present", place, float(header["loss"]), scale)
    _check_loss("best", best, best_loss, scale)

    steering = _steering(fresh.steering, header)
    lowest = Lowest(best_step, best_loss, best, steering.controls)
    target = header["target"]
    return fresh.but(
        place=place,
        lowest=lowest,
        history=history,
        steering=steering,
        timeline=Timeline.starting(Mark(place, steering.controls, lowest)),
        events=tuple(_event(*event) for event in header["events"]),
        status=Status(header["status"]),
        stop_reason=str(header["stop_reason"]),
        optimiser_status=str(header["optimiser_status"]),
        target=None if target is None else int(target),
        until=CONVERGED if header.get("until") == CONVERGED else None,
        start_loss=float(header["start_loss"]),
    )


def _event(step: Any, text: Any, code: Any, rates: Any) -> Event:
    changes = (RateChange(str(path), float(old), float(new)) for path, old, new in rates)
    return Event(int(step), str(text), str(code), tuple(changes))


def _steering(fresh: Steering, header: Mapping[str, Any]) -> Steering:
    names = set(fresh.names)

    def factors(saved: Mapping[str, Any]) -> dict[str, float]:
        found = {str(path): float(factor) for path, factor in saved.items()}
        if set(found) != names or not all(math.isfinite(f) and f >= 0 for f in found.values()):
            raise ValueError(f"learning rates {found}")
        return {path: found[path] for path in fresh.names}

    def frozen(saved: list[str]) -> frozenset[str]:
        if not isinstance(saved, list) or not set(saved) <= names:
            raise ValueError(f"frozen parameters {saved}")
        return frozenset(saved) | fresh.unmapped

    past = tuple(
        Change(str(words), tuple(map(str, kind)), -math.inf, factors(before), frozen(held))
        for words, kind, before, held in header["past"]
    )
    return Steering(factors(header["factors"]), fresh.unmapped, frozen(header["frozen"]), past)


def _check_loss(which: str, place: Place, saved: float, scale: float) -> None:
    """Raise unless the function has the loss that was saved: other data, or another function."""
    allowed = _LOST_DIGITS * place.eps * max(abs(saved), abs(place.loss), scale)
    if not abs(place.loss - saved) <= allowed:
        raise CheckpointError(
            f"the loss at its {which} parameters was {number(saved, 9)} when it was saved, and is "
            f"{number(place.loss, 9)} with the functions and `args` given. Load it with those it "
            "was made with; then restart(params=fit.params, args=…) goes on with others."
        )


def _under(program: Program, place: Place) -> FitState:
    """Return the state of a place as that of a program's optimiser."""
    if place.program.chunk is program.chunk:
        return place.state
    return started(place.state, program.optimiser)


def _count(header: Mapping[str, Any], name: str) -> int:
    count = header[name]
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"{name} {count!r}")
    return count
