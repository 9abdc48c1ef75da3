"""Residuals of counts, whose half sum of squares is the likelihood of Poisson's distribution."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from fitkit._input import converted

# Below this relative difference of expectation and counts the logarithm is a power series, of which
# sixteen powers of a tenth reach the rounding of float64.
SMALL, POWERS = 0.1, 16


def poisson_residuals(counts: ArrayLike, expected: ArrayLike) -> Float[Array, "..."]:
    """Compute the deviance residuals of counts, whatever their number: 0, 3 or a million.

    Half the sum of their squares is the negative logarithm of Poisson's likelihood, less that of
    a model that meets every count::

        r = sign(m - n) √(2 (m - n + n log(n/m)))

    so that a fit of these residuals finds the maximum of the likelihood, by Gauss-Newton. Where
    counts are large they are ``(m - n)/√n``.

    Parameters
    ----------
    counts
        Observed counts n, not negative; they need not be whole.
    expected
        Counts m that the model expects, positive, in the shape of `counts`.

    Returns
    -------
    Float[Array, "..."]
        Residuals of the sign of model less data. Exactly zero, and no datum, where both are zero;
        not finite where `expected` is negative, or zero and `counts` is not: give the model bounds,
        or a positive form such as an exponential.

    Raises
    ------
    ValueError
        If the shapes differ, a count is negative or not finite, or `expected` holds integers and
        `counts` does not, as where the two are swapped. (Of counts in the `args` of a fit values
        are not checked.)

    Notes
    -----
    **Standard errors.** ``fit.result(errors_from="hessian")`` gives those of the likelihood, from
    its curvature. Without it they come from the Jacobian of these residuals, and are too large: on
    average by 0.3 % where ten counts are expected in every bin, by 2 % of two, by 4 % of one and by
    17 % of a tenth, and in a narrow peak of few counts off by more, to either side. No residual
    whose square is the likelihood has its curvature as well. The expected information, which takes
    no second derivative, is
    ``fk.fisher_matrix(model, params, args, weights=1 / model(params, args))``.

    The sum of squares is a chi-square where counts are large. Its mean is larger than the number of
    bins by 2 % where ten counts are expected in each, by 5 % of five and by 15 % of one or two; of
    a tenth it is half of it.

    Source: P. McCullagh and J. A. Nelder, Generalized Linear Models (1989), section 2.4; S. Baker
    and R. D. Cousins, Nucl. Instrum. Methods 221, 437 (1984).

    Examples
    --------
    The best constant is the mean of the counts, with the error of Poisson's distribution:

    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> counts = jnp.array([3, 0, 2, 5, 1, 1, 4, 0])
    >>> def residuals(params, args):
    ...     return fk.poisson_residuals(counts, jnp.full(8, params["rate"]))
    >>> fit = fk.Fit(residuals=residuals, params={"rate": 1.0})
    >>> fit.run(progress=False)
    >>> result = fit.result(errors_from="hessian")
    >>> round(float(result.values["rate"]), 4), round(float(result.errors["rate"]), 4)
    (2.0, 0.5)
    """
    if not isinstance(counts, Tracer):
        counts = _checked(counts)
    dtypes = [getattr(values, "dtype", float) for values in (counts, expected)]
    whole = [jnp.issubdtype(dtype, jnp.integer) for dtype in dtypes]
    if whole == [False, True]:
        raise ValueError(
            "poisson_residuals: expected holds integers and counts does not; a model gives "
            "floating-point numbers, so the two look swapped: poisson_residuals(counts, expected). "
            "Where they are not, give expected.astype(float)."
        )
    m = jnp.asarray(expected, None if hasattr(expected, "dtype") else float)
    if not jnp.issubdtype(m.dtype, jnp.floating):
        m = m.astype(float)
    if np.shape(counts) != m.shape:
        raise ValueError(
            f"poisson_residuals: counts have shape {np.shape(counts)} and expected {m.shape}; they "
            "must be the same: one expectation for every count, jnp.broadcast_to makes them."
        )
    n = jnp.asarray(counts).astype(m.dtype)
    nothing = (n == 0) & (m == 0)
    m = jnp.where(nothing, 1, m)
    some = jnp.where(n > 0, n, 1)
    off = (m - some) / some
    # √(2 (δ - log(1 + δ))) near δ = 0, where the difference of the two would be rounding.
    small = (n > 0) & (jnp.abs(off) < SMALL)
    near = jnp.where(small, off, 0)
    series = jnp.zeros_like(near)
    for k in range(POWERS, -1, -1):
        series = 2 / (k + 2) - near * series
    far = jnp.where(small, 2 * some, m)
    deviance = jnp.where(n > 0, 2 * (far - some - some * jnp.log(far / some)), 2 * m)
    there = jnp.sign(m - n) * jnp.sqrt(jnp.where(small, 1, deviance))
    return jnp.where(nothing, 0, jnp.where(small, jnp.sqrt(some) * near * jnp.sqrt(series), there))


def _checked(counts: Any) -> np.ndarray:
    array = np.asarray(converted(counts, "poisson_residuals", "counts"))
    bad = np.argwhere(~((array >= 0) & (array < np.inf)))
    if len(bad):
        at = tuple(map(int, bad[0]))
        raise ValueError(
            f"poisson_residuals: {len(bad)} counts are negative or not finite, the first of them "
            f"{array[at]} at {list(at)}. Counts are what was counted: a background is added to the "
            "model, not taken from the data; what is no datum has a residual of jnp.where(mask, "
            "residual, 0), and counts of 0."
        )
    return array
