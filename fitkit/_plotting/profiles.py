"""The methods of `Profile` and `Contour` that draw, attached to them at the end of this file."""

from typing import TYPE_CHECKING

import numpy as np

from fitkit._format import number
from fitkit._plotting.figures import axes_or_new
from fitkit._profile import Contour, Profile
from fitkit._result import deviations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ordinates reach this far above the highest level: of interest is what is below.
ROOM = 1.5


def plot_profile(self: Profile, ax: "Axes | None" = None) -> "Axes":
    """Draw by how much chi-square rises, and dashed the parabola of the standard error.

    The shaded intervals have ends where the curve reaches the dotted lines of their levels.

    Parameters
    ----------
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes
    """
    from fitkit._plotting.axes import BLUE, VERMILION

    ax = axes_or_new(ax)
    shown = np.isfinite(self.delta)
    low, high = self.values[0], self.values[-1]
    top = ROOM * max(deviations(level, "plot") ** 2 for level in self.intervals)
    for level, ends in self.intervals.items():
        ax.axhline(deviations(level, "plot") ** 2, color="0.6", linewidth=1, linestyle=":")
        ax.axvspan(*np.clip(ends, low, high), color=BLUE, alpha=0.1, linewidth=0)
    if np.isfinite(self.error) and self.error > 0:
        values = np.linspace(low, high, 200)
        parabola = ((values - self.value) / self.error) ** 2
        ax.plot(values, parabola, color=VERMILION, linestyle="--", label="parabola")
    ax.plot(self.values[shown], self.delta[shown], color=BLUE, label="profile")
    ax.axvline(self.value, color="0.6", linewidth=1)
    ax.set(xlabel=self.path, ylabel="rise of chi-square", ylim=(0, top), xlim=(low, high))
    ax.legend(frameon=False)
    return ax


def plot_contour(self: Contour, ax: "Axes | None" = None) -> "Axes":
    """Draw the curve, with a cross where the fit is; stretches that are not on it are dotted.

    Parameters
    ----------
    ax
        Where to draw; None makes a new figure.

    Returns
    -------
    Axes
    """
    from fitkit._plotting.axes import BLUE

    ax = axes_or_new(ax)
    closed = np.append(np.arange(len(self.points)), 0)
    x, y = self.points[closed].T
    on = self.on_curve[closed]
    if not on.all():
        ax.plot(x, y, color=BLUE, linestyle=":")
    line = np.where(on, y, np.nan)
    ax.plot(x, line, color=BLUE, label=f"level {number(self.level)}")
    ax.plot(*self.values, "+", color=BLUE)
    ax.set(xlabel=self.paths[0], ylabel=self.paths[1])
    ax.legend(frameon=False)
    return ax


Profile.plot = plot_profile
Contour.plot = plot_contour
