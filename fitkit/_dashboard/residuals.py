"""The residuals that a dashboard shows: evaluated beside the fit, which never waits for them."""

import weakref

from fitkit._dashboard.unasked import Unasked
from fitkit._fit import Fit, residuals_at
from fitkit._plotting import Scatter

OFTEN = 0.5  # seconds of running between two, as between two frames
REST = 0.3  # seconds that a fit stands still: a cell that shows it and runs it is not held up


class LatestResiduals:
    """The residuals of a fit as they were evaluated last.

    Parameters
    ----------
    fit
        The fit.

    Attributes
    ----------
    scatter
        What is drawn of them; None before.
    """

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        self._place: weakref.ref | None = None
        self.scatter: Scatter | None = None

    def evaluate(self) -> None:
        """Evaluate them at this moment, unless that was done or they are none."""
        now = self._fit.snapshot
        place = weakref.ref(now.place)
        if place == self._place or now.place.program.problem.residuals_function is None:
            return
        try:
            scatter = Scatter(residuals_at(now), now.step)
        except Exception as error:  # Nobody asked: the panel says it, and all else goes on.
            scatter = Scatter(problem=f"the residuals cannot be shown:\n{type(error).__name__}")
        self._place, self.scatter = place, scatter

    def unasked(self) -> Unasked:
        """Evaluate them from time to time, and where the fit rests."""
        return Unasked(self.evaluate, OFTEN, REST, lambda now: weakref.ref(now.place), False)
