"""What a dashboard shows: a fit, or many. All else about a dashboard is the same for both."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import ipywidgets as widgets

from fitkit._dashboard.layout import Cell, Page
from fitkit._dashboard.threads import EndingThread
from fitkit._fit import Status


@runtime_checkable
class Watched(Protocol):
    """What tells when it changes."""

    @property
    def status(self) -> Status:
        """Whether it runs, rests or is at its end."""
        ...

    def wait_for_change(self, since: int, timeout: float | None = None) -> int:
        """Sleep until the version is no longer `since`, or time is up; return the new one."""
        ...


@runtime_checkable
class Moment(Protocol):
    """Everything about the subject at one moment."""

    @property
    def version(self) -> int:
        """Grows with every change."""
        ...

    @property
    def status(self) -> Status:
        """Whether it runs, rests or is at its end."""
        ...


@runtime_checkable
class Live(Protocol):
    """The widgets, and the threads that belong to them."""

    @property
    def box(self) -> widgets.Box:
        """All of them."""
        ...

    @property
    def page(self) -> Page:
        """How wide the picture is shown, as far as the front end told."""
        ...

    @property
    def threads(self) -> Sequence[EndingThread]:
        """What works for them, not started yet."""
        ...

    def refresh_controls(self, now: Any, ending: Callable[[], bool] = ...) -> None:
        """Set every control from one moment."""

    def refresh_figure(self, now: Any) -> None:
        """Draw a frame; under the lock for drawing."""

    def show_failure(self, error: BaseException) -> None:
        """Show why a frame could not be drawn, until one can be."""

    def close(self) -> None:
        """Free the widgets."""


@runtime_checkable
class Subject(Protocol):
    """What is shown, and how."""

    @property
    def watched(self) -> Watched:
        """What tells when it changes."""
        ...

    @property
    def panels(self) -> tuple[str, ...]:
        """Names of the plots, in their order."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this process is the one that shows it."""
        ...

    def now(self) -> Any:
        """Return the present `Moment`."""

    def widgets(self, refresh_soon: Callable[[], None], close_soon: Callable[[], None]) -> Live:
        """Make the widgets, whose buttons may ask for a refresh, or for the end."""
        ...

    def cells(self, now: Any, live: Any) -> list[Cell]:
        """Describe what there is to draw at one moment, with or without widgets."""
        ...

    def words(self, now: Any) -> str:
        """Write what stands above the picture of a saved notebook."""
        ...

    def complete(self, live: Any) -> None:
        """Compute what the last picture of a cell lacks."""

    def evaluate(self) -> None:
        """Compute what a picture of this moment needs."""
