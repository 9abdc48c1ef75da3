"""Many systems as a dashboard shows them."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fitkit._dashboard.drawing import Box, Drawing
from fitkit._dashboard.header import headline
from fitkit._dashboard.layout import WIDE, Cell, Drawn, Plot
from fitkit._dashboard.many_widgets import LiveMany
from fitkit._fit import Status
from fitkit._plotting import MANY_PANELS, Many, ManyFrame, MapFrame, draw_map

MAP = "map"
IMAGES = 4.0  # the weight of three images side by side, each with the numbers of its colours
TURN = 0.05  # seconds between two looks at whether fits were made
SHARE = 0.03  # of a core that goes into drawing the map while the fits run


class OfMany:
    """The `Subject` that is many systems.

    Raises
    ------
    ValueError
        If a panel is unknown, or there is `draw`, which is of a fit.
    """

    def __init__(
        self,
        many: Many,
        panels: Sequence[str | Callable] | None,
        draw: Callable | None,
        compare: object,
    ) -> None:
        self.watched = ManyWatch(many)
        flat = len(many.shape) in (1, 2)
        if panels is None:
            panels = [*MANY_PANELS, *([MAP] if flat else [])]
        known = [*MANY_PANELS, *([MAP] if flat else [])]
        unknown = [repr(one) for one in panels if not callable(one) and one not in known]
        if unknown or not panels:
            raise ValueError(
                f"Dashboard: no panel {', '.join(unknown) or 'was asked for'} of systems of the "
                f"shape {many.shape}. There are {', '.join(map(repr, known))}, and functions "
                "panel(axes, many)."
            )
        if draw is not None:
            raise ValueError(
                "Dashboard: draw(axes, params) is for a single fit. For many systems, add a "
                "function panel(axes, many) to the panels."
            )
        if compare is not None:
            raise ValueError("Dashboard: compare is for a single fit; leave it out for many.")
        self._shown = [
            Drawing(_name(one), _of_many(one)) if callable(one) else MANY_PANELS[one]
            for one in panels
            if one != MAP
        ]
        self._map = SlowDrawing(MAP, draw_map) if MAP in panels else None
        self.panels = tuple(map(_name, panels))

    def __repr__(self) -> str:
        count = len(self.watched.many)
        return f"Dashboard of {count:,} system{'' if count == 1 else 's'}"

    @property
    def leads(self) -> bool:
        """Return True: one process fits many systems."""
        return True

    def now(self) -> ManyFrame:
        """Return what is known at this moment."""
        return self.watched.now()

    def widgets(self, refresh_soon: Callable[[], None], close_soon: Callable[[], None]) -> LiveMany:
        """Make header, picture, and the choice of a system."""
        return LiveMany(self.now(), self.panels, self.cells, refresh_soon, close_soon)

    def cells(self, now: ManyFrame, live: LiveMany | None) -> list[Cell]:
        """Describe what there is to draw at one moment."""
        cells = [_cell(one, now) for one in self._shown]
        if self._map is not None:
            path, chosen = (now.many.labels[0], None) if live is None else live.choice
            weight = WIDE if len(now.many.shape) == 1 else IMAGES
            cells.append(Drawn(self._map, MapFrame(now, path, chosen), weight))
        return cells

    def words(self, now: ManyFrame) -> str:
        """Write how far the fits are, and what came of them."""
        counts = (f"{count:,} {word}" for word, count in now.many.counts().items())
        return "    ".join((headline(now.status), *counts))

    def evaluate(self) -> None:
        """Compute nothing: all that is drawn is known."""

    def complete(self, live: LiveMany | None) -> None:
        """Compute nothing: all is there."""


class ManyWatch:
    """Tells when something of many systems changed."""

    def __init__(self, many: Many) -> None:
        self.many = many
        self._lock = threading.Lock()
        self._version, self._key = 0, self._look()

    @property
    def status(self) -> Status:
        """How the fits are, in the words that a single fit has."""
        many = self.many
        begun = len(many.completion.made) > 1  # The first portion compiles.
        if many.running:
            return Status.RUNNING if begun else Status.COMPILING
        if many.error is not None:
            return Status.FAILED
        if many.finished:
            return Status.FINISHED
        if many.stopped:
            return Status.STOPPED
        return Status.PAUSED if begun or many.progress else Status.READY

    def now(self) -> ManyFrame:
        """Return what is known at this moment."""
        status = self.status
        return ManyFrame(self._renewed(), status, self.many)

    def wait_for_change(self, since: int, timeout: float | None = None) -> int:
        """Sleep until the version is no longer `since`, or time is up; return the new one."""
        end = None if timeout is None else time.monotonic() + timeout
        while (version := self._renewed()) == since:
            left = TURN if end is None else min(TURN, end - time.monotonic())
            if left <= 0:
                break
            time.sleep(left)
        return version

    def _renewed(self) -> int:
        with self._lock:
            key = self._look()
            if key != self._key:
                self._version, self._key = self._version + 1, key
            return self._version

    def _look(self) -> tuple[Any, ...]:
        made = self.many.completion
        return self.status, int(made.made[-1]), float(made.seconds[-1]), len(self.many.notes)


class SlowDrawing(Drawing):
    """A drawing that takes long, and is drawn anew only as often as it may.

    Once the fits rest, and where another element or system is chosen, it is drawn at once.
    """

    def __init__(self, name: str, function: Callable[[Axes, Any], object]) -> None:
        super().__init__(name, function)
        self._due, self._key, self._kept = 0.0, (), np.empty((0, 0, 4), np.uint8)

    def pixels(self, snapshot: Any, box: Box, size: tuple[int, int], dpi: float) -> Any:
        busy = snapshot.frame.status.busy
        key = snapshot.path, snapshot.chosen, busy, size
        if key == self._key and busy and time.monotonic() < self._due:
            return self._kept
        begun = time.thread_time()
        self._kept, self._key = super().pixels(snapshot, box, size, dpi), key
        self._due = time.monotonic() + (time.thread_time() - begun) / SHARE
        return self._kept


def _cell(one: Any, frame: ManyFrame) -> Cell:
    if isinstance(one, Drawing):
        return Drawn(one, frame)
    return Plot(one.view(frame), lambda axes: one.marks(axes, frame), one.weight)


def _name(panel: str | Callable) -> str:
    return panel if isinstance(panel, str) else getattr(panel, "__name__", type(panel).__name__)


def _of_many(function: Callable) -> Callable[[Axes, ManyFrame], object]:
    return lambda axes, frame: function(axes, frame.many)
