"""Which panels a dashboard shows, and what they draw of a fit at one moment."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree
from matplotlib.axes import Axes

from fitkit._dashboard.drawing import Drawing
from fitkit._dashboard.layout import WIDE, Cell, Drawn, Plot
from fitkit._dashboard.residuals import LatestResiduals
from fitkit._dashboard.unasked import Unasked
from fitkit._fit import Fit, Snapshot
from fitkit._plotting import PANELS, Entry, Frame, LossLook, Panel, error_bars

MODEL, RESIDUALS = "model", "residuals"
Draw = Callable[[Axes, PyTree], object]
DrawPanel = Callable[[Axes, Snapshot], object]


class Panels:
    """The panels of a dashboard.

    Parameters
    ----------
    fit
        The fit.
    panels
        Names, and functions of the user's own; None for all that are available.
    draw
        What draws data and model.
    compare
        Another fit, whose loss is drawn behind.

    Attributes
    ----------
    names
        In their order.
    loss_look
        How the loss is drawn, in frames and in saved pictures.
    no_spectrum
        Why no spectrum could be computed; empty if nothing is amiss.

    Raises
    ------
    ValueError
        If a panel is unknown, or the model's has no `draw`.
    """

    def __init__(
        self,
        fit: Fit,
        panels: Sequence[str | DrawPanel] | None,
        draw: Draw | None,
        compare: Fit | None = None,
    ) -> None:
        if panels is None:
            panels = [name for name, panel in PANELS.items() if panel.available(fit)]
            if draw is not None:  # It shows more of the fit than residuals do.
                panels = [*(name for name in panels if name != RESIDUALS), MODEL]
        known = [*PANELS, MODEL]
        unknown = [repr(one) for one in panels if not callable(one) and one not in known]
        if unknown or not panels:
            raise ValueError(
                f"Dashboard: no panel {', '.join(unknown) or 'was asked for'}. "
                f"There are {', '.join(map(repr, known))}, and functions panel(axes, snapshot)."
            )
        if (MODEL in panels) != (draw is not None):
            raise ValueError(
                "Dashboard: the panel 'model' and a function draw(axes, params) belong together; "
                f"{'draw' if draw is None else 'the panel'} is missing."
            )
        self._shown: list[Panel | Drawing] = []
        for one in panels:
            if callable(one):
                self._shown.append(Drawing(getattr(one, "__name__", type(one).__name__), one))
            elif one != MODEL:
                self._shown.append(PANELS[one])
        self._fit, self._compare, self._residuals = fit, compare, LatestResiduals(fit)
        self.loss_look = LossLook()
        self._model = None if draw is None else Drawing("draw", _of_params(draw))
        self.names = tuple(
            one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__)
            for one in panels
        )
        # The wide panel is the model, or else the residuals.
        self._wide = None if draw is not None else PANELS[RESIDUALS]
        self.no_spectrum = ""
        self._errors: tuple[Any, dict[str, np.ndarray]] = (None, {})

    @property
    def unasked(self) -> tuple[Unasked, ...]:
        """What is computed for them in the background."""
        return (self._residuals.unasked(),) if RESIDUALS in self.names else ()

    def evaluate(self) -> None:
        """Evaluate the residuals of this moment, where they are shown."""
        if RESIDUALS in self.names:
            self._residuals.evaluate()

    @property
    def problem(self) -> str:
        """What a function of the user's own raised when it last drew; empty if nothing."""
        drawings = [one for one in (*self._shown, self._model) if isinstance(one, Drawing)]
        return next((one.problem for one in drawings if one.problem), "")

    def errors(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """Compute the `error_bars`, once for every Fisher matrix."""
        known = snapshot.known_fisher
        if known is not self._errors[0]:
            self._errors = known, error_bars(snapshot)
        return self._errors[1]

    def cells(
        self,
        fit: Fit,
        snapshot: Snapshot,
        entries: Sequence[Entry],
        chosen: int | None = None,
    ) -> list[Cell]:
        """Describe what there is to draw at one moment.

        Parameters
        ----------
        fit
            The fit.
        snapshot
            The fit at this moment.
        entries
            The parameters and groups that have a colour.
        chosen
            The eigenvector to mark in the spectrum.
        """
        frame = Frame(
            snapshot,
            tuple(entries),
            self.errors(snapshot),
            fit.spectrum,
            chosen,
            self._residuals.scatter,
            None if self._compare is None else self._compare.history,
            self.loss_look,
            self.no_spectrum,
        )
        cells = [self._cell(one, frame) for one in self._shown]
        model = [] if self._model is None else [Drawn(self._model, snapshot, WIDE)]
        return [*cells, *model]

    def _cell(self, one: Panel | Drawing, frame: Frame) -> Cell:
        if isinstance(one, Drawing):
            return Drawn(one, frame.snapshot)
        weight = WIDE if one is self._wide else one.weight
        return Plot(one.view(frame), lambda axes: one.marks(axes, frame), weight)


def _of_params(draw: Draw) -> DrawPanel:
    return lambda axes, snapshot: draw(axes, snapshot.params)
