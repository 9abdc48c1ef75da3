"""Losses, minimised with some elements held, by Newton's method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from fitkit._fisher import hessian, loss_product, split_params
from fitkit._optimisers import blocked
from fitkit._profile.minimum import Minimum
from fitkit._programs import no_debugging
from fitkit._sharding import to_host

# Points side by side; a round of few costs what one of all does.
LANES = 16
# From a neighbour it takes 3 to 6 steps; where it takes so many, the loss has no minimum there.
MOST_STEPS = 100
# What a step may still gain of a log-likelihood, of which 1/2 is one standard error: this moves no
# end of an interval in its sixth digit. Or so many units of rounding, which no step can gain.
GAIN, ROUNDINGS = 1e-8, 8
# Damping, relative to the largest curvature: what the first rejected step brings, how it grows
# from there, and how it falls; below the first value it is none.
FIRST, GROWN, FALLEN = 1e-3, 5.0, 0.1


class Walk(NamedTuple):
    """Where the minimisation of one point stands.

    Attributes
    ----------
    x, loss, gradient, curvature
        The point, and the loss around it.
    damping
        Added to the curvatures, relative to the largest.
    steps, settled
        How many steps were tried, and whether none is left to gain by.
    """

    x: Float[Array, " n"]
    loss: Float[Array, ""]
    gradient: Float[Array, " n"]
    curvature: Float[Array, "n n"]
    damping: Float[Array, ""]
    steps: Any
    settled: Any


class Newton:
    """A loss around a minimum."""

    def __init__(self, minimum: Minimum) -> None:
        self._minimum = minimum

    def __call__(
        self, held: Bool[np.ndarray, "k n"], starts: Float[np.ndarray, "k n"]
    ) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
        """Minimise as `Squares` does."""
        minimum = self._minimum
        assert minimum.loss is not None
        free, frozen = split_params(minimum.params, minimum.frozen)
        limits = [jnp.asarray(limit, starts.dtype) for limit in minimum.limits]
        found = []
        for at in range(0, len(held), LANES):
            some = slice(at, at + LANES)
            # The last rows are repeated, so that one program serves any number.
            rows = [
                jnp.asarray(np.resize(part[some], (LANES, part.shape[1])))
                for part in (held, starts)
            ]
            with no_debugging():
                walks = minimised(minimum.loss, free, frozen, minimum.args, *rows, *limits)
            found.append([to_host(part)[: len(held[some])] for part in walks])
        x, loss, settled = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return np.where(held, starts, x), np.where(np.isfinite(loss), loss, np.inf), settled


@eqx.filter_jit
def minimised(
    loss: Callable,
    free: PyTree,
    frozen: PyTree,
    args: Any,
    held: Bool[Array, "k n"],
    starts: Float[Array, "k n"],
    lower: Float[Array, " n"],
    upper: Float[Array, " n"],
) -> tuple[Array, Array, Array]:
    """Minimise a loss from every row of `starts`: points, losses, and whether they are minima."""

    def one(held: Bool[Array, " n"], start: Float[Array, " n"]) -> tuple[Array, Array, Array]:
        def around(x: Float[Array, " n"]) -> tuple[Array, Array, Array]:
            nothing = jnp.zeros_like(x)
            value, gradient, _ = loss_product(loss, free, frozen, args, False, x, nothing)
            return value[0], gradient, hessian(loss, free, frozen, args, False, x)

        def step(walk: Walk) -> Walk:
            return _stepped(walk, around, held, lower, upper)

        def goes_on(walk: Walk) -> Any:
            return ~walk.settled & (walk.steps < MOST_STEPS) & jnp.isfinite(walk.loss)

        none = jnp.zeros((), jnp.int32)
        first = Walk(start, *around(start), jnp.zeros((), start.dtype), none, none > 0)
        last = jax.lax.while_loop(goes_on, step, first)
        return last.x, last.loss, last.settled

    return jax.vmap(one)(held, starts)


def _stepped(
    walk: Walk,
    around: Callable[[Array], tuple[Array, Array, Array]],
    held: Bool[Array, " n"],
    lower: Float[Array, " n"],
    upper: Float[Array, " n"],
) -> Walk:
    """Try a step to where the parabola is lowest; along concave eigenvectors, downhill as far."""
    x, eps = walk.x, jnp.finfo(walk.x.dtype).eps
    blocks: Any = blocked(x, walk.gradient, lower, upper)
    still = held | blocks
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(walk.curvature)))
    scale = jnp.where((scale > 0) & ~still, scale, 1)
    apart = still[:, None] | still[None]
    matrix = jnp.where(apart, 0, walk.curvature / (scale[:, None] * scale[None]))
    matrix = jnp.where(jnp.isfinite(matrix), matrix, 0)
    values, vectors = jnp.linalg.eigh(matrix)
    slopes = vectors.T @ jnp.where(still, 0, walk.gradient / scale)
    largest = jnp.maximum(jnp.max(jnp.abs(values)), 1)
    # Curvatures below that are rounding, and what they foretell is none.
    stiff = jnp.maximum(jnp.abs(values), eps ** (2 / 3) * largest) + walk.damping * largest
    there = jnp.clip(x - vectors @ (slopes / stiff) / scale, lower, upper)
    there = jnp.where(still, x, there)
    foretold = jnp.sum(slopes**2 / stiff) / 2
    loss, gradient, curvature = around(there)
    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient))
    rounding = ROUNDINGS * eps * jnp.abs(walk.loss)
    # A step that rounding hides is taken, once: its end is the better known.
    small = foretold <= jnp.maximum(GAIN * 1e-2, rounding)
    taken = finite & ((loss < walk.loss) | (small & (loss <= walk.loss + rounding)))
    damping = jnp.where(
        taken, walk.damping * FALLEN, jnp.maximum(walk.damping * GROWN, FIRST)
    ).astype(x.dtype)
    damping = jnp.where(damping < FIRST, 0, damping)
    settled = (walk.damping <= FIRST) & (foretold <= jnp.maximum(GAIN, rounding))
    new = Walk(there, loss, gradient, curvature, damping, walk.steps, walk.settled)
    new = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, walk)
    return new._replace(damping=damping, steps=walk.steps + 1, settled=settled)
