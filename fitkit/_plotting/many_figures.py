"""The methods of `Many` that draw, attached to it at the end of this file, as those of `Result`."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from fitkit._format import number
from fitkit._many import Many
from fitkit._paths import UnknownPathError, element_name, nearest
from fitkit._plotting.figures import MANY_POINTS, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the values in a thousand the lowest and the highest five do not set the limits: a single system
# in another minimum would take the colours from all others.
RANGE = (0.5, 99.5)
# Bars of a histogram: fewer hide its shape, and more are narrower than what is seen.
FEWEST_BARS, MOST_BARS = 12, 80
# Standard deviations to either side of 1 that show all of what is expected; and what is an outlier,
# in distances of the upper quartile from the median: seven standard deviations of a normal one.
EXPECTED, OUTLYING = 4, 10
# Sides of an image whose pixels are square; one of a thousand by three would be a line.
MOST_OBLONG = 8
# Of systems that wait: a grey that recedes on a light and on a dark page.
WAITING = (0.5, 0.5, 0.5, 0.3)
# Chi-square of the worst over that of the best that is drawn: more takes a logarithmic axis.
MOST_LINEAR = 20


def plot_map(self: Many, path: str, ax: "Axes | None" = None) -> "Axes":
    """Draw one element of the parameters over the systems: as a curve, or as an image.

    Systems without success are marked in red, on the lower edge of a curve. Those that were not
    fitted yet are left out of a curve, and grey in an image. The colours of an image span all but
    the outermost hundredth of the values; what lies beyond has the colour of the end.

    Parameters
    ----------
    path
        Of the element: ``"flux"``, or ``"shape[0]"`` of a parameter with several.
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    UnknownPathError
        If there is no such element.
    ValueError
        If the systems are counted by neither one nor two axes.
    """
    if len(self.shape) not in (1, 2):
        raise ValueError(
            f"plot_map: the systems have the shape {self.shape}; a map needs one axis or two. "
            "many.values[path] holds the array."
        )
    values, errors = element_of(self, path)
    good, waiting = self.success & np.isfinite(values), self.status == "waiting"
    ax = axes_or_new(ax)
    if len(self.shape) == 1:
        draw_curve(ax, path, values, errors, good, waiting)
    else:
        draw_image(ax, path, values, good, waiting)
    return ax


def plot_chi_square(self: Many, ax: "Axes | None" = None) -> "Axes":
    """Draw the histogram of the reduced chi-squares, and what they would be by chance alone.

    The line is the density of chi-square for the degrees of freedom that the systems have, if the
    model is right and each residual is in units of its own σ: a histogram to its right says that
    the model is wrong or σ too small. Systems without success are stacked in red on the others.

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
        If no system has a chi-square yet, or any degrees of freedom.
    """
    from fitkit._plotting.axes import BLUE, VERMILION

    reduced, success = self.reduced_chi_square.ravel(), self.success.ravel()
    there = np.isfinite(reduced)
    if not there.any():
        raise ValueError(
            "plot_chi_square: no system has a reduced chi-square yet: they were not fitted, are "
            "not finite, or have no more data than parameters."
        )
    reduced, success = reduced[there], success[there]
    freedom = self.degrees_of_freedom.ravel()[there]
    low, high = span_of(reduced, freedom)
    edges = bars_of(reduced, low, high)
    ax = axes_or_new(ax)
    ax.hist(
        [reduced[success], reduced[~success]],
        edges.tolist(),
        stacked=True,
        color=[BLUE, VERMILION],
        alpha=0.75,
        label=["at a minimum", "without success"] if not success.all() else ["systems", ""],
    )
    places = np.linspace(low, high, 400)
    expected = density_of(places, freedom) * len(reduced) * (edges[1] - edges[0])
    least, most = freedom.min(), freedom.max()
    freedoms = f"{least}" if least == most else f"{least} to {most}"
    label = f"expected for {freedoms} degrees of freedom"
    ax.plot(places, expected, color="0.25", linewidth=1.5, label=label)
    beyond = np.count_nonzero(reduced > high)
    title = f"{len(reduced):,} systems, median {number(float(np.median(reduced)), 3)}"
    title += f"; {beyond:,} beyond {number(high, 3)}" if beyond else ""
    ax.set(xlabel="reduced chi-square", ylabel="systems", title=title, xlim=(low, high))
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])
    ax.legend(frameon=False, loc="upper right")
    return ax


def plot_worst(self: Many, n: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Draw the reduced chi-squares of the systems to look at first, as `Many.worst` lists them.

    Each bar has the index of the system, which ``many[index]`` takes, and its status; those without
    success are red. ``many[index].plot_residuals()`` shows more of one.

    Parameters
    ----------
    n
        How many.
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If `n` is not positive.
    """
    from fitkit._plotting.axes import BLUE, VERMILION

    if n < 1:
        raise ValueError(f"plot_worst: n={n}; must be 1 or more.")
    worst = self.worst(n)
    where = [index if isinstance(index, tuple) else (index,) for index in worst]
    where = [index if self.shape else () for index in where]
    reduced = np.array([self.reduced_chi_square[index] for index in where])
    status = [str(self.status[index]) for index in where]
    shades = [BLUE if self.success[index] else VERMILION for index in where]
    ax = axes_or_new(ax)
    known = reduced[np.isfinite(reduced) & (reduced > 0)]
    wide = len(known) > 0 and max(known.max(), 1) > MOST_LINEAR * min(known.min(), 1)
    rows = np.arange(len(worst))
    ax.barh(rows, np.nan_to_num(reduced, posinf=0.0), color=shades, alpha=0.75)
    ax.axvline(1, color="0.25", linewidth=1, linestyle=":")
    if wide:
        ax.set_xscale("log")
    left, right = ax.get_xlim()
    for row, (value, word) in enumerate(zip(reduced, status, strict=True)):
        drawn = np.isfinite(value) and value > left
        words = f"{number(float(value), 3)}, {word}" if np.isfinite(value) else word
        place = (value if drawn else left, row)
        ax.annotate(words, place, (4, 0), textcoords="offset points", va="center", fontsize="small")
    # Room for the words behind the longest bar.
    ax.set_xlim(left, right * (right / left) ** 0.35 if wide else right + 0.35 * (right - left))
    ax.set_yticks(rows, [str(index) for index in worst])
    ax.invert_yaxis()
    title = f"the worst {len(worst)} of {len(self):,}; without success: {np.sum(~self.success):,}"
    ax.set(xlabel="reduced chi-square", ylabel="system", title=title)
    return ax


