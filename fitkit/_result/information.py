"""Standard errors from the curvature of the loss, or from the scatter, in place of a Jacobian."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import PyTree

from fitkit._fisher import (
    FisherMatrix,
    HalfSquares,
    fisher_matrix,
    fisher_of_jacobian,
    rank_rtol,
    split_params,
)
from fitkit._paths import Paths, named_elements
from fitkit._result.derivatives import Derivatives

#: Where standard errors may come from.
SOURCES = ("jacobian", "hessian", "sandwich")


def checked_source(errors_from: str | None, loss: bool, absolute_sigma: bool) -> str:
    """Check where a user wants errors to come from, or return the default.

    Raises
    ------
    ValueError
        If there is no such source, or not of this fit.
    """
    source = errors_from or ("hessian" if loss else "jacobian")
    if source not in SOURCES:
        raise ValueError(
            f"result: errors_from={source!r} is no source of errors; must be one of "
            f"{', '.join(SOURCES)}."
        )
    if loss and source != "hessian":
        raise ValueError(
            f"result: errors_from={source!r} needs residuals, but the fit has a loss, whose errors "
            "come from its Hessian. Pass residuals to Fit instead."
        )
    if source == "sandwich" and not absolute_sigma:
        raise ValueError(
            "result: errors_from='sandwich' takes errors from the scatter of the residuals, so "
            "that absolute_sigma=False would count it twice. Leave one of the two out."
        )
    return source


def information_from(
    source: str, residuals: Callable, params: PyTree, args: Any, frozen: Paths, left_out: int
) -> FisherMatrix:
    """Compute the information whose inverse is the covariance of the parameters.

    Parameters
    ----------
    source
        ``"hessian"``: the second derivatives H of half the sum of squares, which the residuals
        make a negative log-likelihood. ``"sandwich"``: ``H V⁻¹ H`` with the scatter V of the
        gradients of single residuals, right whatever the errors of the data are if they are
        independent and many.
    residuals, params, args, frozen
        As for `fisher_matrix`.
    left_out
        Number of residuals that are no data.

    Notes
    -----
    V is multiplied by the number of data over that of degrees of freedom, for the residuals are
    those of a fit: HC1 of J. G. MacKinnon and H. White, J. Econometrics 29, 305 (1985). The
    sandwich itself: P. J. Huber, Proc. Fifth Berkeley Symp. 1, 221 (1967).
    """
    curvature = fisher_matrix(None, params, args, loss=HalfSquares(residuals), frozen=frozen)
    if source == "hessian":
        return curvature
    free, held = split_params(params, frozen)
    derivatives = Derivatives(residuals, True, free, held, args)
    values, jacobian = derivatives.jacobian(derivatives.x)
    scale = np.asarray(curvature.scale)
    scores = values[:, None] * jacobian / scale
    _, spread, axes = np.linalg.svd(scores, full_matrices=False)
    kept = spread > rank_rtol(np.float64) * np.max(spread, initial=0)
    data = values.size - left_out
    freedom = max(data - curvature.rank, 0)
    root = np.where(kept, np.sqrt(freedom / max(data, 1)) / np.where(kept, spread, 1), 0)
    rows = root[:, None] * (axes @ (np.asarray(curvature.matrix) / scale[:, None]))
    # As the Jacobian of as many residuals as there are parameters.
    return fisher_of_jacobian(named_elements(free), np.zeros(len(rows)), rows.T)
