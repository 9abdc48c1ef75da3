"""A step within a radius in which a linear model of residuals is trusted, after Moré (1978).

J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", Lecture Notes in
Mathematics 630, 105; https://doi.org/10.1007/BFb0067700.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitkit._fisher import rank_rtol

# Moré (1978), section 4 and 7, as in MINPACK's lmder: accept almost any decrease, believe the
# linear model above three quarters, doubt it below one quarter.
ACCEPT, DOUBT, TRUST = 1e-4, 0.25, 0.75
RADIUS_SLACK = 1.1
# More than it takes from the size of the parameters down to their rounding.
MOST_TRIALS = 100
MOST_SECULAR = 40


class Model(NamedTuple):
    """The residuals linearised at one point. Lengths are relative to the residual norm there."""

    residuals: Float[Array, " m"]  # a unit vector, or zero
    norm: Float[Array, ""]  # 1 where the residuals are zero
    jacobian: Float[Array, "m n"]
    scale: Float[Array, " n"]
    singular_values: Float[Array, " n"]  # of the Jacobian over `scale`; 1 where cut
    slopes: Float[Array, " n"]  # residuals along its left singular vectors; 0 where cut
    right: Float[Array, "n n"]
    extent: Float[Array, ""]  # scaled length of the parameters


class Prospect(NamedTuple):
    """What is known before a step is tried."""

    first: Bool[Array, ""]  # update
    done: Bool[Array, ""]
    near: Bool[Array, ""]
    noise: Float[Array, ""]


class Trial(NamedTuple):
    """Where the search for a step that lowers the residuals stands."""

    radius: Float[Array, ""]
    step: Float[Array, " n"]
    accepted: Bool[Array, ""]
    exhausted: Bool[Array, ""]  # rounding hides what a further step could gain
    count: Int[Array, ""]


def attempt(
    function: Callable,
    flat: Float[Array, " n"],
    model: Model,
    trial: Trial,
    prospect: Prospect,
    eps: float,
) -> Trial:
    """Evaluate the residuals at the best step within the radius, and set the next radius."""
    scaled, damping = _damped(model, trial.radius)
    length = norm_of(scaled)
    # Moré: the first radius is a guess, and no longer than the step it allows.
    radius = jnp.where(prospect.first, jnp.minimum(trial.radius, length), trial.radius)
    step = (scaled * model.norm / model.scale).astype(flat.dtype)
    change = (model.jacobian @ step) / model.norm
    there = function(flat + step) / model.norm
    predicted = -jnp.dot(change, 2 * model.residuals + change)
    # (a - b)·(a + b) keeps the digits that a·a - b·b loses.
    gained = jnp.dot(model.residuals - there, model.residuals + there)
    finite = jnp.isfinite(gained) & jnp.isfinite(predicted)
    gained = jnp.where(finite, gained, -jnp.inf)
    ratio = jnp.where(finite & (predicted > 0), gained / predicted, -1)

    slope = jnp.dot(model.residuals, change)
    # The minimum of the parabola through both values and the slope, if the residuals grew.
    shrink = jnp.where(gained >= 0, 0.5, jnp.clip(slope / (2 * slope + gained), 0.1, 0.5))
    shrink = jnp.where(finite, shrink, 0.25)
    radius = jnp.where(
        ratio <= DOUBT,
        shrink * jnp.minimum(radius, 10 * length),
        jnp.where((ratio >= TRUST) | (damping == 0), 2 * length, radius),
    )
    lower = ratio > ACCEPT
    # Near the solution the slopes are still right when the sum of squares sees only noise: the
    # last step is taken on their word.
    unseen = prospect.near & (predicted <= prospect.noise) & (gained >= -prospect.noise)
    accepted = lower | unseen
    rounded = (predicted <= 4 * eps) & (gained <= 4 * eps)
    tiny = radius <= 4 * eps * model.extent
    exhausted = prospect.done | rounded | (~lower & (unseen | tiny)) | (trial.count >= MOST_TRIALS)
    return Trial(radius, step, accepted, exhausted, trial.count + 1)


def _damped(model: Model, radius: Float[Array, ""]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Minimise the linear model within the radius: the scaled step and its damping.

    Newton's iterations on ``1/|step(damping)| = 1/radius`` (Moré, section 5), which rise from zero
    to the solution without passing it.
    """
    values, slopes = model.singular_values, model.slopes

    def latent(damping: Float[Array, ""]) -> Float[Array, " n"]:
        return values * slopes / (values**2 + damping)

    def rise(carry: tuple) -> tuple:
        damping, count = carry
        length = norm_of(latent(damping))
        steepness = jnp.sum(latent(damping) ** 2 / (values**2 + damping))
        return damping + (length - radius) / radius * length**2 / steepness, count + 1

    damping, _ = jax.lax.while_loop(
        lambda carry: (
            (norm_of(latent(carry[0])) > RADIUS_SLACK * radius) & (carry[1] < MOST_SECULAR)
        ),
        rise,
        (jnp.zeros_like(radius), 0),
    )
    return -(latent(damping) @ model.right), damping


def decomposed(columns: Float[Array, "k n"]) -> tuple[Array, Array, Array, Array]:
    """SVD with n singular values, and which of them are not rounding error."""
    rows, n = columns.shape
    columns = jnp.pad(columns, ((0, max(n - rows, 0)), (0, 0)))
    left, singular_values, right = jnp.linalg.svd(columns, full_matrices=False)
    keep = singular_values > rank_rtol(columns.dtype) * singular_values[0]
    return left[:rows], singular_values, right, keep


def norm_of(vector: Float[Array, " k"]) -> Float[Array, ""]:
    """Length of a vector whose squares may overflow or vanish."""
    largest = jnp.max(jnp.abs(vector), initial=0)
    safe = jnp.where(largest > 0, largest, 1)
    return safe * jnp.sqrt(jnp.sum((vector / safe) ** 2))
