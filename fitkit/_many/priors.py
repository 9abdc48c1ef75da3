"""Priors of many systems: what they add to each, told apart from what its data say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Float, PyTree

from fitkit._fisher import HalfSquares
from fitkit._many.axes import Shape
from fitkit._paths import Paths, named_leaves, ravel
from fitkit._residuals import LogNormal, RowPrior, WithPriors, read_priors, rows_of
from fitkit._result import Priors


def read_row_priors(
    priors: Mapping[Paths, Any], params: PyTree, frozen: tuple[str, ...], shape: Shape
) -> dict[str, RowPrior]:
    """Check priors as users write them; those of frozen parameters change nothing and are left out.

    Raises
    ------
    TypeError
        If one of them is a function; and whatever `read_priors` raises.
    """
    rows, functions = read_priors(priors, params, shape or None)
    for path in functions:
        raise TypeError(
            f"fit_many: the prior of '{path}' is a function; must be fitkit.Normal or "
            "fitkit.LogNormal, which are residuals. Or fit the systems one by one with Fit."
        )
    return {path: prior for path, prior in rows.items() if path not in frozen}


def numbers_of(
    priors: Mapping[str, RowPrior], params: PyTree, shape: Shape
) -> list[tuple[np.ndarray, bool]]:
    """List the numbers of priors as JAX does, and whether each system has its own."""
    leaves, numbers = named_leaves(params), []
    for path in sorted(priors):
        one = leaves[path].shape
        for array in map(np.asarray, (priors[path].mean, priors[path].sigma)):
            own = array.ndim > len(one)
            numbers.append((array.reshape(-1, *one) if own else array, own))
    return numbers


@dataclass(frozen=True)
class Beside:
    """Residuals of a system, with those of its priors behind them.

    Attributes
    ----------
    residuals : Callable
        As the user gave it.
    """

    residuals: Callable

    def __call__(self, params: PyTree, given: WithPriors) -> tuple[PyTree, dict[str, Array]]:
        """Compute both."""
        return self.residuals(params, given.args), rows_of(given.priors, params)


@dataclass(frozen=True)
class Part:
    """Some of the flat residuals of a system; equal to the same part of the same.

    Attributes
    ----------
    residuals : Callable
        All of them.
    first, end : int | None
        Which.
    """

    residuals: Callable
    first: int
    end: int | None

    def __call__(self, params: PyTree, given: Any) -> Float[Array, " part"]:
        """Compute them."""
        return ravel(self.residuals(params, given))[0][self.first : self.end]


def apart(residuals: Callable, data_count: int) -> dict[str, Any]:
    """Arguments of `make_result` that tell data and priors apart, of which the data come first."""
    of_priors = Part(residuals, data_count, None)
    return {
        "data": Part(residuals, 0, data_count),
        "priors": Priors(HalfSquares(of_priors), of_priors),
    }


def contributions(
    priors: Mapping[str, RowPrior],
    values: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray],
    shape: Shape,
) -> tuple[Float[np.ndarray, "*systems"], Float[np.ndarray, "*systems"]]:
    """Chi-square of the priors of each system, and how many parameters they determine.

    Parameters
    ----------
    priors
        With numbers that all systems share, or with those of each in front.
    values, errors
        By path, with the systems in front.
    shape
        Lengths of the axes that count systems.
    """
    chi_square, determined = np.zeros(shape), np.zeros(shape)
    for path, prior in priors.items():
        value = values[path]
        mean, sigma = (np.broadcast_to(one, value.shape) for one in (prior.mean, prior.sigma))
        each = tuple(range(len(shape), value.ndim))
        rows = np.asarray(type(prior)(mean, sigma).rows(value), float)
        chi_square += np.sum(rows**2, axis=each)
        # Derivatives of the residuals, so that C P has (error × derivative)² on its diagonal.
        slopes = 1 / (sigma * value if isinstance(prior, LogNormal) else sigma)
        known = (errors[path] * slopes) ** 2
        determined += np.sum(np.where(np.isfinite(known), known, 0), axis=each)
    return chi_square, determined
