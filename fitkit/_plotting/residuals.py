"""The panel of the residuals: whether they are a unit normal, and where they are not."""

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fitkit._fit import Fit
from fitkit._plotting.axes import INK, View, remark
from fitkit._plotting.panel import Frame
from fitkit._plotting.scatter import Scatter
from fitkit._plotting.scatter_marks import scatter_marks, scatter_view


class Residuals:
    """A histogram beside a unit normal, and the residuals by their index or as an image."""

    name, weight = "residuals", 1.25

    def available(self, fit: Fit) -> bool:
        """Return whether the fit was given residuals."""
        return fit.snapshot.place.program.problem.residuals_function is not None

    def view(self, frame: Frame) -> View:
        """Compute limits that hold all but stray residuals."""
        scatter = frame.scatter or Scatter()
        view = scatter_view(scatter)
        if scatter.shown.size:
            return view
        if frame.snapshot.place.program.problem.residuals_function is None:
            note = "the fit was given a loss,\nwhich has no residuals"
        elif scatter.leaves:
            note = "all residuals are zero\nor not finite"
        else:
            note = scatter.problem or "no residuals yet"
        return view._replace(note=note, ticks=(), xlabel="")

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw the residuals as they were evaluated last."""
        if frame.scatter is None or not frame.scatter.shown.size:
            return []
        return [*scatter_marks(axes, frame.scatter), remark(axes, frame.scatter.words, INK)]
