"""Put together what a fit says at the end, from one assessment."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fisher import FisherMatrix, fisher_matrix, split_params
from fitkit._format import number
from fitkit._optimisers import Bounds
from fitkit._paths import Paths, common_dtype, is_static, named_leaves, ravel
from fitkit._result.assess import all_frozen, assess
from fitkit._result.assessment import Assessment, Kind
from fitkit._result.goodness import goodness_warning
from fitkit._result.information import checked_source, information_from
from fitkit._result.mean_loss import is_mean
from fitkit._result.result import Result
from fitkit._sharding import to_host

# A hundredth of a standard error is of no consequence.
DOUBT = 1e-2
# What a fit ends as where its last parameters are not those it was to find.
FAILURES = ("non-finite", "failed")


def make_result(
    *,
    residuals: Callable[[PyTree, Any], PyTree] | None = None,
    loss: Callable[[PyTree, Any], Any] | None = None,
    params: PyTree,
    args: Any = None,
    frozen: Paths = (),
    status: str = "finished",
    steps: int = 0,
    absolute_sigma: bool = True,
    errors_from: str | None = None,
    bounds: Bounds | None = None,
    gain: float | None = None,
    assessment: Assessment | None = None,
    fisher: FisherMatrix | None = None,
) -> Result:
    """Compute what a fit says.

    Parameters
    ----------
    residuals, loss, params, args, frozen
        As for `fisher_matrix`; `params` are those that the fit arrived at.
    status
        What the fit ended as, in a word.
    steps
        How many steps it took.
    absolute_sigma
        Whether residuals are in units of the true σ. If not, errors are scaled by the square root
        of the reduced chi-square.
    errors_from
        ``"jacobian"``, ``"hessian"`` or ``"sandwich"``, as for `information_from`. Default: the
        Jacobian of residuals, the Hessian of a loss.
    bounds
        Limits that the fit kept to. At one that holds an element back, the gradient need not
        vanish.
    gain
        By how much the loss is lower than where the fit first began, as for `assess`.
    assessment, fisher
        What `assess` and `fisher_matrix` return for this; None if that is not known yet.

    Raises
    ------
    ValueError
        If errors of a loss are to be scaled, which has no scatter to scale them by; if there are no
        such errors; and whatever `fisher_matrix` raises.
    """
    if loss is not None and not absolute_sigma:
        raise ValueError(
            "result: absolute_sigma=False scales errors by the scatter of residuals, but the fit "
            "has a loss. Pass residuals to Fit instead, or scale the loss by the variance."
        )
    source = checked_source(errors_from, loss is not None, absolute_sigma)
    if assessment is None:
        assessment = assess(
            residuals, params, args, loss=loss, frozen=frozen, bounds=bounds, gain=gain
        )
    function: Any = residuals if loss is None else loss
    value = _evaluated(function, params, args)
    if all_frozen(params, frozen):
        free, fisher = jax.tree.map(lambda leaf: None, params), _no_information()
    else:
        free, _ = split_params(params, frozen)
        if residuals is not None and source != "jacobian":
            data = value.size - assessment.left_out
            fisher = information_from(source, residuals, params, args, frozen, data)
        elif fisher is None:
            fisher = fisher_matrix(residuals, params, args, loss=loss, frozen=frozen)
    chi_square = freedom = reduced = flat = None
    if loss is None:
        flat = value
        chi_square = float(np.sum(flat.astype(np.float64) ** 2))
        freedom = flat.size - assessment.left_out - fisher.rank
        reduced = chi_square / freedom if freedom > 0 else None
    scale = 1.0 if absolute_sigma else np.inf if reduced is None else math.sqrt(reduced)
    covariance, errors = _spread(fisher, assessment, scale)
    known = np.isfinite(errors) | np.isin(fisher.labels, assessment.at_bound)
    values, error_of = _by_path(params, free, errors)
    named = named_leaves(free)
    return Result(
        params=params,
        values=values,
        errors=error_of,
        fixed=frozenset(path for path in values if path not in named),
        loss=float(np.sum(value)) if chi_square is None else chi_square / 2,
        chi_square=chi_square,
        degrees_of_freedom=freedom,
        reduced_chi_square=reduced,
        residuals=flat,
        fisher=fisher,
        covariance=covariance,
        absolute_sigma=absolute_sigma,
        errors_from=source,
        steps=steps,
        assessment=assessment,
        success=assessment.success and bool(known.all()) and status not in FAILURES,
        message=_message(assessment, status, steps),
        warnings=(
            *_warnings_of_state(assessment),
            *_warnings_of_data(chi_square, freedom, absolute_sigma, source),
            *_warnings_of_loss(loss, params, args),
            *_warnings_of_precision(fisher, free),
            *_warnings_of_bounds(bounds, params),
        ),
    )


def _evaluated(function: Callable, params: PyTree, args: Any) -> Float[np.ndarray, " m"]:
    return to_host(_flat_values(function, *eqx.partition(params, eqx.is_array_like), args))


@eqx.filter_jit
def _flat_values(function: Callable, arrays: PyTree, static: PyTree, args: Any) -> Any:
    return ravel(function(eqx.combine(arrays, static), args))[0]


def _no_information() -> FisherMatrix:
    none: Any = np.zeros((0, 0))
    return FisherMatrix((), none, none.ravel(), none.ravel(), none, rtol=0.0, squared=False)


def _message(assessment: Assessment, status: str, steps: int) -> str:
    took = f"after {steps} step{'' if steps == 1 else 's'}"
    if status in FAILURES:
        return f"Fit failed: {status} {took}; the last finite parameters: {assessment.message}"
    if assessment.kind is Kind.FROZEN:
        return f"Nothing to fit {took}: {assessment.message}"
    if not assessment.converged:
        return f"Fit not converged: {status} {took}, {assessment.message}"
    return f"Fit converged {took}, {assessment.message}"


def _warnings_of_state(assessment: Assessment) -> list[str]:
    warnings = []
    if assessment.left_out:
        warnings.append(
            f"{assessment.left_out} residuals are no data (masked, or of weight zero): exactly "
            "zero whatever the parameters. They are left out of the degrees of freedom"
        )
    if not assessment.unit_known and not assessment.converged:
        warnings.append(
            "nothing says in what unit the loss is, because the fit has gained nothing that is "
            "known of: the distance takes it for a log-likelihood"
        )
    if assessment.coarse:
        names = ", ".join(assessment.coarse)
        warnings.append(
            f"the spacing of numbers is too coarse for {names}: subtract a reference value, or "
            "use float64"
        )
    return warnings


def _warnings_of_data(
    chi_square: float | None, freedom: int | None, absolute_sigma: bool, source: str
) -> list[str]:
    # Other errors than those of the Jacobian do not ask whether σ is right.
    if chi_square is None or freedom is None or source != "jacobian":
        return []
    warning = goodness_warning(chi_square, freedom, absolute_sigma)
    return [] if warning is None else [warning]


def _warnings_of_loss(loss: Callable | None, params: PyTree, args: Any) -> list[str]:
    if loss is None or not is_mean(loss, params, args):
        return []
    return [
        "the loss is a mean over data, not a log-likelihood: errors are too large by the square "
        "root of their number. Use the sum"
    ]


def _warnings_of_precision(fisher: FisherMatrix, free: PyTree) -> list[str]:
    """Warn of errors that are rounding: those of constrained eigenvectors, not of null ones."""
    leaves = jax.tree.leaves(free)
    kept = np.asarray(fisher.eigenvalues)[np.asarray(fisher.constrained)]
    if not leaves or not kept.size:
        return []
    dtype = common_dtype(*leaves)
    if jnp.finfo(dtype).bits >= 64:
        return []
    eps = float(jnp.finfo(dtype).eps)
    condition = float(kept[0] / kept[-1])
    # J is rounded to eps, errors to eps times the square root of the condition number.
    if eps * (condition if fisher.squared else math.sqrt(condition)) <= DOUBT:
        return []
    return [
        f"{dtype} with a condition number of {number(condition, 1)}: the errors of the worst "
        "constrained eigenvectors, and the rank, are rounding. Use float64"
    ]


def _warnings_of_bounds(bounds: Bounds | None, params: PyTree) -> list[str]:
    if bounds is None:
        return []
    arrays = eqx.filter(params, lambda leaf: not is_static(leaf))
    return [
        f"{name} is on its bound: its error is no standard error" for name in bounds.touched(arrays)
    ]


def _spread(
    fisher: FisherMatrix, assessment: Assessment, scale: float
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, " n"]]:
    """Covariance and errors; where the data leave something free, of what no bound holds."""
    covariance, errors = np.asarray(fisher.covariance), np.asarray(fisher.errors)
    held = np.isin(fisher.labels, assessment.at_bound)
    if held.any() and not held.all() and fisher.rank < len(fisher.labels):
        movable = fisher.given(held)
        covariance = np.where(np.eye(len(held), dtype=bool), np.inf, 0.0)
        covariance[np.ix_(~held, ~held)] = movable.covariance
        errors = np.full(len(held), np.inf)
        errors[~held] = movable.errors
    return _times(covariance, scale**2), _times(errors, scale)


def _by_path(
    params: PyTree, free: PyTree, errors: Float[np.ndarray, " n"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    values = {
        path: np.asarray(leaf) for path, leaf in named_leaves(params).items() if not is_static(leaf)
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
