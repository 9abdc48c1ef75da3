"""One step of a fit: evaluate, let the optimiser propose, scale, move."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fitkit._fisher import half_squares, quick_norm
from fitkit._fit.compress import comparison, compressed
from fitkit._fit.merge import SMALL
from fitkit._fit.problem import Params, Problem
from fitkit._fit.record import StepInfo, recorded
from fitkit._nonfinite import zero_nan_check
from fitkit._optimisers import (
    Bounds,
    GaussNewtonState,
    KnownLinear,
    Linear,
    linearised,
    put_aside,
    put_back,
    tolerant,
)
from fitkit._paths import ravel, spread
from fitkit._per_leaf import scale_leaf, separated, typed, zero_leaf

#: What an optimiser is told besides its gradient, if it takes it.
_EXTRA = ("value", "grad", "value_fn", "grad_fn", "residuals", "linear", "frozen", "factors")

#: What `Chunk.outcome` says of the step after the last good one.
GOOD, BAD_EVALUATION, BAD_UPDATE = 0, 1, 2

#: Steps skipped in a row after which a fit stops all the same.
MOST_SKIPPED = 100


class FitState(eqx.Module):
    """What a step changes: the parameters, the optimiser's state, and counts of what it passed.

    Beside them is which parameters were frozen in the latest chunk; a step leaves it as it is.
    """

    params: Params
    optimiser: optax.OptState
    frozen: Bool[Array, " leaves"]
    nonfinite: "NonFiniteCounts | None" = None
    #: How many batches were drawn; None where every step sees all data.
    drawn: Int[Array, ""] | None = None


class NonFiniteCounts(eqx.Module):
    """Counts of skipped steps and zeroed elements, of a fit that goes on over non-finite values."""

    skipped: Int[Array, ""]
    zeroed: Int[Array, ""]
    in_a_row: Int[Array, ""]


class Controls(eqx.Module):
    """What steers a running fit: the number that multiplies each parameter's step; 0 freezes."""

    multipliers: Float[Array | np.ndarray, " leaves"]

    @classmethod
    def of(cls, multipliers: Iterable[float]) -> "Controls":
        """Take plain numbers, in one fixed dtype: a Python float would retrace."""
        return cls(np.array(list(multipliers), np.float32))


class Evaluation(NamedTuple):
    """What the user's function gives a step: the loss, its gradient, and what both came from.

    `linear` is the linear model of the residuals, where the optimiser asks for it and they are
    not too many.
    """

    loss: Float[Array, ""]
    gradient: Params
    linear: Linear | None


class Step(NamedTuple):
    """One step, in two parts, and what comes before and after many of them.

    What is frozen stays so throughout, so the optimiser's memory of it is put aside before the
    first step and put back after the last, which costs the steps nothing.

    Attributes
    ----------
    begin, end
        The state at (state, controls) from which steps are taken; and the one at (after, before)
        that they lead to.
    evaluate
        Evaluates the user's function at (state, args).
    move
        Goes on from there with (state, evaluation, controls, args): where that leads, what is
        recorded, and whether it was good.
    draw
        Chooses the data of the step from (state,): a function from all data to those, which
        `evaluate` and `move` get.
    """

    begin: Callable[[FitState, Controls], FitState]
    end: Callable[[FitState, FitState], FitState]
    evaluate: Callable[[FitState, PyTree], Evaluation]
    move: Callable[..., tuple[FitState, StepInfo, Int[Array, ""]]]
    draw: Callable[[FitState], Callable[[PyTree], PyTree]]

    def __call__(
        self, state: FitState, controls: Controls, args: PyTree
    ) -> tuple[FitState, StepInfo, Int[Array, ""]]:
        """Take the step."""
        return self.on(state, controls, self.draw(state)(args))

    def on(
        self, state: FitState, controls: Controls, data: PyTree
    ) -> tuple[FitState, StepInfo, Int[Array, ""]]:
        """Take the step on the data that `draw` chose."""
        return self.move(state, self.evaluate(state, data), controls, data)


def initial_state(
    params: Params,
    optimiser: optax.GradientTransformation,
    on_nonfinite: str = "stop",
    draws: bool = False,
) -> FitState:
    """Build the state before the first step."""
    none = jnp.int32(0)
    counts = None if on_nonfinite == "stop" else NonFiniteCounts(none, none, none)
    frozen = jnp.zeros(len(jax.tree.leaves(params)), bool)
    drawn = none if draws else None
    return FitState(params, _first(optimiser, params), frozen, counts, drawn)


def started(state: FitState, optimiser: optax.GradientTransformation) -> FitState:
    """Build the state in which another optimiser begins where `state` is."""
    return dataclasses.replace(state, optimiser=_first(optimiser, state.params))


