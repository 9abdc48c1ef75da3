"""Residuals as they are drawn: how they scatter beside a unit normal, and where they are large.

Everything is on one pair of axes, whose ordinate is the residual in units of its σ: a histogram
lies along it at the left, and right of that are the residuals by their number, or as an image, for
which the histogram is the colour bar.
"""

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.text import Text

from fitkit._plotting.axes import (
    BLUE,
    INK,
    LABEL_SIZE,
    SKY,
    VERMILION,
    View,
    attach,
    attach_to_data,
    round_numbers,
)
from fitkit._plotting.scatter import LEAST, Scatter

SHARE, GAP = 0.2, 0.05  # of the axes' width: the histogram, and what is free beside it
POINTS = 2000  # more hide each other, and columns show their distribution
MOST_RULES = 8  # between leaves; more are no help


def _diverging() -> ListedColormap:
    """Make a map from blue over nothing to vermilion, so that zero is the page, dark or light."""
    shares = np.linspace(-1, 1, 255)
    colours = np.where(shares[:, None] < 0, to_rgb(BLUE), to_rgb(VERMILION))
    return ListedColormap(np.column_stack([colours, np.abs(shares)]), "residuals")


COLOURS = _diverging()
FULL = 0.75  # of the ordinate's limit, where colours are full: 3 σ of 4


def scatter_view(scatter: Scatter) -> View:
    """Compute the view of residuals: limits that are round, and ticks beside the histogram."""
    count = max(scatter.flat.size, 1)
    ticks = round_numbers(5).tick_values(0, count)
    left = -(SHARE + GAP) / (1 - SHARE - GAP) * count
    image = scatter.image is not None
    return View(
        "Residual / σ",
        (left, float(count)),
        (-scatter.limit, scatter.limit),
        log=False,
        xlabel="" if image else "residual number",
        ticks=() if image else tuple(float(tick) for tick in ticks if 0 <= tick < count),
    )


def scatter_marks(axes: Axes, scatter: Scatter) -> list[Artist]:
    """Make the artists: the histogram with the unit normal, and the residuals beside it."""
    if not scatter.shown.size:
        return []
    if scatter.image is None:
        return [*_histogram(axes, scatter, SHARE), *_by_index(axes, scatter)]
    left, parts = _as_image(axes, scatter)
    return [*_histogram(axes, scatter, left - GAP), *parts]


def _histogram(axes: Axes, scatter: Scatter, share: float) -> list[Artist]:
    """Draw the histogram and the unit normal, in a share of the axes' width."""
    edges, density = scatter.bins
    heights = np.linspace(-LEAST, LEAST, 201)
    normal = np.exp(-(heights**2) / 2) / np.sqrt(2 * np.pi)
    # What is much wider than a unit normal would be flat beside the whole of it.
    scale = share / max(density.max(), min(normal.max(), 2 * density.max()))
    beside = axes.get_yaxis_transform()
    rows = np.repeat(edges, 2)[1:-1]
    outline = np.column_stack([scale * np.repeat(density, 2), rows])
    if scatter.image is None:
        whole = np.concatenate([[(0, edges[0])], outline, [(0, edges[-1])]])
        bars: Artist = Polygon(whole, facecolor=SKY, alpha=0.45, linewidth=0)
    else:
        boxes = [
            [(0, low), (scale * one, low), (scale * one, high), (0, high)]
            for low, high, one in zip(edges[:-1], edges[1:], density, strict=True)
        ]
        shades = COLOURS(_share(scatter, (edges[:-1] + edges[1:]) / 2))
        bars = PolyCollection(boxes, facecolors=shades, linewidths=0)
    step = LineCollection([outline], colors=INK if scatter.image is not None else BLUE)
    step.set_linewidth(0.8)
    inside = np.where(scale * normal <= share, scale * normal, np.nan)
    line = Line2D(inside, heights, color=VERMILION, linewidth=1.3)
    marks: list[Artist] = [bars, step, line]
    for mark in marks:
        mark.set_transform(beside)
        mark.set_clip_box(axes.bbox)
        attach(axes, mark)
    label = Text(share, 0.98, "unit normal", fontsize=LABEL_SIZE, color=VERMILION)
    label.set(transform=axes.transAxes, ha="right", va="top", clip_on=False)
    return [*marks, attach(axes, label)]


