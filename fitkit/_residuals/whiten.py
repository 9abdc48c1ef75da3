"""Residuals of data whose errors are correlated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float


def whiten(residuals: ArrayLike, covariance: ArrayLike) -> Float[Array, " n"]:
    """Make residuals of correlated data independent, each with an error of one.

    The sum of their squares is ``rᵀ C⁻¹ r``. They are ``L⁻¹ r``, with L the Cholesky factor of the
    covariance, ``C = L Lᵀ``.

    Parameters
    ----------
    residuals
        Model less data, in the unit of the data and not divided by their errors.
    covariance
        Of the data, in the square of their unit: symmetric and positive definite. Where it is
        known when the fit is compiled (a global, say) it is checked and factorised once; where it
        is part of the `args` of a fit, or depends on parameters, in every step.

    Returns
    -------
    Float[Array, " n"]
        Not finite where a covariance that could not be checked is not positive definite.

    Raises
    ------
    TypeError
        If the residuals are not real floating-point numbers.
    ValueError
        If a shape is wrong, or the covariance is not finite, not symmetric or not positive
        definite.

    Notes
    -----
    A covariance that depends on parameters has a determinant, which belongs to the likelihood:
    fit a `loss` then, ``0.5 * sum(whiten(r, C)**2) + 0.5 * jnp.linalg.slogdet(C)[1]``.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> covariance = jnp.array([[4.0, 2.0], [2.0, 5.0]])
    >>> print(fk.whiten(jnp.array([2.0, 3.0]), covariance))
    [1. 1.]
    """
    r = jnp.asarray(residuals)
    if not jnp.issubdtype(r.dtype, jnp.floating):
        raise TypeError(
            f"whiten: residuals have dtype {r.dtype}; must be real floating-point numbers. Of "
            "complex ones put the real and the imaginary parts one after the other."
        )
    shape = np.shape(covariance)
    if r.ndim != 1 or shape != (r.size, r.size):
        raise ValueError(
            f"whiten: residuals have shape {r.shape} and the covariance {shape}; must be (n,) and "
            "(n, n). residuals.ravel() makes one row of an image."
        )
    if isinstance(covariance, Tracer):
        factor: Any = jnp.linalg.cholesky(jnp.asarray(covariance))
    else:
        factor = _factor(np.asarray(covariance, np.float64))
    return jax.scipy.linalg.solve_triangular(jnp.asarray(factor, r.dtype), r, lower=True)


def _factor(covariance: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    if not np.all(np.isfinite(covariance)):
        raise ValueError(
            "whiten: the covariance is not finite. Leave out the data that have no errors, with "
            "their rows and columns."
        )
    variances = np.diagonal(covariance)
    if np.any(variances <= 0):
        i = int(np.argmin(variances))
        raise ValueError(
            f"whiten: the covariance is not positive definite: the variance of datum {i} is "
            f"{variances[i]:.3g}. Variances are squares of errors, and positive."
        )
    sigma = np.sqrt(variances)
    correlation = covariance / sigma[:, None] / sigma
    odd = np.abs(correlation - correlation.T)
    # Sums in another order agree to some units of rounding, in float32 to 1e-5 of long ones.
    if np.max(odd) > 1e-4:
        i, j = map(int, np.unravel_index(np.argmax(odd), odd.shape))
        raise ValueError(
            f"whiten: the covariance is not symmetric: [{i}, {j}] is {covariance[i, j]:.6g} and "
            f"[{j}, {i}] is {covariance[j, i]:.6g}. If one half of it is right, take "
            "np.tril(C) + np.tril(C, -1).T; if rounding is all, (C + C.T) / 2."
        )
    try:
        return np.linalg.cholesky(correlation / 2 + correlation.T / 2) * sigma[:, None]
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(correlation)[0])
        raise ValueError(
            "whiten: the covariance is not positive definite: the smallest eigenvalue of the "
            f"correlations is {least:.3g}. One estimated from fewer samples than data has zeros: "
            "use more samples, or add the variance of independent noise to its diagonal."
        ) from None