def make_step(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    bounds: Bounds | None = None,
    on_nonfinite: str = "stop",
) -> Step:
    """Build the pure step: evaluate, let the optimiser propose, scale, move.

    A frozen parameter has no gradient, and whatever the optimiser evaluates itself (a line
    search, a Jacobian) leaves it where it is; so the others move as if it were a constant.
    An element that would leave its bounds is treated the same way, for this step, and nothing is
    evaluated outside of them.

    With `on_nonfinite` ``"skip"`` a step that is not finite leaves the state as it was, and with
    ``"zero"`` what is not finite in the gradient or the update becomes zero; both are counted.
    """
    batches, problem = problem.batches, problem.of_step
    update = tolerant(optax.with_extra_args_support(optimiser).update, _EXTRA)
    residuals = problem.residuals
    if problem.mesh is None and problem.blocks is None:
        # A model may take long to trace, and gauss_newton asks for its values more than once.
        residuals = jax.jit(lambda params, args: problem.residuals(params, args))

    def evaluate(state: FitState, args: PyTree) -> Evaluation:
        params, model = state.params, None
        # Over a mesh, gauss_newton chooses itself how its Jacobian is spread.
        if isinstance(state.optimiser, GaussNewtonState) and problem.squares and not problem.mesh:
            if problem.blocks is None:
                model = linearised(lambda there: residuals(there, args), params)
            else:
                model = compressed(problem, params, args)
        if model is None:
            return Evaluation(*jax.value_and_grad(problem.loss)(params, args), None)
        _, unravel = ravel(params)
        return Evaluation(half_squares(model.residuals), unravel(model.gradient()), model)

    def move(
        state: FitState, evaluation: Evaluation, controls: Controls, args: PyTree
    ) -> tuple[FitState, StepInfo, Int[Array, ""]]:
        params, (loss, gradient, linear) = state.params, evaluation
        factors = _like(params, separated(controls.multipliers))
        frozen = _like(params, separated(controls.multipliers == 0))
        if bounds is not None:
            frozen = jax.tree.map(jnp.logical_or, frozen, bounds.blocked(params, gradient))

        def inside(candidate: Params) -> Params:
            # Line searches mix the dtypes of parameters.
            candidate = jax.tree.map(lambda there, p: typed(there, p.dtype), candidate, params)
            return candidate if bounds is None else bounds.project(candidate)

        def still(candidate: Params) -> Params:
            return jax.tree.map(jnp.where, frozen, params, inside(candidate))

        users = _promotion()

        @promoting(*users)
        def value_fn(candidate: Params) -> Array:
            return problem.loss(still(candidate), args)

        free_gradient = jax.tree.map(zero_leaf, frozen, gradient)
        zeroed = jnp.int32(0)
        if on_nonfinite == "zero":
            zeroed += _count_bad(free_gradient)
            free_gradient = zero_nan_check(free_gradient, infinities=True)
        extra: dict[str, Any] = {
            "value": loss,
            "grad": free_gradient,
            "value_fn": tolerant(value_fn, _EXTRA),
            "grad_fn": lambda candidate, _: jax.grad(value_fn)(candidate),
            "frozen": frozen,
            "factors": factors,
        }
        if problem.squares:
            # A branch of Gauss-Newton takes one vector, and not two arrays for each leaf: every one
            # of them would have to be compiled.
            held, (here, unravel) = spread(frozen, params), ravel(params)

            def standing(candidate: Params) -> Params:
                return unravel(jnp.where(held, here, ravel(inside(candidate))[0]))

            extra["residuals"] = promoting(*users)(lambda there: residuals(standing(there), args))
        if linear is not None:
            compare = None
            if problem.blocks is not None:
                seen = promoting(*users)(lambda function, there: function(still(there)))
                compare = comparison(problem, params, args, seen)
            extra["linear"] = KnownLinear(
                extra["residuals"], params, linear.without(frozen, params), compare
            )
        # Optax relies on promotion, which the user may have forbidden for their own code.
        with promoting("standard", "allow"):
            updates, optimiser_state = update(free_gradient, state.optimiser, params, **extra)
        optimiser_state = _as_before(optimiser_state, state.optimiser)
        proposed = jax.tree.map(lambda u, p: typed(u, p.dtype), updates, params)
        updates = jax.tree.map(
            lambda f, m, u: zero_leaf(f, scale_leaf(m, u)), frozen, factors, proposed
        )
        if on_nonfinite == "zero":
            zeroed += _count_bad(updates)
            updates = zero_nan_check(updates, infinities=True)
        moved = optax.apply_updates(params, updates)
        wide = any(leaf.dtype == jnp.float64 for leaf in (loss, *jax.tree.leaves(params)))
        norms = functools.partial(_norms, dtype=jnp.float64 if wide else jnp.float32)
        if bounds is None and on_nonfinite != "zero":
            moving = controls.multipliers != 0
            free = separated(moving.astype(controls.multipliers.dtype))
            gradient_norms = norms(free_gradient, of=gradient, factors=free)
            step_norms = norms(updates, of=proposed, factors=jax.tree.leaves(factors))
        else:
            gradient_norms, step_norms = norms(free_gradient), norms(updates)
        outcome = jnp.where(
            jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient_norms)),
            jnp.where(jnp.all(jnp.isfinite(step_norms)), GOOD, BAD_UPDATE),
            BAD_EVALUATION,
        )
        if bounds is not None:
            moved = bounds.project(moved)
            step_norms = norms(jax.tree.map(jnp.subtract, moved, params))
        loss = loss.astype(step_norms.dtype)
        info = StepInfo(loss, gradient_norms, step_norms, recorded(params))
        outcome = outcome.astype(jnp.int32)
        after = FitState(moved, optimiser_state, state.frozen, state.nonfinite, state.drawn)
        if state.nonfinite is not None:
            after, outcome = _go_on_over(state, after, zeroed, outcome, on_nonfinite == "skip")
        if state.drawn is not None:
            # Also after a step that was skipped: the next batch may do.
            after = dataclasses.replace(after, drawn=state.drawn + 1)
        return after, info, outcome

    def begin(state: FitState, controls: Controls) -> FitState:
        fresh, frozen = _first(optimiser, state.params), controls.multipliers == 0
        aside = put_aside(state.optimiser, fresh, frozen, state.frozen, state.params)
        return dataclasses.replace(state, optimiser=aside, frozen=frozen)

    def end(after: FitState, before: FitState) -> FitState:
        back = put_back(after.optimiser, before.optimiser, after.frozen, after.params)
        return dataclasses.replace(after, optimiser=back)

    def draw(state: FitState) -> Callable[[PyTree], PyTree]:
        if batches is None or state.drawn is None:
            return lambda args: args
        return functools.partial(batches.take, indices=batches.indices(state.drawn))

    return Step(begin, end, evaluate, move, draw)


