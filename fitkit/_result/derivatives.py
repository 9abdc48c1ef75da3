"""Derivatives of a fit's function around a point, as double-precision arrays of the host."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, PyTree

from fitkit._fisher import (
    contracted_hessian,
    hessian,
    insensitive,
    linearise,
    loss_product,
    second_derivative_norms,
)
from fitkit._paths import ravel
from fitkit._sharding import to_host


class Derivatives:
    """Values and derivatives of residuals, or of a loss, by the vector of the free elements.

    Parameters
    ----------
    function
        ``function(params, args)``.
    squares
        Whether it returns residuals, whose loss is half the sum of their squares.
    free, held
        Two parts of the parameters, with None where the other has a leaf.
    args
        What the function takes besides.
    linearised
        Values and their Jacobian, transposed, at the point, if that is known.
    """

    def __init__(
        self,
        function: Callable,
        squares: bool,
        free: PyTree,
        held: PyTree,
        args: Any,
        linearised: tuple[Any, Any] | None = None,
    ) -> None:
        self._parts = function, free, held, args
        self.squares = squares
        flat, _ = ravel(free)
        self._dtype = flat.dtype
        self.x = _host(flat)
        self._linearised = linearised

    def at(
        self, x: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]:
        """Values, and the gradient of the loss."""
        values, gradient, _ = self.product(x, np.zeros_like(x))
        return values, gradient

    def product(
        self, x: Float[np.ndarray, " n"], vector: Float[np.ndarray, " n"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, the gradient of the loss, and its Hessian times a vector."""
        # A trial point may be non-finite, which is an answer and not an error.
        with jax.debug_nans(False), jax.debug_infs(False):
            out = loss_product(*self._parts, self.squares, self._there(x), self._there(vector))
        values, gradient, product = map(_host, out)
        return values, gradient, product

    def jacobian(
        self, x: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m n"]]:
        """Values and their Jacobian."""
        known = self._linearised if x is self.x else None
        with jax.debug_nans(False), jax.debug_infs(False):
            values, transposed = known or linearise(*self._parts, self._there(x))
        return _host(values), _host(transposed).T

    def contracted(self, weights: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n n"]:
        """Hessians of the values, summed with weights."""
        # In units of their length, or small squares would vanish in single precision.
        size = float(np.linalg.norm(weights)) or 1.0
        return size * _host(contracted_hessian(*self._parts, self._there(weights / size)))

    def bending(
        self, along: Float[np.ndarray, " n"], others: Float[np.ndarray, "k n"]
    ) -> Float[np.ndarray, " k"]:
        """Lengths of the second derivatives along one vector and each of others."""
        return _host(second_derivative_norms(*self._parts, self._there(along), self._there(others)))

    def hessian(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
        """Hessian of the loss."""
        with jax.debug_nans(False), jax.debug_infs(False):
            return _host(hessian(*self._parts, self.squares, self._there(x)))

    def no_data(self) -> Bool[np.ndarray, " m"]:
        """Which values are zero and have no derivative: masked, or of weight zero."""
        return to_host(insensitive(*self._parts))

    def _there(self, array: np.ndarray) -> Any:
        return np.asarray(array, self._dtype)


def _host(array: Any) -> np.ndarray:
    return np.asarray(to_host(array), np.float64)
