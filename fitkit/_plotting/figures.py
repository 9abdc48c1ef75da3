"""The methods of `Result` that draw, attached to it at the end of this file.

So the result itself knows nothing of matplotlib, and importing this does not import it either.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from fitkit._format import number
from fitkit._result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LABELS = 40  # along an axis; more cannot be read
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

    Parameters
    ----------
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes
    """
    ax = axes_or_new(ax)
    labels = self.fisher.labels
    image = ax.imshow(self.correlations, vmin=-1, vmax=1, cmap="RdBu_r")
    if len(labels) <= MOST_LABELS:
        ax.set_xticks(range(len(labels)), labels, rotation=90)
        ax.set_yticks(range(len(labels)), labels)
    if ax.figure is not None:
        ax.figure.colorbar(image, ax=ax, label="correlation")
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


def axes_or_new(ax: "Axes | None") -> "Axes":
    """Return the axes, or those of a new figure where there are none."""
    if ax is not None:
        return ax
    # Here, because importing fitkit should neither start pyplot nor choose its backend.
    import matplotlib.pyplot

    return matplotlib.pyplot.subplots(layout="constrained")[1]


_METHODS: tuple[Any, ...] = (plot_residuals, plot_correlation, plot_spectrum)
for _method in _METHODS:
    setattr(Result, _method.__name__, _method)