def _go_on_over(
    before: FitState, after: FitState, zeroed: Array, outcome: Array, skip: bool
) -> tuple[FitState, Array]:
    """Go on over a step that is not finite, and count it."""
    old = before.nonfinite
    assert old is not None
    bad = (outcome != GOOD) & skip
    in_a_row = jnp.where(bad, old.in_a_row + 1, 0)
    counts = NonFiniteCounts(old.skipped + bad.astype(jnp.int32), old.zeroed + zeroed, in_a_row)
    if skip:
        after = jax.tree.map(
            lambda a, b: jnp.where(bad, a, b), before, dataclasses.replace(after, nonfinite=old)
        )
        # From the same state the same step follows: unless something else changes, none will be
        # good again.
        outcome = jnp.where(bad & (in_a_row < MOST_SKIPPED), GOOD, outcome)
    return dataclasses.replace(after, nonfinite=counts), outcome


def _first(optimiser: optax.GradientTransformation, params: Params) -> optax.OptState:
    with promoting("standard", "allow"):
        return strongly_typed(optimiser.init(params))


def strongly_typed(state: optax.OptState) -> optax.OptState:
    """Type every leaf strongly: a weakly typed one would compile the step a second time."""
    return jax.tree.map(
        lambda leaf: lax.convert_element_type(leaf, leaf.dtype) if eqx.is_array(leaf) else leaf,
        jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array_like(leaf) else leaf, state),
    )


def _as_before(after: optax.OptState, before: optax.OptState) -> optax.OptState:
    """Keep the dtypes of an optimiser's state, which parameters of mixed dtypes may change."""

    def one(new: Any, old: Any) -> Any:
        # Random keys stay as they are: nothing can be converted to their dtype.
        return typed(new, old.dtype) if eqx.is_array(new) else new

    return jax.tree.map(one, after, before)


def _promotion() -> tuple[str, str]:
    """Return how the user lets dtypes and ranks be promoted."""
    return jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion  # pyright: ignore


@contextlib.contextmanager
def promoting(dtypes: str, ranks: str) -> Iterator[None]:
    """Let dtypes and ranks be promoted as these settings of JAX say."""
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


def _count_bad(tree: PyTree) -> Array:
    counts = [jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.add, counts).astype(jnp.int32)


def _like(params: Params, values: Iterable[Any]) -> PyTree:
    """Build a tree like `params` from one value for each leaf."""
    return jax.tree.unflatten(jax.tree.structure(params), values)


def _norms(
    tree: PyTree, dtype: Any, of: PyTree = None, factors: Sequence[Array] | None = None
) -> Float[Array, " leaves"]:
    """Compute the norm of every leaf.

    Where the leaves are those of another tree times numbers, the norms of big ones are computed
    from that tree: written out only for their norm, they would cost as much as an optimiser does.
    """
    norms = [
        quick_norm(leaf)
        if factors is None or leaf.size <= SMALL
        else jnp.where(factors[k] == 0, 0, jnp.abs(factors[k]) * quick_norm(source))
        for k, (leaf, source) in enumerate(
            zip(jax.tree.leaves(tree), jax.tree.leaves(tree if of is None else of), strict=True)
        )
    ]
    return jnp.stack([typed(norm, dtype) for norm in norms])