def _by_index(axes: Axes, scatter: Scatter) -> list[Artist]:
    values, count = scatter.flat, scatter.flat.size
    band = Rectangle((0, -1), count, 2, facecolor=INK, alpha=0.16, linewidth=0)
    marks: list[Artist] = [attach_to_data(axes, band)]
    ends = np.cumsum([leaf.size for leaf in scatter.leaves])[:-1]
    if 0 < len(ends) <= MOST_RULES:
        rules = [[(end, -scatter.limit), (end, scatter.limit)] for end in ends]
        marks.append(attach_to_data(axes, LineCollection(rules, colors=INK, linewidths=0.6)))
    if count > POINTS:
        return [*marks, *_columns(axes, scatter)]
    edge = scatter.limit
    inside, size = np.clip(values, -edge, edge), float(np.clip(60 / np.sqrt(count), 2.0, 5.0))
    for chosen, shade, marker in (
        (inside == values, BLUE, "o"),
        (values < -edge, VERMILION, "v"),
        (values > edge, VERMILION, "^"),
    ):
        dots = Line2D(np.flatnonzero(chosen) + 0.5, inside[chosen], marker=marker, color=shade)
        dots.set(linestyle="none", markersize=size + 3 * (marker != "o"), markeredgewidth=0)
        dots = attach_to_data(axes, dots)
        dots.set_clip_on(False)
        marks.append(dots)
    return marks


def _columns(axes: Axes, scatter: Scatter) -> list[Artist]:
    """Draw the extremes, the central 68 % and the median of stretches of the residuals."""
    middles, levels = scatter.columns
    marks: list[Artist] = []
    for low, high, alpha in ((0, 4, 0.25), (1, 3, 0.6)):
        outline = np.concatenate(
            [np.c_[middles, levels[:, low]], np.c_[middles, levels[:, high]][::-1]]
        )
        outline = outline[np.isfinite(outline).all(axis=1)]
        band = Polygon(outline, facecolor=SKY, alpha=alpha, linewidth=0)
        marks.append(attach_to_data(axes, band))
    return [*marks, attach_to_data(axes, Line2D(middles, levels[:, 2], color=BLUE, linewidth=1.2))]


def _as_image(axes: Axes, scatter: Scatter) -> tuple[float, list[Artist]]:
    """Draw an image at the right, as large as fits, and return where it begins.

    Its pixels are square. It has a frame, because zero is drawn as nothing.
    """
    image = scatter.image
    assert image is not None
    rows, columns = image.shape
    free = (1 - SHARE - GAP) * axes.bbox.width, axes.bbox.height
    size = min(free[0] / columns, free[1] / rows)
    width, height = size * columns / axes.bbox.width, size * rows / axes.bbox.height
    left, bottom = 1 - width, (1 - height) / 2
    edge = FULL * scatter.limit
    origin = mpl.rcParams["image.origin"]
    picture = AxesImage(
        axes,
        cmap=COLOURS,
        norm=Normalize(-edge, edge),
        interpolation="nearest",
        origin=origin,
        extent=(left, 1.0, bottom, bottom + height),
    )
    picture.set_data(image)
    frame = Rectangle((left, bottom), width, height, fill=False, edgecolor=INK, linewidth=0.6)
    for mark in (picture, frame):
        mark.set_transform(axes.transAxes)
        attach(axes, mark)
    return left, [picture, frame]


def _share(scatter: Scatter, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Compute where residuals are on the map of colours, from 0 to 1."""
    return np.clip(0.5 + values / (2 * FULL * scatter.limit), 0, 1)
