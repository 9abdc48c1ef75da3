"""Damped Gauss-Newton as an optax transformation: the default optimiser of a least-squares fit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from fitkit._fisher import rank_rtol, scaled_columns
from fitkit._optimisers.trust_region import Model, Prospect, Trial, attempt, decomposed, norm_of

RUNNING, CONVERGED, STALLED, FAILED = range(4)

BLOCK = 16


class GaussNewtonState(NamedTuple):
    """State of `gauss_newton` for n parameter elements, in the order of ``ravel_pytree``.

    Attributes
    ----------
    radius
        How far the linear model is trusted: the largest length of a scaled step, in units of the
        residuals. Zero until the first update.
    scale
        Largest length so far of every column of the Jacobian, in 1/(unit of the parameter);
        zero for a parameter without effect so far.
    eigenvalues
        Of the units-free Fisher matrix at the parameters of the last update, descending.
    rank
        Number of those that are not rounding error.
    verdict
        0 running, 1 converged, 2 stalled, 3 failed. `restart` sets it back to running.
    evaluations
        Number of points at which the residuals were computed.
    """

    radius: Float[Array, ""]
    scale: Float[Array, " n"]
    eigenvalues: Float[Array, " n"]
    rank: Int[Array, ""]
    verdict: Int[Array, ""]
    evaluations: Int[Array, ""]


def gauss_newton() -> optax.GradientTransformationExtraArgs:
    """Damped Gauss-Newton for least squares, with a trust region and nothing to tune.

    Minimises half the sum of squared residuals. Every update linearises the residuals (forward
    mode), and takes the step that lowers the linear model most within a trust region, shrinking
    the region until the residuals themselves decrease. Parameters are scaled by the largest
    length so far of their columns of the Jacobian, so that their units play no role. The step
    comes from singular values and never from ``JᵀJ``, so that it survives float32.

    Directions that the residuals do not depend on (frozen parameters, one of two parameters that
    enter only as a product) take no step. The update of optax is given the residuals::

        updates, state = optimiser.update(grads, state, params, residuals=function_of_params)

    where ``residuals(params)`` is a pytree of real arrays, already divided by the errors of the
    data. `grads` is not used, and may be None. The parameters are any pytree of real arrays. A
    tree of booleans, ``frozen=``, may say which of them `residuals` holds where they are.

    The state, a `GaussNewtonState`, says in `verdict` when to stop. *Converged* (1): at the level
    of rounding the residuals are orthogonal to everything that the parameters can change, and the
    remaining step is small. *Stalled* (2): no step lowers the residuals any more, and yet that
    does not hold; on a plateau, for example. *Failed* (3): residuals or Jacobian are not finite.
    After a verdict every update is zero, until `restart`; the verdict of one that moves only some
    of the parameters, beside other optimisers, is about those alone.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``init`` raises `ValueError` where there are no parameters, its ``update`` `TypeError`
        where `params` or `residuals` is missing or a residual is not real.

    Notes
    -----
    Memory is that of one Jacobian, residuals times parameters; time per update that of the
    Jacobian, one or more evaluations of the residuals, and a QR decomposition of the Jacobian.

    Source: J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", Lecture
    Notes in Mathematics 630, 105 (1978), with the singular value decomposition in place of his
    QR updates.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> x = jnp.linspace(0.0, 2.0, 9)
    >>> y = 3 * jnp.exp(-1.5 * x)
    >>> residuals = lambda p: p["height"] * jnp.exp(-p["rate"] * x) - y
    >>> params = {"height": jnp.array(1.0), "rate": jnp.array(1.0)}
    >>> optimiser = fk.gauss_newton()
    >>> state = optimiser.init(params)
    >>> while state.verdict == 0:
    ...     updates, state = optimiser.update(None, state, params, residuals=residuals)
    ...     params = optax.apply_updates(params, updates)
    >>> int(state.verdict), round(float(params["rate"]), 4)
    (1, 1.5)
    """

    def init(params: PyTree) -> GaussNewtonState:
        flat, _ = ravel_pytree(params)
        if flat.size == 0:
            raise ValueError("gauss_newton: params holds no numbers, so there is nothing to fit.")
        zeros = jnp.zeros_like(flat)
        zero = jnp.zeros((), jnp.int32)
        return GaussNewtonState(jnp.zeros((), flat.dtype), zeros, zeros, zero, zero, zero)

    def update(
        grads: Any,
        state: GaussNewtonState,
        params: PyTree | None = None,
        *,
        residuals: Callable[[PyTree], PyTree] | None = None,
        frozen: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, GaussNewtonState]:
        del grads, extra
        if params is None or residuals is None:
            raise TypeError(
                "gauss_newton: update needs the parameters and the residuals: update(grads, state,"
                " params, residuals=function), where function(params) gives a pytree of arrays. "
                "(In Fit: give residuals= in place of loss=.)"
            )
        flat, unravel = ravel_pytree(params)
        function = _flattened(residuals, unravel)
        held = _held(frozen, params, flat)
        step, state = jax.lax.cond(
            state.verdict == RUNNING,
            lambda: _advance(function, flat, held, state),
            lambda: (jnp.zeros_like(flat), state),
        )
        return unravel(step), state

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def restart(state: PyTree) -> PyTree:
    """Set every `GaussNewtonState` inside an optimiser's state back to its beginning.

    For when the problem has changed under it: parameters frozen, thawed or moved. The count of
    evaluations goes on.
    """

    def fresh(node: Any) -> Any:
        if not isinstance(node, GaussNewtonState):
            return node
        return jax.tree.map(jnp.zeros_like, node)._replace(evaluations=node.evaluations)

    return jax.tree.map(fresh, state, is_leaf=lambda node: isinstance(node, GaussNewtonState))


def _flattened(residuals: Callable, unravel: Callable) -> Callable[[Array], Array]:
    def function(flat: Float[Array, " n"]) -> Float[Array, " m"]:
        values = residuals(unravel(flat))
        for leaf in jax.tree.leaves(values):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    "gauss_newton: residuals must be real floating arrays, got "
                    f"{jnp.result_type(leaf)}. Write complex ones as real and imaginary parts."
                )
        return ravel_pytree(values)[0]

    return function


def _held(frozen: PyTree | None, params: PyTree, flat: Float[Array, " n"]) -> Bool[Array, " n"]:
    """Which elements do not move, in the order of ``ravel_pytree``."""
    if frozen is None:
        return jnp.zeros(flat.shape, bool)
    return ravel_pytree(
        jax.tree.map(lambda flag, leaf: jnp.broadcast_to(flag, jnp.shape(leaf)), frozen, params)
    )[0]


def _advance(
    function: Callable, flat: Float[Array, " n"], held: Bool[Array, " n"], state: GaussNewtonState
) -> tuple[Float[Array, " n"], GaussNewtonState]:
    """Take one accepted step, or reach a verdict."""
    residuals, jacobian = _linearised(function, flat)
    finite = jnp.all(jnp.isfinite(residuals)) & jnp.all(jnp.isfinite(jacobian))
    # Zeros keep NaN out of the decompositions; the verdict overrules what comes of them.
    residuals, jacobian = jnp.where(finite, residuals, 0), jnp.where(finite, jacobian, 0)
    eps = max(float(jnp.finfo(array.dtype).eps) for array in (flat, jacobian))

    unit, lengths = scaled_columns(jacobian)
    responds = jnp.any(jacobian != 0, axis=0)
    scale = jnp.maximum(state.scale, jnp.where(responds, lengths, 0))
    norm = jnp.where(jnp.any(residuals != 0), norm_of(residuals), 1)
    residuals = residuals / norm
    # The triangle of a QR decomposition of the Jacobian with the residuals beside it holds all
    # that follows in at most n + 1 rows.
    triangle = jnp.linalg.qr(jnp.column_stack([unit, residuals]), mode="r")
    columns, target = triangle[:, :-1], triangle[:, -1]
    # What the rounding of the parameters, and of the residuals themselves, does to the residuals.
    noise = 4 * eps * (1 + norm_of(lengths * flat) / norm)
    done, near, eigenvalues, rank = _judge(columns, target, noise, eps)
    # A column that has shrunk to nothing is a plateau that an earlier step ran onto.
    lost = (state.scale > 0) & (lengths * responds <= rank_rtol(unit.dtype) * scale)
    lost = jnp.any(lost & ~held)
    done, near = done & ~lost, near & ~lost

    safe = jnp.where(scale > 0, scale, 1)
    left, singular_values, right, keep = decomposed(columns * (lengths / safe)[None, :])
    model = Model(
        residuals=residuals,
        norm=norm,
        jacobian=jacobian,
        scale=safe,
        singular_values=jnp.where(keep, singular_values, 1),
        slopes=jnp.where(keep, target @ left, 0),
        right=right,
        extent=norm_of(jnp.where(responds, scale * flat, 0)) / norm,
    )
    first = state.radius == 0
    begin = Trial(
        radius=jnp.where(first, jnp.where(model.extent > 0, model.extent, 1), state.radius / norm),
        step=jnp.zeros_like(flat),
        accepted=jnp.array(False),
        exhausted=~finite,
        count=jnp.zeros((), jnp.int32),
    )
    trial = jax.lax.while_loop(
        lambda trial: ~trial.accepted & ~trial.exhausted,
        lambda trial: attempt(
            function, flat, model, trial, Prospect(first, done, near, noise), eps
        ),
        begin,
    )
    verdict = jnp.where(trial.exhausted, jnp.where(near, CONVERGED, STALLED), RUNNING)
    verdict = jnp.where(done, CONVERGED, verdict)
    after = GaussNewtonState(
        radius=trial.radius * norm,
        scale=scale,
        eigenvalues=eigenvalues,
        rank=rank,
        verdict=verdict,
        evaluations=state.evaluations + trial.count + jnp.where(first, 1, 0),
    )
    failed = state._replace(verdict=jnp.array(FAILED), evaluations=state.evaluations + 1)
    after = jax.tree.map(
        lambda new, bad, old: jnp.where(finite, new, bad).astype(old.dtype), after, failed, state
    )
    return jnp.where(trial.accepted, trial.step, 0).astype(flat.dtype), after


def _linearised(
    function: Callable, flat: Float[Array, " n"]
) -> tuple[Float[Array, " m"], Float[Array, "m n"]]:
    """Residuals and their Jacobian by forward mode."""
    residuals, push = jax.linearize(function, flat)
    basis = jnp.eye(flat.size, dtype=flat.dtype)
    columns = jax.lax.map(push, basis, batch_size=min(BLOCK, flat.size))
    return residuals, columns.T


def _judge(
    columns: Float[Array, "k n"],
    target: Float[Array, " k"],
    noise: Float[Array, ""],
    eps: float,
) -> tuple[Bool[Array, ""], Bool[Array, ""], Float[Array, " n"], Int[Array, ""]]:
    """Whether the fit has arrived, whether it may have for all that rounding shows; spectrum, rank.

    The test has no units: it is the cosine of the angle between the residuals and the space of
    all changes that the parameters can make, to first order. On a plateau that angle is far from
    a right one, however small the gradient.
    """
    left, singular_values, _, keep = decomposed(columns)
    slopes = jnp.where(keep, target @ left, 0)
    cosine = norm_of(slopes)
    remaining = norm_of(slopes / jnp.where(keep, singular_values, 1))
    settled = (remaining <= eps**-0.75 * noise) & jnp.any(keep)
    solved = ~jnp.any(target)
    done = (settled & (cosine <= jnp.maximum(noise, eps**0.55))) | solved
    near = (settled & (cosine <= eps ** (1 / 3))) | solved
    return done, near, singular_values**2, jnp.sum(keep, dtype=jnp.int32)
