"""What is fitted: a loss, or residuals, with priors, over parameters that have been checked."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from fitkit._fisher import gradient_by_columns, half_squares, has_reverse, real_residuals
from fitkit._fit.batches import Batches
from fitkit._fit.blocks import Blocks
from fitkit._fit.shared import Programs
from fitkit._input import (
    LossFunction,
    check_aux,
    checked_params,
    outcome,
    read_whole,
    shortened,
    split_args,
    split_aux,
    stand_ins,
)
from fitkit._paths import Paths, named_leaves, ravel
from fitkit._programs import JaxSettings
from fitkit._residuals import (
    PriorFunction,
    WithPriors,
    check_starts,
    read_priors,
    rows_of,
    without_priors,
)
from fitkit._sharding import find_mesh, held_by, under

Params: TypeAlias = PyTree
T = TypeVar("T")
ResidualsFunction: TypeAlias = Callable[[Params, Any], PyTree]


class Nature(NamedTuple):
    """What shows when a problem is traced: see `Problem`."""

    forward_only: bool
    mesh: Mesh | None
    has_aux: bool


# To trace a model takes a tenth of a second and more, and what it tells is the same for each fit of
# the same functions to data of the same shapes. Each is a few words.
_NATURES: Programs[list[Nature]] = Programs(64)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A function to minimise, by its parameters.

    Functions inside `params` and `args` (the activation of a network, say) are no parameters and
    no data: they are set aside, and put back before the user's function sees them. Where there are
    priors, its data are `WithPriors`.
    """

    loss_function: LossFunction | None
    residuals_function: ResidualsFunction | None
    static_params: PyTree
    static_args: PyTree
    #: Whether reverse mode does not exist, so that the loss brings a gradient made forward.
    forward_only: bool = False
    #: The devices over which its data are spread.
    mesh: Mesh | None = None
    #: Those priors that are no residuals, by path.
    prior_functions: Mapping[str, PriorFunction] = dataclasses.field(default_factory=dict)
    #: Whether the loss function returns something beside the loss.
    has_aux: bool = False
    #: Which of its data a step sees; None for all of them.
    batches: Batches | None = None
    #: In which parts its functions see their data; None for all at once.
    blocks: Blocks | None = None
    #: By what the loss of its data is multiplied: of a batch, to estimate that of all data.
    weight: float = 1.0

    @property
    def squares(self) -> bool:
        """Whether the loss is half a sum of squares, so that `residuals` are all there is to it."""
        return self.residuals_function is not None and not self.prior_functions

    @property
    def parts(self) -> tuple[Any, ...]:
        """What it is made of."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @property
    def whole(self) -> "Problem":
        """The same, of which every step sees all data."""
        return dataclasses.replace(self, batches=None)

    @property
    def of_step(self) -> "Problem":
        """What a step minimises: the same, or that of a batch."""
        if self.batches is None:
            return self
        return dataclasses.replace(self, batches=None, weight=self.batches.weight)

    def loss(self, params: Params, args: PyTree) -> Float[Array, ""]:
        """Evaluate the loss, which `jax.grad` can take; of residuals, half the sum of squares.

        With priors it is the negative logarithm of the posterior density, but for a constant.
        """
        if self.forward_only:
            return gradient_by_columns(lambda p: self._loss(p, args))(params)
        return self._loss(params, args)

    def _loss(self, params: Params, args: PyTree) -> Float[Array, ""]:
        def evaluate(data: PyTree) -> Array:
            if self.loss_function is not None:
                return jnp.asarray(split_aux(self._call(self.loss_function, params, data))[0])
            return half_squares(self.residuals_of(params, data))

        data = without_priors(args)
        loss = evaluate(data) if self.blocks is None else self.blocks.loss(evaluate, data)
        loss = loss if self.weight == 1 else loss * self.weight
        if not isinstance(args, WithPriors):
            return loss
        with jax.numpy_dtype_promotion("standard"):
            return loss + self.prior_loss(params, args)

    def aux(self, params: Params, args: PyTree) -> PyTree:
        """Evaluate what the loss function returns beside the loss."""
        if self.loss_function is None:
            return None
        return split_aux(self._call(self.loss_function, params, without_priors(args)))[1]

    def residuals(self, params: Params, args: PyTree) -> PyTree[Float[Array, "..."]]:
        """Evaluate (model - data) / sigma, and after them what priors have of that kind."""
        data = self.data_residuals(params, args)
        return (data, self.prior_residuals(params, args)) if isinstance(args, WithPriors) else data

    def raw_residuals(self, params: Params, args: PyTree) -> PyTree:
        """Evaluate what the user's function returns; complex numbers as they are."""
        data = without_priors(args)

        def evaluate(data: PyTree) -> PyTree:
            assert self.residuals_function is not None
            return self._call(self.residuals_function, params, data)

        return evaluate(data) if self.blocks is None else self.blocks.residuals(evaluate, data)

    def data_residuals(self, params: Params, args: PyTree) -> PyTree[Float[Array, "..."]]:
        """Evaluate (model - data) / sigma; complex ones as pairs of real ones."""
        if self.residuals_function is None:
            raise ValueError("This problem was given a loss and has no residuals.")
        residuals = real_residuals(self.raw_residuals(params, args), "Fit")
        if self.weight == 1:
            return residuals
        return jax.tree.map(lambda one: one * math.sqrt(self.weight), residuals)

    def folded(
        self, change: Callable[[T, Callable[[Params], Array]], T], start: T, args: PyTree
    ) -> T:
        """Let the residuals of every block, as a function to one vector, change a state.

        Those of priors come after all data.
        """
        assert self.blocks is not None

        def of_data(state: T, data: PyTree) -> T:
            return change(state, lambda params: ravel(self.residuals_of(params, data))[0])

        state = self.blocks.folded(of_data, start, without_priors(args))
        if not isinstance(args, WithPriors) or not args.priors:
            return state
        return change(state, lambda params: ravel(self.prior_residuals(params, args))[0])

    def prior_residuals(self, params: Params, args: WithPriors) -> dict[str, Float[Array, "..."]]:
        """Evaluate the residuals of priors, by path."""
        return rows_of(args.priors, params)

    def prior_loss(self, params: Params, args: WithPriors) -> Float[Array, ""]:
        """Evaluate what priors add to the loss."""
        leaves = named_leaves(params)
        terms = [jnp.asarray(prior(leaves[path])) for path, prior in self.prior_functions.items()]
        if args.priors:
            terms.append(half_squares(self.prior_residuals(params, args)))
        with jax.numpy_dtype_promotion("standard"):
            return functools.reduce(jnp.add, terms)

    def whole_params(self, params: Params) -> PyTree:
        """Put back what is no array, so that the user sees the tree that came."""
        return eqx.combine(params, self.static_params)

    def checked(self, params: Params, args: PyTree, event: str = "Fit") -> "Problem":
        """Check what the user's function returns, and find out how it can be differentiated.

        By shape and dtype: nothing compiles. Returns a problem that knows the mode.
        """
        shapes = traced_shapes(params), traced_shapes(args), find_mesh(args), JaxSettings().key
        known = _NATURES.find(self.parts, shapes, list)
        if not known.value:
            known.value.append(self._nature(params, args, event))
            _NATURES.forget_changed(known)
        (nature,) = known.value
        if nature == (self.forward_only, self.mesh, self.has_aux):
            return self
        return dataclasses.replace(self, **nature._asdict())

    def _nature(self, params: Params, args: PyTree, event: str) -> Nature:
        whole = self._whole(params, stand_ins(without_priors(args)))
        mesh, has_aux = find_mesh(args), False
        if self.loss_function is not None:
            out = outcome(event, "loss", under(mesh, self.loss_function), *whole)
            loss, aux = split_aux(out)
            _check_loss(loss, event)
            check_aux(aux, event)
            has_aux = aux is not None
            mesh = mesh or held_by(self.loss_function, *whole)
        else:
            function = self.residuals_function
            assert function is not None
            _check_residuals(outcome(event, "residuals", under(mesh, function), *whole), event)
            mesh = mesh or held_by(function, *whole)
        checked = dataclasses.replace(self, mesh=mesh, has_aux=has_aux)
        forward_only = not has_reverse(event, lambda p: checked._loss(p, args), params)
        return Nature(forward_only, mesh, has_aux)

    def _whole(self, params: Params, data: PyTree) -> tuple[PyTree, PyTree]:
        """Put together what the user's function sees."""
        return self.whole_params(params), eqx.combine(data, self.static_args)

    def _call(self, function: Callable, params: Params, data: PyTree) -> Any:
        return under(self.mesh, function)(*self._whole(params, read_whole(data)))

    def residuals_of(self, params: Params, data: PyTree) -> PyTree[Float[Array, "..."]]:
        """Evaluate the residuals of some of the data, which are arrays."""
        assert self.residuals_function is not None
        return real_residuals(self._call(self.residuals_function, params, data), "Fit")


