"""Work out what a fit says at the end, and whether to believe it."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from fitkit._fisher import (
    FisherMatrix,
    fisher_matrix,
    residual_gradient,
    split_params,
    value_and_gradient,
)
from fitkit._optimisers import Bounds
from fitkit._paths import Paths, named_elements, named_leaves
from fitkit._result.mean_loss import is_mean
from fitkit._result.result import Result

# Bates and Watts (Technometrics 23, 179, 1981): a minimum is reached when the step to it is a
# thousandth of a standard error, for which rounding the result does not matter any more.
CLOSE = 1e-3


def make_result(
    *,
    residuals: Callable[[PyTree, Any], PyTree] | None = None,
    loss: Callable[[PyTree, Any], Any] | None = None,
    params: PyTree,
    args: Any = None,
    frozen: Paths = (),
    verdict: bool | None = None,
    status: str = "finished",
    steps: int = 0,
    absolute_sigma: bool = True,
    bounds: Bounds | None = None,
) -> Result:
    """Work out what a fit says.

    Parameters
    ----------
    residuals, loss, params, args, frozen
        As for `fisher_matrix`; `params` are those that the fit arrived at.
    verdict
        Whether the optimiser says that it has converged; None if it cannot tell.
    status
        What the fit ended as, in a word.
    steps
        How many steps it took.
    absolute_sigma
        Whether residuals are in units of the true σ. If not, errors are scaled by the square root
        of the reduced chi-square.
    bounds
        Limits that the fit kept to. At one that holds an element back, the gradient need not
        vanish.

    Raises
    ------
    ValueError
        If errors of a loss are to be scaled, which has no scatter to scale them by; and whatever
        `fisher_matrix` raises.
    """
    if loss is not None and not absolute_sigma:
        raise ValueError(
            "result: absolute_sigma=False scales errors by the scatter of residuals, but the fit "
            "has a loss. Give Fit its residuals instead, or scale the loss by the variance."
        )
    fisher = fisher_matrix(residuals, params, args, loss=loss, frozen=frozen)
    free, held = split_params(params, frozen)
    function: Any = residuals if loss is None else loss
    if loss is not None:
        value, gradient = value_and_gradient(function, free, held, args)
        flat = None
    else:
        flat, gradient = residual_gradient(function, free, held, args)
        flat = np.asarray(flat)
        value = 0.5 * np.sum(flat.astype(np.float64) ** 2)
    value, gradient = float(value), np.asarray(gradient, np.float64)

    chi_square = freedom = reduced = None
    if flat is not None:
        chi_square, freedom = 2 * value, flat.size - fisher.rank
        reduced = chi_square / freedom if freedom > 0 else None
    scale = 1.0 if absolute_sigma else np.inf if reduced is None else math.sqrt(reduced)
    covariance = _times(np.asarray(fisher.covariance), scale**2)
    errors = _times(np.asarray(fisher.errors), scale)

    position = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(free)])
    blocked = _blocked(bounds, fisher.labels, position, gradient)
    movable = fisher.given(blocked) if blocked.any() else fisher
    projection = np.asarray(movable.projection)
    latent = projection.T @ gradient[~blocked]
    distance = float(np.linalg.norm(latent))
    precision = jnp.result_type(*jax.tree.leaves(free))
    # Where the data are met exactly, there is no scatter to compare with: what counts then is that
    # the step to the minimum no longer changes half of a parameter's digits.
    digits = math.sqrt(float(jnp.finfo(precision).eps)) * np.abs(position[~blocked])
    still = bool(np.all(np.abs(projection @ latent) <= digits))
    if reduced:
        distance /= math.sqrt(reduced)
    converged = (distance <= CLOSE or still) if verdict is None else verdict
    full = fisher.rank == len(fisher.labels)

    fixed = frozenset(named_leaves(held)) & frozenset(
        path for path, leaf in named_leaves(params).items() if not callable(leaf)
    )
    warnings = _warnings(
        residuals, loss, params, args, fisher, precision, value, reduced, freedom, absolute_sigma
    )
    values, error_of = _by_path(params, free, errors)
    if bounds is not None:
        warnings += [
            f"{name} is on its bound: its error is no standard error"
            for name in bounds.touched(eqx.filter(params, lambda leaf: not callable(leaf)))
        ]
    return Result(
        params=params,
        values=values,
        errors=error_of,
        fixed=fixed,
        loss=value,
        chi_square=chi_square,
        degrees_of_freedom=freedom,
        reduced_chi_square=reduced,
        residuals=flat,
        fisher=fisher,
        covariance=covariance,
        absolute_sigma=absolute_sigma,
        steps=steps,
        distance=distance,
        converged=converged,
        success=converged and full and status not in ("non-finite", "failed"),
        message=_message(converged, fisher, status, steps, distance),
        warnings=tuple(warnings),
    )


def _message(
    converged: bool, fisher: FisherMatrix, status: str, steps: int, distance: float
) -> str:
    took = f"after {steps} step{'' if steps == 1 else 's'}"
    where = f"{distance:.2g} standard errors from the minimum"
    if status in ("non-finite", "failed"):
        return f"Fit failed: {status} {took}; the last finite parameters are about {where}"
    if not converged:
        return f"Fit not converged: {status} {took}, about {where}"
    missing = len(fisher.labels) - fisher.rank
    if missing:
        directions = "one direction" if missing == 1 else f"{missing} directions"
        return f"Fit converged {took}, but the data leave {directions} free"
    return f"Fit converged {took}, {where}"


def _warnings(
    residuals: Callable | None,
    loss: Callable | None,
    params: PyTree,
    args: Any,
    fisher: FisherMatrix,
    precision: Any,
    value: float,
    reduced: float | None,
    freedom: int | None,
    absolute_sigma: bool,
) -> list[str]:
    warnings = []
    if loss is not None and is_mean(loss, params, args):
        warnings.append(
            "the loss is a mean over data, not a log-likelihood: errors are too large by the "
            "square root of their number. Use the sum"
        )
    if freedom is not None and freedom <= 0:
        warnings.append("there are no more residuals than parameters: chi-square says nothing")
    # Ten standard deviations of chi-square, and by a factor that matters.
    if absolute_sigma and reduced is not None and freedom:
        beyond = abs(reduced - 1) > 10 * math.sqrt(2 / freedom)
        if beyond and not 0.5 < reduced < 2:
            warnings.append(
                f"reduced chi-square is {reduced:.2g}: either the model is wrong or σ is. If σ "
                "is unknown, result(absolute_sigma=False) takes it from the scatter"
            )
    if jnp.finfo(precision).bits < 64:
        eps = float(jnp.finfo(precision).eps)
        condition = fisher.condition_number
        # J is rounded to eps, errors to eps times the square root of the condition number.
        doubt = eps * (condition if fisher.squared else math.sqrt(condition))
        if doubt > 1e-2:
            warnings.append(
                f"float32 with a condition number of {condition:.1g}: the errors of the worst "
                "constrained directions, and the rank, are rounding. Use float64"
            )
        if value * eps > 0.05:
            warnings.append(
                f"float32 cannot tell losses near {value:.2g} apart to the 0.5 that is one "
                "standard error. Use float64, or residuals"
            )
    return warnings


def _blocked(
    bounds: Bounds | None,
    labels: tuple[str, ...],
    position: Float[np.ndarray, " n"],
    gradient: Float[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Which elements sit on a limit with a loss that falls further outside."""
    if bounds is None:
        return np.zeros(len(labels), bool)
    names = named_elements(bounds.lower)
    lower, upper = (
        dict(
            zip(
                names,
                np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]),
                strict=True,
            )
        )
        for tree in (bounds.lower, bounds.upper)
    )
    low, high = (np.array([limits[label] for label in labels]) for limits in (lower, upper))
    return ((position <= low) & (gradient > 0)) | ((position >= high) & (gradient < 0))


def _by_path(
    params: PyTree, free: PyTree, errors: Float[np.ndarray, " n"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    values = {
        path: np.asarray(leaf) for path, leaf in named_leaves(params).items() if not callable(leaf)
    }
    found = {path: np.zeros(value.shape) for path, value in values.items()}
    start = 0
    for path in named_leaves(free):
        size = values[path].size
        found[path] = errors[start : start + size].reshape(values[path].shape)
        start += size
    return values, found


def _times(array: np.ndarray, scale: float) -> np.ndarray:
    """Multiply, with zero staying zero under an infinite scale."""
    with np.errstate(invalid="ignore"):
        return np.where(array == 0, 0.0, array * scale)
