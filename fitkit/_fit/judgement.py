"""Where a fit stands, what the data constrain there, and where one Newton step would take it."""

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from fitkit._fisher import (
    FisherMatrix,
    FisherSpectrum,
    fisher_matrix,
    fisher_of_jacobian,
    fisher_spectrum,
    linearise,
    split_params,
)
from fitkit._fit.snapshots import Place, Snapshot
from fitkit._paths import named_elements, ravel
from fitkit._result import DENSE, Assessment, Kind, assess

#: Residuals and their Jacobian, transposed.
Linearised = tuple[Float[Array, " m"], Float[Array, "n m"]]

# A Newton step this long, in standard errors, stays in the valley where the fit is.
_NEAR = 1.0
# Elements of a Jacobian that is kept until the state changes: 30 megabytes.
_MOST_KEPT = 4_000_000
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


def assess_place(
    now: Snapshot, place: Place, follow: bool = True, linearised: Linearised | None = None
) -> Assessment:
    """Assess a place under the controls of a snapshot, as `assess` does."""
    with place.program.applied():
        return assess(
            **place.functions,
            frozen=tuple(sorted(now.frozen)),
            bounds=place.program.bounds,
            gain=now.start_loss - place.loss,
            follow=follow,
            linearised=linearised,
        )


def fisher_at(now: Snapshot, linearised: Linearised | None) -> FisherMatrix:
    """Compute the Fisher matrix of what is not frozen."""
    place, frozen = now.place, tuple(sorted(now.frozen))
    with place.program.applied():
        if linearised is None:
            return fisher_matrix(**place.functions, frozen=frozen)
        free, _ = split_params(place.state.params, frozen)
        return fisher_of_jacobian(named_elements(free), *linearised)


def spectrum_at(now: Snapshot, **options: Any) -> FisherSpectrum:
    """Find the largest eigenvalues of that matrix without forming it, as `fisher_spectrum` does."""
    place = now.place
    with place.program.applied():
        return fisher_spectrum(**place.functions, frozen=tuple(sorted(now.frozen)), **options)


def linearise_at(now: Snapshot) -> Linearised | None:
    """Linearise the residuals, for Fisher matrix and assessment alike.

    None where each does what it needs: of a loss, or where the Jacobian is too large to be kept.
    """
    place = now.place
    problem, args = place.program.traced.value.problem, place.program.args
    if not problem.squares:
        return None
    with place.program.applied():
        free, held = split_params(place.state.params, tuple(sorted(now.frozen)))
        flat, _ = ravel(free)
        if flat.size > DENSE:
            return None
        where = problem.residuals, free, held, args, flat
        # Of the program itself, which is traced once: the model may take long to trace.
        _, rows = eqx.filter_eval_shape(linearise, *where)
        return None if rows.size > _MOST_KEPT else linearise(*where)


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
