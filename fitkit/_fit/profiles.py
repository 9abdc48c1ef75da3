"""The minimum at which a fit stands, as profiles take it."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from fitkit._fit.snapshots import Snapshot
from fitkit._profile import Minimum, make_intervals
from fitkit._result import Result

T = TypeVar("T")


def at_minimum(now: Snapshot, result: Result, compute: Callable[[Minimum], T]) -> T:
    """Compute something of the minimum at which a result was found, under the fit's settings."""
    place, scale = now.place, 1.0
    if not result.absolute_sigma:
        reduced = result.reduced_chi_square
        scale = math.inf if reduced is None else math.sqrt(reduced)
    with place.program.applied():
        minimum = Minimum(
            **place.functions,
            owner=place.program.traced.value.problem,
            frozen=tuple(sorted(now.frozen)),
            bounds=place.program.bounds,
            value=result.loss,
            fisher=result.fisher,
            assessment=result.assessment,
            whole=place.program.problem.whole_params,
            unit=scale,
            absolute_sigma=result.absolute_sigma,
        )
        return compute(minimum)


def intervals_at(
    now: Snapshot, result: Result, level: float
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Compute the intervals of a result from profiles, and warnings."""
    return at_minimum(now, result, lambda minimum: make_intervals(minimum, level))
