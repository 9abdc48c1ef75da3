"""Any optax optimiser with every parameter in units of its conditional standard error."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree

from fitkit._fisher import (
    FisherMatrix,
    column_lengths,
    has_reverse,
    products_with,
    real_residuals,
)
from fitkit._input import OptaxLike, as_optax, check_optimiser, explained
from fitkit._optimisers.iterative import estimated_lengths
from fitkit._paths import named_elements, named_leaves, ravel, spread
from fitkit._sharding import on_automatic_axes

# Elements up to which every column of the Jacobian is computed: so many forward passes, once, are
# no more than the steps of a fit.
MOST_COLUMNS = 512
# Random signs beyond that: a curvature is known to sqrt(2/64), 18 percent, and a learning rate need
# not be known better.
PROBES = 64


class FisherScaledState(NamedTuple):
    """State of `fisher_scaled`: that of the inner optimiser, and the units as data.

    Attributes
    ----------
    inner
        Of the optimiser that runs in these units.
    errors
        A tree like the parameters: the standard error of every element if all others were known, in
        its unit. Infinite where an element has no effect, and 0 where it is not known yet: the
        next update in which the element moves computes it.
    """

    inner: PyTree
    errors: PyTree


def fisher_scaled(
    inner: optax.GradientTransformation | OptaxLike,
    *,
    fisher: FisherMatrix | PyTree = None,
    residuals: Callable[[PyTree, Any], PyTree] | None = None,
    args: Any = None,
    probes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Run any optax optimiser with every parameter in units of its conditional standard error.

    The standard error that a parameter would have if all others were known is ``1/√F``, with F its
    element of the diagonal of the Fisher matrix. In these units a gradient is divided by √F, and so
    is a step: one of gradient descent with a learning rate of 1 is Newton's step in each parameter,
    ``gradient / F``, and one of Adam is a standard error long. Learning rates of parameters in any
    units can then be compared, and 1 is where to begin.

    With neither `fisher` nor `residuals`, the diagonal is computed from the residuals that update
    is told, as `gauss_newton` is: those of a `Fit` come by themselves. This one call sets the
    learning rates of a fit, and the sliders of its dashboard, in these units::

        fit.change_optimiser(fk.fisher_scaled(optax.sgd(1.0)))

    The same call again renews the diagonal at the present parameters, and compiles nothing.

    Parameters
    ----------
    inner
        The optimiser to run. ``value_fn``, ``grad_fn`` and ``residuals`` are mapped for it.
    fisher
        A `FisherMatrix`, or a tree like the parameters of the elements of its diagonal, in
        1/(unit of the parameter)². Elements that a `FisherMatrix` leaves out do not move.
    residuals, args
        ``residuals(params, args)``, a tree of (model - data)/σ, where the diagonal is to be that of
        other residuals, or update is told none. It is computed at the first update.
    probes
        How many vectors of random signs to estimate the diagonal from, without bias. None: every
        column of the Jacobian up to 512 elements, and 64 vectors, good to 18 percent, for more.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        For optax's loops, `optax.chain`, `map_optimisers` and `Fit`. Its state is a
        `FisherScaledState`. To renew the diagonal in a loop without compiling and keep the inner
        optimiser's memory, set the errors to zero:
        ``state._replace(errors=optax.tree.zeros_like(params))``.

    Raises
    ------
    TypeError, ValueError
        If both `fisher` and `residuals` are given, `probes` is no positive whole number, or, from
        ``init``, `fisher` belongs to other parameters. From ``update``, if there is nothing to
        compute the diagonal from.

    Notes
    -----
    Elements without effect on the residuals, or whose curvature is not positive, do not move. The
    inner optimiser is started in the parameters' own units where the diagonal comes later.

    Source of the estimate: C. Bekas, E. Kokiopoulou and Y. Saad, Applied Numerical Mathematics 57,
    1214 (2007), with signs z on the side of the data: the mean of (Jᵀz)² is the diagonal of JᵀJ.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax, jax.numpy as jnp, optax
    >>> residuals = lambda p, args: jnp.array([(p["flux"] - 1e6) / 1e3, (p["tilt"] + 1e-9) / 1e-10])
    >>> loss = lambda p: 0.5 * jnp.sum(residuals(p, None) ** 2)
    >>> params = {"flux": jnp.array(2e6), "tilt": jnp.array(0.0)}
    >>> optimiser = fk.fisher_scaled(optax.sgd(1.0), residuals=residuals)
    >>> state = optimiser.init(params)
    >>> updates, state = optimiser.update(jax.grad(loss)(params), state, params)
    >>> params = optax.apply_updates(params, updates)
    >>> print(f"{params['flux']:.4g} {params['tilt']:.4g}")
    1e+06 -1e-09

    In a fit, with a parameter that waits until the others are there:

    >>> fit = fk.Fit(residuals=residuals, params={"flux": 2e6, "tilt": 0.0})
    >>> late = fk.fisher_scaled(optax.sgd(fk.delay(1.0, start=5)))
    >>> fit.change_optimiser({"flux": fk.fisher_scaled(optax.sgd(1.0)), "tilt": late})
    >>> fit.run(10, progress=False)
    >>> print(f"{fit.params['tilt']:.4g}")
    -1e-09
    """
    check_optimiser("fisher_scaled", "the inner optimiser", inner)
    if fisher is not None and residuals is not None:
        raise ValueError("fisher_scaled: both `fisher` and `residuals` came; give one at most.")
    if probes is not None and (
        isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < 1
    ):
        raise ValueError(f"fisher_scaled: probes={probes!r}; must be a whole number, 1 or more.")
    inside = optax.with_extra_args_support(as_optax(inner))

    def init(params: PyTree) -> FisherScaledState:
        if fisher is None:
            return FisherScaledState(inside.init(params), jax.tree.map(jnp.zeros_like, params))
        errors = _given(fisher, params)
        return FisherScaledState(inside.init(_scaled(params, errors)), errors)

    def update(
        updates: PyTree, state: FisherScaledState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, FisherScaledState]:
        errors = state.errors
        if fisher is None:
            function = _chosen(extra.get("residuals"), residuals, args, params)
            errors = _completed(errors, function, params, extra.get("frozen"), probes)
        unit = jax.tree.map(lambda one: jnp.where(jnp.isfinite(one), one, 0), errors)
        here = None if params is None else _scaled(params, errors)

        def times_unit(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf, one: leaf * one.astype(leaf.dtype), tree, unit)

        def of_scaled(function: Callable) -> Callable:
            # From where the parameters are, so that rounding moves nothing.
            # `wraps` keeps the signature, by which line searches choose what else to pass.
            @functools.wraps(function)
            def called(there: PyTree, *rest: Any, **keywords: Any) -> Any:
                step = times_unit(jax.tree.map(jnp.subtract, there, here))
                return function(jax.tree.map(jnp.add, params, step), *rest, **keywords)

            return called

        convert: dict[str, Callable] = {
            "grad": times_unit,
            "value_fn": of_scaled,
            "residuals": of_scaled,
            "grad_fn": lambda function: lambda *given: times_unit(of_scaled(function)(*given)),
        }
        extra = {
            name: convert[name](value) if name in convert and value is not None else value
            for name, value in extra.items()
        }
        steps, memory = inside.update(times_unit(updates), state.inner, here, **extra)
        return times_unit(steps), FisherScaledState(memory, errors)

    return optax.GradientTransformationExtraArgs(
        init,  # pyright: ignore[reportArgumentType]
        on_automatic_axes(update),
    )


