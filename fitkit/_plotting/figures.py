"""A result drawn on matplotlib axes.

These are the methods of `Result` that draw. They are attached at the end of this file, which
stands above the result on the module map, so that the result itself knows nothing of matplotlib.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from fitkit._result import Result

if TYPE_CHECKING:  # Importing fitkit should not wait for matplotlib's figures.
    from matplotlib.axes import Axes

# Colours of Okabe and Ito (2008), told apart by colour-blind readers.
BLUE, ORANGE = "#0072B2", "#D55E00"
# More labels than this along an axis cannot be read.
MOST_LABELS = 40


def plot_residuals(self: Result, ax: "Axes | None" = None) -> "Axes":
    """Draw the residuals in their order, with lines at ±1 of their unit, σ.

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
    ax = _axes(ax)
    ax.axhline(0, color="0.6", linewidth=1)
    for edge in (-1, 1):
        ax.axhline(edge, color="0.6", linewidth=1, linestyle=":")
    ax.plot(self.residuals, ".", color=BLUE, markersize=4 if self.residuals.size > 100 else 7)
    ax.set(xlabel="residual number", ylabel="(model − data) / σ")
    if self.reduced_chi_square is not None:
        ax.set_title(f"reduced chi-square {self.reduced_chi_square:.4g}")
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
    ax = _axes(ax)
    labels = self.fisher.labels
    image = ax.imshow(self.correlations, vmin=-1, vmax=1, cmap="RdBu_r")
    if len(labels) <= MOST_LABELS:
        ax.set_xticks(range(len(labels)), labels, rotation=90)
        ax.set_yticks(range(len(labels)), labels)
    if ax.figure is not None:
        ax.figure.colorbar(image, ax=ax, label="correlation")
    return ax


def plot_spectrum(self: Result, ax: "Axes | None" = None) -> "Axes":
    """Draw the units-free Fisher eigenvalues, the rank cut, and what lies below it.

    Parameters
    ----------
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    values = np.asarray(self.fisher.eigenvalues)
    kept = np.asarray(self.fisher.constrained)
    modes = np.arange(1, len(values) + 1)
    cut = self.fisher.rtol * values[0] if values[0] > 0 else 1.0
    ax.plot(modes[kept], values[kept], "o", color=BLUE, label="constrained")
    if not kept.all():
        # Zeros and negative values have no place on a logarithmic axis: they sit on the cut.
        shown = np.maximum(values[~kept], cut)
        ax.plot(modes[~kept], shown, "v", color=ORANGE, label="unconstrained")
        ax.axhline(cut, color="0.5", linestyle="--", linewidth=1, label="rank cut")
        ax.legend()
    ax.set_yscale("log")
    ax.set(xlabel="mode", ylabel="eigenvalue (units-free)")
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    # Here, because importing fitkit should neither start pyplot nor choose its backend.
    import matplotlib.pyplot

    return matplotlib.pyplot.subplots(layout="constrained")[1]


_METHODS: tuple[Any, ...] = (plot_residuals, plot_correlation, plot_spectrum)
for _method in _METHODS:
    setattr(Result, _method.__name__, _method)
