"""The panel of the spectrum: the eigenvalues of the units-free Fisher matrix, or the largest."""

import textwrap

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fitkit._fisher import FisherMatrix, FisherSpectrum
from fitkit._fit import Fit, Snapshot
from fitkit._paths import named_leaves
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
from fitkit._plotting.panel import Frame, once_a_frame

#: Elements of parameters; of more, the largest eigenvalues take the place of the Fisher matrix,
#: which takes as many derivatives as there are elements.
MOST_ELEMENTS = 500
#: Of more, none are computed unasked: a search keeps 41 vectors, here of 66 megabytes together.
MOST_UNASKED = 200_000
LINE = 36  # letters of a note that fit into a line of the panel


class Spectrum:
    """The eigenvalues that the optimiser works with, or else those that were computed last."""

    name, weight = "spectrum", 0.75

    def available(self, fit: Fit) -> bool:
        """Return True: where there is no spectrum, the panel says why."""
        return True

    def view(self, frame: Frame) -> View:
        """Compute limits of whole decades that hold what is positive."""
        eigenvalues, _, size = _eigenvalues(frame)
        view = spectrum_view(eigenvalues)
        if not len(eigenvalues):
            return view._replace(note=_absent(frame))
        if len(eigenvalues) == size:
            return view
        return view._replace(xlabel=f"the {len(eigenvalues)} largest of {size:,}")

    def marks(self, axes: Axes, frame: Frame) -> list[Artist]:
        """Draw a point for every eigenvalue, and ring the chosen one."""
        eigenvalues, rank, _ = _eigenvalues(frame)
        return spectrum_marks(axes, eigenvalues, rank, frame.chosen)


def affordable(fit: Fit) -> bool:
    """Return whether there are few enough parameters for a spectrum that nobody asked for."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(fit.params)) <= MOST_UNASKED


def free_elements(now: Snapshot) -> int:
    """Count the elements of the parameters that are not frozen."""
    leaves = named_leaves(now.place.view.params)
    return sum(np.size(leaf) for path, leaf in leaves.items() if path not in now.frozen)


def is_large(now: Snapshot) -> bool:
    """Return whether only the largest eigenvalues are computed, for lack of time for all."""
    return free_elements(now) > MOST_ELEMENTS


def latest_spectrum(now: Snapshot) -> tuple[int, FisherMatrix | FisherSpectrum] | None:
    """Return what is known of the spectrum nearest to this moment, after the step it belongs to."""
    known = [one for one in (now.known_fisher, now.known_spectrum) if one is not None]
    return min(known, key=lambda one: abs(now.step - one[0]), default=None)


def spectrum_view(eigenvalues: Float[np.ndarray, " n"]) -> View:
    """Compute the view of a spectrum, largest eigenvalue first."""
    limits = decades(finite(eigenvalues[eigenvalues > 0]))
    count = len(eigenvalues)
    note = "" if count else "no spectrum yet"
    return View("Spectrum", (0.4, count + 0.6), limits, xlabel="eigenvector", note=note)


def _absent(frame: Frame) -> str:
    """Say why there is no spectrum."""
    if frame.no_spectrum:
        return textwrap.fill(f"no spectrum: {frame.no_spectrum}", LINE, max_lines=5)
    elements = free_elements(frame.snapshot)
    if elements > MOST_UNASKED:
        words = f"{elements:,} parameter elements: no spectrum unless asked for"
        return textwrap.fill(words, LINE)
    return "no spectrum yet"


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


@once_a_frame
def _eigenvalues(frame: Frame) -> tuple[np.ndarray, int, int]:
    """Return eigenvalues, how many of them the data constrain, and how many there are in all."""
    if frame.spectrum is not None and len(frame.spectrum[0]):
        eigenvalues = np.asarray(frame.spectrum[0], dtype=float)
        return eigenvalues, frame.spectrum[1], len(eigenvalues)
    known = latest_spectrum(frame.snapshot)
    if known is None:
        return np.empty(0), 0, 0
    eigenvalues = np.asarray(known[1].eigenvalues, dtype=float)
    if isinstance(known[1], FisherSpectrum):
        return eigenvalues, len(eigenvalues), known[1].size
    return eigenvalues, known[1].rank, len(eigenvalues)