def _scaled(params: PyTree, errors: PyTree) -> PyTree:
    """Write parameters in units of their errors; as they are where there is none."""

    def one(leaf: Array, error: Array) -> Array:
        known = jnp.isfinite(error) & (error > 0)
        return leaf / jnp.where(known, error, 1).astype(leaf.dtype)

    return jax.tree.map(one, params, errors)


def _given(fisher: FisherMatrix | PyTree, params: PyTree) -> PyTree[Float[Array, "..."]]:
    """Read the errors of the elements of `params`, which may be some of all parameters."""
    if isinstance(fisher, FisherMatrix):
        at = {label: i for i, label in enumerate(fisher.labels)}
        names = named_elements(params)
        if at.keys().isdisjoint(names):
            raise ValueError(
                f"fisher_scaled: `fisher` is about {_listed(at)}, and the parameters are "
                f"{_listed(names)}. Make it of the same tree: fisher_matrix(residuals, params)."
            )
        # Behind the last stands one for the elements that are left out.
        scale = jnp.append(jnp.asarray(fisher.scale), 1)
        positive = jnp.append(jnp.diagonal(jnp.asarray(fisher.matrix)) > 0, False)
        order = np.array([at.get(name, len(at)) for name in names])
        _, unravel = ravel(params)
        errors = unravel(jnp.where(positive, 1 / scale, jnp.inf)[order])
        return jax.tree.map(lambda error, leaf: error.astype(leaf.dtype), errors, params)
    curvatures, errors = named_leaves(fisher), []
    for path, leaf in named_leaves(params).items():
        if path not in curvatures:
            raise ValueError(
                f"fisher_scaled: `fisher` has {_listed(curvatures)}, and no '{path}'; must be a "
                "tree like the parameters, of the diagonal of the Fisher matrix, or a FisherMatrix."
            )
        curvature = jnp.asarray(curvatures[path], leaf.dtype)
        if curvature.shape not in ((), leaf.shape):
            raise ValueError(
                f"fisher_scaled: '{path}' has shape {leaf.shape}, and {curvature.shape} in "
                "`fisher`; must be one number, or one for every element."
            )
        error = jnp.where(
            curvature > 0, 1 / jnp.sqrt(jnp.where(curvature > 0, curvature, 1)), np.inf
        )
        errors.append(jnp.broadcast_to(error, leaf.shape))
    return jax.tree.unflatten(jax.tree.structure(params), errors)


