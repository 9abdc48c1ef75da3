"""What each panel shows of a fit at one moment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fitkit._dashboard.background import affordable
from fitkit._dashboard.header import BUSY
from fitkit._dashboard.render import Panel
from fitkit._dashboard.table import Entry
from fitkit._fit import Fit
from fitkit._paths import named_elements, named_leaves
from fitkit._plotting import (
    Snapshot,
    loss_marks,
    loss_view,
    spectrum_marks,
    spectrum_view,
    steps_marks,
    steps_view,
)


def known_panels(fit: Fit, draw: Any) -> tuple[str, ...]:
    """Name the panels that a dashboard of this fit shows, unless told otherwise."""
    spectrum = affordable(fit) or fit.spectrum is not None
    return ("loss", "steps", *(["spectrum"] if spectrum else []), *(["model"] if draw else []))


def error_bars(fit: Fit) -> dict[str, np.ndarray]:
    """Give the error of every element, by path, of the parameters whose Fisher matrix is known."""
    if fit.known_fisher is None:
        return {}
    fisher = fit.known_fisher[1]
    known = dict(zip(fisher.labels, np.asarray(fisher.errors), strict=True))
    errors = {}
    for path, leaf in named_leaves(fit.params).items():
        elements = named_elements({path: leaf})
        if all(element in known for element in elements):
            errors[path] = np.reshape([known[element] for element in elements], np.shape(leaf))
    return errors


def step_units(fit: Fit, errors: Mapping[str, np.ndarray]) -> dict[str, float] | None:
    """Give the error bar of each parameter that moves, the unit of its step sizes.

    None unless all of them have a finite one: on one axis, steps have one kind of unit.
    """
    moving = [path for path in fit.names if path not in fit.frozen]
    if not moving or any(path not in errors for path in moving):
        return None
    units = {path: float(np.sqrt(np.sum(errors[path] ** 2))) for path in moving}
    return units if all(np.isfinite(unit) and unit > 0 for unit in units.values()) else None


def spectrum_of(fit: Fit) -> tuple[np.ndarray, int]:
    """Give eigenvalues and rank: the optimiser's, where it has them, or the latest known."""
    found = fit.spectrum
    if found is not None and len(found[0]):
        return found
    if fit.known_fisher is None:
        return np.empty(0), 0
    fisher = fit.known_fisher[1]
    return np.asarray(fisher.eigenvalues), fisher.rank


class Panels:
    """The panels of a fit, as they are whenever asked for.

    Parameters
    ----------
    fit
        The fit.
    names
        Which panels.
    """

    def __init__(self, fit: Fit, names: Sequence[str]):
        self._fit, self.names = fit, tuple(names)
        self._errors: tuple[Any, dict[str, np.ndarray]] = (None, {})

    def errors(self) -> dict[str, np.ndarray]:
        """Give the `error_bars`, worked out once for every Fisher matrix."""
        known = self._fit.known_fisher
        if known is not self._errors[0]:
            self._errors = known, error_bars(self._fit)
        return self._errors[1]

    def now(self, entries: Sequence[Entry], chosen: int | None = None) -> list[Panel]:
        """Describe the panels of this moment.

        Parameters
        ----------
        entries
            The parameters and groups that have a colour.
        chosen
            The direction to mark in the spectrum.
        """
        fit, history = self._fit, Snapshot(self._fit.history)
        settled = fit.status not in BUSY and fit.status != "paused"
        end = fit.step if settled else max(fit.target, fit.step)
        shown = {entry.paths[0]: entry.number for entry in entries if not entry.group}
        others: dict[str, int | None] = {path: None for path in fit.names if path not in shown}
        for entry in entries:
            if entry.group:
                others |= dict.fromkeys(entry.paths, entry.number)
        events = [event.step for event in tuple(fit.events)]
        eigenvalues, rank = spectrum_of(fit)
        units = step_units(fit, self.errors())
        legend = [(short(entry.label), entry.number) for entry in entries]
        built = {
            "spectrum": lambda: Panel(
                spectrum_view(eigenvalues, rank),
                lambda axes: spectrum_marks(axes, eigenvalues, rank, chosen),
                weight=0.75,
            ),
            "loss": lambda: Panel(
                loss_view(history, end, settled),
                lambda axes: loss_marks(axes, history, events),
            ),
            "steps": lambda: Panel(
                steps_view(history, fit.names, end, settled, legend, units),
                lambda axes: steps_marks(axes, history, shown, others, units),
            ),
        }
        return [built[name]() for name in self.names if name in built]


def short(path: str, length: int = 17) -> str:
    """Shorten a path to its telling end."""
    return path if len(path) <= length else "…" + path[1 - length :]