def make_problem(
    loss: LossFunction | None,
    residuals: ResidualsFunction | None,
    params: PyTree,
    args: PyTree,
    priors: Mapping[Paths, Any] | None = None,
) -> tuple[Problem, Params, PyTree]:
    """Check what the user passed and split it into a problem, its parameters and its data.

    Everything here is found by looking at shapes and values: nothing compiles.

    Raises
    ------
    TypeError
        If a parameter is no real floating-point number or array, if `loss` or `residuals` is
        no function or does not return what it should.
    ValueError
        If a parameter is empty or non-finite, if there are no parameters, or if not exactly one
        of `loss` and `residuals` is given; and whatever `read_priors` raises.
    """
    if (loss is None) == (residuals is None):
        given = "both" if loss is not None else "neither"
        raise ValueError(f"Fit: {given} of `loss` and `residuals` came; give exactly one.")
    function, kind = (loss, "loss") if residuals is None else (residuals, "residuals")
    if not callable(function):
        raise TypeError(
            f"Fit: `{kind}` must be a function of (params, args), not {shortened(function)}. "
            "Pass the function itself, without calling it."
        )
    arrays, static_params = checked_params(params, "Fit")
    data, static_args = split_args(args, "Fit")
    problem = Problem(loss, residuals, static_params, static_args)
    if priors:
        rows, functions = read_priors(priors, arrays)
        check_starts(rows, arrays)
        problem = dataclasses.replace(problem, prior_functions=functions)
        data = WithPriors(data, jax.tree.map(jnp.asarray, rows))
    return problem.checked(arrays, data), arrays, data


