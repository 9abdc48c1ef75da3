"""Put together what a fit says at the end, from one assessment."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fisher import FisherMatrix, fisher_matrix, split_params
from fitkit._format import number
from fitkit._optimisers import Bounds
from fitkit._paths import Paths, common_dtype, is_static, named_leaves
from fitkit._result.apart import Apart, Priors, tell_apart
from fitkit._result.assess import all_frozen, assess
from fitkit._result.assessment import Assessment, Kind
from fitkit._result.derived import Derived, DerivedFunction, derive
from fitkit._result.goodness import goodness_warning
from fitkit._result.information import checked_source, information_from
from fitkit._result.mean_loss import is_mean
from fitkit._result.result import Result

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
    data: Callable[[PyTree, Any], PyTree] | None = None,
    priors: Priors | None = None,
    derived: DerivedFunction | None = None,
    initial: PyTree = None,
    order: Sequence[str] = (),
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
    data
        The residuals of the data alone, of the same arguments, where there are any.
    priors
        What priors are part of `residuals` or `loss`.
    derived
        What the user computes from the parameters.
    initial
        Parameters where the fit started.
    order
        Paths in the order in which the user wrote the parameters.

    Raises
    ------
    ValueError
        If errors of a loss are to be scaled, which has no scatter to scale them by, or errors to
        which priors contribute; if there are no such errors; and whatever `fisher_matrix` raises.
    """
    if priors is not None and not absolute_sigma:
        raise ValueError(
            "result: absolute_sigma=False scales errors by the scatter of the data, of which the "
            "priors know nothing. Divide the residuals by the square root of the reduced "
            "chi-square and fit again."
        )
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
    if all_frozen(params, frozen):
        free, fisher = jax.tree.map(lambda leaf: None, params), _no_information()
    else:
        free, _ = split_params(params, frozen)
        if residuals is not None and source != "jacobian":
            left_out = assessment.left_out
            fisher = information_from(source, residuals, params, args, frozen, left_out)
        elif fisher is None:
            fisher = fisher_matrix(residuals, params, args, loss=loss, frozen=frozen)
    data = residuals if data is None else data
    apart = tell_apart(residuals or loss, data, priors, fisher, assessment, params, args, frozen)
    reduced = apart.reduced_chi_square
    scale = 1.0 if absolute_sigma else np.inf if reduced is None else math.sqrt(reduced)
    covariance, errors = _spread(fisher, assessment, scale)
    known = np.isfinite(errors) | np.isin(fisher.labels, assessment.at_bound)
    values, error_of = _by_path(params, free, errors)
    began = {} if initial is None else _by_path(initial, free, errors)[0]
    named = named_leaves(free)
    more = Derived({}, {}, {})
    if derived is not None:
        errors_of = partial(_propagated, fisher, assessment, scale)
        more = derive(derived, params, free, errors_of, initial)
    return Result(
        params=params,
        values=_in_order(values, order),
        errors=_in_order(error_of, order),
        derived=more.values,
        derived_errors=more.errors,
        initial=_in_order(began, order) | more.initial,
        fixed=frozenset(path for path in values if path not in named),
        loss=apart.loss,
        chi_square=apart.chi_square,
        prior_chi_square=apart.prior_chi_square,
        degrees_of_freedom=apart.degrees_of_freedom,
        reduced_chi_square=reduced,
        residuals=apart.residuals,
        fisher=fisher,
        covariance=covariance,
        absolute_sigma=absolute_sigma,
        errors_from=source,
        steps=steps,
        assessment=assessment,
        success=assessment.success and bool(known.all()) and status not in FAILURES,
        message=_message(assessment, status, steps),
        warnings=(
            *_warnings_of_state(assessment, apart.left_out),
            *_warnings_of_data(apart, absolute_sigma, source),
            *_warnings_of_loss(loss, params, args),
            *_warnings_of_precision(fisher, free),
            *_warnings_of_bounds(bounds, params),
        ),
    )


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


def _warnings_of_state(assessment: Assessment, left_out: int) -> list[str]:
    warnings = []
    if left_out:
        warnings.append(
            f"{left_out} residuals are no data (masked, or of weight zero): exactly "
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


def _warnings_of_data(apart: Apart, absolute_sigma: bool, source: str) -> list[str]:
    chi_square, freedom = apart.chi_square, apart.degrees_of_freedom
    # Other errors than those of the Jacobian do not ask whether σ is right.
    if chi_square is None or freedom is None or source != "jacobian":
        return []
    with_priors = apart.prior_chi_square is not None
    warning = goodness_warning(chi_square, freedom, absolute_sigma, with_priors)
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


def _propagated(
    fisher: FisherMatrix,
    assessment: Assessment,
    scale: float,
    jacobian: Float[np.ndarray, "k n"],
) -> Float[np.ndarray, " k"]:
    """Errors of functions of the elements, as `_spread` has those of the elements."""
    held = np.isin(fisher.labels, assessment.at_bound)
    if held.any() and not held.all() and fisher.rank < len(fisher.labels):
        errors = np.asarray(fisher.given(held).errors_of(jacobian[:, ~held]))
        errors = np.where(np.any(jacobian[:, held] != 0, axis=1), np.inf, errors)
    else:
        errors = np.asarray(fisher.errors_of(jacobian))
    return _times(errors, scale)


def _in_order(by_path: dict[str, np.ndarray], order: Sequence[str]) -> dict[str, np.ndarray]:
    """Put the paths named in `order` first."""
    return {path: by_path[path] for path in dict.fromkeys((*order, *by_path)) if path in by_path}


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
