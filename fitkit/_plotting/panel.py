"""What a panel of the dashboard is, and what it draws from: everything of one moment.

A panel is drawn in two halves, so that a live view can keep the first and repeat the second: its
`view` is what rarely changes, its `marks` are the artists of every frame.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit, History, Snapshot, Status
from fitkit._paths import named_elements, named_leaves
from fitkit._plotting.axes import View
from fitkit._plotting.scatter import Scatter

Errors = Mapping[str, np.ndarray]
T = TypeVar("T")


class Entry(NamedTuple):
    """What one colour stands for: a parameter, or all those below a path.

    Attributes
    ----------
    label
        The path.
    paths
        The parameters.
    number
        That of its colour and line style.
    group
        Whether it stands for all below the path.
    """

    label: str
    paths: tuple[str, ...]
    number: int
    group: bool = False


class LossLook(NamedTuple):
    """How the loss is drawn.

    Attributes
    ----------
    linear : bool
        On a linear axis.
    above : bool
        As what it is above the lowest.
    smooth : bool
        As its running median alone.
    shown : tuple[float, float]
        The part of the steps, from 0 to 1.
    """

    linear: bool = False
    above: bool = False
    smooth: bool = False
    shown: tuple[float, float] = (0.0, 1.0)


_AS_EVER = LossLook()


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """All that the panels of one frame are drawn from.

    Attributes
    ----------
    snapshot : Snapshot
        The fit at this moment.
    entries : tuple[Entry, ...]
        The parameters and groups that are drawn in colour; all others are grey.
    errors : Mapping[str, np.ndarray]
        The standard errors that are known, by path (see `error_bars`).
    spectrum : tuple[np.ndarray, int] | None
        The eigenvalues that the optimiser works with, and their rank; see `Fit.spectrum`.
    chosen : int | None
        The eigenvector to mark.
    scatter : Scatter | None
        The residuals as they were evaluated last; None before.
    compared : History | None
        That of another fit, to be drawn behind this one's.
    loss_look : LossLook
        How the loss is drawn.
    no_spectrum : str
        Why no spectrum could be computed; empty if nothing is amiss.
    """

    snapshot: Snapshot
    entries: tuple[Entry, ...] = ()
    errors: Errors = dataclasses.field(default_factory=dict)
    spectrum: tuple[np.ndarray, int] | None = None
    chosen: int | None = None
    scatter: Scatter | None = None
    compared: History | None = None
    loss_look: LossLook = _AS_EVER
    no_spectrum: str = ""
    _found: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def history(self) -> History:
        """Loss, gradient norms and step norms of every step."""
        return self.snapshot.history

    @property
    def behind(self) -> History | None:
        """What is drawn behind: another fit's history, or that before the latest restart."""
        return self.snapshot.earlier if self.compared is None else self.compared

    @property
    def settled(self) -> bool:
        """Whether the run is over, so that nothing more will come by itself."""
        status = self.snapshot.status
        return not status.busy and status is not Status.PAUSED

    @property
    def end(self) -> int | None:
        """The step at which the run ends; None for a run without an end."""
        step, target = self.snapshot.step, self.snapshot.target
        if self.settled:
            return step
        return None if target is None else max(target, step)

    @functools.cached_property
    def units(self) -> Mapping[str, float] | None:
        """The standard error of each parameter that moves, the unit of its step sizes.

        None unless all of them have a finite one: on one axis, steps have one kind of unit.
        """
        moving = [path for path in self.history.names if path not in self.snapshot.frozen]
        if not moving or any(path not in self.errors for path in moving):
            return None
        units = {path: float(np.sqrt(np.sum(self.errors[path] ** 2))) for path in moving}
        return units if all(np.isfinite(unit) and unit > 0 for unit in units.values()) else None


def once_a_frame(find: Callable[[Frame], T]) -> Callable[[Frame], T]:
    """Return a function that finds once in a frame what its view and its marks both need."""

    @functools.wraps(find)
    def found(frame: Frame) -> T:
        if find not in frame._found:
            frame._found[find] = find(frame)
        return frame._found[find]

    return found


@runtime_checkable
class Panel(Protocol):
    """A panel: an object that describes and draws one plot.

    To add one, write a file like ``loss.py`` with a class that has these members, and put it into
    ``PANELS`` in ``panels.py``. A panel has no state: a frame holds all that it draws.
    """

    @property
    def name(self) -> str:
        """What ``Dashboard(panels=...)`` calls it."""
        ...

    @property
    def weight(self) -> float:
        """How wide it is beside the others; 1 for most."""
        ...

    def available(self, fit: Fit) -> bool:
        """Return whether a dashboard of this fit shows it unless told otherwise."""
        ...

    def view(self, frame: Frame) -> View:
        """Compute what of the plot rarely changes; limits should be round numbers."""
        ...

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Make the artists of one frame, attached to axes that `view` has set up."""
        ...


def error_bars(snapshot: Snapshot) -> dict[str, Float[np.ndarray, "..."]]:
    """Compute the standard errors, by path, of the parameters whose Fisher matrix is known."""
    if snapshot.known_fisher is None:
        return {}
    fisher = snapshot.known_fisher[1]
    known: dict[str, Any] = dict(zip(fisher.labels, np.asarray(fisher.errors), strict=True))
    errors = {}
    for path, leaf in named_leaves(snapshot.params).items():
        elements = named_elements({path: leaf})
        if all(element in known for element in elements):
            errors[path] = np.reshape([known[element] for element in elements], np.shape(leaf))
    return errors