def traced_shapes(tree: PyTree) -> tuple[Any, ...]:
    """Return all that a trace knows of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    kinds = ((leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves)
    return structure, *kinds


def leaves_by_shape(function: Callable, *arguments: PyTree) -> list[jax.ShapeDtypeStruct]:
    """Find the leaves that a function returns; of shapes a user's node may refuse to be built."""
    return jax.eval_shape(lambda *given: jax.tree.leaves(function(*given)), *arguments)


def _check_loss(out: Any, event: str) -> None:
    cure = "A loss must return one real floating-point number"
    if not isinstance(out, jax.ShapeDtypeStruct):
        hint = ""
        if out is None:
            hint = ": perhaps its `return` is missing"
        elif len(jax.tree.leaves(out)) > 1:
            hint = ", or a pair of it and of what is to be seen beside it (`Fit.aux`)"
        raise TypeError(f"{event}: `loss` returned {out!r}. {cure}{hint}.")
    if out.shape != ():
        raise TypeError(
            f"{event}: `loss` returned an array of shape {out.shape}. {cure}: sum it, or pass the "
            "function as `residuals=` if its square is what should be small."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        hint = ": take its real part" if jnp.issubdtype(out.dtype, jnp.complexfloating) else ""
        raise TypeError(f"{event}: `loss` returned a number of dtype {out.dtype}. {cure}{hint}.")


def _check_residuals(out: PyTree, event: str) -> None:
    leaves = jax.tree.leaves(real_residuals(out, event))
    if sum(leaf.size for leaf in leaves) == 0:
        raise ValueError(
            f"{event}: `residuals` returned no elements; must be a tree of floating-point "
            "arrays, (model - data) / sigma."
        )
    if len(leaves) == 1 and leaves[0].shape == ():
        raise TypeError(
            f"{event}: `residuals` returned one number and no array. If it is what should be as "
            "small as possible, a sum of squares or a negative log-likelihood, pass the function "
            "as `loss=`; if there is one datum, return an array of shape (1,)."
        )
