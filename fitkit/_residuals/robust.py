"""Residuals whose squares are a robust loss, so that outliers count for less."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._input import shortened

# Below this residual, in units of the scale, Cauchy's logarithm is a power series: of its square,
# 0.04, eleven powers reach the rounding of float64.
SMALL, POWERS = 0.2, 11


def robust(
    residuals: Callable[[PyTree, Any], PyTree],
    loss: Literal["soft_l1", "huber", "cauchy"] = "soft_l1",
    scale: float = 1.0,
) -> Callable[[PyTree, Any], PyTree]:
    """Let outliers count for less: turn residuals into those of a robust loss.

    Half the sum of squares of what is returned is the robust loss ``Σ ½ C² ρ(r²/C²)`` of the
    residuals r, with C the `scale`, as in SciPy's ``least_squares(loss=…, f_scale=C)``. So it is
    fitted as residuals are, by Gauss-Newton, `fit_many` or any other optimiser.

    ========== =================== ======================================
    loss       ρ(z)                a residual far out
    ========== =================== ======================================
    "soft_l1"  2 (√(1 + z) - 1)    counts by its magnitude; smooth
    "huber"    z up to 1, 2 √z - 1 the same, and plain squares up to C
    "cauchy"   log(1 + z)          hardly counts; several minima may exist
    ========== =================== ======================================

    Parameters
    ----------
    residuals
        ``residuals(params, args)`` -> pytree of (model - data)/σ. Of complex ones the real and the
        imaginary parts count by themselves.
    loss
        The function ρ.
    scale
        The residual C from which on outliers begin, in units of σ.

    Returns
    -------
    Callable
        Residuals ``sign(r) C √ρ(r²/C²)``, in the same structure. Those that are exactly zero stay
        so: what is masked is no datum.

    Raises
    ------
    TypeError, ValueError
        If `residuals` is no function, `loss` none of these, or `scale` not positive and finite.

    Notes
    -----
    **Standard errors.** `Fit.result` takes them from the Jacobian of these residuals, as if the
    errors σ were right and outliers few. ``fit.result(errors_from="sandwich")`` asks neither: it
    takes them from the scatter (P. J. Huber, Robust Statistics, 1981, section 7.6), and is what to
    report of a robust fit with many data. Standard errors divided by the true scatter of
    estimates, of a mean of many data, also where a tenth of them has an error of 5 σ (integrals;
    4,000 drawings of 200 data agree to 1 %)::

        C = 1.345          Jacobian   Hessian   sandwich
        soft_l1, no outlier    1.09      1.20       1.00
        huber, no outlier      1.01      1.08       1.00
        cauchy, no outlier     1.13      1.35       1.00
        soft_l1, 10 %          0.96      1.06       1.00
        huber, 10 %            0.91      0.98       1.00
        cauchy, 10 %           1.07      1.30       1.00

    The sum of squares of these residuals is no chi-square: it is smaller where there are no
    outliers, and no measure of the goodness of the fit.

    Examples
    --------
    Two of twenty data are far off a line:

    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> x = jnp.arange(20.0)
    >>> y = (2 * x + 1 + 0.1 * jnp.sin(7 * x)).at[jnp.array([3, 16])].add(jnp.array([50.0, 80.0]))
    >>> def residuals(params, args):
    ...     return (params["slope"] * x + params["offset"] - y) / 0.1
    >>> fit = fk.Fit(
    ...     residuals=fk.robust(residuals, "cauchy"), params={"slope": 1.0, "offset": 0.0}
    ... )
    >>> fit.run(progress=False)
    >>> round(float(fit.params["slope"]), 2)
    2.0
    """
    if not callable(residuals):
        raise TypeError(
            f"robust: `residuals` must be a function of (params, args), not {shortened(residuals)}."
            " Pass the function itself, without calling it."
        )
    if loss not in LOSSES:
        raise ValueError(f"robust: no loss {loss!r}; must be one of {', '.join(LOSSES)}.")
    if not 0 < scale < float("inf"):
        raise ValueError(
            f"robust: scale is {scale}; must be positive and finite: the residual from which on "
            "outliers begin, in units of σ, such as 1.0."
        )
    change = LOSSES[loss]

    def changed(leaf: Any) -> Any:
        if jnp.iscomplexobj(leaf):
            leaf = jnp.asarray(leaf)
            return jax.lax.complex(changed(leaf.real), changed(leaf.imag))
        # Whatever else it is, those who take residuals say why it is none.
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        return change(jnp.asarray(leaf) / scale) * scale

    def robust_residuals(params: PyTree, args: Any) -> PyTree:
        return jax.tree.map(changed, residuals(params, args))

    return robust_residuals


# Of a residual u in units of the scale these are sign(u) √ρ(u²), without a division by zero at 0
# and without squares that overflow: what is far out would pass for a perfect fit.
#
# The derivative of such a residual is what it must be: one residual whose square is the loss, and
# which has the gradient ρ′u of the loss, has the derivative ρ′u/√ρ. The weights ρ′ of iteratively
# reweighted least squares are another curvature (twice as large far out), which no residual has
# whose square is the loss. This one is nearer to the true curvature, and lets everything else
# stay as it is: the test of convergence, the trust region, many systems, what is recorded. A rule
# of our own for the derivative (custom_jvp) could only break what it must be.


def _soft_l1(u: Float[Array, "..."]) -> Float[Array, "..."]:
    inside, square = _square(u)
    root = jnp.where(inside, jnp.sqrt(1 + square), jnp.abs(u))
    return u * jnp.sqrt(2 / (1 + root))


def _huber(u: Float[Array, "..."]) -> Float[Array, "..."]:
    size = jnp.abs(u)
    return jnp.where(size <= 1, u, jnp.sign(u) * jnp.sqrt(2 * jnp.maximum(size, 1) - 1))


def _cauchy(u: Float[Array, "..."]) -> Float[Array, "..."]:
    size = jnp.abs(u)
    small = size < SMALL
    near = jnp.where(small, u, 0)
    series = jnp.zeros_like(near)
    for k in range(POWERS, -1, -1):
        series = 1 / (k + 1) - near * near * series
    inside, square = _square(jnp.where(small, 1, u))
    rho = jnp.where(inside, jnp.log1p(square), 2 * jnp.log(jnp.where(inside, 1, size)))
    return jnp.where(small, near * jnp.sqrt(series), jnp.sign(u) * jnp.sqrt(rho))


def _square(u: Float[Array, "..."]) -> tuple[Array, Array]:
    """Square what is below 1/eps; beyond, 1 is nothing beside the square."""
    inside = jnp.abs(u) < 1 / float(jnp.finfo(u.dtype).eps)
    return inside, jnp.square(jnp.where(inside, u, 0))


LOSSES = {"soft_l1": _soft_l1, "huber": _huber, "cauchy": _cauchy}
