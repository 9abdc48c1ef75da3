"""Residuals at one step, and what of them is drawn: found once, however often that is drawn."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fitkit._format import number
from fitkit._plotting.curves import COLUMNS

# Of a unit normal, one of 16,000 is beyond: seen at one glance, and so that the axis stays.
LEAST = 4.0
# An ordinate reaches so many times beyond all but a hundredth of the residuals: further out one
# stray point would flatten the rest. Of a normal distribution this is at 7.7 σ.
STRAY = 3.0
ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
MOST_BINS = 100  # two pixels each
SMALLEST = 8  # rows and columns of an image; less is a table, best read along its index
CENTRAL = (0.1587, 0.8413)  # quantiles of a normal distribution at -σ and σ
PIXELS = 256  # of an image along its longer side; more than a panel has are averaged


@dataclasses.dataclass(frozen=True, eq=False)
class Scatter:
    """The residuals at one step, and what is drawn of them.

    Attributes
    ----------
    leaves : tuple[np.ndarray, ...]
        The residuals, (model - data)/σ, as the user's function returns them.
    step : int | None
        The step; None where that goes without saying.
    problem : str
        Why there are none, in words.
    """

    leaves: Sequence[np.ndarray] = ()
    step: int | None = None
    problem: str = ""

    @functools.cached_property
    def flat(self) -> Float[np.ndarray, " n"]:
        """All in their order; NaN where one is not finite or exactly zero, as what is masked."""
        if not self.leaves:
            return np.empty(0)
        return _masked(np.concatenate([np.ravel(leaf) for leaf in self.leaves]))

    @functools.cached_property
    def shown(self) -> Float[np.ndarray, " m"]:
        """Those that are numbers."""
        return self.flat[np.isfinite(self.flat)]

    @functools.cached_property
    def image(self) -> Float[np.ndarray, "rows columns"] | None:
        """The two-dimensional leaf that holds most of the residuals, averaged; None without."""
        for leaf in self.leaves:
            if leaf.ndim == 2 and min(leaf.shape) >= SMALLEST and 2 * leaf.size > self.flat.size:
                return _averaged(_masked(leaf))
        return None

    @functools.cached_property
    def limit(self) -> float:
        """How far the ordinate reaches to both sides of zero."""
        sizes = np.abs(self.shown)
        if not sizes.size:
            return LEAST
        reach = float(min(sizes.max(), STRAY * np.quantile(sizes, 0.99)))
        decade = 10.0 ** np.floor(np.log10(max(reach, LEAST)))
        # Round, so that a frame rarely changes it.
        return LEAST if reach <= LEAST else min(k * decade for k in ROUND if k * decade >= reach)

    @functools.cached_property
    def bins(self) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " bins"]]:
        """The edges of the histogram, and the density in each bin, by σ."""
        # D. W. Scott, Biometrika 66, 605 (1979): of a normal distribution its error is least.
        low, high = np.quantile(self.shown, CENTRAL)
        width = 3.49 * (high - low) / 2 * self.shown.size ** (-1 / 3)
        most = min(self.limit / max(width, 1e-300), MOST_BINS / 2)
        # As many to both sides of zero, at least five.
        edges = np.linspace(-self.limit, self.limit, 2 * max(round(most), 5) + 1)
        # Bins of one width are found by arithmetic, others by sorting.
        counts, _ = np.histogram(self.shown, len(edges) - 1, (-self.limit, self.limit))
        return edges, counts / (max(self.shown.size, 1) * np.diff(edges))

    @functools.cached_property
    def columns(self) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, "columns 5"]]:
        """Where the middles of stretches are, and what residuals there lie between.

        Smallest, at -σ of a normal distribution, median, at σ, and largest.
        """
        edges = np.linspace(0, self.flat.size, COLUMNS // 2 + 1).astype(int)
        starts, ends = edges[:-1, None], edges[1:, None]
        numbers = starts + np.arange((ends - starts).max())
        parts = self.flat[np.minimum(numbers, ends - 1)]
        parts[numbers >= ends] = np.nan
        # All stretches at once, for a `np.quantile` of each takes far longer. NaNs sort last.
        parts.sort(axis=1)
        last = np.maximum(np.sum(np.isfinite(parts), axis=1)[:, None] - 1, 0)
        places = last * np.array([0.0, CENTRAL[0], 0.5, CENTRAL[1], 1.0])
        below = places.astype(int)
        low = np.take_along_axis(parts, below, axis=1)
        high = np.take_along_axis(parts, np.minimum(below + 1, last), axis=1)
        return (edges[:-1] + edges[1:]) / 2, low + (places - below) * (high - low)

    @property
    def words(self) -> str:
        """How large the residuals are, and at which step."""
        if not self.shown.size:
            return ""
        mean = number(float(np.mean(self.shown**2)), 3, typeset=True)
        return f"χ²/n {mean}" + ("" if self.step is None else f" at step {self.step:,}")


def _masked(values: np.ndarray) -> Float[np.ndarray, "..."]:
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values) & (values != 0), values, np.nan)


def _averaged(image: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "fewer narrower"]:
    """Average squares of pixels until an image is no larger than what a panel shows."""
    side = -(-max(image.shape) // PIXELS)
    if side == 1:
        return image
    rows, columns = (-(-length // side) for length in image.shape)
    padded = np.full((rows * side, columns * side), np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = padded.reshape(rows, side, columns, side)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0).sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
