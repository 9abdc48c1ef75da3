"""From one snapshot to the next: what a chunk of steps changes. Pure functions."""

import numpy as np
from jaxtyping import Float

from fitkit._fit.events import Event, RateChange
from fitkit._fit.loop import Queued, Taken
from fitkit._fit.snapshots import MOST_EVENTS, Failure, Lowest, Mark, Place, Snapshot
from fitkit._fit.status import Status
from fitkit._fit.step import BAD_EVALUATION, Controls

Rows = Float[np.ndarray, "steps columns"]

#: What the verdict of an optimiser makes of the fit.
VERDICTS = (None, Status.CONVERGED, Status.STALLED, Status.FAILED)


def advanced(before: Snapshot, queued: Queued, taken: Taken) -> dict:
    """Compute what a chunk of good steps changes."""
    place, rows = before.place, taken.rows
    after = Place(place.step + len(rows), taken.state, place.program)
    return {
        "place": after,
        "history": before.history.extended(rows),
        "lowest": before.lowest.among(rows, place, queued.controls),
        "timeline": before.timeline.recorded(Mark(place, queued.controls, before.lowest)),
        "optimiser_status": VERDICTS[taken.verdict] or "",
    }


def undone(before: Snapshot, queued: Queued, taken: Taken) -> tuple[dict, Rows]:
    """Compute the last state at which loss, gradient and parameters are finite.

    Returns the changes, and the rows of the steps that stay.
    """
    start, failed = queued.start, queued.start + len(taken.rows) - 1
    timeline = before.timeline.recorded(Mark(before.place, queued.controls, before.lowest))
    # Where a step could not be evaluated, the one that led there is undone as well.
    good = max(failed - (taken.outcome == BAD_EVALUATION), timeline.first)
    rows = taken.rows[: max(good - start, 0)]
    mark, known = timeline.at(good)
    changes = {
        "place": mark.place,
        "history": before.history.extended(rows).truncated(good, known),
        "lowest": mark.lowest,
        "timeline": timeline.truncated(good),
        "failure": Failure(failed, taken.outcome),
    }
    return changes, rows


def at_rest(now: Snapshot) -> dict:
    """Compute what is known where a fit stands still: the loss of its place."""
    return {"lowest": at_lowest(now.lowest, now.place, now.steering.controls)}


def at_lowest(lowest: Lowest, place: Place, controls: Controls) -> Lowest:
    """Return the lower one of the smallest loss so far and the loss of a place."""
    return Lowest(place.step, place.loss, place, controls) if place.loss < lowest.loss else lowest


def moved(now: Snapshot, place: Place) -> dict:
    """Go on from another place, at the same step."""
    controls = now.steering.controls
    lowest = at_lowest(now.lowest, place, controls)
    timeline = now.timeline.recorded(Mark(place, controls, lowest))
    return {"place": place, "lowest": lowest, "timeline": timeline}


def given_up(now: Snapshot) -> Snapshot:
    """Stop a fit that stands still: nothing is left of its run."""
    if now.status not in (Status.PAUSED, Status.FINISHED):
        return now
    status, reason = Status.STOPPED, "the run was stopped"
    return now.but(status=status, stop_reason=reason, target=now.step, until=None)


def with_event(
    now: Snapshot,
    text: str,
    step: int | None = None,
    replaces: bool = False,
    code: str = "",
    rates: tuple[RateChange, ...] = (),
) -> tuple[Event, ...]:
    """Add an event, or put it in the place of the latest; of too many the oldest go."""
    event = Event(now.step if step is None else step, text, code, rates)
    kept = now.events[:-1] if replaces else now.events
    return (*kept[1 - MOST_EVENTS :], event)


def passed_over(before: Snapshot, after: Place, rows: Rows) -> Event | None:
    """Return where a chunk went on over values that were not finite, and how many."""
    if after.program.on_nonfinite == "stop":
        return None
    old, new = before.place.view.nonfinite, after.view.nonfinite
    if old is None or new is None:
        return None
    skipped, zeroed = int(new.skipped) - int(old.skipped), int(new.zeroed) - int(old.zeroed)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    step = before.step + (int(bad[0]) if len(bad) else 0)
    if skipped:
        return Event(step, f"skipped {skipped:,} step{'s' if skipped > 1 else ''}")
    if zeroed:
        return Event(step, f"zeroed {zeroed:,} non-finite element{'s' if zeroed > 1 else ''}")
    return None


def with_passed(now: Snapshot, event: Event | None) -> tuple[Event, ...]:
    """Add such an event, but one for a stretch of them: a fit may skip all day."""
    if event is None:
        return now.events
    last = now.events[-1] if now.events else Event(0, "")
    # A fiftieth of the steps so far, so that their number grows with the logarithm of the steps.
    near = event.step - last.step < max(100, event.step // 50)
    if near and last.text.split(" ")[0] == event.text.split(" ")[0]:
        return now.events
    return with_event(now, event.text, event.step)
