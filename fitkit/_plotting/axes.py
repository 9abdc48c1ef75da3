"""How axes look: colours that read on any page, ticks and titles.

What of a plot rarely changes is a `View`, and `set_up` puts it on the axes. `attach` and
`attach_to_data` tie artists to the axes that change with every frame and are drawn by somebody
else.
"""

from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import (
    BboxTransformTo,
    ScaledTranslation,
    Transform,
    blended_transform_factory,
)

from fitkit._format import power

# Okabe and Ito's colours for all kinds of colour vision (https://jfly.uni-koeln.de/color/), without
# the black and the yellow, which vanish on a dark and on a light page. Patterns tell cycles apart.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES: tuple[tuple[str, Any], ...] = (
    ("solid", "-"),
    ("dashed", (0, (3.5, 1.5))),
    ("dotted", (0, (1, 1.3))),
)
# Contrast of 4.5 on white and of 4.1 on JupyterLab's dark cells.
INK = "#777777"
LABEL_SIZE, TITLE_SIZE = 8.5, 9.5  # points


class View(NamedTuple):
    """What of a plot changes rarely: as long as it is equal, the axes are not drawn anew.

    Attributes
    ----------
    title
        Above the left end of the axes.
    x, y
        Limits.
    log
        Whether the ordinate is logarithmic.
    xlabel
        Below the axes.
    legend
        Label, colour and line style of what is listed at the right.
    note
        Words in the middle of axes on which there is nothing to draw yet.
    ticks
        Where the abscissa has ticks; None: at four round numbers or so.
    ordinate
        Whether the ordinate has ticks.
    """

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = True
    xlabel: str = "step"
    legend: tuple[tuple[str, str, Any], ...] = ()
    note: str = ""
    ticks: tuple[float, ...] | None = None
    ordinate: bool = True


def colour(index: int) -> str:
    """Return the colour of the parameter number `index`."""
    return PALETTE[index % len(PALETTE)]


def dash(index: int) -> tuple[str, Any]:
    """Return the line style of the parameter number `index`, of CSS and of matplotlib."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


def set_up(axes: Axes, view: View) -> None:
    """Set limits, scale, ticks, title and legend of axes from a view."""
    axes.set_facecolor("none")
    axes.set_yscale("log" if view.log else "linear")
    set_limits(axes, view)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _thousands(x)))
    if view.log:
        # Not as a formula: to parse those takes a sixth of the time to draw.
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: power(y)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=INK, alpha=0.22, linewidth=0.6)
    axes.tick_params(colors=INK, labelsize=LABEL_SIZE, length=0, pad=4)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)
        spine.set_linewidth(0.6)
    # Title and labels have set places, because finding one takes half of the time to draw.
    axes.set_title(view.title, loc="left", y=1.0, pad=7, **_title_style())
    axes.set_xlabel(view.xlabel, fontsize=LABEL_SIZE, color=INK)
    below = blended_transform_factory(axes.transAxes, _from_corner(axes))
    axes.xaxis.set_label_coords(0.5, -0.235, below)
    axes.yaxis.set_label_coords(-0.15, 0.5)
    _add_legend(axes, view)
    if view.note:
        axes.tick_params(labelleft=False)
        axes.text(0.5, 0.5, view.note, **_text_style(), transform=axes.transAxes, ha="center")


def set_limits(axes: Axes, view: View) -> None:
    """Set limits, and where ticks are between them, of axes that nothing else is new of."""
    axes.set_xlim(*view.x)
    axes.set_ylim(*view.y)
    axes.xaxis.set_major_locator(
        round_numbers(4) if view.ticks is None else FixedLocator(view.ticks)
    )
    if view.log:
        narrow = view.y[1] / view.y[0] < 100  # Or else there would be but two labels.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=6))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5) if view.ordinate else NullLocator())


def _add_legend(axes: Axes, view: View) -> None:
    """Name the lines at the right of the axes."""
    transform = blended_transform_factory(_from_corner(axes), axes.transAxes)
    for row, (label, shade, pattern) in enumerate(view.legend):
        y = 1.0 - (row + 0.5) * min(0.105, 1.0 / len(view.legend))
        line = Line2D((0.06, 0.18), (y, y), color=shade, linestyle=pattern, linewidth=1.8)
        line.set(transform=transform, clip_on=False)
        axes.add_line(line)
        axes.text(0.23, y, label, transform=transform, **_text_style())


def _from_corner(axes: Axes) -> Transform:
    """Return the transform of inches from the lower right corner, as far in panels of any size."""
    assert axes.figure is not None
    return axes.figure.dpi_scale_trans + ScaledTranslation(1, 0, BboxTransformTo(axes.bbox))


def round_numbers(most: int) -> MaxNLocator:
    """Place ticks at round whole numbers, `most` or so."""
    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10])


def recolour(axes: Axes) -> None:
    """Set a background and an ink that read on any page, on axes that somebody else drew."""
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=INK, labelsize=LABEL_SIZE)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_linewidth(0.6)
    for side in ("left", "center", "right"):
        if title := axes.get_title(loc=side):
            axes.set_title(title, loc=side, **_title_style())
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=LABEL_SIZE)
    legend = axes.get_legend()
    if legend is not None:
        legend.get_frame().set_alpha(0.0)
        for text in legend.get_texts():
            text.set(color=INK, fontsize=LABEL_SIZE)


def attach(axes: Axes, artist: Any) -> Any:
    """Tie an artist to the figure without adding it to the axes: it is drawn once."""
    artist.set_figure(axes.get_figure())
    artist.axes = axes
    return artist


def attach_to_data(axes: Axes, artist: Any) -> Any:
    """Tie an artist in the data's coordinates to axes, which clip it."""
    artist.set_transform(axes.transData)
    artist.set_clip_box(axes.bbox)  # As its patch would do, in half of the time.
    return attach(axes, artist)


def remark(axes: Axes, words: str, shade: str = VERMILION) -> Artist:
    """Write words above the right end of the axes, in the colour of what they speak of."""
    text = Text(1.0, 1.05, words, fontsize=LABEL_SIZE, color=shade, ha="right")
    text.set(transform=axes.transAxes, clip_on=False)
    return attach(axes, text)


def _title_style() -> dict[str, Any]:
    return {"fontsize": TITLE_SIZE, "color": INK, "fontweight": "bold"}


def _text_style() -> dict[str, Any]:
    return {"fontsize": LABEL_SIZE, "color": INK, "va": "center"}


def _thousands(x: float) -> str:
    for scale, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= 10 * scale or (abs(x) >= scale and x % scale == 0):
            return f"{x / scale:g}{suffix}"
    return f"{x:g}"
