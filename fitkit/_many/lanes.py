"""Lanes of systems that are fitted side by side, one trial step each in a round.

Every lane is a Levenberg-Marquardt fit of its own, with a trust region after Moré (1978) as in
`gauss_newton`, but by normal equations: all that a round keeps of a system is the matrix of the
scalar products of the columns of J and of r. That is several times faster and loses half the digits
of what is nearly degenerate; so a lane says `CLEAR` only where that does not matter and where all
that was seen on the way speaks for a minimum, and leaves the rest to slower means.

The lane is the last axis of every array but of the systems' own data.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitkit._many.evaluate import data_of, linearised, products
from fitkit._many.factor import backward, factorised, forward, inverse_diagonal
from fitkit._many.outcome import Limits, Outcome
from fitkit._many.recipe import Recipe
from fitkit._optimisers import (
    ACCEPT,
    BLIND,
    CAUTION,
    DOUBT,
    LEAST,
    LINEAR,
    MOST,
    MOST_SECULAR,
    RADIUS_SLACK,
    TRUST,
    blocked,
)
from fitkit._result import CLOSE, COARSE, NOISES, ROUGH, ROUNDINGS, RUNAWAY

# A pivot of a matrix with a diagonal of ones is known to about n units of rounding.
LOST = 64
# Errors come from the inverse of that matrix, with as many digits lost as its condition number has:
# six stay in double precision.
DIGITS = 1e-9
# What the last step leaves to go, in standard errors: no step that would be seen in six digits of
# anything that is known to better than itself.
REMAINDER = 2e-7
# Towards a minimum the columns of J come to rest. On an exponential tail a step shortens one by a
# factor of 0.37, and towards a zero of order k by 1 - 1/k.
STEADY = 0.05
# Rounds after which a lane is left; a fit from a fair start takes 5 to 20.
MOST_ROUNDS = 200


class Lanes(NamedTuple):
    """Where every lane stands.

    Attributes
    ----------
    job
        Number of the fit; -1 where the lane is idle.
    own
        What the systems have for themselves, with the lane as the first axis.
    x, gram, scale, data
        The point, the scalar products of the derivatives and the residuals there, the largest
        length so far of every column, and the number of residuals that are data.
    trial, foretold, radius
        The next point, by how much the sum of squares is to fall there, and how far the linear
        model is trusted.
    decrement, ratio
        What a whole step would take off the length of the residuals, and its ratio to that before
        the last step; 1 where that was no whole one.
    pivot, whole, cut
        The smallest pivot of the scaled matrix, whether the trial is a step without damping or
        bounds, and whether bounds have cut it short.
    rounds, stage
        How many there were; 0 where not even the start was evaluated, 1 where no step was taken.
    outcome
        An `Outcome`.
    """

    job: Int[Array, " lanes"]
    own: Any
    x: Float[Array, "n lanes"]
    gram: Float[Array, "k k lanes"]
    scale: Float[Array, "n lanes"]
    data: Float[Array, " lanes"]
    trial: Float[Array, "n lanes"]
    foretold: Float[Array, " lanes"]
    radius: Float[Array, " lanes"]
    decrement: Float[Array, " lanes"]
    ratio: Float[Array, " lanes"]
    pivot: Float[Array, " lanes"]
    whole: Bool[Array, " lanes"]
    cut: Bool[Array, " lanes"]
    rounds: Int[Array, " lanes"]
    stage: Int[Array, " lanes"]
    outcome: Int[Array, " lanes"]


class NormalEquations(NamedTuple):
    """The method of this module, for one recipe."""

    recipe: Recipe

    def begin(self, job: Any, own: Any, starts: Float[Array, "n lanes"]) -> Lanes:
        """Build lanes at their starts."""
        n, lanes = starts.shape
        vector, number = jnp.zeros_like(starts), jnp.zeros(lanes, starts.dtype)
        none = jnp.zeros(lanes, jnp.int32)
        return Lanes(
            job=job,
            own=own,
            x=starts,
            gram=jnp.zeros((n + 1, n + 1, lanes), starts.dtype),
            scale=vector,
            data=number,
            trial=starts,
            foretold=number,
            radius=number,
            decrement=number,
            ratio=number + 1,
            pivot=number,
            whole=none > 0,
            cut=none > 0,
            rounds=none,
            stage=none,
            outcome=none,
        )

    def advance(self, lanes: Lanes, shared: Any, limits: Limits | None) -> Lanes:
        """Evaluate all trials, judge them, and set the next."""
        recipe = self.recipe

        def one(x: Array, own: Any) -> tuple[Array, ...]:
            return linearised(
                lambda leaves: recipe.function(leaves, own, shared),
                recipe.unravel,
                x,
                own[-1] if recipe.weighted else None,
            )

        # Behind the barrier, or the model would be computed once for every product.
        pieces = jax.lax.optimization_barrier(jax.vmap(one)(lanes.trial.T, lanes.own))
        return advanced(lanes, pieces, limits, recipe.eps)

    def chosen(self, where: Bool[Array, " lanes"], new: Lanes, old: Lanes) -> Lanes:
        """Take some lanes of the one and the others of the other."""
        own = jax.tree.map(
            lambda a, b: jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, b), new.own, old.own
        )
        picked = jax.tree.map(
            functools.partial(chosen, where),
            new._replace(own=()),
            old._replace(own=()),
        )
        return picked._replace(own=own)

    def row(self, lanes: Lanes) -> Float[Array, "columns lanes"]:
        """Lay out values, errors, sum of squares, number of data, decrement."""
        n = len(lanes.x)
        rest = [lanes.gram[n, n][None], lanes.data[None], lanes.decrement[None]]
        return jnp.concatenate([lanes.x, standard_errors(lanes), *rest])


def advanced(
    lanes: Lanes, pieces: tuple[Float[Array, "lanes _ m"], ...], limits: Limits | None, eps: float
) -> Lanes:
    """Judge the trials, at which the `linearised` residuals are `pieces`, and set the next."""
    n = len(lanes.x)
    there = products(pieces)
    alive = data_of(pieces)
    taken, radius, stuck = _judged(lanes, there, eps)
    stage = jnp.where(taken, jnp.minimum(lanes.stage + 1, 2), lanes.stage)
    x, gram = chosen(taken, lanes.trial, lanes.x), chosen(taken, there, lanes.gram)
    data = jnp.where(taken, alive, lanes.data)

    squares = jnp.diagonal(gram[:n, :n]).T
    lengths = jnp.sqrt(squares)
    scale = jnp.maximum(lanes.scale, lengths)
    size = jnp.sqrt(gram[n, n])
    held = _held(x, gram[n, :n], limits) | (lengths == 0)
    unit = jnp.where(held, 1, lengths)
    matrix = gram[:n, :n] / (unit[:, None] * unit[None])
    apart = held[:, None] | held[None]
    identity = jnp.eye(n, dtype=x.dtype)[..., None]
    matrix = jnp.where(apart, identity, matrix)
    slopes = jnp.where(held, 0, gram[n, :n] / unit)
    extent = _length(scale * x)
    radius = jnp.where(
        (lanes.stage == 0) & taken,
        jnp.where(extent > 0, extent, jnp.where(size > 0, size, 1)),
        radius,
    )

    # A column that has shrunk by half the digits is trusted no further than one that has not.
    stretch = jnp.minimum(jnp.where(held, 1, scale / unit), eps**-0.5)
    busy = (lanes.job >= 0) & (lanes.outcome == Outcome.RUNNING) & (stage > 0)
    step, decrement, pivot, damped = _damped(matrix, slopes, stretch, radius, busy, LOST * n * eps)
    target = x + step / unit
    trial = target
    if limits is not None:
        lower, upper = (jnp.broadcast_to(limit[:, None], x.shape) for limit in limits)
        # Those on a limit that the others would push through it stay, and the others go without.
        stay = held | ((x <= lower) & (step < 0)) | ((x >= upper) & (step > 0))
        parted = jnp.where(stay[:, None] | stay[None], identity, matrix)
        step, _, _, damped = _damped(
            parted, jnp.where(stay, 0, slopes), stretch, radius, busy, LOST * n * eps
        )
        target = x + step / unit
        trial = jnp.clip(target, lower, upper)
    moved = (trial - x) * unit
    bent = jnp.sum(matrix * moved[None], axis=1)
    foretold = -jnp.sum(moved * (2 * slopes + bent), axis=0)
    cut = jnp.any(trial != target, axis=0)
    whole = ~damped & ~cut

    ratio = jnp.where(lanes.whole & (lanes.stage > 0), decrement / lanes.decrement, 1)
    ratio = jnp.where(taken, ratio, lanes.ratio)
    reach = _length(lengths * x)
    free = n - jnp.sum(held, axis=0)
    sigma = size / jnp.sqrt(jnp.maximum(data - free, 1))
    floor = ROUNDINGS * eps * (size + reach + size / jnp.sqrt(jnp.maximum(pivot, eps)))
    met = (size <= NOISES * ROUNDINGS * eps * reach) & (
        NOISES * ROUNDINGS * eps * reach <= ROUGH * jnp.sqrt(data)
    )
    # Also of a step that was not taken: one too short to be seen changes nothing.
    before, after = (jnp.sqrt(jnp.diagonal(one[:n, :n]).T) for one in (lanes.gram, there))
    steady = jnp.all(jnp.abs(after - before) <= STEADY * before, axis=0)
    steady &= jnp.abs(pivot - lanes.pivot) <= 2 * STEADY * pivot
    # A step that is much shorter than the last may have been so along one eigenvector alone.
    worst = jnp.maximum(ratio, lanes.ratio)
    left = decrement * worst / jnp.maximum(1 - worst, 1 - RUNAWAY)
    settled = (stage == 2) & whole & steady & (worst <= RUNAWAY) & (left <= REMAINDER * sigma)
    settled &= (decrement <= CLOSE / 10 * sigma) & (data > free)
    bottom = (stage == 2) & (decrement <= NOISES * floor) & steady
    late = lanes.rounds >= MOST_ROUNDS
    lost = jnp.any((lengths <= LOST * eps * scale) & ~held, axis=0) | jnp.any(lengths == 0, axis=0)
    # A column without any effect is what the data say nothing of, at a limit or not.
    sure = (pivot >= max(LOST * n * eps, DIGITS)) & (data > free) & ~lost & steady
    # At the bottom a decrement is rounding, and the one before says more; what ends on a limit has
    # no whole step to be judged by.
    sure &= ((jnp.minimum(ratio, lanes.ratio) <= RUNAWAY) | lanes.cut) & (floor <= COARSE * sigma)
    sure &= decrement <= CLOSE / 2 * sigma
    done = settled | bottom
    outcome = jnp.where(done, jnp.where(sure, Outcome.CLEAR, Outcome.DOUBTFUL), Outcome.LEFT)
    outcome = jnp.where(met & (pivot >= LOST * n * eps) & ~lost, Outcome.MET, outcome)
    outcome = jnp.where(done | met | stuck | late, outcome, Outcome.RUNNING)
    outcome = jnp.where((stage == 0) & ~taken, Outcome.NONFINITE, outcome)
    last = (outcome == Outcome.CLEAR) & settled & ~bottom
    busy = (lanes.job >= 0) & (lanes.outcome == Outcome.RUNNING)
    gram = gram.at[n, n].add(jnp.where(last, -(decrement**2), 0))
    new = lanes._replace(
        x=chosen(last, trial, x),
        gram=gram,
        scale=scale,
        data=data,
        trial=trial,
        foretold=foretold,
        radius=radius,
        decrement=jnp.where(last, decrement * ratio, decrement),
        ratio=ratio,
        pivot=pivot,
        whole=whole,
        cut=cut,
        rounds=lanes.rounds + 1,
        stage=stage,
        outcome=outcome.astype(lanes.outcome.dtype),
    )
    return jax.tree.map(functools.partial(chosen, busy), new, lanes)


def standard_errors(lanes: Lanes) -> Float[Array, "n lanes"]:
    """Compute the standard errors of what lanes that ended well have found."""
    n = len(lanes.x)
    lengths = jnp.sqrt(jnp.diagonal(lanes.gram[:n, :n]).T)
    unit = jnp.where(lengths > 0, lengths, 1)
    factor = factorised(lanes.gram[:n, :n] / (unit[:, None] * unit[None]))
    return jnp.sqrt(inverse_diagonal(factor)) / unit


def _judged(
    lanes: Lanes, there: Float[Array, "k k lanes"], eps: float
) -> tuple[Bool[Array, " lanes"], Float[Array, " lanes"], Bool[Array, " lanes"]]:
    """Say whether trials are taken, how far to trust the model next, and what is stuck."""
    n = len(lanes.x)
    before, after = lanes.gram[n, n], there[n, n]
    finite = jnp.all(jnp.isfinite(jnp.diagonal(there).T), axis=0)
    move = lanes.trial - lanes.x
    gained = jnp.where(finite, before - after, -jnp.inf)
    gain = jnp.where(lanes.foretold > 0, gained / lanes.foretold, -1)
    slope = jnp.sum(lanes.gram[n, :n] * move, axis=0)
    length, reach = _length(lanes.scale * move), _length(lanes.scale * lanes.x)

    size = jnp.sqrt(before)
    blur = 2 * ROUNDINGS * eps * size * (size + reach)
    unseen = (lanes.foretold <= NOISES * blur) & (gained >= -NOISES * blur)
    leap = (lanes.stage == 1) & (length > CAUTION * reach)
    leap &= (jnp.abs(gain - 1) > 2 * LINEAR) & (lanes.radius >= reach)
    lower = ((gain > ACCEPT) | unseen) & ~leap
    taken = jnp.where(lanes.stage == 0, finite, lower & finite)

    divisor = 2 * slope + gained
    shrink = jnp.where(
        gained >= 0,
        MOST,
        jnp.clip(slope / jnp.where(divisor == 0, 1, divisor), LEAST, MOST),
    )
    shrink = jnp.where(finite, shrink, BLIND)
    radius = jnp.where(lanes.stage == 1, jnp.minimum(lanes.radius, length), lanes.radius)
    radius = jnp.where(
        (gain <= DOUBT) & ~unseen,
        shrink * jnp.minimum(radius, length / LEAST),
        jnp.where((gain >= TRUST) | lanes.whole, 2 * length, radius),
    )
    radius = jnp.where(leap, jnp.minimum(radius, CAUTION * reach), radius)
    # What bounds cut short may foretell a rise: then a shorter step does not.
    nothing = (lanes.foretold >= 0) & (lanes.foretold <= ROUNDINGS * eps * before)
    # A radius that has overflowed stays so.
    tiny = ~(radius > ROUNDINGS * eps * reach) | nothing
    # Where Gauss-Newton's steps overshoot, damped ones hover about the minimum, out of sight.
    hovers = taken & unseen & (lanes.stage == 2) & ~lanes.whole & ~lanes.cut
    return taken, radius, (lanes.stage > 0) & ((~taken & tiny) | hovers)


def _held(
    x: Float[Array, "n lanes"], gradient: Float[Array, "n lanes"], limits: Limits | None
) -> Bool[Array, "n lanes"]:
    if limits is None:
        return jnp.zeros(x.shape, bool)
    shape = x.shape
    lower, upper = (jnp.broadcast_to(one[:, None], shape) for one in limits)
    held: Any = blocked(x, gradient, lower, upper)
    return held


def _damped(
    matrix: Float[Array, "n n lanes"],
    slopes: Float[Array, "n lanes"],
    stretch: Float[Array, "n lanes"],
    radius: Float[Array, " lanes"],
    busy: Bool[Array, " lanes"],
    least: float,
) -> tuple[
    Float[Array, "n lanes"], Float[Array, " lanes"], Float[Array, " lanes"], Bool[Array, " lanes"]
]:
    """Minimise the linear model within the radius, as `gauss_newton` does (Moré, section 5).

    Returns the step, the decrement of the whole one, the smallest pivot and where it was damped.
    """
    n = len(slopes)
    metric = jnp.eye(n, dtype=slopes.dtype)[..., None] * (stretch**2)[None]

    def step(damping: Float[Array, " lanes"]) -> tuple:
        factor = factorised(matrix + damping[None, None] * metric)
        half = forward(factor, -slopes[:, None])[:, 0]
        step = backward(factor, half)
        return factor, half, step, _length(stretch * step)

    def too_long(length: Any, count: Any) -> Bool[Array, " lanes"]:
        # Not finite where there was no factor.
        return busy & ~(length <= RADIUS_SLACK * radius) & (count < MOST_SECULAR)

    def rise(carry: tuple) -> tuple:
        damping, at, long, steep, count = carry
        grown = damping + (long - radius) / radius * long**2 / steep
        grown = jnp.where(grown > damping, grown, jnp.maximum(10 * damping, least))
        again = too_long(long, count)
        damping = jnp.where(again, grown, damping)
        factor, _, new, length = step(damping)
        length, at = jnp.where(again, length, long), chosen(again, new, at)
        return damping, at, length, jnp.where(again, steepness(factor, new), steep), count + again

    def steepness(factor: Any, step: Any) -> Any:
        return jnp.sum(forward(factor, (stretch**2 * step)[:, None])[:, 0] ** 2, axis=0)

    factor, half, at, length = step(jnp.zeros_like(radius))
    decrement = _length(half)
    poor = factor.pivot < least
    # So much damping restores a pivot that rounding has taken.
    length = jnp.where(poor, jnp.inf, length)
    steep = steepness(factor, at)
    damping = jnp.zeros_like(radius)
    damping, at, *_ = jax.lax.while_loop(
        lambda carry: jnp.any(too_long(carry[2], carry[4])),
        rise,
        (damping, at, length, steep, jnp.zeros(radius.shape, jnp.int32)),
    )
    return at, decrement, factor.pivot, damping > 0


def chosen(where: Bool[Array, " lanes"], new: Array, old: Array) -> Array:
    """Take some lanes, which are the last axis, of the one and the others of the other."""
    if new is old:
        return old
    return jnp.where(where.reshape(*[1] * (new.ndim - 1), -1), new, old)


def _length(vectors: Float[Array, "n lanes"]) -> Float[Array, " lanes"]:
    return jnp.sqrt(jnp.sum(vectors**2, axis=0))
