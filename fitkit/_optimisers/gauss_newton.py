"""Damped Gauss-Newton as an optax transformation: the default optimiser of a least-squares fit."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fitkit._fisher import norm, products_with, rank_rtol, real_residuals
from fitkit._input import converted, explained
from fitkit._jaxprs import passed_through
from fitkit._optimisers.convergence import assess
from fitkit._optimisers.diagnostics import Diagnostics, Verdict
from fitkit._optimisers.factor import factorised, measured
from fitkit._optimisers.iterative import (
    MOST_PARAMETERS,
    assess_gradient,
    damped_by_products,
    estimated_lengths,
)
from fitkit._optimisers.linear import KnownLinear, linearised
from fitkit._optimisers.trust_region import Model, damped_by_factor, outcome_of, search
from fitkit._paths import common_dtype, ravel, spread
from fitkit._sharding import on_automatic_axes


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
    diagnostics
        The verdict, and the spectrum at the parameters of the last update; `verdict`,
        `eigenvalues` and `rank` are short for its fields.
    evaluations
        Number of points at which the residuals were computed.
    """

    radius: Float[Array, ""]
    scale: Float[Array, " n"]
    diagnostics: Diagnostics
    evaluations: Int[Array, ""]

    @property
    def verdict(self) -> Int[Array, "..."]:
        """0 running, 1 converged, 2 stalled, 3 failed."""
        return self.diagnostics.verdict

    @property
    def eigenvalues(self) -> Float[Array, "... n"] | None:
        """Of the units-free Fisher matrix, descending; None or NaN where they are too many."""
        return self.diagnostics.eigenvalues

    @property
    def rank(self) -> Int[Array, "..."] | None:
        """Number of the eigenvalues that are not rounding error."""
        return self.diagnostics.rank


