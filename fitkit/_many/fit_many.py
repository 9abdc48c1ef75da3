"""`fit_many`: fit many systems at once, each with its own data, trust region and status."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from fitkit._input import as_optax, check_optimiser, named_arguments
from fitkit._many import saving
from fitkit._many.by_optimiser import ByOptimiser
from fitkit._many.many import Many
from fitkit._many.systems import make_systems
from fitkit._paths import Paths
from fitkit._residuals import PriorFunction, RowPrior


@named_arguments("fit_many", frozen="frozen", weights="weights")
def fit_many(
    residuals: Callable[[PyTree, Any], PyTree],
    params: PyTree,
    args: Any = None,
    *,
    systems: int | tuple[int, ...] | None = None,
    params_axes: Any = None,
    args_axes: Any = 0,
    starts: Any = None,
    bounds: Mapping[Paths, tuple[Any, Any]] | None = None,
    priors: Mapping[Any, RowPrior | PriorFunction] | None = None,
    frozen: Paths = (),
    weights: Any = None,
    optimiser: optax.GradientTransformation | None = None,
    progress: bool = True,
    block: bool = True,
    load: str | os.PathLike | None = None,
) -> Many:
    """Fit many systems by least squares: the pixels of an image, the stars of a field.

    Every system is a fit of its own: its steps, its end and what it finds do not depend on the
    others, to the last bit, whatever their data hold. They run side by side in one compiled loop,
    and at the end each is assessed as `Fit.result` assesses a fit.

    Parameters
    ----------
    residuals
        ``residuals(params, args)`` of *one* system: a pytree of (model - data)/σ; complex ones
        count as two, their parts.
    params
        Where to start: a pytree of floating-point numbers and arrays, which all systems share.
    args
        What the function takes besides, of all systems: arrays have the systems along axis 0.
    systems
        Their number, where it is not clear from the arrays; or the lengths of several axes that
        count them, such as ``(64, 64)`` for the pixels of an image. Those stand side by side in
        every array, from the axis named, and the answers have them in front.
    params_axes, args_axes
        Which axis counts the systems, as `jax.vmap` takes it: a number, None for what all share,
        or a tree of those with the upper part of the structure of params or args.
    starts
        Several starts for every system, in place of `params`: a list of trees like `params`, or
        one such tree with a further axis in front. The lowest minimum wins.
    bounds
        Limits by parameter path, as for `Fit`: ``{"flux": (0, None)}``.
    priors
        `Normal` and `LogNormal` priors by parameter path, as for `Fit`. Their numbers are those of
        all systems, or arrays with the systems in front.
    frozen
        Paths, subtrees or globs of parameters that stay as they are given.
    weights
        Multiply the squares of the residuals: 1/σ², and 0 where there is no datum, whatever stands
        there. An array like the residuals of one system, or with the systems in front.
    optimiser
        Of optax, in place of Levenberg and Marquardt: every system gets one of its own, which
        runs until its loss has come to rest. What it arrives at is assessed in the same way.
    progress
        Whether to print a line that says how far it is.
    block
        Whether to wait until all is fitted. If not, the fits run in the background: see
        `Many.wait`. Interrupting the wait (Ctrl-C) pauses them and loses nothing.
    load
        A file that `Many.save` wrote for the same systems, to go on from.

    Returns
    -------
    Many
        Arrays of values, standard errors, status and more, by parameter path.

    Raises
    ------
    TypeError, ValueError
        If something of this cannot be fitted; the message names the path, before anything
        compiles.

    Notes
    -----
    Systems wait in a queue for one of up to 128 lanes, which advance together. A lane makes
    Levenberg-Marquardt steps by normal equations; where those are in doubt, singular values decide.
    On the host the arrays stay as they are given, and go to the device some megabytes at a time.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = np.linspace(-1.0, 1.0, 30)
    >>> centres = rng.uniform(-0.5, 0.5, 1000)
    >>> y = 5 * np.exp(-8 * (x - centres[:, None]) ** 2) + 0.1 * rng.normal(size=(1000, 30))
    >>> def residuals(params, args):
    ...     x, y = args
    ...     return (params["flux"] * jnp.exp(-8 * (x - params["centre"]) ** 2) - y) / 0.1
    >>> many = fk.fit_many(
    ...     residuals, {"flux": 1.0, "centre": 0.0}, (x, y), args_axes=(None, 0), progress=False
    ... )
    >>> bool(many.success.all())
    True
    >>> pulls = (many.values["centre"] - centres) / many.errors["centre"]
    >>> bool(abs(pulls.std() - 1) < 0.1)
    True
    """
    made = make_systems(
        residuals,
        params,
        args,
        systems=systems,
        params_axes=params_axes,
        args_axes=args_axes,
        starts=starts,
        bounds=bounds,
        priors=priors,
        frozen=frozen,
        weights=weights,
    )
    method = None
    if optimiser is not None:
        check_optimiser("fit_many", "the optimiser", optimiser)
        method = ByOptimiser(made.recipe, as_optax(optimiser), jax.tree.structure(made.free))
    many = Many(made, None if load is None else saving.load(load, made), method)
    many.start()
    if block:
        many.wait(progress=progress)
    return many
