"""Priors: what is known of parameters beside the data, by path.

Those that are half a square, as that of a Gaussian is, are one residual more for every element of
the parameter, so that least squares stay least squares. Of all others a function is known, the
negative logarithm of their density.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from fitkit._input import outcome, shortened
from fitkit._paths import Paths, element_name, match_paths, named_leaves

PriorFunction: TypeAlias = Callable[[Array], Any]
AnyArray: TypeAlias = Array | np.ndarray

_WANTED = (
    "must be fitkit.Normal(mean, sigma), fitkit.LogNormal(mean, sigma), or a function of the "
    "parameter's value that returns the negative logarithm of its density"
)


def _as_array(given: Any) -> Array | np.ndarray:
    # What is no number is refused where the path of its parameter is known.
    return given if isinstance(given, Array) else np.asarray(given)


class Normal(eqx.Module):
    """A Gaussian prior: the parameter was found to be `mean` ± `sigma` before.

    It counts as a datum for every element of the parameter, with the residual
    ``(value - mean) / sigma``.

    Parameters
    ----------
    mean, sigma
        In the unit of the parameter: one number for all elements, or an array of its shape.

    Examples
    --------
    >>> import fitkit as fk
    >>> prior = fk.Normal(10.0, 2.0)
    >>> float(prior(13.0))
    1.125

    In a fit of three data, the prior weighs as much as one of them:

    >>> import jax.numpy as jnp
    >>> data = jnp.array([11.0, 13.0, 12.0])
    >>> fit = fk.Fit(
    ...     residuals=lambda params, args: (params["flux"] - data) / 2.0,
    ...     params={"flux": 1.0},
    ...     priors={"flux": fk.Normal(8.0, 2.0)},
    ... )
    >>> fit.run(progress=False)
    >>> round(float(fit.params["flux"]), 6), round(float(fit.result().errors["flux"]), 6)
    (11.0, 1.0)
    """

    mean: Shaped[AnyArray, "..."] = eqx.field(converter=_as_array)
    sigma: Shaped[AnyArray, "..."] = eqx.field(converter=_as_array)

    def rows(self, value: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Compute the residuals, one for every element."""
        return (jnp.asarray(value) - self.mean) / self.sigma

    def __call__(self, value: Float[ArrayLike, "..."]) -> Float[Array, ""]:
        """Compute the negative logarithm of the density, which is 0 where that is largest."""
        return 0.5 * jnp.sum(jnp.square(self.rows(value)))