def gauss_newton() -> optax.GradientTransformationExtraArgs:
    """Damped Gauss-Newton for least squares, with a trust region and nothing to tune.

    Minimises half the sum of squared residuals. Every update linearises the residuals (forward
    mode, or reverse where that does not exist), and takes the step that lowers the linear model
    most within a trust region, shrinking the region until the residuals themselves decrease.
    Parameters are scaled by the largest length so far of their columns of the Jacobian, so that
    their units play no role. The step comes from singular values and never from ``JᵀJ``, so that
    it survives float32.

    Eigenvectors that the residuals do not depend on (frozen parameters, one of two parameters that
    enter only as a product) take no step. Pass the residuals to optax's update::

        updates, state = optimiser.update(grads, state, params, residuals=function_of_params)

    where ``residuals(params)`` is a pytree of arrays, already divided by the errors of the data;
    of complex ones the real and the imaginary part count as two. `grads` is not used, and may be
    None. The parameters are any pytree of real arrays. A tree of booleans, ``frozen=``, may say
    which elements `residuals` does not depend on because they are frozen.

    There is no learning rate, but whoever multiplies the updates, as the learning rates of a `Fit`
    do, may say by what: ``factors=``, a tree of numbers. A factor below 1 is a damped step; one
    above 1 counts as 1, for a longer step would leave the trust region, and the update is made
    shorter by it. The region is judged by the steps that are taken.

    The state, a `GaussNewtonState`, says in `verdict` when to stop. *Converged* (1): at the level
    of rounding the residuals are orthogonal to everything that the parameters can change, and the
    remaining step is small. *Stalled* (2): no step lowers the residuals any more, and yet that
    does not hold; on a plateau, for example. *Failed* (3): residuals or Jacobian are not finite.
    After a verdict every update is zero, until a fresh ``init``; the verdict of one that moves only
    some of the parameters, beside other optimisers, is about those alone.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``init`` raises `ValueError` where there are no parameters, its ``update`` `TypeError`
        where `params` or `residuals` is missing or a residual is no floating-point number.

    Notes
    -----
    Memory is that of one Jacobian, residuals times parameters; time per update that of the
    Jacobian, one or more evaluations of the residuals, and the products of its columns with one
    another, or, where these lose too much, a QR decomposition. Until it is near the minimum the
    spectrum is that of the columns over their largest lengths so far. A Jacobian of more than half
    a gigabyte, or of more than 3000 parameters, is not stored: damped steps come from conjugate
    gradients on its products with vectors, without a spectrum, and are converged when they gain
    no more and the residuals are at right angles to every column.

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
        flat, _ = ravel(converted(params, "gauss_newton", "params"))
        if flat.size == 0:
            raise ValueError("gauss_newton: params holds no numbers, so there is nothing to fit.")
        zeros, none = jnp.zeros_like(flat), jnp.zeros((), jnp.int32)
        diagnostics = Diagnostics(none)
        if flat.size <= MOST_PARAMETERS:
            diagnostics = Diagnostics(none, zeros, none)
        return GaussNewtonState(jnp.zeros((), flat.dtype), zeros, diagnostics, none)

    def update(
        grads: Any,
        state: GaussNewtonState,
        params: PyTree | None = None,
        *,
        residuals: Callable[[PyTree], PyTree] | None = None,
        linear: KnownLinear | None = None,
        frozen: PyTree | None = None,
        factors: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, GaussNewtonState]:
        del grads, extra
        if params is None or residuals is None:
            raise TypeError(
                "gauss_newton: update needs the parameters and the residuals: update(grads, state,"
                " params, residuals=function), where function(params) returns a pytree of arrays. "
                "(In Fit: pass residuals= in place of loss=, and no function as a prior.)"
            )
        known = linear if linear is not None and linear.is_of(residuals, params) else None
        params = converted(params, "gauss_newton", "params")
        flat, unravel = ravel(params)
        dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}

        def function(flat: Float[Array, " n"]) -> Float[Array, " m"]:
            with explained("gauss_newton", "residuals", None):
                values = residuals(unravel(flat))
            values = real_residuals(values, "gauss_newton")
            dtypes.update(jnp.result_type(leaf) for leaf in jax.tree.leaves(values))
            return ravel(values)[0]

        held = jnp.zeros(flat.shape, bool) if frozen is None else spread(frozen, params)
        scaled = _scaling(factors, params)
        damp = functools.partial(scaled, lambda factors: jnp.minimum(factors, 1))
        step, state = jax.lax.cond(
            state.verdict == Verdict.RUNNING,
            lambda: _advance(function, known, dtypes, flat, held, damp, state),
            lambda: (jnp.zeros_like(flat), state),
        )
        return unravel(scaled(lambda factors: 1 / jnp.maximum(factors, 1), step)), state

    return optax.GradientTransformationExtraArgs(
        init,  # pyright: ignore[reportArgumentType]
        on_automatic_axes(update),
    )


def _scaling(factors: PyTree | Callable | None, params: PyTree) -> Callable:
    """Build a function that multiplies a step by a function of the factors.

    In other coordinates than those of the factors the caller brings it, as `eigen_projected` does.
    """
    # A tree of factors may be a module, which can be called as well.
    if inspect.isfunction(factors):
        return factors
    if factors is None:
        return lambda change, step: step
    flat = spread(factors, params)
    return lambda change, step: (change(flat) * step).astype(step.dtype)


def _advance(
    function: Callable,
    known: KnownLinear | None,
    dtypes: set[Any],
    flat: Float[Array, " n"],
    frozen: Bool[Array, " n"],
    damp: Callable,
    state: GaussNewtonState,
) -> tuple[Float[Array, " n"], GaussNewtonState]:
    """Take one accepted step, or reach a verdict.

    `dtypes` are those of the leaves of parameters and residuals, once `function` has been called.
    """
    # Float32 inside a model with float64 parameters rounds as float32 does.
    inside = passed_through(jax.make_jaxpr(function)(flat))
    linear = linearised(function, flat) if known is None else known.linear
    rows = jacobian = unit = None
    if linear is not None:
        residuals, rows = linear
        fine = common_dtype(flat, rows)
        rows = rows.astype(fine)
        columns, unit = measured(rows, fine)
    else:
        residuals, jacobian = products_with("gauss_newton", function, flat)
        fine = common_dtype(flat, residuals)
        columns = estimated_lengths(jacobian.pull, residuals).astype(fine)
    # The coarsest dtype says what is rounding, and the finest computes.
    coarse = max(dtypes, key=lambda dtype: float(jnp.finfo(dtype).eps))
    rtol = rank_rtol(coarse)
    eps = max(float(jnp.finfo(dtype).eps) for dtype in (coarse, *inside))
    finite = jnp.all(jnp.isfinite(residuals)) & jnp.all(jnp.isfinite(columns))
    # Zeros keep NaN out of the decompositions; the verdict overrules what comes of them.
    residuals = jnp.where(finite, residuals, 0).astype(fine)
    columns = jnp.where(finite, columns, 0)
    unit = None if unit is None else jnp.where(finite, unit, 0)
    here, largest = flat.astype(fine), state.scale.astype(fine)

    scale = jnp.maximum(largest, columns)
    safe = jnp.where(scale > 0, scale, 1)
    solved = ~jnp.any(residuals != 0)
    size = jnp.where(solved, 1, norm(residuals))
    residuals, extent = residuals / size, norm(columns * here) / size
    if rows is not None:
        ratio = columns / safe
        factor = factorised(rows, residuals, columns, unit, ratio, rtol)
        test = assess(factor, ratio, solved, extent, eps, rtol)
        push = lambda step: step.astype(fine) @ rows  # noqa: E731
        damped = functools.partial(damped_by_factor, factor)
    else:
        assert jacobian is not None
        push, pull = jacobian
        gradient = jnp.where(finite, pull(residuals) / safe, 0)
        test = assess_gradient(gradient, columns, safe, solved, extent, eps)
        damped = functools.partial(damped_by_products, push, pull, gradient, safe)
    # A column that has shrunk to nothing is a plateau that an earlier step ran onto.
    lost = jnp.any((largest > 0) & (columns <= rtol * scale) & ~frozen)
    test = test._replace(done=test.done & ~lost, near=test.near & ~lost)

    extent = norm(jnp.where(columns > 0, scale * here, 0)) / size
    model = Model(residuals, size, push, safe, damped, extent)
    first = state.radius == 0
    radius = jnp.where(
        first, jnp.where(model.extent > 0, model.extent, 1), state.radius.astype(fine) / size
    )
    outcome = outcome_of(function, flat, model)
    if known is not None and known.compare is not None:
        outcome = _compared(known, fine, size)
    trial = search(outcome, flat, model, test, radius, first, ~finite, eps, damp)
    verdict = jnp.where(
        trial.exhausted, jnp.where(test.near, Verdict.CONVERGED, Verdict.STALLED), Verdict.RUNNING
    )
    verdict = jnp.where(test.done, Verdict.CONVERGED, verdict)
    after = GaussNewtonState(
        radius=jnp.where(finite, trial.radius * size, state.radius.astype(fine)),
        scale=jnp.where(finite, scale, largest),
        diagnostics=Diagnostics(
            verdict=jnp.where(finite, verdict, Verdict.FAILED),
            eigenvalues=_if(finite, test.eigenvalues, state.eigenvalues),
            rank=_if(finite, test.rank, state.rank),
        ),
        evaluations=state.evaluations + trial.trials + jnp.where(first, 1, 0),
    )
    after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)
    return jnp.where(trial.accepted, trial.step, 0).astype(flat.dtype), after


def _compared(known: KnownLinear, dtype: Any, size: Float[Array, ""]) -> Callable:
    """Build the `outcome` for `search` of residuals that are no vector."""
    compare = known.compare
    assert compare is not None
    _, unravel = ravel(known.params)

    def outcome(step: Float[Array, " n"], change: Float[Array, " m"]) -> tuple[Array, Array]:
        del change
        gained, bent = compare(unravel(step), size)
        return gained.astype(dtype), jnp.sqrt(bent).astype(dtype)

    return outcome


def _if(finite: Bool[Array, ""], new: Array, old: Array | None) -> Array | None:
    """Replace what was known; None where nothing is kept of it."""
    return None if old is None else jnp.where(finite, new, old.astype(new.dtype))
