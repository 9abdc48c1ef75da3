"""Latent coordinates that the data constrain all alike, and optimisers that run in them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree, Real

from fitkit._fisher.eigen import rank_rtol, scaled_columns
from fitkit._fisher.matrix import FisherMatrix
from fitkit._paths import common_dtype, named_elements, ravel, spread

# What a user may write for a projection and for latent coordinates.
Rectangle: TypeAlias = Real[Array | np.ndarray, "n k"] | Sequence[Sequence[float]]
Latent: TypeAlias = Real[Array | np.ndarray, " k"] | Sequence[float]


class EigenProjection(eqx.Module):
    """Linear map between parameters and latent coordinates: ``params = centre + matrix @ latent``.

    Made from a Fisher matrix, every latent coordinate has unit variance and no correlation, best
    constrained first: a badly conditioned problem becomes a round one. Unconstrained
    eigenvectors are cut: their columns are zero, the shape stays, `to_latent` drops what lies along
    them and no latent coordinate moves them. All fields are arrays, so that another projection of
    the same shape can take its place in a compiled function.

    Parameters
    ----------
    centre
        Parameters at latent zero: a pytree of real floating arrays with n elements in all.
    projection
        A `FisherMatrix` of the same parameters, or the matrix of a projection: (n, k), row i in
        the unit of parameter i, as from `eigen_projection`; k may be less than n.

    Attributes
    ----------
    centre : PyTree
    matrix : Float[Array, "n k"]
    inverse : Float[Array, "k n"]
        Its left inverse, ``inverse @ matrix`` is 1 on the diagonal (0 where an eigenvector is cut).

    Raises
    ------
    ValueError
        If the projection belongs to other parameters.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> residuals = lambda params, args: jnp.array([params["flux"] / 2.0, params["x"] / 1e-3])
    >>> params = {"flux": jnp.array(8.0), "x": jnp.array(0.0)}
    >>> projection = fk.EigenProjection(params, fk.fisher_matrix(residuals, params))
    >>> further = projection.from_latent(jnp.array([1.0, 1.0]))
    >>> round(float(further["flux"]), 6), round(float(further["x"]), 6)
    (10.0, 0.001)
    >>> projection.to_latent(further).round(6).tolist()
    [1.0, 1.0]
    """

    centre: PyTree[Float[Array, "..."]]
    matrix: Float[Array, "n k"]
    inverse: Float[Array, "k n"]

    def __init__(self, centre: PyTree, projection: FisherMatrix | Rectangle):
        self.centre = jax.tree.map(_strong, centre)
        labels = named_elements(self.centre)
        if isinstance(projection, FisherMatrix):
            if projection.labels != labels:
                odd = sorted({*labels} ^ {*projection.labels}) or "their order"
                raise ValueError(
                    f"EigenProjection: the Fisher matrix is of other parameters than the centre; "
                    f"they differ in {odd}. Make it at params of the same structure."
                )
            matrix, inverse = projection.projection, projection.unprojection
        else:
            matrix = jnp.asarray(projection)
            if matrix.ndim != 2 or matrix.shape[0] != len(labels):
                raise ValueError(
                    f"EigenProjection: the projection has shape {matrix.shape}, but the parameters "
                    f"have {len(labels)} elements: it must be ({len(labels)}, k)."
                )
            inverse = _left_inverse(matrix)
        dtype = common_dtype(*jax.tree.leaves(self.centre))
        self.matrix = jnp.asarray(matrix, dtype)
        self.inverse = jnp.asarray(inverse, dtype)

    def to_latent(self, params: PyTree) -> Float[Array, " k"]:
        """Latent coordinates of parameters; what lies along cut eigenvectors is dropped."""
        return self.inverse @ (ravel(params)[0] - ravel(self.centre)[0])

    def from_latent(self, latent: Latent) -> PyTree:
        """Parameters at latent coordinates, in the structure of `centre`."""
        flat, unravel = ravel(self.centre)
        return unravel(flat + self.matrix @ jnp.asarray(latent, flat.dtype))

    def reparametrise(self, function: Callable[[PyTree, Any], Any]) -> Callable:
        """Make a function of parameters, a loss or residuals, one of latent coordinates.

        Parameters
        ----------
        function
            ``function(params, args)``.

        Returns
        -------
        Callable
            ``latent_function(latent, args=None)``, as ``fn`` of optimistix' solvers, as
            ``potential_fn`` of numpyro's kernels, and with a minus sign as blackjax' log-density.
            It is flat along cut eigenvectors: leave their columns out for a sampler,
            ``EigenProjection(params, fisher.projection[:, :fisher.rank])``.

        Examples
        --------
        >>> import fitkit as fk
        >>> projection = fk.EigenProjection([5.0], [[0.1]])
        >>> latent_loss = projection.reparametrise(lambda params, args: (params[0] - 5.0) ** 2)
        >>> round(float(latent_loss([2.0])), 6)
        0.04
        """

        @functools.wraps(function)
        def of_latent(latent: Latent, args: Any = None) -> Any:
            return function(self.from_latent(latent), args)

        # The parameters' own signature would mislead.
        del of_latent.__wrapped__
        return of_latent


class EigenProjectedState(NamedTuple):
    """State of `eigen_projected`: that of the inner optimiser, and the projection as data."""

    inner: PyTree
    projection: EigenProjection


def eigen_projected(
    inner: optax.GradientTransformation,
    projection: EigenProjection | FisherMatrix | Rectangle,
) -> optax.GradientTransformationExtraArgs:
    """Run any optax optimiser in the Fisher eigenbasis.

    The inner optimiser sees one vector of latent coordinates and gradients with respect to it;
    ``value_fn`` and ``residuals``, where the caller passes them, are mapped too, so that L-BFGS
    runs with its line search. Its learning rate is in standard errors, the same for all
    eigenvectors. Unconstrained ones are not moved.

    Parameters
    ----------
    inner
        The optimiser to run.
    projection
        An `EigenProjection`, or what one is made of (centred on the params of ``init`` then).

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update`` takes the projection from its state alone. To refresh it during a run without
        recompiling, replace the state, either by
        ``fk.eigen_projected(inner, new).init(params)``, which starts the inner optimiser anew, or
        by ``optax.tree_utils.tree_set(state, projection=fk.EigenProjection(params, new))``,
        which keeps its memory (moments and curvature, in the old coordinates).

    Notes
    -----
    Compute gradients afresh at each step: those that ``optax.value_and_grad_from_state`` finds in
    the state of L-BFGS are latent ones.

    Raises
    ------
    ValueError
        From ``init``, if the projection belongs to other parameters.

    Examples
    --------
    A valley 1000 times longer than wide takes plain gradient descent one step:

    >>> import fitkit as fk
    >>> import jax, jax.numpy as jnp, optax
    >>> residuals = lambda p, args: jnp.array([p["a"] + p["b"], 1e-3 * (p["a"] - p["b"] - 4.0)])
    >>> loss = lambda p: 0.5 * jnp.sum(residuals(p, None) ** 2)
    >>> params = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
    >>> fisher = fk.fisher_matrix(residuals, params)
    >>> optimiser = fk.eigen_projected(optax.sgd(1.0), fisher)
    >>> state = optimiser.init(params)
    >>> updates, state = optimiser.update(jax.grad(loss)(params), state, params)
    >>> params = optax.apply_updates(params, updates)
    >>> round(float(params["a"]), 3), round(float(params["b"]), 3)
    (2.0, -2.0)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> Any:
        if isinstance(projection, EigenProjection):
            started = _like(projection, params)
        else:
            started = EigenProjection(params, projection)
        return EigenProjectedState(inner.init(_named(started.to_latent(params))), started)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "eigen_projected: update needs params, the third argument, to know where in the "
                "latent coordinates it is."
            )
        matrix = state.projection.matrix
        flat, unravel = ravel(params)
        latent = state.projection.to_latent(params)

        def pull(gradient: PyTree) -> dict[str, Array]:
            return _named(matrix.T @ ravel(gradient)[0])

        def mapped(function: Callable) -> Callable:
            # From where params are, not from the centre: what lies along cut eigenvectors stays.
            # `wraps` keeps the signature, by which line searches choose what else to pass.
            @functools.wraps(function)
            def of_latent(there: dict[str, Array], *args: Any, **kwargs: Any) -> Any:
                moved = unravel(flat + matrix @ (there[LATENT] - latent))
                return function(moved, *args, **kwargs)

            return of_latent

        def still(frozen: PyTree) -> dict[str, Bool[Array, " k"]]:
            return {LATENT: jnp.all((matrix == 0) | spread(frozen, params)[:, None], axis=0)}

        def scaling(factors: PyTree) -> Callable:
            # Of parameters, so they are no numbers that multiply a latent step.
            inverse, each = state.projection.inverse, spread(factors, params)
            return lambda change, step: inverse @ (change(each) * (matrix @ step))

        convert = {
            "grad": pull,
            "value_fn": mapped,
            "residuals": mapped,
            "frozen": still,
            "factors": scaling,
        }
        extra = {
            name: convert[name](value) if name in convert and value is not None else value
            for name, value in extra.items()
        }
        steps: Any
        steps, inner_state = inner.update(pull(updates), state.inner, _named(latent), **extra)
        return unravel(matrix @ steps[LATENT]), EigenProjectedState(inner_state, state.projection)

    return optax.GradientTransformationExtraArgs(init, update)


