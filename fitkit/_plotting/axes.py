"""How axes look: colours that read on any page, limits snapped to round numbers, ticks, titles.

What of a panel rarely changes is a `View`, and `dress` puts it on the axes. `on` and `ready` tie
artists to the axes that change with every frame and are drawn by somebody else.
"""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

# Okabe and Ito's colours for all kinds of colour vision (https://jfly.uni-koeln.de/color/), without
# the black and the yellow, which vanish on a dark and on a light page. Patterns tell cycles apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[tuple[str, Any], ...] = (
    ("solid", "-"),
    ("dashed", (0, (3.5, 1.5))),
    ("dotted", (0, (1, 1.3))),
)
# Contrast of 4.5 on white and of 4.1 on JupyterLab's dark cells.
INK = "#777777"
LABEL_SIZE = 8.5
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
HUGE = 1e200  # a tick or two further, matplotlib overflows
DEPTH = 12  # decades of step sizes and eigenvalues at most


class View(NamedTuple):
    """What of a panel changes rarely."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = True
    xlabel: str = "step"
    legend: tuple[tuple[str, str, Any], ...] = ()
    note: str = ""


def colour(index: int) -> str:
    """Colour of the parameter number `index`."""
    return PALETTE[index % len(PALETTE)]


def dash(index: int) -> tuple[str, Any]:
    """CSS and matplotlib line style of the parameter number `index`."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


def figures(value: float | None) -> str:
    """Write a number with four significant figures, in as few characters as that takes."""
    if value is None or not np.isfinite(value):
        return "–" if value is None else str(value)
    return (
        f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("-", "−")
    )


def dress(axes: Axes, view: View, ink: str = INK) -> None:
    """Give the axes the limits, scale, ticks and title of `view`."""
    axes.set_facecolor("none")
    axes.set_yscale("log" if view.log else "linear")
    axes.set_xlim(*view.x)
    axes.set_ylim(*view.y)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _thousands(x)))
    if view.log:
        narrow = view.y[1] / view.y[0] < 30
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _power(y)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=ink, alpha=0.22, linewidth=0.6)
    axes.tick_params(colors=ink, labelsize=LABEL_SIZE, length=0, pad=4)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(ink)
        spine.set_linewidth(0.6)
    # Where title and labels go is said, because finding it out takes half of the time to draw.
    axes.set_title(view.title, loc="left", y=1.0, pad=7, fontsize=9.5, color=ink, fontweight="bold")
    axes.set_xlabel(view.xlabel, fontsize=LABEL_SIZE, color=ink)
    axes.xaxis.set_label_coords(0.5, -0.115)
    axes.yaxis.set_label_coords(-0.15, 0.5)
    for row, (label, shade, pattern) in enumerate(view.legend):
        y = 1.0 - (row + 0.5) * min(0.105, 1.0 / len(view.legend))
        line = Line2D((1.03, 1.085), (y, y), color=shade, linestyle=pattern, linewidth=1.8)
        line.set(transform=axes.transAxes, clip_on=False)
        axes.add_line(line)
        axes.text(1.105, y, label, **_text(axes, ink), va="center")
    if view.note:
        axes.tick_params(labelleft=False)
        axes.text(0.5, 0.5, view.note, **_text(axes, ink), ha="center", va="center")


def tint(axes: Axes, ink: str = INK) -> None:
    """Give axes that somebody else drew a background and an ink that read on any page."""
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=ink, labelsize=LABEL_SIZE)
    for spine in axes.spines.values():
        spine.set_color(ink)
        spine.set_linewidth(0.6)
    for place in ("left", "center", "right"):
        if title := axes.get_title(loc=place):
            axes.set_title(title, loc=place, fontsize=9.5, color=ink, fontweight="bold")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=ink, fontsize=LABEL_SIZE)
    legend = axes.get_legend()
    if legend is not None:
        legend.get_frame().set_alpha(0.0)
        for text in legend.get_texts():
            text.set(color=ink, fontsize=LABEL_SIZE)


def ready(axes: Axes, artist: Any) -> Any:
    """Tie an artist to the figure without adding it to the axes: it is drawn once."""
    artist.set_figure(axes.get_figure())
    artist.axes = axes
    return artist


def on(axes: Axes, artist: Any) -> Any:
    """Tie an artist in the data's coordinates to axes, which clip it."""
    artist.set_transform(axes.transData)
    artist.set_clip_path(axes.patch)
    return ready(axes, artist)


def remark(axes: Axes, words: str) -> Text:
    """Words above the right end of the axes, in the colour of what they speak of."""
    text = Text(1.0, 1.05, words, fontsize=LABEL_SIZE, color=PALETTE[1], ha="right")
    text.set(transform=axes.transAxes, clip_on=False)
    return ready(axes, text)


def finite(values: Any) -> np.ndarray:
    """Drop what no axis can show: NaN, infinity, and what overflows with a decade of room."""
    values = np.asarray(values, dtype=float)
    return values[np.abs(np.nan_to_num(values, nan=np.inf)) < HUGE]


def limits(values: np.ndarray, log: bool) -> tuple[float, float]:
    """Limits that hold `values` with room, snapped to 1, 2, 5 in each decade."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if log:
        low, high = max(low, 1 / HUGE) / 1.15, high * 1.15
        down = 10.0 ** np.floor(np.log10(low))
        up = 10.0 ** np.floor(np.log10(high))
        low = max(down * k for k in (1, 2, 5) if down * k <= low)
        return float(low), float(min(up * k for k in (1, 2, 5, 10) if up * k >= high))
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    grain = 2.0 ** np.floor(np.log2(room))
    return float(np.floor((low - room) / grain) * grain), float(
        np.ceil((high + room) / grain) * grain
    )


def decades(values: np.ndarray) -> tuple[float, float]:
    """Limits of whole decades that hold the largest of `values`, and twelve decades at most."""
    if values.size == 0:
        return 0.1, 1.0
    low, high = (
        np.floor(np.log10(max(values.min(), 1 / HUGE) / 1.2)),
        np.ceil(np.log10(values.max() * 1.2)),
    )
    # Further down lies rounding, or a parameter that has arrived: it would flatten the rest.
    low = max(low, high - DEPTH)
    return float(10.0**low), float(10.0 ** max(high, low + 1))


def _text(axes: Axes, ink: str) -> dict[str, Any]:
    return {"transform": axes.transAxes, "fontsize": LABEL_SIZE, "color": ink}


def _thousands(x: float) -> str:
    for scale, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= 10 * scale or (abs(x) >= scale and x % scale == 0):
            return f"{x / scale:g}{suffix}"
    return f"{x:g}"


def _power(y: float) -> str:
    if 1e-3 < y < 1e5:
        return f"{y:g}"
    exponent = int(np.floor(np.log10(y) + 1e-9))
    factor = y / 10.0**exponent
    lead = "" if abs(factor - 1) < 1e-6 else f"{factor:.0f}×"
    # Not as a formula: to parse those takes a sixth of the time to draw.
    return f"{lead}10{str(exponent).translate(SUPERSCRIPT)}"
