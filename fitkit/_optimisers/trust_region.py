"""A step within a radius in which a linear model of residuals is trusted, after Moré (1978).

J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", Lecture Notes in
Mathematics 630, 105; https://doi.org/10.1007/BFb0067700. Numbers that the paper leaves open are
those of MINPACK's lmder.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitkit._fisher import quick_norm
from fitkit._optimisers.convergence import ConvergenceTest
from fitkit._optimisers.factor import Factor

# Sections 4 and 7: accept almost any decrease, double the radius where the linear model foretold
# three quarters of it or more, shrink it where it foretold less than one quarter...
ACCEPT, DOUBT, TRUST = 1e-4, 0.25, 0.75
# ...by a factor within these.
LEAST, MOST = 0.1, 0.5
# Residuals that are not finite leave nothing to interpolate between: about the middle of the two.
BLIND = 0.25
# The first radius is the size of the parameters, at which a step may leap over a pole and lower the
# residuals on its other side. Beyond a quarter of it the first step is taken only where residuals
# follow the linear model to one percent, as those of a linear problem do: it stays one step.
CAUTION, LINEAR = 0.25, 0.01
# Section 5: how far the length of a step may exceed the radius.
RADIUS_SLACK = 1.1
# Relative rounding of a sum of squares, or of a difference of two: a few units.
ROUNDING = 4
# Every trial but the last halves the radius at least, and from the size of the parameters down to
# their rounding it is 52 halvings in float64.
MOST_TRIALS = 100
# Newton's iterations converge quadratically from below: three or four are usual, and the bound
# only keeps NaN from going round for ever.
MOST_SECULAR = 40


class Model(NamedTuple):
    """The residuals linearised at one point. Lengths are relative to the residual norm there."""

    #: A unit vector, or zero.
    residuals: Float[Array, " m"]
    #: Of the residuals; 1 where they are zero.
    norm: Float[Array, ""]
    #: Computes how a step of the parameters changes the residuals.
    push: Callable[[Float[Array, " n"]], Float[Array, " m"]]
    #: Of every parameter, in 1/(its unit).
    scale: Float[Array, " n"]
    #: Computes the best scaled step within a radius, its damping, and from what length on the
    #: radius grows.
    damped: Callable[[Float[Array, ""]], tuple]
    #: Scaled length of the parameters.
    extent: Float[Array, ""]


class Trial(NamedTuple):
    """Where the search for a step that lowers the residuals stands."""

    radius: Float[Array, ""]
    #: As proposed, before it is damped.
    step: Float[Array, " n"]
    accepted: Bool[Array, ""]
    #: Whether rounding hides what a further step could gain.
    exhausted: Bool[Array, ""]
    trials: Int[Array, ""]


def search(
    outcome: Callable,
    flat: Float[Array, " n"],
    model: Model,
    test: ConvergenceTest,
    radius: Float[Array, ""],
    first: Bool[Array, ""],
    failed: Bool[Array, ""],
    eps: float,
    damp: Callable,
) -> Trial:
    """Shrink the radius until a step within it lowers the residuals, or rounding hides any gain.

    Parameters
    ----------
    outcome
        Computes of a step, and the change of residuals that the model foretells, by how much the
        sum of squares falls, and how far from the model the residuals come.
    flat
        Where the model is made.
    model, test
        The linear model, and what it says of convergence.
    radius
        Where to begin; a guess if this is the `first` update, and a trusted one later.
    failed
        Whether there is nothing to search.
    eps
        Unit of rounding.
    damp
        A function from a proposed step to the one that is taken, which is judged.
    """
    begin = Trial(
        radius=radius,
        step=jnp.zeros_like(flat),
        accepted=jnp.array(False),
        exhausted=failed,
        trials=jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(
        lambda trial: ~trial.accepted & ~trial.exhausted,
        lambda trial: _attempt(outcome, flat, model, test, trial, first, eps, damp),
        begin,
    )


def outcome_of(
    function: Callable, flat: Float[Array, " n"], model: Model
) -> Callable[[Float[Array, " n"], Float[Array, " m"]], tuple[Float[Array, ""], Float[Array, ""]]]:
    """Build the `outcome` for `search` of residuals that are one vector."""

    def outcome(step: Float[Array, " n"], change: Float[Array, " m"]) -> tuple[Array, Array]:
        there = function(flat + step).astype(change.dtype) / model.norm
        # (a - b)·(a + b) keeps the digits that a·a - b·b loses.
        gained = jnp.dot(model.residuals - there, model.residuals + there)
        return gained, quick_norm(there - model.residuals - change)

    return outcome


def _attempt(
    outcome: Callable,
    flat: Float[Array, " n"],
    model: Model,
    test: ConvergenceTest,
    trial: Trial,
    first: Bool[Array, ""],
    eps: float,
    damp: Callable,
) -> Trial:
    """Evaluate the residuals at the best step within the radius, and set the next radius."""
    scaled, damping, reach = model.damped(trial.radius)
    length = quick_norm(scaled)
    # Moré: the first radius is a guess, and no longer than the step it allows.
    radius = jnp.where(first, jnp.minimum(trial.radius, length), trial.radius)
    # As the parameters can hold it, so that the model is asked about the step that is taken.
    step = (scaled * model.norm / model.scale).astype(flat.dtype)
    taken = damp(step)
    change, predicted = _foretold(model, taken)
    # How near the minimum is shows in the whole step, however short the one that is taken.
    _, promised = _foretold(model, step)
    gained, bent = outcome(taken, change)
    finite = jnp.isfinite(gained) & jnp.isfinite(predicted)
    gained = jnp.where(finite, gained, -jnp.inf)
    ratio = jnp.where(finite & (predicted > 0), gained / predicted, -1)

    leap = first & (trial.trials == 0) & (length > CAUTION * trial.radius)
    leap &= ~(bent <= LINEAR * quick_norm(change))
    slope = jnp.dot(model.residuals, change)
    # The minimum of the parabola through both values and the slope, if the residuals grew.
    shrink = jnp.where(gained >= 0, MOST, jnp.clip(slope / (2 * slope + gained), LEAST, MOST))
    shrink = jnp.where(finite, shrink, BLIND)
    radius = jnp.where(
        ratio <= DOUBT,
        shrink * jnp.minimum(radius, length / LEAST),
        jnp.where((ratio >= TRUST) | (damping == 0), 2 * reach, radius),
    )
    radius = jnp.where(leap, jnp.minimum(radius, CAUTION * trial.radius), radius)
    lower = (ratio > ACCEPT) & ~leap
    # Near the solution the slopes are still right when the sum of squares sees only noise: the
    # last step is taken on their word.
    unseen = test.near & (promised <= test.noise) & (gained >= -test.noise)
    rounded = (promised <= ROUNDING * eps) & (gained <= ROUNDING * eps)
    tiny = radius <= ROUNDING * eps * model.extent
    exhausted = test.done | rounded | (~lower & (unseen | tiny)) | (trial.trials >= MOST_TRIALS)
    return Trial(radius, step, lower | unseen, exhausted, trial.trials + 1)


def _foretold(
    model: Model, step: Float[Array, " n"]
) -> tuple[Float[Array, " m"], Float[Array, ""]]:
    """Compute what the linear model says of a step: change and decrease of the residuals."""
    change = model.push(step).astype(model.residuals.dtype) / model.norm
    return change, -jnp.dot(change, 2 * model.residuals + change)


def damped_by_factor(
    factor: Factor, radius: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, ""], Float[Array, ""]]:
    """Minimise the linear model within the radius: the scaled step, its damping and its length.

    Newton's iterations on ``1/|step(damping)| = 1/radius`` (Moré, section 5), which rise from zero
    to the solution without passing it.
    """
    values, slopes = factor.singular_values, factor.slopes

    def latent(damping: Float[Array, ""]) -> Float[Array, " n"]:
        return values * slopes / (values**2 + damping)

    def rise(carry: tuple) -> tuple:
        damping, length, count = carry
        steepness = jnp.sum(latent(damping) ** 2 / (values**2 + damping))
        damping += (length - radius) / radius * length**2 / steepness
        return damping, quick_norm(latent(damping)), count + 1

    none = jnp.zeros_like(radius)
    damping, _, _ = jax.lax.while_loop(
        lambda carry: (carry[1] > RADIUS_SLACK * radius) & (carry[2] < MOST_SECULAR),
        rise,
        (none, quick_norm(latent(none)), 0),
    )
    step = -(latent(damping) @ factor.right)
    return step, damping, quick_norm(step)
