"""The methods of `Result` that draw, attached to it at the end of this file.

So the result itself knows nothing of matplotlib, and importing this does not import it either.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from fitkit._format import number
from fitkit._paths import path_of_element
from fitkit._result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = 8.0  # points, of a label where there are many
SMALLEST_LABEL = 5.0  # points; smaller ones cannot be read on a screen
LINE = 1.4  # heights of a label, from one to the next
LETTER = 0.6  # heights of a letter, its mean width
LARGEST_FIGURE = 14.0  # inches, as wide as a notebook
MANY_POINTS = 100  # from there on small ones, which hide each other less


def plot_residuals(self: Result, ax: "Axes | None" = None) -> "Axes":
    """Draw the residuals in their order, and their histogram beside a unit normal.

    A band marks ±1 of their unit, σ. Those that are exactly zero, as what is masked, are left out,
    and triangles at an edge are of stray ones beyond it. Of more than 2,000 the bands are the
    extremes and the central 68 % of stretches, around their median.

    Parameters
    ----------
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the fit had a loss and so no residuals.
    """
    if self.residuals is None:
        raise ValueError("plot_residuals: the fit had a loss; only Fit(residuals=...) has any.")
    from fitkit._plotting.scatter import Scatter
    from fitkit._plotting.scatter_marks import scatter_marks, scatter_view

    ax, scatter = axes_or_new(ax), Scatter((self.residuals,))
    view = scatter_view(scatter)
    ax.set(xlim=view.x, ylim=view.y, xticks=view.ticks)
    ax.set(xlabel=view.xlabel, ylabel="(model − data) / σ")
    for mark in scatter_marks(ax, scatter):
        ax.add_artist(mark)
    if self.reduced_chi_square is not None:
        ax.set_title(f"reduced chi-square {number(self.reduced_chi_square)}")
    return ax


def plot_correlation(self: Result, ax: "Axes | None" = None) -> "Axes":
    """Draw the correlations of the fitted elements: blue negative, red positive.

    A figure of its own grows with their number, so that each label can be read. Where there is no
    room for the elements, the parameters are labelled, each in the middle of its elements, with
    lines between them.

    Parameters
    ----------
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes
    """
    labels = self.fisher.labels
    if ax is None:
        side = min(max(len(labels) * LABEL * LINE / 72, 3.5), LARGEST_FIGURE)
        beside = max(map(len, labels)) * LABEL * LETTER / 72
        ax, height = new_axes((side + beside + 1.0, side + beside)), side * 72
    else:
        height = ax.bbox.height / ax.figure.dpi * 72
    image = ax.imshow(self.correlations, vmin=-1, vmax=1, cmap="RdBu_r")
    label_elements(ax, labels, height)
    if ax.figure is not None:
        ax.figure.colorbar(image, ax=ax, label="correlation", fraction=0.05)
    return ax


def plot_spectrum(self: Result, ax: "Axes | None" = None) -> "Axes":
    """Draw the units-free Fisher eigenvalues, and where the data cease to constrain.

    Eigenvectors that the data leave unconstrained are hollow and beyond the dashed line; an
    eigenvalue that is zero or negative lies on the axis.

    Parameters
    ----------
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes
    """
    from matplotlib.ticker import MaxNLocator

    from fitkit._plotting.spectrum import spectrum_marks, spectrum_view

    ax = axes_or_new(ax)
    eigenvalues = np.asarray(self.fisher.eigenvalues, dtype=float)
    view = spectrum_view(eigenvalues)
    ax.set(yscale="log", xlim=view.x, ylim=view.y)
    ax.set(xlabel=view.xlabel, ylabel="eigenvalue (units-free)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for mark in spectrum_marks(ax, eigenvalues, self.fisher.rank):
        ax.add_artist(mark)
    return ax


def label_elements(ax: "Axes", labels: Sequence[str], height: float) -> None:
    """Label both axes, `height` points long, with all elements or else with their parameters."""
    pitch = height / len(labels)
    places = {label: float(place) for place, label in enumerate(labels)}
    if pitch < SMALLEST_LABEL * LINE:
        places, first, last = {}, 0, -np.inf
        for path, group in groupby(labels, path_of_element):
            count = len(list(group))
            middle = first + (count - 1) / 2
            if (middle - last) * pitch >= LABEL * LINE:  # Else it would lie on the one before.
                places[path] = last = middle
                for line in (ax.axhline, ax.axvline):
                    line(first - 0.5, color="0.5", linewidth=0.5)
            first += count
        pitch = LABEL * LINE
    size = min(pitch / LINE, LABEL)
    ax.set_xticks(list(places.values()), list(places), rotation=90, fontsize=size)
    ax.set_yticks(list(places.values()), list(places), fontsize=size)


def axes_or_new(ax: "Axes | None") -> "Axes":
    """Return the axes, or those of a new figure where there are none."""
    return new_axes() if ax is None else ax


def new_axes(size: tuple[float, float] | None = None) -> "Axes":
    """Return the axes of a new figure, of this width and height in inches or of matplotlib's."""
    # Here, because importing fitkit should neither start pyplot nor choose its backend.
    import matplotlib.pyplot

    return matplotlib.pyplot.subplots(layout="compressed", figsize=size)[1]


_METHODS: tuple[Any, ...] = (plot_residuals, plot_correlation, plot_spectrum)
for _method in _METHODS:
    setattr(Result, _method.__name__, _method)
