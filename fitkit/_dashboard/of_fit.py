"""A fit as a dashboard shows it."""

import contextlib
from collections.abc import Callable, Sequence

from fitkit._dashboard.header import headline, shown_loss
from fitkit._dashboard.layout import Cell
from fitkit._dashboard.panels import Draw, DrawPanel, Panels
from fitkit._dashboard.spectra import compute_spectrum
from fitkit._dashboard.table import VISIBLE
from fitkit._dashboard.widgets import LiveWidgets
from fitkit._fit import Fit, Snapshot
from fitkit._format import number
from fitkit._plotting import Entry, affordable


class OfFit:
    """The `Subject` that is one fit."""

    def __init__(
        self,
        fit: Fit,
        panels: Sequence[str | DrawPanel] | None,
        draw: Draw | None,
        compare: Fit | None,
    ) -> None:
        self.watched, self._panels = fit, Panels(fit, panels, draw, compare)
        self.panels = self._panels.names

    def __repr__(self) -> str:
        count = len(self.watched.names)
        return f"Dashboard of {count} parameter{'s' if count > 1 else ''}"

    @property
    def leads(self) -> bool:
        """Whether this process is the one that shows it."""
        return self.watched.leads

    def now(self) -> Snapshot:
        """Return the snapshot."""
        return self.watched.snapshot

    def widgets(
        self, refresh_soon: Callable[[], None], close_soon: Callable[[], None]
    ) -> LiveWidgets:
        """Make header, picture, eigenvectors and rows."""
        live = LiveWidgets(self.watched, self._panels, refresh_soon)
        live.header.close.on_click(lambda _: close_soon())
        return live

    def cells(self, now: Snapshot, live: LiveWidgets | None) -> list[Cell]:
        """Describe what there is to draw at one moment."""
        if live is None:
            names = self.watched.names[:VISIBLE]
            entries = [Entry(path, (path,), number) for number, path in enumerate(names)]
        else:
            entries = live.table.in_sight()
        return self._panels.cells(self.watched, now, entries)

    def words(self, now: Snapshot) -> str:
        """Write status, step and loss."""
        loss = number(shown_loss(now), typeset=True)
        return "    ".join((headline(now.status), f"step {now.step:,}", f"loss {loss}"))

    def complete(self, live: LiveWidgets | None) -> None:
        """Compute what the background computes of a fit at rest, where there is no background."""
        fit = self.watched
        wanted = "spectrum" in self.panels and fit.spectrum is None and affordable(fit)
        if wanted and not fit.shared and live is None:
            with contextlib.suppress(Exception):
                compute_spectrum(fit)
        if live is None:
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate the residuals, where they are shown."""
        self._panels.evaluate()
