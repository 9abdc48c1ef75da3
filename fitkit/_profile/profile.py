"""`Profile`: the loss of a fit along one element, minimised over all others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, PyTree

from fitkit._format import number, with_error
from fitkit._profile.landscape import FURTHEST, FURTHEST_FLAT, Crossings, Landscape
from fitkit._profile.minimum import Minimum
from fitkit._result import deviations

# Ends that differ by this share of the error from the parabola's: an error is written with two
# digits or one, of which the last is worth 3 to 25 % of it, so that less hardly shows.
MISLEADS = 0.1
# Elements of a lower minimum that are written out in a warning; more fill the screen.
MOST_WRITTEN = 8
# A profile is shown so far beyond its widest interval.
BEYOND = 0.1


@dataclass(frozen=True, repr=False)
class Profile:
    """The loss along one element, minimised over all others; made by `Fit.profile`.

    Attributes
    ----------
    path : str
        Name of the element: ``"flux"`` or ``"position[0]"``.
    value, error : float
        Where the fit is, and the standard error, which takes the loss for a parabola.
    values : Float[np.ndarray, " k"]
        Of the element, ascending, in its unit.
    loss : Float[np.ndarray, " k"]
        The lowest loss there; infinite where none is finite.
    delta : Float[np.ndarray, " k"]
        By how much chi-square is above the minimum's: twice the rise of the loss, and divided by
        the reduced chi-square where errors are scaled by it.
    params : dict[str, np.ndarray]
        Where the loss is lowest, by path of all parameters that are not frozen, one for each of
        the values along the first axis.
    settled : Bool[np.ndarray, " k"]
        Where it is known to be lowest.
    intervals : dict[float, tuple[float, float]]
        Lower and upper end by level. An end on a bound is the bound, and one is infinite where the
        loss does not rise so much as far as was looked.
    absolute_sigma : bool
        Whether the residuals' σ were taken as they are.
    better : PyTree | None
        Parameters of a lower minimum, if one was found on the way.
    warnings : tuple[str, ...]
        What should make a reader careful: among it where the standard error misleads.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> x = jnp.linspace(0.0, 2.0, 9)
    >>> y = 3.0 * jnp.exp(-1.5 * x) + 0.3 * (-1.0) ** jnp.arange(9)
    >>> fit = fk.Fit(
    ...     residuals=lambda p, args: (p["height"] * jnp.exp(-p["rate"] * x) - y) / 0.5,
    ...     params={"height": 1.0, "rate": 1.0},
    ... )
    >>> fit.run(progress=False)
    >>> profile = fit.profile("rate")
    >>> low, high = profile.intervals[1]
    >>> bool(high - profile.value > profile.value - low)
    True
    """

    path: str
    value: float
    error: float
    values: Float[np.ndarray, " k"]
    loss: Float[np.ndarray, " k"]
    delta: Float[np.ndarray, " k"]
    params: dict[str, np.ndarray]
    settled: Bool[np.ndarray, " k"]
    intervals: dict[float, tuple[float, float]]
    absolute_sigma: bool
    better: PyTree | None
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        lines = [f"Profile of {self.path}: {with_error(self.value, self.error)} by the parabola"]
        for level, ends in self.intervals.items():
            low, high = (number(end - self.value, 4) for end in ends)
            sign = "" if high.startswith(("-", "inf")) else "+"
            what = f"level {number(level)}"
            lines.append(f"  {what}: {_ends_in_words(ends)}  ({low}, {sign}{high})")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    if TYPE_CHECKING:  # Attached by _plotting, so that a profile can be had without matplotlib.

        def plot(self, ax: Any = None) -> Any: ...


def _ends_in_words(ends: tuple[float, float]) -> str:
    return " to ".join(number(end, 6) for end in ends)


def make_profile(
    minimum: Minimum, path: str, levels: Sequence[float], size: int, event: str = "profile"
) -> Profile:
    """Compute the profile of one element; see `Fit.profile`."""
    j = minimum.element(path, event)
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 3:
        raise ValueError(f"{event}: size={size!r}; must be a whole number of points, 3 or more.")
    levels = tuple(levels)
    rises = [deviations(level, event) ** 2 for level in levels]
    if not levels:
        raise ValueError(f"{event}: no levels; must be one or more, such as (1, 2).")
    minimum.check(event)
    landscape = Landscape(minimum)
    found = two_sided(landscape, [j], rises)
    ends = {
        level: (float(low), float(high))
        for level, low, high in zip(levels, *ends_of(landscape, found, [j]), strict=True)
    }
    (low, high), error = _shown(landscape, j, found, rises)
    grid = np.linspace(low, high, int(size))
    known = found.x[np.isfinite(found.x).all(axis=1) & (found.reached | found.bound)]
    knots = np.concatenate([known, landscape.x[None]])
    knots = knots[np.unique(knots[:, j], return_index=True)[1]]
    values = np.unique(np.concatenate([grid, knots[:, j]]))
    values = values[(values >= low) & (values <= high)]
    starts = np.stack([np.interp(values, knots[:, j], column) for column in knots.T], axis=1)
    starts[:, j] = values
    held = np.zeros(starts.shape, bool)
    held[:, j] = True
    nearest = knots[np.argmin(np.abs(values[:, None] - knots[:, j]), axis=1)].copy()
    nearest[:, j] = values
    x, loss, settled = landscape.at(held, starts, nearest)
    better = landscape.lower()
    return Profile(
        path=path,
        value=float(minimum.x[j]),
        error=error,
        values=np.asarray(x[:, j]),
        loss=loss,
        delta=2 * (loss - landscape.loss) / minimum.unit**2,
        params=minimum.by_path(x.astype(minimum.x.dtype)),
        settled=settled,
        intervals=ends,
        absolute_sigma=minimum.absolute_sigma,
        better=None if better is None else minimum.tree(better[0]),
        warnings=(
            *state_warnings(minimum, landscape, better),
            *_warnings_of_ends(path, error, levels, rises, found),
        ),
    )


def two_sided(landscape: Landscape, elements: Sequence[int], rises: Sequence[float]) -> Crossings:
    """Follow elements one by one, down and up, to every rise: in this order of nesting."""
    minimum = landscape.minimum
    directions, held, furthest, targets = [], [], [], []
    for j in elements:
        axes, follow, flat = minimum.directions([j])
        for target in rises:
            for sign in (-1, 1):
                along = follow[:, 0] * abs(axes[0, 0]) * minimum.unit * math.sqrt(target)
                directions.append(sign * along)
                held.append(np.arange(len(minimum.x)) == j)
                furthest.append(FURTHEST_FLAT if flat[0] else FURTHEST)
                targets.append(target)
    rays = np.array(held), np.array(directions), np.array(targets), np.array(furthest)
    return landscape.crossings(*rays)


def ends_of(
    landscape: Landscape, found: Crossings, elements: Sequence[int]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return lower and upper ends of what `two_sided` has followed; infinite where open."""
    per = len(found.x) // len(elements)
    ends = found.x[np.arange(len(found.x)), np.repeat(elements, per)]
    shut = found.reached | found.bound
    sides = np.where(np.arange(len(ends)) % 2 == 0, -np.inf, np.inf)
    ends = np.where(shut, ends, sides)
    return ends[::2], ends[1::2]


