"""Where a running fit stands, and where one Newton step would take it."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from fitkit._fisher import split_params
from fitkit._fit.snapshots import Place, Snapshot
from fitkit._paths import ravel
from fitkit._result import Assessment, Kind, assess

# A Newton step this long, in standard errors, stays in the valley where the fit is.
_NEAR = 1.0
# What rounding makes of a sum, in units of its own rounding: a small number.
_ROUNDINGS = 4


class Judgement(NamedTuple):
    """Where a fit stands: at `place`, the present one or where one Newton step takes it."""

    assessment: Assessment
    place: Place
    step_length: float = 0.0


def judge(now: Snapshot) -> Judgement:
    """Assess where a fit stands; where one Newton step takes it to the minimum, assess that."""
    place = now.place
    found = assess_place(now, place, follow=False)
    if found.kind is not Kind.DISTANT or not found.distance <= _NEAR:
        return Judgement(found, place)
    there = _newton(now, found.step)
    if there.loss <= now.lowest.loss + rounding_of_loss(now):
        at = assess_place(now, there, follow=False)
        if at.converged:
            return Judgement(at, there, found.distance)
    return Judgement(found, place)


def assess_place(now: Snapshot, place: Place, follow: bool = True) -> Assessment:
    """Assess a place under the controls of a snapshot, as `assess` does."""
    with place.program.applied():
        return assess(
            **place.functions,
            frozen=tuple(sorted(now.frozen)),
            bounds=place.program.bounds,
            gain=now.start_loss - place.loss,
            follow=follow,
        )


def _newton(now: Snapshot, step: Float[np.ndarray, " n"]) -> Place:
    place = now.place
    with place.program.applied():
        free, held = split_params(place.state.params, tuple(sorted(now.frozen)))
        flat, build = ravel(free)
        free = build(flat + step.astype(flat.dtype))
        params = eqx.combine(free, held)
        if place.program.bounds is not None:
            params = place.program.bounds.project(params)
    return place.with_params(params)


def rounding_of_loss(now: Snapshot) -> float:
    """Return what rounding makes of the loss of a fit."""
    return _ROUNDINGS * now.place.eps * abs(now.lowest.loss)
