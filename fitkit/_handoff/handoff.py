"""What a sampler needs of a fit, ``fk.handoff``: five lines to a posterior.

A sampler finds the shape of a posterior that no errors describe: one that is curved, has tails, or
is cut by a bound. `blackjax` and `numpyro` hand over the same density, in the same coordinates, as
each of the two packages takes it; fitkit itself depends on neither.
"""

from collections.abc import Callable
from typing import Any

from fitkit._fit import Fit
from fitkit._handoff.posterior import Posterior, posterior_of


def blackjax(fit: Fit) -> Posterior:
    """Make what the kernels of blackjax, and samplers of the same form, take.

    Parameters
    ----------
    fit
        A fit at a minimum. Its residuals are in units of σ, or its loss is a negative
        log-likelihood, as for `Fit.result`.

    Returns
    -------
    Posterior
        The log-density, where to start, the inverse mass matrix, and the way back to parameters.

    Raises
    ------
    ValueError
        If the fit is at no minimum, if its loss is a mean over data, if all parameters are frozen,
        or if something is unconstrained: the message names it.

    Examples
    --------
    A normal of mean 3, which ``blackjax.nuts(posterior.log_density, step_size=0.7,
    inverse_mass_matrix=posterior.inverse_mass_matrix)`` would sample:

    >>> import fitkit as fk
    >>> fit = fk.Fit(residuals=lambda p, args: (p["x"] - 3.0).reshape(1), params={"x": 0.0})
    >>> fit.run(progress=False)
    >>> posterior = fk.handoff.blackjax(fit)
    >>> round(float(posterior.log_density(posterior.start + 2)), 3)
    -2.0
    """
    return posterior_of(fit, "handoff.blackjax")


def numpyro(fit: Fit) -> Callable[[], None]:
    """Make a model of numpyro, without arguments, whose samples are the fit's parameters by path.

    Parameters
    ----------
    fit
        As for `blackjax`.

    Returns
    -------
    Callable
        It has the latent coordinates of `Posterior` as the one site that is sampled, ``"_latent"``,
        and every parameter that is not frozen as a deterministic site, under its path.

    Raises
    ------
    ImportError
        If numpyro is not installed.
    ValueError
        As `blackjax` does.

    Examples
    --------
    A normal of mean 3, which ``MCMC(NUTS(model), num_warmup=300, num_samples=1000)`` would sample:

    >>> import fitkit as fk
    >>> from numpyro.infer.util import log_density
    >>> fit = fk.Fit(residuals=lambda p, args: (p["x"] - 3.0).reshape(1), params={"x": 0.0})
    >>> fit.run(progress=False)
    >>> latent = fk.handoff.blackjax(fit).start + 2
    >>> density, _ = log_density(fk.handoff.numpyro(fit), (), {}, {"_latent": latent})
    >>> round(float(density), 3)
    -2.0
    """
    try:
        import numpyro as library  # pyright: ignore[reportMissingImports]
        from numpyro.distributions import (  # pyright: ignore[reportMissingImports]
            ImproperUniform,
            constraints,
        )
    except ImportError as error:
        raise ImportError(
            "handoff.numpyro needs numpyro, which is not installed: pip install 'fitkit[numpyro]'. "
            "Without it, fk.handoff.blackjax(fit) has the log-density as a function."
        ) from error
    posterior = posterior_of(fit, "handoff.numpyro")

    def model() -> None:
        flat: Any = ImproperUniform(constraints.real, (), posterior.start.shape)
        latent: Any = library.sample("_latent", flat)
        library.factor("_log_density", posterior.log_density(latent))
        for path, values in posterior.by_path(latent).items():
            library.deterministic(path, values)

    return model
