"""Values of parameters that a person sets: checked, put into the state, and taken back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fitkit._fit.advance import at_lowest, with_event
from fitkit._fit.commands import require_finite
from fitkit._fit.events import values_code
from fitkit._fit.snapshots import Mark, Place, Snapshot, Timeline
from fitkit._fit.status import Status
from fitkit._fit.steering import Steering
from fitkit._fit.step import started
from fitkit._format import number
from fitkit._paths import element_name, match_paths, named_leaves

_EVENT = "set_values"


def checked_values(now: Snapshot, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return values by path as arrays of their parameters' dtypes; raise if one cannot be set."""
    leaves, bounds = named_leaves(now.place.state.params), now.place.program.bounds
    limits = {} if bounds is None else bounds.by_path()
    if not values:
        raise ValueError(f'{_EVENT}: no values; give some by path, such as {{"flux": 1.0}}.')
    checked: dict[str, np.ndarray] = {}
    for key, value in values.items():
        for path in match_paths(key, now.steering.names, _EVENT):
            leaf = leaves[path]
            try:
                array = np.asarray(value).astype(leaf.dtype, casting="same_kind")
            except (TypeError, ValueError):
                # A whole number is meant as one of the parameter's dtype.
                array = _as_float(path, value, leaf.dtype)
            if array.shape != leaf.shape:
                raise ValueError(
                    f"{_EVENT}: the value for '{path}' has shape {array.shape}; must be "
                    f"{leaf.shape}, as the parameter's. Name every element."
                )
            checked[path] = array
            _refuse(path, array, ~np.isfinite(array), "must be finite")
            if path in limits:
                lower, upper = limits[path]
                _refuse(
                    path,
                    array,
                    (array < lower) | (array > upper),
                    "is outside of the bounds. Set it inside, or make the fit with wider ones",
                )
    return checked


def with_values(now: Snapshot, values: Mapping[str, np.ndarray], when: float) -> dict[str, Any]:
    """Go on from other values, with the optimiser started anew."""
    leaves = named_leaves(now.place.state.params)
    some = ", ".join(f"{path}: {_shown(value)}" for path, value in list(values.items())[:3])
    words = f"set {some}" + (f" and {len(values) - 3} more" if len(values) > 3 else "")
    steering = now.steering.with_values({path: leaves[path] for path in values}, words, when)
    return _moved(now, values, steering, words, steering.continues(now.steering))


def undone_values(now: Snapshot) -> dict[str, Any]:
    """Give the values back that the latest change had replaced."""
    change = now.steering.past[-1]
    return _moved(now, change.values, now.steering.undone(), f"undid: {change.words}", False)


def _moved(
    now: Snapshot, values: Mapping[str, Any], steering: Steering, words: str, replaces: bool
) -> dict[str, Any]:
    state = now.place.state
    every = named_leaves(state.params)
    for path, value in values.items():
        sharding = getattr(every[path], "sharding", None)
        every[path] = jax.device_put(value, sharding)
    params = jax.tree.unflatten(jax.tree.structure(state.params), every.values())
    program = now.place.program
    there = now.place.with_params(params)
    place = Place(now.step, started(there.state, program.optimiser), program)
    require_finite(_EVENT, place)
    lowest = at_lowest(now.lowest, place, steering.controls)
    changes: dict[str, Any] = {
        "place": place,
        "lowest": lowest,
        "steering": steering,
        "timeline": Timeline.starting(Mark(place, steering.controls, lowest)),
        "failure": None,
        "error": None,
        "optimiser_status": "",
        "events": with_event(now, words, None, replaces, values_code(values)),
    }
    if now.status.busy or now.status is Status.PAUSED:
        return changes
    status = Status.STOPPED if now.step else Status.READY
    return {**changes, "status": status, "stop_reason": "values were set", "target": now.step}


def _as_float(path: str, value: Any, dtype: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind in "iu":
            return array.astype(dtype)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{_EVENT}: the value for '{path}' is {value!r}; must be a number, or numbers of the "
        "parameter's shape."
    )


def _refuse(path: str, array: np.ndarray, bad: Any, why: str) -> None:
    for index in np.argwhere(bad)[:1]:
        at = tuple(map(int, index))
        raise ValueError(f"{_EVENT}: {array[at]} for '{element_name(path, at)}' {why}.")


def _shown(value: np.ndarray) -> str:
    return number(float(value), 6) if value.size == 1 and not value.ndim else f"{value.size} values"
