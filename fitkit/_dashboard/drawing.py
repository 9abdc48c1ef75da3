"""What the user's own function draws: data and model, or a panel of one's own."""

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fitkit._plotting import INK, PALETTE, recolour

Box = tuple[float, float, float, float]


class Drawing:
    """A function that draws on matplotlib axes, and what it raised.

    Parameters
    ----------
    name
        What to call it in a message.
    function
        Called with new axes and a snapshot of the fit, or a `ManyFrame`.

    Attributes
    ----------
    problem
        What the function raised when it was last called; empty if all was well.
    """

    def __init__(self, name: str, function: Callable[[Axes, Any], object]) -> None:
        self.name, self.problem = name, ""
        self._function = function
        # One of its own, so that nothing that the function does can harm the other panels.
        self._figure = Figure()
        self._canvas = FigureCanvasAgg(self._figure)

    def pixels(
        self, snapshot: Any, box: Box, size: tuple[int, int], dpi: float
    ) -> UInt8[np.ndarray, "rows columns 4"]:
        """Draw an image of its own.

        Parameters
        ----------
        snapshot
            The fit at this moment.
        box
            Where the axes are: left, bottom, width and height, in shares of the image.
        size
            Width and height of the image in pixels.
        dpi
            Pixels in an inch, 72 points.
        """
        self._figure.clear()
        self._figure.set_dpi(dpi)
        # A hundredth of a pixel more, for some releases of matplotlib cut where others round.
        self._figure.set_size_inches((size[0] + 0.01) / dpi, (size[1] + 0.01) / dpi)
        self._figure.patch.set_alpha(0.0)
        self._canvas.get_renderer().clear()
        self.draw_on(self._figure, snapshot, box)
        return np.array(self._canvas.buffer_rgba())

    def draw_on(self, figure: Figure, snapshot: Any, box: Box) -> None:
        """Draw on new axes of a figure that has an Agg canvas; what is raised is drawn as words."""
        before = set(figure.axes)
        problem = ""
        try:
            self._draw(figure, snapshot, box, before)
        except (Exception, SystemExit) as error:  # `sys.exit` would end no more than a thread.
            problem = f"{self.name} raised {type(error).__name__}: {error}"
            if problem != self.problem:  # Once, not with every frame.
                traceback.print_exception(error)
            for axes in set(figure.axes) - before:
                axes.remove()
            axes = figure.add_axes(box)
            axes.text(0.5, 0.5, problem, ha="center", color=INK, parse_math=False)
            self._finish([axes], figure)
        self.problem = problem

    def _draw(self, figure: Figure, snapshot: Any, box: Box, before: set[Axes]) -> None:
        axes = figure.add_axes(box)
        axes.set_prop_cycle(color=PALETTE)
        self._function(axes, snapshot)
        # With those that the function makes itself, as for residuals.
        self._finish([one for one in figure.axes if one not in before], figure)

    @staticmethod
    def _finish(made: list[Axes], figure: Figure) -> None:
        """Recolour axes and draw them, because some mistakes show only then."""
        assert isinstance(figure.canvas, FigureCanvasAgg)
        for axes in made:
            recolour(axes)
            axes.draw(figure.canvas.get_renderer())
