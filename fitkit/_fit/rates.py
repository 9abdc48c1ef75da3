"""Learning rates: those in force at one moment, and what a change makes of them."""

import jax

from fitkit._fit.events import RateChange
from fitkit._fit.snapshots import Place, Snapshot
from fitkit._fit.steering import Steering
from fitkit._optimisers import injected_learning_rates


def own_learning_rates(place: Place) -> dict[str, float]:
    """Return the learning rates that the optimisers show, by path; others keep theirs."""
    program = place.program
    rates = injected_learning_rates(place.view.optimiser, program.assignment)
    return {path: float(rate) for path, rate in jax.device_get(rates).items()}


def rates_at(now: Snapshot) -> dict[str, float]:
    """Return the learning rates in force, by path, as `LearningRates` does; 0 of what is frozen."""
    return _in_force(now.steering, own_learning_rates(now.place))


def rate_changes(
    before: tuple[Steering, dict[str, float]], after: tuple[Steering, dict[str, float]]
) -> tuple[RateChange, ...]:
    """List the learning rates that a change changes.

    Parameters
    ----------
    before, after
        What steers the fit, and the optimisers' own learning rates.
    """
    old, new = _in_force(*before), _in_force(*after)
    return tuple(RateChange(path, old[path], new[path]) for path in new if old[path] != new[path])


def _in_force(steering: Steering, own: dict[str, float]) -> dict[str, float]:
    return {
        path: 0.0 if path in steering.frozen else factor * own.get(path, 1.0)
        for path, factor in steering.factors.items()
    }
