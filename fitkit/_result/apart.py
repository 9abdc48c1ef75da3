"""What of a fit comes from its priors, told apart from what comes from its data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fisher import FisherMatrix, fisher_matrix, split_params
from fitkit._paths import Paths, ravel
from fitkit._result.assess import all_frozen
from fitkit._result.assessment import Assessment
from fitkit._result.derivatives import Derivatives
from fitkit._sharding import to_host

# Degrees of freedom that are no whole number come with the rounding of an inverse: less is none.
LEAST_FREEDOM = 1e-6


@dataclass(frozen=True)
class Priors:
    """What priors add to a fit, as functions of (params, args).

    Attributes
    ----------
    loss : Callable
        To its loss.
    residuals : Callable | None
        To its residuals; None where the loss is no sum of squares.
    """

    loss: Callable[[PyTree, Any], Any]
    residuals: Callable[[PyTree, Any], PyTree] | None

    def determined(self, fisher: FisherMatrix, params: PyTree, args: Any, frozen: Paths) -> float:
        """Count the parameters that the priors determine, and not the data.

        Of the Fisher matrix F, of which the priors' share is P, the trace of ``F⁻¹ P``: 0 of weak
        priors, and 1 for each parameter of which the data say nothing. Chi-square of the data is
        expected to be the number of data less the other parameters, whose number is that of
        well-determined parameters of D. J. C. MacKay, Neural Computation 4, 415 (1992).

        Parameters
        ----------
        fisher
            Of data and priors.
        params, args, frozen
            Where, and of which parameters.
        """
        if not fisher.labels:
            return 0.0
        loss = self.loss if self.residuals is None else None
        share = fisher_matrix(self.residuals, params, args, loss=loss, frozen=frozen)
        latent = np.asarray(fisher.projection)
        return float(np.clip(np.sum(latent * (np.asarray(share.matrix) @ latent)), 0, fisher.rank))


class Apart(NamedTuple):
    """The loss of a fit, and what of it comes from the data and from the priors.

    Attributes
    ----------
    loss
        Of both.
    residuals, left_out
        Of the data; None of a loss. And how many of them are no data.
    chi_square, degrees_of_freedom
        Their sum of squares, and what is expected of it.
    prior_chi_square
        Twice what priors add to the loss; None without priors.
    """

    loss: float
    residuals: Float[np.ndarray, " m"] | None
    left_out: int
    chi_square: float | None
    degrees_of_freedom: float | None
    prior_chi_square: float | None

    @property
    def reduced_chi_square(self) -> float | None:
        """The ratio; None where no degree of freedom is left."""
        if self.chi_square is None or not self.degrees_of_freedom:
            return None
        return self.chi_square / self.degrees_of_freedom if self.degrees_of_freedom > 0 else None


def tell_apart(
    function: Any,
    data: Callable | None,
    priors: Priors | None,
    fisher: FisherMatrix,
    assessment: Assessment,
    params: PyTree,
    args: Any,
    frozen: Paths,
) -> Apart:
    """Evaluate a fit's function, and tell apart what comes from data and from priors.

    Parameters
    ----------
    function, data
        What is fitted, residuals or a loss; and the residuals of the data alone, if there are any.
    priors, fisher, assessment, params, args, frozen
        As for `make_result`.
    """
    added = None if priors is None else 2 * float(_evaluated(priors.loss, params, args)[0])
    if data is None:
        loss = float(np.sum(_evaluated(function, params, args)))
        return Apart(loss, None, 0, None, None, added)
    residuals = _evaluated(data, params, args)
    chi_square = float(np.sum(residuals.astype(np.float64) ** 2))
    left_out = assessment.left_out
    if data is not function:
        left_out = _no_data(data, params, args, frozen)
    freedom = residuals.size - left_out - fisher.rank
    if priors is not None:
        freedom += priors.determined(fisher, params, args, frozen)
        freedom = freedom if freedom > LEAST_FREEDOM else 0.0
    return Apart((chi_square + (added or 0.0)) / 2, residuals, left_out, chi_square, freedom, added)


def _no_data(residuals: Callable, params: PyTree, args: Any, frozen: Paths) -> int:
    """Count the residuals that are no data: zero, whatever the parameters that are not frozen."""
    held = () if all_frozen(params, frozen) else frozen
    return int(Derivatives(residuals, True, *split_params(params, held), args).no_data().sum())


def _evaluated(function: Callable, params: PyTree, args: Any) -> Float[np.ndarray, " m"]:
    return to_host(_flat_values(function, *eqx.partition(params, eqx.is_array_like), args))


@eqx.filter_jit
def _flat_values(function: Callable, arrays: PyTree, static: PyTree, args: Any) -> Any:
    return ravel(function(eqx.combine(arrays, static), args))[0]
