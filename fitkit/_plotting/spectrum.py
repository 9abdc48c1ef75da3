"""The panel of the spectrum: the eigenvalues of the units-free Fisher matrix."""

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fitkit._fit import Fit
from fitkit._plotting.axes import (
    BLUE,
    INK,
    VERMILION,
    View,
    attach,
    attach_to_data,
    remark,
)
from fitkit._plotting.limits import decades, finite
from fitkit._plotting.panel import Frame

#: Elements of parameters; with more, a Fisher matrix is computed only when asked for.
MOST_ELEMENTS = 500


class Spectrum:
    """The eigenvalues that the optimiser works with, or else those of the latest Fisher matrix."""

    name, weight = "spectrum", 0.75

    def available(self, fit: Fit) -> bool:
        """Return whether the eigenvalues are there, or can be computed in the background."""
        return affordable(fit) or fit.spectrum is not None

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades that hold what is positive."""
        return spectrum_view(_eigenvalues(frame)[0])

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a point for every eigenvalue, and ring the chosen one."""
        return spectrum_marks(axes, *_eigenvalues(frame), frame.chosen)


def affordable(fit: Fit) -> bool:
    """Return whether there are few enough parameters for Fisher matrices that nobody asked for."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(fit.params)) <= MOST_ELEMENTS


def spectrum_view(eigenvalues: Float[np.ndarray, " n"]) -> View:
    """Compute the view of a spectrum, largest eigenvalue first."""
    limits = decades(finite(eigenvalues[eigenvalues > 0]))
    count = len(eigenvalues)
    note = "" if count else "no spectrum yet"
    return View("Spectrum", (0.4, count + 0.6), limits, xlabel="eigenvector", note=note)


def spectrum_marks(
    axes: Axes, eigenvalues: Float[np.ndarray, " n"], rank: int, chosen: int | None = None
) -> list[Artist]:
    """Make the artists of a spectrum: filled where the data constrain, hollow beyond the rank.

    What is zero, negative or below the axis lies on the axis. `chosen` is ringed.
    """
    count = len(eigenvalues)
    if count == 0:
        return []
    heights = np.maximum(np.nan_to_num(eigenvalues), axes.get_ylim()[0])
    numbers = np.arange(1, count + 1)
    size = float(np.clip(140 / count, 2.0, 5.5))
    marks: list[Artist] = []
    for part, shade, face in (
        (slice(None, rank), BLUE, BLUE),
        (slice(rank, None), VERMILION, "none"),
    ):
        dots = Line2D(numbers[part], heights[part], marker="o", markersize=size)
        dots.set(linestyle="none", markerfacecolor=face, markeredgecolor=shade, markeredgewidth=1.3)
        dots = attach_to_data(axes, dots)
        dots.set_clip_on(False)
        marks.append(dots)
    if rank < count:
        cut = Line2D((rank + 0.5, rank + 0.5), (0, 1), color=VERMILION, linewidth=1)
        cut.set(linestyle=(0, (4, 3)), transform=axes.get_xaxis_transform())
        marks += [attach(axes, cut), remark(axes, f"{count - rank} unconstrained")]
    if chosen is not None and chosen < count:
        ring = Line2D([chosen + 1], [heights[chosen]], marker="o", markersize=size + 6)
        ring.set(linestyle="none", markerfacecolor="none", markeredgecolor=INK)
        marks.append(attach_to_data(axes, ring))
    return marks


def _eigenvalues(frame: Frame) -> tuple[np.ndarray, int]:
    if frame.spectrum is not None and len(frame.spectrum[0]):
        return np.asarray(frame.spectrum[0], dtype=float), frame.spectrum[1]
    if frame.snapshot.known_fisher is None:
        return np.empty(0), 0
    fisher = frame.snapshot.known_fisher[1]
    return np.asarray(fisher.eigenvalues, dtype=float), fisher.rank
