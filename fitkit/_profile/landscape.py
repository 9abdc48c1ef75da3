"""A loss minimised over all elements but some, and how far to go for it to have risen so much."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fitkit._profile.minimum import Minimum
from fitkit._profile.newton import Newton
from fitkit._profile.squares import Squares

# Of the root of the rise: the ends of intervals are right to six digits where it is straight.
CLOSE = 1e-6
# Rounds of points; a parabola takes 1, a smooth profile 3 to 6, a cliff 25 halvings.
MOST_ROUNDS = 60
# A next point is this many times further out, at most: extrapolated starts are no better.
STRIDE = 4.0
# At every so many rounds the bracket is halved, for a line may come to lean on one end for ever.
HALVE = 5
# How far to look, in units of the parabola: where a thousand standard errors do not suffice, it
# was none. Where it has no curvature, the unit is that of the element alone.
FURTHEST, FURTHEST_FLAT = 1e3, 1e6
# A loss that is lower than the minimum by this much of the rise at one standard error is another
# minimum: the ends of intervals would change in their fourth digit.
LOWER = 1e-4


class Crossings(NamedTuple):
    """Where rays from the minimum reach a rise of the loss.

    Attributes
    ----------
    along
        How far along each ray; where it does not rise so much, how far was looked.
    x
        The elements there, one row for every ray.
    reached
        Which rays reached it.
    bound
        Which of the others ended on a limit of what is held; the rest are open.
    settled
        Which points are minima of the elements that were not held, as far as can be told.
    edge
        Beyond which points the loss is not finite.
    """

    along: Float[np.ndarray, " r"]
    x: Float[np.ndarray, "r n"]
    reached: Bool[np.ndarray, " r"]
    bound: Bool[np.ndarray, " r"]
    settled: Bool[np.ndarray, " r"]
    edge: Bool[np.ndarray, " r"]


class Landscape:
    """The loss around a minimum; it remembers the lowest point that it came across."""

    def __init__(self, minimum: Minimum) -> None:
        self.minimum = minimum
        self._minimise = Newton(minimum) if minimum.residuals is None else Squares(minimum)
        # The fit may have stopped a thousandth of a standard error short of it; that is all of the
        # loss, and nothing of the point, unless there is more to gain.
        x = minimum.x[None]
        points, losses, _ = self._minimise(np.zeros(x.shape, bool), x)
        gained = minimum.value - losses[0] > LOWER * minimum.unit**2 / 2
        self.x = np.asarray(points[0] if gained else x[0], float)
        self.loss = float(losses[0])
        self._lowest = self.x, self.loss

    def at(
        self,
        held: Bool[np.ndarray, "k n"],
        starts: Float[np.ndarray, "k n"],
        others: Float[np.ndarray, "k n"] | None = None,
    ) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
        """Minimise over the elements that are not held: points, losses, and which are minima.

        Where that fails from `starts`, it is tried from `others`, which hold the same.
        """
        dtype = self.minimum.x.dtype
        lower, upper = self.minimum.limits
        starts = np.clip(np.nan_to_num(starts), lower, upper).astype(dtype)
        x, loss, settled = self._minimise(held, starts)
        again = ~settled
        if others is not None and again.any():
            second = np.clip(others, lower, upper).astype(dtype)
            new = self._minimise(held[again], second[again])
            better = new[1] < loss[again]
            rows = np.flatnonzero(again)[better]
            x[rows], loss[rows], settled[rows] = (part[better] for part in new)
        lowest = int(np.argmin(loss))
        if loss[lowest] < self._lowest[1]:
            self._lowest = np.asarray(x[lowest], float), float(loss[lowest])
        return np.asarray(x, float), np.asarray(loss, float), settled

    def lower(self) -> tuple[Float[np.ndarray, " n"], float] | None:
        """Return a lower minimum, and its loss, if the points so far have led to any."""
        x, loss = self._lowest
        if loss >= self.loss - LOWER * self.minimum.unit**2 / 2:
            return None
        start = x[None].astype(self.minimum.x.dtype)
        points, losses, _ = self._minimise(np.zeros(start.shape, bool), start)
        return (points[0], float(losses[0])) if losses[0] < loss else (x, loss)

    def crossings(
        self,
        held: Bool[np.ndarray, "r n"],
        directions: Float[np.ndarray, "r n"],
        rises: Float[np.ndarray, " r"],
        furthest: Float[np.ndarray, " r"],
    ) -> Crossings:
        """Follow rays from the minimum to where chi-square has risen.

        Parameters
        ----------
        held
            Which elements each ray moves.
        directions
            How all elements change along a ray, from 0 to 1 where a parabola has risen enough.
        rises
            Of chi-square, by how much, in units of the scatter.
        furthest
            How far to go.
        """
        count = len(held)
        targets = rises * self.minimum.unit**2 / 2
        ends, bounded = self._ends(held, directions, furthest)
        low, high = np.zeros(count), np.full(count, np.inf)
        under, over = np.zeros(count), np.full(count, np.inf)  # Roots of the rise there.
        inner, outer = np.tile(self.x, (count, 1)), np.full((count, len(self.x)), np.nan)
        settled, settled_out = np.ones(count, bool), np.ones(count, bool)
        last, before = np.zeros((2, 2, count))  # Along, and the root of the rise.
        follow = directions.copy()
        place, place_at = self.x + np.zeros((count, 1)), np.zeros(count)
        going = np.minimum(1.0, ends)
        active = np.ones(count, bool)
        for number in range(MOST_ROUNDS):
            rows = np.flatnonzero(active)
            if not len(rows):
                break
            t = going[rows]
            moved = np.where(held[rows], self.x + t[:, None] * directions[rows], 0)
            guess = place[rows] + (t - place_at[rows])[:, None] * follow[rows]
            nearest = np.where(held[rows], moved, inner[rows])
            x, loss, good = self.at(held[rows], np.where(held[rows], moved, guess), nearest)
            with np.errstate(invalid="ignore"):
                root = np.sqrt(np.maximum(loss - self.loss, 0) / targets[rows])
            # The next start goes on along the line through the two points before it.
            finite = np.isfinite(root)
            gap = np.where(t == place_at[rows], 1.0, t - place_at[rows])
            line = (x - place[rows]) / gap[:, None]
            follow[rows] = np.where(finite[:, None], line, follow[rows])
            place[rows] = np.where(finite[:, None], x, place[rows])
            place_at[rows] = np.where(finite, t, place_at[rows])

            inside = root < 1
            low[rows], high[rows] = np.where(inside, t, low[rows]), np.where(inside, high[rows], t)
            under[rows] = np.where(inside, root, under[rows])
            over[rows] = np.where(inside, over[rows], root)
            inner[rows] = np.where(inside[:, None], x, inner[rows])
            outer[rows] = np.where(inside[:, None], outer[rows], x)
            settled[rows] = np.where(inside, good, settled[rows])
            settled_out[rows] = np.where(inside, settled_out[rows], good)
            before[:, rows], last[:, rows] = last[:, rows], np.stack([t, root])
            halve = number % HALVE == HALVE - 1
            ranges = low[rows], high[rows], over[rows]
            going[rows] = _next(last[:, rows], before[:, rows], *ranges, halve)
            going = np.minimum(going, ends)
            spacing = 8 * np.finfo(self.minimum.x.dtype).eps
            narrow = high - low <= np.maximum(CLOSE, spacing) * np.minimum(high, 1e300)
            done = (np.abs(last[1] - 1) <= CLOSE) | narrow | ((low >= ends) & np.isinf(high))
            active &= ~done
        exact = np.abs(under - 1) <= np.abs(over - 1)
        reached = np.isfinite(high) | (np.abs(under - 1) <= CLOSE)
        within = exact | ~reached
        return Crossings(
            along=np.where(within, low, high),
            x=np.where(within[:, None], inner, outer),
            reached=reached,
            bound=~reached & bounded & (low >= ends),
            settled=np.where(within, settled, settled_out),
            edge=np.isfinite(high) & np.isinf(over) & (np.abs(under - 1) > CLOSE),
        )

    def _ends(
        self,
        held: Bool[np.ndarray, "r n"],
        directions: Float[np.ndarray, "r n"],
        furthest: Float[np.ndarray, " r"],
    ) -> tuple[Float[np.ndarray, " r"], Bool[np.ndarray, " r"]]:
        """Find how far rays go, and whether a limit of what they move ends them."""
        lower, upper = self.minimum.limits
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(directions > 0, upper - self.x, lower - self.x) / directions
        room = np.where(held & (directions != 0), np.maximum(room, 0), np.inf).min(axis=1)
        return np.minimum(room, furthest), room <= furthest


def _next(
    last: Float[np.ndarray, "2 r"],
    before: Float[np.ndarray, "2 r"],
    low: Float[np.ndarray, " r"],
    high: Float[np.ndarray, " r"],
    over: Float[np.ndarray, " r"],
    halve: bool,
) -> Float[np.ndarray, " r"]:
    """Choose the next point: where a line through the last two reaches 1, if that is sensible."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (last[1] - before[1]) / (last[0] - before[0])
        secant = last[0] + (1 - last[1]) / slope
    forward = np.isfinite(secant) & (secant > low)
    outwards = np.where(forward, np.clip(secant, 1.02 * low, STRIDE * low), STRIDE * low)
    outwards = np.where(low > 0, outwards, 1.0)
    width = np.where(np.isfinite(high), high - low, 0)
    poor = halve | ~forward | (secant >= high) | ~np.isfinite(over)
    between = np.where(poor, low + width / 2, secant)
    return np.where(np.isfinite(high), between, outwards)
