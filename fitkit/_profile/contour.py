"""`Contour`: where chi-square has risen so much, minimised over all elements but two."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, PyTree

from fitkit._format import number
from fitkit._profile.landscape import FURTHEST, FURTHEST_FLAT, Crossings, Landscape
from fitkit._profile.minimum import Minimum
from fitkit._profile.profile import state_warnings
from fitkit._result import joint_rise

# Neighbours on the curve whose distances from the minimum differ by more than this factor need a
# point between them; where they still do after so many halvings of the angle, the curve folds back
# behind itself as seen from the minimum.
JUMP, HALVINGS = 1.3, 4


@dataclass(frozen=True, repr=False)
class Contour:
    """A closed curve around the values of two elements; made by `Fit.contour`.

    Attributes
    ----------
    paths : tuple[str, str]
        Names of the elements.
    values : tuple[float, float]
        Where the fit is.
    level : float
        As asked for: a joint probability of both, or a number of standard errors.
    delta : float
        By how much chi-square has risen on the curve.
    points : Float[np.ndarray, "k 2"]
        Of the curve, counter-clockwise; the last joins the first.
    on_curve : Bool[np.ndarray, " k"]
        Which points are at the level. The others lie on a bound; or, where the loss does not rise
        so much, as far out as was looked.
    absolute_sigma : bool
        Whether the residuals' σ were taken as they are.
    better : PyTree | None
        Parameters of a lower minimum, if one was found on the way.
    warnings : tuple[str, ...]
        What should make a reader careful.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> fit = fk.Fit(
    ...     residuals=lambda p, args: jnp.array([p["a"] - 1.0, (p["b"] - 2.0) / 0.5]),
    ...     params={"a": 0.0, "b": 0.0},
    ... )
    >>> fit.run(progress=False)
    >>> contour = fit.contour("a", "b")
    >>> a, b = contour.points.T
    >>> bool(jnp.allclose((a - 1) ** 2 + (b - 2) ** 2 / 0.25, contour.delta, rtol=1e-4))
    True
    """

    paths: tuple[str, str]
    values: tuple[float, float]
    level: float
    delta: float
    points: Float[np.ndarray, "k 2"]
    on_curve: Bool[np.ndarray, " k"]
    absolute_sigma: bool
    better: PyTree | None
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        first = (
            f"Contour of {self.paths[0]} and {self.paths[1]} at level {number(self.level)}: "
            f"{len(self.points)} points where chi-square has risen by {number(self.delta)}"
        )
        return "\n".join([first, *(f"warning: {warning}" for warning in self.warnings)])

    if TYPE_CHECKING:  # Attached by _plotting, so that a contour can be had without matplotlib.

        def plot(self, ax: Any = None) -> Any: ...


def make_contour(
    minimum: Minimum, x: str, y: str, level: float, size: int, event: str = "contour"
) -> Contour:
    """Compute the curve of two elements; see `Fit.contour`."""
    held = [minimum.element(path, event) for path in (x, y)]
    if held[0] == held[1]:
        raise ValueError(f"{event}: '{x}' twice; must be two elements.")
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 8:
        raise ValueError(f"{event}: size={size!r}; must be a whole number of points, 8 or more.")
    target = joint_rise(level, event)
    minimum.check(event)
    landscape = Landscape(minimum)
    angles = np.linspace(0, 2 * np.pi, int(size), endpoint=False)
    found = _around(landscape, held, target, angles)
    for _ in range(HALVINGS):
        jumps = _jumps(found)
        if not jumps.any():
            break
        step = (np.roll(angles, -1) - angles) % (2 * np.pi)
        more = (angles + step / 2)[jumps]
        angles = np.concatenate([angles, more])
        order = np.argsort(angles)
        both = zip(found, _around(landscape, held, target, more), strict=True)
        found = Crossings(*(np.concatenate(parts)[order] for parts in both))
        angles = angles[order]
    points = found.x[:, held]
    turn = np.linalg.det(minimum.directions(held)[0])
    points, on_curve = (points, found.reached) if turn > 0 else (points[::-1], found.reached[::-1])
    better = landscape.lower()
    return Contour(
        paths=(x, y),
        values=(float(minimum.x[held[0]]), float(minimum.x[held[1]])),
        level=float(level),
        delta=target,
        points=points,
        on_curve=on_curve,
        absolute_sigma=minimum.absolute_sigma,
        better=None if better is None else minimum.tree(better[0]),
        warnings=(*state_warnings(minimum, landscape, better), *_warnings(found)),
    )


def _around(
    landscape: Landscape, held: list[int], target: float, angles: Float[np.ndarray, " r"]
) -> Crossings:
    """Follow rays at some angles, in axes in which the curve of a parabola is a circle."""
    minimum = landscape.minimum
    axes, follow, flat = minimum.directions(held)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    directions = circle @ (follow @ axes).T * minimum.unit * math.sqrt(target)
    moved = np.zeros(directions.shape, bool)
    moved[:, held] = True
    furthest = np.full(len(angles), FURTHEST_FLAT if flat.any() else FURTHEST)
    return landscape.crossings(moved, directions, np.full(len(angles), target), furthest)


def _jumps(found: Crossings) -> Bool[np.ndarray, " k"]:
    """Mark points whose next one is at another distance from the minimum altogether."""
    here, there = found.along, np.roll(found.along, -1)
    longer = np.maximum(here, there) > JUMP * np.minimum(here, there)
    # On a bound the corner of the box is one, and what is open has no distance.
    return longer & found.reached & np.roll(found.reached, -1)


def _warnings(found: Crossings) -> list[str]:
    warnings = []
    if found.bound.any():
        warnings.append(f"{found.bound.sum()} points lie on bounds: the data alone go on")
    if (still_open := int((~found.reached & ~found.bound).sum())) > 0:
        warnings.append(
            f"the curve is open at {still_open} points: chi-square does not rise so much, as far "
            "as was looked"
        )
    if found.edge.any():
        warnings.append(f"at {found.edge.sum()} points the loss ceases to be finite")
    if _jumps(found).any():
        warnings.append(
            "the curve jumps between neighbours: it is open there, or folds back as seen from the "
            "minimum, and what lies behind a fold is not shown"
        )
    if not found.settled[found.reached].all():
        warnings.append(
            f"{(found.reached & ~found.settled).sum()} points may be further out: the other "
            "parameters found no minimum there"
        )
    return warnings