def state_warnings(
    minimum: Minimum, landscape: Landscape, better: tuple[Any, float] | None
) -> list[str]:
    """Warn of what concerns all of a profile: where the fit stands, and a lower minimum."""
    warnings = []
    if not minimum.assessment.success:
        warnings.append(f"of the fit: {minimum.assessment.message}")
    if better is not None:
        warnings.append(
            f"a lower minimum was found on the way, of loss {number(better[1], 6)} instead of "
            f"{number(landscape.loss, 6)}, at {_written(minimum, better[0])}: start there "
            "(fit.restart(params=….better) of the profile), run the fit, and ask again"
        )
    return warnings


def _written(minimum: Minimum, x: Float[np.ndarray, " n"]) -> str:
    pairs = [f"{name} = {number(value, 6)}" for name, value in zip(minimum.labels, x, strict=True)]
    return ", ".join(pairs[:MOST_WRITTEN]) + (", …" if len(pairs) > MOST_WRITTEN else "")


def _shown(
    landscape: Landscape, j: int, found: Crossings, rises: Sequence[float]
) -> tuple[tuple[float, float], float]:
    """Choose from where to where to show a profile; and return the standard error."""
    minimum, here = landscape.minimum, landscape.x[j]
    axes, _, flat = minimum.directions([j])
    width = abs(axes[0, 0]) * minimum.unit
    shut = found.reached | found.bound
    ends = []
    for side in (0, 1):
        # An open side is shown twice as far as the parabola goes.
        far = 2 * width * math.sqrt(max(rises)) * (2 * side - 1) + here
        if shut[side::2].all():
            reach = found.x[side::2, j] - here
            far = here + (1 + BEYOND) * reach[np.argmax(np.abs(reach))]
        ends.append(float(np.clip(far, minimum.limits[0][j], minimum.limits[1][j])))
    return (ends[0], ends[1]), math.inf if flat[0] else width


def _warnings_of_ends(
    path: str,
    error: float,
    levels: Sequence[float],
    rises: Sequence[float],
    found: Crossings,
) -> list[str]:
    warnings, misled = [], []
    for k, (level, target) in enumerate(zip(levels, rises, strict=True)):
        for side, name in enumerate(("lower", "upper")):
            row = 2 * k + side
            end = f"the {name} end at level {number(level)}"
            if found.bound[row]:
                warnings.append(f"{end} is the bound of {path}: the data alone go on")
            elif not found.reached[row]:
                warnings.append(
                    f"{end} is open: chi-square does not rise by {number(target)}, as far as was "
                    "looked"
                )
            elif found.edge[row]:
                warnings.append(f"{end} is where the loss ceases to be finite")
            if found.reached[row] and not found.settled[row]:
                warnings.append(
                    f"{end} may be further out: the other parameters found no minimum there"
                )
            # The ray has the length 1 where the parabola ends.
            ratio = float(found.along[row]) if found.reached[row] else math.inf
            if math.isfinite(error) and not found.bound[row] and abs(ratio - 1) > MISLEADS:
                misled.append((abs(ratio - 1), ratio, name, level))
    if misled:
        _, ratio, name, level = max(misled)
        how = "open" if math.isinf(ratio) else f"{number(ratio, 3)} times as long as the parabola's"
        what = f"the standard error misleads: at level {number(level)} the {name} side is {how}"
        warnings.insert(0, what)
    return warnings
