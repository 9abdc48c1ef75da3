"""The posterior density of a fit, in coordinates in which it is nearly a unit normal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._fisher import AnyArray, EigenProjection, split_params
from fitkit._fit import Fit
from fitkit._optimisers import Bounds
from fitkit._paths import named_leaves, ravel
from fitkit._result import Kind, is_mean


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posterior density of a fit's parameters, as samplers take it; made by ``fk.handoff``.

    Its k latent coordinates, one for each element that is not frozen, are those of the Fisher
    matrix at the fit's parameters: their origin is there, and where the model is linear the
    density is a normal of unit covariance. A linear change of variables needs no Jacobian.

    Attributes
    ----------
    labels : tuple[str, ...]
        Names of the elements that are not frozen, ``"star.r2[1]"``.

    Notes
    -----
    Bounds cut the density: beyond them it is zero, and a step there is refused. A change of
    variables would do without refusals, but bend a posterior that is nearly normal away from
    the bound. The model is never evaluated outside of its bounds.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> x = jnp.array([0.0, 1.0, 2.0])
    >>> fit = fk.Fit(
    ...     residuals=lambda p, args: (p["a"] + p["b"] * x - jnp.array([1.0, 3.0, 5.0])) / 0.1,
    ...     params={"a": 0.0, "b": 1.0},
    ... )
    >>> fit.run(progress=False)
    >>> posterior = fk.handoff.blackjax(fit)
    >>> one_sigma_off = posterior.log_density(jnp.array([1.0, 0.0]))
    >>> round(float(one_sigma_off - posterior.log_density(posterior.start)), 3)
    -0.5
    >>> many = posterior.unravel(jnp.zeros((4, 1000, 2)))  # chains, draws, coordinates
    >>> many["a"].shape
    (4, 1000)
    """

    labels: tuple[str, ...]
    _loss: Callable[[PyTree, Any], Float[Array, ""]]
    _args: Any
    _held: PyTree
    _bounds: Bounds | None
    _projection: EigenProjection
    _whole: Callable[[PyTree], PyTree]
    _order: tuple[str, ...]

    @property
    def start(self) -> Float[Array, " k"]:
        """Where to start: at the fit's parameters, zero."""
        return jnp.zeros(len(self.labels), self._projection.matrix.dtype)

    @property
    def inverse_mass_matrix(self) -> Float[Array, " k"]:
        """The diagonal of the covariance, one."""
        return jnp.ones_like(self.start)

    def log_density(self, latent: Float[AnyArray, " k"]) -> Float[Array, ""]:
        """Compute the logarithm of the posterior density, but for a constant.

        Minus the loss of the fit, with its priors: of residuals, minus half of chi-square. Minus
        infinity beyond a bound. A function for `jax.jit`, `jax.grad` and `jax.vmap`.
        """
        if self._bounds is None:
            return -self._loss(self._params(latent), self._args)
        there = self._params(latent)
        within = (ravel(self._bounds.project(there))[0] == ravel(there)[0]).all()
        # Beyond, where the model may not exist, its gradient would be NaN though nothing is asked.
        params = self._params(jnp.where(within, latent, 0))
        return jnp.where(within, -self._loss(params, self._args), -jnp.inf)

    def unravel(self, latent: Float[AnyArray, "*draws k"]) -> PyTree[Float[Array, "..."]]:
        """Build parameters in the structure in which they came, frozen ones too.

        Parameters
        ----------
        latent
            Coordinates, or an array of them: the axes before the last come first in every leaf.
        """
        return self._whole(_over_draws(self._params, latent))

    def by_path(self, latent: Float[AnyArray, "*draws k"]) -> dict[str, Float[Array, "..."]]:
        """Compute the parameters that are not frozen, by path; as `unravel` otherwise."""
        leaves = named_leaves(_over_draws(self._projection.from_latent, latent))
        return {path: leaves[path] for path in self._order if path in leaves}

    def elements(self, latent: Float[AnyArray, "*draws k"]) -> Float[Array, "*draws k"]:
        """Compute the elements that are not frozen, in the order of `labels`."""
        return _over_draws(lambda one: ravel(self._projection.from_latent(one))[0], latent)

    def _params(self, latent: Float[AnyArray, " k"]) -> PyTree[Float[Array, "..."]]:
        return eqx.combine(self._projection.from_latent(latent), self._held)


def _over_draws(function: Callable, latent: Float[AnyArray, "*draws k"]) -> PyTree:
    latent = jnp.asarray(latent)
    for _ in latent.shape[:-1]:
        function = jax.vmap(function)
    return function(latent)


def posterior_of(fit: Fit, event: str) -> Posterior:
    """Make the posterior of a fit where it stands.

    Parameters
    ----------
    fit
        The fit.
    event
        Who asks, to open an error with.

    Raises
    ------
    ValueError
        If there is no minimum, no free parameter, no information on one of them, or no likelihood.
    """
    result, program = fit.result(), fit.snapshot.place.program
    problem = program.traced.value.problem
    if result.assessment.kind is Kind.FROZEN:
        raise ValueError(f"{event}: all parameters are frozen; thaw what is to be sampled.")
    # On a bound it has no scale either, though there `Result` counts it as held.
    if free := result.unconstrained or result.fisher.unconstrained:
        raise ValueError(
            f"{event}: {'; '.join(free)}. There the posterior has no width: freeze a parameter of "
            "it, or give it a prior."
        )
    if not result.converged:
        raise ValueError(
            f"{event}: the fit has not converged ({result.assessment.message}), and the "
            "coordinates are those of a minimum. Run it until it has: fit.run()."
        )
    if problem.loss_function is not None and is_mean(problem.loss, result.params, program.args):
        raise ValueError(
            f"{event}: the loss is a mean over data and no negative log-likelihood, so that its "
            "posterior would be too wide by the square root of their number. Use the sum."
        )
    free, held = split_params(result.params, tuple(sorted(result.fixed)))
    return Posterior(
        labels=result.fisher.labels,
        _loss=problem.loss,
        _args=program.args,
        _held=held,
        _bounds=program.bounds,
        _projection=EigenProjection(free, result.fisher),
        _whole=program.problem.whole_params,
        _order=tuple(result.values),
    )
