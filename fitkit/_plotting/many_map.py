"""The map of many systems: one element, its standard error and chi-square, side by side."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fitkit._plotting.axes import VERMILION, recolour
from fitkit._plotting.many_figures import draw_curve, draw_image, element_of
from fitkit._plotting.many_panels import ManyFrame

# Systems along one axis that are drawn: of more, every second one or fewer; they take a second
# per hundred thousand, and a panel has a thousand pixels for them.
MOST_POINTS = 5000
NUMBERS = 0.75  # inches to the right of an image, for the numbers of its colours
NARROWEST = 1.2  # inches of an image; without room for all, those at the right are left out
TICKS = 5  # or so along each side, and on the bar of colours


class MapFrame(NamedTuple):
    """What a map is drawn from.

    Attributes
    ----------
    frame
        The systems at one moment.
    path
        Of the element.
    chosen
        The index of the system to mark.
    """

    frame: ManyFrame
    path: str
    chosen: tuple[int, ...] | None = None


def draw_map(axes: Axes, of: MapFrame) -> None:
    """Draw the element over the systems: as a curve, or as images.

    Systems without success are set apart, and the chosen one is ringed.
    """
    frame, path, chosen = of
    values, errors = element_of(frame.many, path)
    good, waiting = frame.success & np.isfinite(values), frame.waiting
    if values.ndim == 1:
        stride = -(-len(values) // MOST_POINTS)
        left_out = np.arange(len(values)) % stride > 0
        draw_curve(axes, path, values, errors, good & ~left_out, waiting | left_out)
        if legend := axes.get_legend():
            legend.remove()
        axes.set_title(path, loc="left")
        every = f"system, every {stride:,}th" if stride > 1 else "system"
        axes.set(xlabel="; ".join(filter(None, (every, _apart(frame)))), ylabel="")
        axes.margins(x=0.01)
        if chosen:
            axes.axvline(chosen[0], color=VERMILION, linewidth=1)
        return
    wanted = (
        (path, values),
        (f"standard error of {path}", np.where(np.isfinite(errors), errors, np.nan)),
        ("reduced chi-square", frame.reduced),
    )
    images = _side_by_side(axes, len(wanted))
    for one, (title, array) in zip(images, wanted, strict=False):
        draw_image(one, title, array, good & np.isfinite(array), waiting)
        one.set_title(title, loc="left")
        one.set(xlabel="", ylabel="")
        one.locator_params(nbins=TICKS)
        if one is not axes:  # Their place is that of the numbers of the colours before.
            one.tick_params(labelleft=False)
        if legend := one.get_legend():
            legend.remove()  # It is too wide, and says the same of every image.
        if chosen:
            ring: Any = {"markerfacecolor": "none", "markeredgecolor": VERMILION}
            one.plot(*chosen[::-1], "o", markersize=9, markeredgewidth=1.8, **ring)
        for bar in one.child_axes:
            if isinstance(bar, Axes):
                recolour(bar)
                bar.yaxis.set_major_locator(MaxNLocator(TICKS))
                bar.set_ylabel("")
    axes.set_xlabel(_apart(frame))


def _apart(frame: ManyFrame) -> str:
    """Write how many systems have a colour of their own."""
    waiting = int(frame.waiting.sum())
    failed = len(frame.many) - waiting - int(frame.success.sum())
    words = [f"red: {failed:,} without success"] if failed else []
    return "; ".join([*words, *([f"grey: {waiting:,} waiting"] if waiting else [])])


def _side_by_side(axes: Axes, most: int) -> list[Axes]:
    """Split axes into several beside each other, as many as there is room for."""
    figure, box = axes.figure, axes.get_position()
    assert isinstance(figure, Figure)
    gap, least = (inches / figure.get_figwidth() for inches in (NUMBERS, NARROWEST))
    count = min(max(int(box.width / (least + gap)), 1), most)
    width = box.width / count - gap
    boxes = [(box.x0 + i * (width + gap), box.y0, width, box.height) for i in range(count)]
    axes.set_position(boxes[0])
    return [axes, *(figure.add_axes(one) for one in boxes[1:])]
