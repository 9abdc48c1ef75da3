"""The residuals that a dashboard shows: evaluated beside the fit, which never waits for them."""

import weakref

from fitkit._dashboard.unasked import Unasked, of_each_place
from fitkit._fit import Fit, residuals_at
from fitkit._plotting import Scatter


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
        if self._fit.shared:
            # This process by itself would wait for the others for ever.
            words = "the data are spread over several processes:\nfit.result().plot_residuals()"
            self.scatter = Scatter(problem=words)
            return
        try:
            scatter = Scatter(residuals_at(now), now.step)
        except Exception as error:  # Nobody asked: the panel says it, and all else goes on.
            scatter = Scatter(problem=f"the residuals cannot be shown:\n{type(error).__name__}")
        self._place, self.scatter = place, scatter

    def unasked(self) -> Unasked:
        """Evaluate them from time to time, and where the fit rests."""
        return of_each_place(self.evaluate)