class LogNormal(eqx.Module):
    """A prior of a positive parameter whose natural logarithm is Gaussian: `mean` ± `sigma`.

    As in NumPyro and PyMC, and in SciPy's ``lognorm(s=sigma, scale=exp(mean))``, it is the density
    of the parameter itself, ``exp(-(ln(value) - mean)**2 / (2 sigma**2)) / value``. The median is
    ``exp(mean)``, and the most probable value, to which the prior pulls, ``exp(mean - sigma**2)``.
    For a median of 3 with an uncertainty of 20 percent: ``LogNormal(np.log(3), 0.2)``.

    Because ``u**2 / 2 + sigma u`` is a square but for a constant, it is a residual like that of
    `Normal`: ``(ln(value) - mean + sigma**2) / sigma``.

    Parameters
    ----------
    mean, sigma
        Of the natural logarithm: one number for all elements, or an array of the parameter's shape.

    Examples
    --------
    >>> import fitkit as fk
    >>> import numpy as np
    >>> prior = fk.LogNormal(np.log(3.0), 0.2)
    >>> mode = 3.0 * np.exp(-(0.2**2))
    >>> bool(prior(mode) < prior(0.99 * mode)), bool(prior(mode) < prior(1.01 * mode))
    (True, True)
    """

    mean: Shaped[AnyArray, "..."] = eqx.field(converter=_as_array)
    sigma: Shaped[AnyArray, "..."] = eqx.field(converter=_as_array)

    def rows(self, value: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Compute the residuals, one for every element."""
        return (jnp.log(jnp.asarray(value)) - self.mean + self.sigma**2) / self.sigma

    def __call__(self, value: Float[ArrayLike, "..."]) -> Float[Array, ""]:
        """Compute the negative logarithm of the density, which is 0 where that is largest."""
        return 0.5 * jnp.sum(jnp.square(self.rows(value)))


RowPrior: TypeAlias = Normal | LogNormal


class WithPriors(NamedTuple):
    """Data with the numbers of priors: both may change without compiling anything anew.

    Attributes
    ----------
    args
        What the user's function takes besides the parameters.
    priors
        Those that are residuals, by path.
    """

    args: Any
    priors: dict[str, RowPrior]


def without_priors(args: Any) -> Any:
    """Return what the user's function takes besides the parameters."""
    return args.args if isinstance(args, WithPriors) else args


def with_other_data(args: Any, data: Any) -> Any:
    """Put other data in the place of what `without_priors` returns, beside the same priors."""
    return args._replace(args=data) if isinstance(args, WithPriors) else data


def rows_of(priors: Mapping[str, RowPrior], params: PyTree) -> dict[str, Float[Array, "..."]]:
    """Compute the residuals of priors by path, in the parameters' shapes."""
    leaves = named_leaves(params)
    return {path: prior.rows(leaves[path]) for path, prior in priors.items()}


def read_priors(
    priors: Mapping[Paths, Any], params: PyTree, systems: tuple[int, ...] | None = None
) -> tuple[dict[str, RowPrior], dict[str, PriorFunction]]:
    """Check priors that are given by path, and sort them.

    Parameters
    ----------
    priors
        ``{"flux": Normal(10, 2), "wfe.*": function}``: from a path, the path of a subtree, a glob,
        or a tuple of those, to what is known of each of those parameters.
    params
        Where the fit starts; of `fit_many` one system.
    systems
        Lengths of the axes that count systems. The numbers of a prior may have them in front, and
        keep them.

    Returns
    -------
    tuple
        Those that are residuals, with numbers of the dtype and shape of their parameter; and the
        functions.

    Raises
    ------
    UnknownPathError
        If a key matches no parameter; the message lists the nearest.
    TypeError
        If a value is no prior, or a function returns no number.
    ValueError
        If a parameter has two priors; or if a mean is not finite, a sigma not positive, or the
        shape of one not that of the parameter.
    """
    leaves = named_leaves(params)
    if not isinstance(priors, Mapping):
        example = next(iter(leaves))
        raise TypeError(
            f"priors: {shortened(priors)} names no parameters; must be a mapping from paths to "
            f'priors, such as {{"{example}": fitkit.Normal(mean, sigma)}}.'
        )
    rows, functions = {}, {}
    for pattern, prior in priors.items():
        for path in match_paths(pattern, leaves, "priors"):
            if path in rows or path in functions:
                raise ValueError(f"priors: '{path}' has two priors; name it in one key only.")
            leaf = leaves[path]
            if isinstance(prior, Normal | LogNormal):
                rows[path] = type(prior)(
                    _numbers(path, leaf, "mean", prior.mean, systems),
                    _numbers(path, leaf, "sigma", prior.sigma, systems),
                )
            elif callable(prior) and not isinstance(prior, type):
                _check_function(path, leaf, prior)
                functions[path] = prior
            else:
                raise TypeError(f"priors: '{path}' has {shortened(prior)}; {_WANTED}.")
    return rows, functions


def check_starts(priors: Mapping[str, RowPrior], params: PyTree) -> None:
    """Raise a ``ValueError`` that names the first element of a `LogNormal` that is not positive."""
    leaves = named_leaves(params)
    for path, prior in priors.items():
        values = np.asarray(leaves[path])
        for index in np.argwhere(values <= 0)[:1] if isinstance(prior, LogNormal) else ():
            at = tuple(map(int, index))
            raise ValueError(
                f"priors: '{element_name(path, at)}' starts at {values[at]}, and has a LogNormal "
                "prior, which is of positive numbers. Start above 0."
            )


def _numbers(
    path: str, leaf: Array, name: str, given: Any, systems: tuple[int, ...] | None
) -> Float[np.ndarray, "..."]:
    """Broadcast the mean or sigma of a prior to the elements of its parameter."""
    try:
        values = np.asarray(given).astype(leaf.dtype, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"priors: '{path}' has a prior with {name} {shortened(given)}; must be a number, or an "
            "array of numbers."
        ) from error
    shapes = {(), leaf.shape}
    if systems is not None:
        shapes.add((*systems, *leaf.shape))
    if values.shape not in shapes:
        many = "" if systems is None else f", or one for each of {math.prod(systems)} systems"
        raise ValueError(
            f"priors: '{path}' has shape {leaf.shape}, and the {name} of its prior {values.shape}; "
            f"must be one number, or one for every element{many}."
        )
    good = np.isfinite(values) & ((values > 0) | (name == "mean"))
    for index in np.argwhere(~good)[:1]:
        at = tuple(map(int, index))
        wanted, cure = (
            ("finite", "leave out the prior of what is not known")
            if name == "mean"
            else ("positive and finite", "to keep a parameter at a value, freeze it")
        )
        raise ValueError(
            f"priors: '{path}' has a prior with {element_name(name, at)} = {values[at]}; must be "
            f"{wanted}: {cure}."
        )
    return np.broadcast_to(values, leaf.shape) if values.shape == () else values


def _check_function(path: str, leaf: Array, prior: PriorFunction) -> None:
    out = outcome("priors", path, lambda value, _: prior(value), leaf, None)
    good = isinstance(out, jax.ShapeDtypeStruct) and jnp.issubdtype(out.dtype, jnp.floating)
    if good and out.shape == ():
        return
    was = f"an array of shape {out.shape}" if good else shortened(out)
    cure = ": sum it over the elements" if good else ""
    raise TypeError(
        f"priors: the function of '{path}' returned {was}; must return one real number, the "
        f"negative logarithm of the density{cure}."
    )