def element_of(many: Many, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values and errors of one element, in the shape of the systems."""
    found, axes, errors = {}, len(many.shape), many.errors
    for name, array in many.values.items():
        for index in np.ndindex(array.shape[axes:]):
            found[element_name(name, index)] = name, (..., *index) if index else ()
    if path not in found:
        raise UnknownPathError(f"plot_map: no element '{path}'. {nearest(path, found)}")
    name, index = found[path]
    return many.values[name][index], errors[name][index]


def draw_curve(
    ax: "Axes", path: str, values: Any, errors: Any, good: Bool[np.ndarray, " k"], waiting: Any
) -> None:
    """Draw one number of every system over the number of the system."""
    from matplotlib.ticker import MaxNLocator

    from fitkit._plotting.axes import BLUE, VERMILION

    (some,) = np.nonzero(good)
    size = 3.0 if len(values) > MANY_POINTS else 6.0
    bars = np.where(np.isfinite(errors[some]), errors[some], 0)
    ax.errorbar(some, values[some], bars, fmt=".", color=BLUE, markersize=size, elinewidth=size / 4)
    (failed,) = np.nonzero(~good & ~waiting)
    if len(failed):
        edge: Any = ax.get_xaxis_transform()
        words = f"without success: {len(failed):,}"
        marks = {"color": VERMILION, "linestyle": "none", "markersize": 6, "clip_on": False}
        ax.plot(failed, np.zeros(len(failed)), "x", transform=edge, label=words, **marks)
        ax.legend(frameon=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="system", ylabel=path)


def draw_image(
    ax: "Axes", path: str, values: Any, good: Bool[np.ndarray, "i j"], waiting: Any
) -> None:
    """Draw one number of every system as an image, with a bar of its colours."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    from fitkit._plotting.axes import VERMILION

    rows, columns = values.shape
    oblong = max(rows, columns) > MOST_OBLONG * min(rows, columns)
    look: Any = {"aspect": "auto" if oblong else "equal", "interpolation": "nearest"}
    low, high = np.percentile(values[good], RANGE) if good.any() else (0.0, 1.0)
    image = ax.imshow(np.where(good, values, np.nan), cmap="viridis", vmin=low, vmax=high, **look)
    patches = []
    failed = ~good & ~waiting
    for which, shade, words in (
        (failed, VERMILION, "without success"),
        (waiting, WAITING, "waiting"),
    ):
        if which.any():
            ax.imshow(np.where(which, 0.0, np.nan), cmap=ListedColormap([shade]), **look)
            label = f"{words}: {np.count_nonzero(which):,}"
            patches.append(Patch(color=shade, label=label))
    if patches:
        ax.legend(
            handles=patches,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(patches),
            frameon=False,
        )
    below, above = (np.any(values[good] < low), np.any(values[good] > high))
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max"}
    if ax.figure is not None:
        extend: Any = beyond.get((bool(below), bool(above)), "neither")
        # Within the axes, so that it is as high as the image, whatever its sides are.
        beside = ax.inset_axes((1.03, 0, 0.04, 1))
        ax.figure.colorbar(image, cax=beside, label=path, extend=extend)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="second index of the system", ylabel="first index of the system")


def bars_of(reduced: Float[np.ndarray, " k"], low: float, high: float) -> Float[np.ndarray, " e"]:
    """Compute the edges of the bars of a histogram, after Freedman and Diaconis."""
    bars = len(np.histogram_bin_edges(reduced[(reduced >= low) & (reduced <= high)], "fd")) - 1
    return np.linspace(low, high, 1 + int(np.clip(bars, FEWEST_BARS, MOST_BARS)))


def span_of(reduced: Float[np.ndarray, " k"], freedom: Any) -> tuple[float, float]:
    """Compute limits that hold what is expected and all that is there, but for outliers."""
    # The variance of a reduced chi-square is 2/ν.
    width = EXPECTED * math.sqrt(2 / freedom.min())
    middle, upper = np.percentile(reduced, [50, 75])
    high = min(reduced.max(), middle + OUTLYING * (upper - middle))
    return float(min(max(0, 1 - width), reduced.min())), float(max(1 + width, high))


def density_of(places: Float[np.ndarray, " p"], freedom: Any) -> Float[np.ndarray, " p"]:
    """Mean density of reduced chi-squares: that of each number of degrees of freedom, weighted."""
    total = np.zeros_like(places)
    for nu, systems in zip(*np.unique(freedom, return_counts=True), strict=True):
        x = nu * np.where(places > 0, places, np.nan)
        logarithm = (nu / 2 - 1) * np.log(x) - x / 2 - nu / 2 * math.log(2) - math.lgamma(nu / 2)
        total += systems / len(freedom) * nu * np.nan_to_num(np.exp(logarithm))
    return total


_METHODS: tuple[Any, ...] = (plot_map, plot_chi_square, plot_worst)
for _method in _METHODS:
    setattr(Many, _method.__name__, _method)
