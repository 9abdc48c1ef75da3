"""What was done to a fit before it went non-finite, and what it does already against that."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from fitkit._fit.loop import Program
from fitkit._fit.snapshots import Snapshot
from fitkit._fit.step import Controls
from fitkit._format import number
from fitkit._nonfinite import InForce, NonFiniteReport
from fitkit._optimisers import links
from fitkit._paths import named_elements, named_leaves

#: How many steps back a deed may lie: growing three-fold per step, the least that counts as
#: running away, a number near 1 overflows float64 after 650 steps.
_RECENT = 650
#: From which factor on a raised learning rate comes before any other advice. A rate that converges
#: is stable up to twice its best value.
_MUCH = 2.0
#: Families in which the value was merely too large, whatever the operation.
TOO_LARGE = {"overflow", "infinities", "other"}


class Deed(NamedTuple):
    """Something that was done to a fit, and how to take it back; `leads` if that comes first."""

    step: int
    words: str
    cure: str
    leads: bool


def deeds(now: Snapshot, too_large: bool) -> list[Deed]:
    """List what was done in the steps before a fit went non-finite: first what leads, then by step.

    Parameters
    ----------
    now
        The fit, at the last finite step.
    too_large
        Whether something became too large, for which another optimiser may be to blame.
    """
    last = now.place.step
    found = [*_steered(now), *_other_optimisers(now, too_large)]
    recent = [deed for deed in found if last - _RECENT < deed.step <= last]
    return sorted(recent, key=lambda deed: (deed.leads, deed.step), reverse=True)


def told(report: NonFiniteReport, now: Snapshot) -> NonFiniteReport:
    """Put what was done to the fit in front of what else a report says."""
    too_large = report.family in TOO_LARGE | {"learning rate"}
    known = deeds(now, too_large)
    if not known or report.phase == "data":
        return report
    sentences = []
    for deed in known[:3]:
        ago = now.place.step + 1 - deed.step
        sentences.append(
            f"{deed.words} at step {deed.step:,}, {ago:,} step{'s' if ago > 1 else ''} earlier"
        )
    report = dataclasses.replace(report, history=(*sentences, *report.history))
    first = known[0]
    if not first.leads:
        return report
    cure = f"{first.cure}, and resume from the last finite state"
    if too_large:
        return dataclasses.replace(report, phase="optimiser", family="learning rate", advice=cure)
    return dataclasses.replace(report, advice=f"{cure}. If that is not enough: {report.advice}")


def in_force(program: Program, params: PyTree, origin: str | None) -> InForce:
    """Look up what a fit does already about a value that came from a parameter."""
    limited = "max_step_size" in links(program.optimiser)
    if program.bounds is None or origin is None:
        return InForce(limited=limited)
    names = named_elements(params)
    # A report may name one element, a row or a whole parameter.
    chosen = [n for n in names if n == origin or n.startswith((f"{origin}[", f"{origin[:-1]},"))]
    if not chosen:
        return InForce(limited=limited)
    lower, upper = program.bounds.of_elements(chosen)
    values = {
        name: value
        for leaf in named_leaves(params).items()
        for name, value in zip(named_elements(dict([leaf])), np.ravel(leaf[1]), strict=True)
    }
    here = np.array([values[name] for name in chosen])
    touched = [*lower[here <= lower], *upper[here >= upper]]
    return InForce(
        bounded=bool(np.isfinite([*lower, *upper]).any()),
        on_bound=float(touched[0]) if touched else None,
        limited=limited,
    )


def _steered(now: Snapshot) -> list[Deed]:
    """List the parameters that were thawed, or whose learning rate was raised."""
    found = []
    for (_, before), (step, after) in itertools.pairwise(now.timeline.changes):
        old, new = _factors(before), _factors(after)
        up = new > old
        thawed = [n for n, o, u in zip(now.steering.names, old, up, strict=True) if u and o == 0]
        raised = [n for n, o, u in zip(now.steering.names, old, up, strict=True) if u and o > 0]
        if thawed:
            names = _listed(thawed)
            found.append(Deed(step, f"{names} was thawed", f"freeze {names} again", False))
        if raised:
            names = _listed(raised)
            with np.errstate(over="ignore"):
                fold = float(np.max(new[up & (old > 0)] / old[up & (old > 0)]))
            by = f" {number(fold, 3)}-fold" if np.isfinite(fold) else ""
            words = f"the learning rate of {names} was raised{by}{_to_what(now, step, raised)}"
            cure = f"lower the learning rate of {names} again"
            found.append(Deed(step, words, cure, fold >= _MUCH))
    return found


def _factors(controls: Controls) -> np.ndarray:
    return np.array([float(one) for one in controls.multipliers])


def _to_what(now: Snapshot, step: int, paths: list[str]) -> str:
    """Read in the event log to what a learning rate was set: ``", to 1e30,"``."""
    for event in reversed(now.events):
        subject, _, value = event.text.rpartition(": ")
        named = subject.removeprefix("learning rate of ").split(", ")
        if subject.startswith("learning rate of ") and event.step <= step and paths[0] in named:
            return f", to {value},"
    return ""


def _other_optimisers(now: Snapshot, leads: bool) -> list[Deed]:
    """List the changes of the optimiser, from which on the learning rates are others."""
    found = []
    for event in now.events:
        if event.text.startswith("restarted"):
            found.clear()
        elif event.text.startswith("changed the optimiser"):
            cure = "give the new optimiser a lower learning rate"
            found.append(Deed(event.step, "the optimiser was changed", cure, leads))
        elif event.text.startswith("entered the eigenbasis"):
            cure = "fit.leave_eigenbasis(), or enter it with a more careful optimiser"
            found.append(Deed(event.step, "the fit entered the eigenbasis", cure, leads))
    return found


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more