def _listed(names: Any) -> str:
    some = tuple(names)
    return ", ".join(map(repr, some[:10])) + (", …" if len(some) > 10 else "")


def _chosen(
    told: Callable | None, own: Callable | None, args: Any, params: PyTree | None
) -> Callable[[PyTree], PyTree]:
    """Choose the residuals that the diagonal is computed from, as a function of the parameters."""
    if params is None:
        raise TypeError(
            "fisher_scaled: update needs the parameters to compute the diagonal of the Fisher "
            "matrix: update(grads, state, params)."
        )
    # Those that update is told know of other parameters, which are masked out of `params`.
    if told is not None:
        return told
    if own is None:
        raise TypeError(
            "fisher_scaled: there are no residuals to compute the diagonal of the Fisher matrix "
            "from. Give it: fisher_scaled(inner, fisher=fisher_matrix(loss=loss, params=params)), "
            "or fit.fisher() of a Fit; or pass update(grads, state, params, residuals=function)."
        )
    masked = [
        node
        for node in jax.tree.leaves(params, is_leaf=lambda n: isinstance(n, optax.MaskedNode))
        if isinstance(node, optax.MaskedNode)
    ]
    if masked:
        raise TypeError(
            "fisher_scaled: beside others this optimiser sees some of the parameters only, and "
            "`residuals` needs all of them. Pass the residuals to update, which knows the others: "
            "update(grads, state, params, residuals=lambda params: residuals(params, args)); or "
            "give `fisher`."
        )
    return lambda params: own(params, args)


def _completed(
    errors: PyTree, residuals: Callable, params: PyTree, frozen: PyTree, probes: int | None
) -> PyTree:
    """Compute the errors that are not known yet, of the elements that move."""
    flat, unravel = ravel(params)
    known = ravel(errors)[0].astype(flat.dtype)
    held = jnp.zeros(flat.shape, bool) if frozen is None else spread(frozen, params)
    wanted = (known == 0) & ~held

    def function(x: Float[Array, " n"]) -> Float[Array, " m"]:
        with explained("fisher_scaled", "residuals", None):
            values = residuals(unravel(x))
        values = real_residuals(values, "fisher_scaled")
        return ravel(values)[0]

    def compute() -> Float[Array, " n"]:
        length = _lengths(function, flat, probes).astype(flat.dtype)
        # What is not finite stays unknown; the loss and its gradient tell of it.
        return jnp.where(wanted, jnp.where(jnp.isnan(length), 0, 1 / length), known)

    filled: Bool[Array, ""] = jnp.any(wanted)
    new = unravel(jax.lax.cond(filled, compute, lambda: known))
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, errors)


def _lengths(
    function: Callable, flat: Float[Array, " n"], probes: int | None
) -> Float[Array, " n"]:
    """Compute the square roots of the diagonal, or estimate them."""
    by_probes = probes is not None or flat.size > MOST_COLUMNS
    if by_probes and has_reverse("fisher_scaled", lambda x: jnp.sum(function(x)), flat):
        values, jacobian = products_with("fisher_scaled", function, flat)
        return estimated_lengths(jacobian.pull, values, probes or PROBES)
    return column_lengths("fisher_scaled", function, flat)