# A gradient in a tree of its own cannot be mistaken for one with respect to params, even where
# these are a bare vector of the same length.
LATENT = "latent"


def _strong(leaf: Any) -> Float[Array, "..."]:
    """Type strongly: weak types, as Python's floats have, would make a refresh retrace."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(float)
    return jnp.asarray(leaf, jax.dtypes.canonicalize_dtype(dtype))


def _named(latent: Float[Array, " k"]) -> dict[str, Float[Array, " k"]]:
    return {LATENT: latent}


def _like(projection: EigenProjection, params: PyTree) -> EigenProjection:
    """Check that a projection is of these parameters."""
    ours, theirs = named_elements(projection.centre), named_elements(params)
    if ours != theirs:
        odd = sorted({*ours} ^ {*theirs}) or "their order"
        raise ValueError(
            f"eigen_projected: the projection's centre has other parameters than the optimiser; "
            f"they differ in {odd}."
        )
    return projection


def _left_inverse(matrix: Float[Array, "n k"]) -> Float[Array, "k n"]:
    """Pseudo-inverse that no choice of units disturbs: rows and columns are scaled first."""
    transposed, rows = scaled_columns(matrix.T)
    unit, columns = scaled_columns(transposed.T)
    inverse = jnp.linalg.pinv(unit, rtol=rank_rtol(unit.dtype))
    return inverse / columns[:, None] / rows[None, :]
