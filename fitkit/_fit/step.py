"""The compiled step of a fit, and the chunk: many steps that stop by themselves where one fails."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fitkit._fisher import quick_norm
from fitkit._fit.problem import Params, Problem
from fitkit._nonfinite import zero_nan_check
from fitkit._optimisers import Bounds, put_aside, put_back, tolerant, verdict_of

#: Memory for what a chunk records, in bytes.
_RECORD_BUDGET = 1_000_000

#: What an optimiser is told besides its gradient, if it takes it.
_EXTRA = ("value", "grad", "value_fn", "grad_fn", "residuals", "frozen", "factors")

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


class NonFiniteCounts(eqx.Module):
    """Counts of skipped steps and zeroed elements, of a fit that goes on over non-finite values."""

    skipped: Int[Array, ""]
    zeroed: Int[Array, ""]
    in_a_row: Int[Array, ""]


class Controls(eqx.Module):
    """What steers a running fit: the number that multiplies each parameter's step; 0 freezes.

    One scalar for each leaf. With the elements of one array the arithmetic of every leaf would be
    a kernel of its own for XLA, which compiles hundreds of them one by one; as scalars, leaves of
    one shape share theirs.
    """

    multipliers: tuple[Float[Array | np.ndarray, ""], ...]

    @classmethod
    def of(cls, multipliers: Iterable[float]) -> "Controls":
        """Take plain numbers, as scalars of one fixed dtype: a Python float would retrace."""
        return cls(tuple(np.asarray(one, np.float32) for one in multipliers))


class StepInfo(eqx.Module):
    """What is recorded of a step: looked at, never carried.

    The loss and the norms of its gradient by each parameter (0 for a frozen one) are those at the
    parameters that the step started from; the step norms say how far it moved each parameter, in
    the parameter's unit.
    """

    loss: Float[Array | np.ndarray, ""]
    gradient_norms: Float[Array | np.ndarray, " leaves"]
    step_norms: Float[Array | np.ndarray, " leaves"]

    def row(self) -> Float[Array, " columns"]:
        """Lay the numbers out as `History.append` takes them."""
        return jnp.concatenate([self.loss[None], self.gradient_norms, self.step_norms])

    @classmethod
    def of_row(cls, row: Float[np.ndarray, " columns"]) -> "StepInfo":
        """Read a row of a chunk's record, as numpy numbers."""
        gradient_norms, step_norms = np.split(row[1:], 2)
        return cls(np.asarray(row[0]), gradient_norms, step_norms)


class Chunk(eqx.Module):
    """What a compiled run of steps gives back."""

    state: FitState
    steps: Int[Array, ""]
    rows: Float[Array, "capacity columns"]
    outcome: Int[Array, ""]
    verdict: Int[Array, ""]


@runtime_checkable
class Step(Protocol):
    """One step: where it leads, what is recorded, and whether it was good."""

    def __call__(
        self, state: FitState, controls: Controls, args: PyTree
    ) -> tuple[FitState, StepInfo, Int[Array, ""]]: ...


def initial_state(
    params: Params, optimiser: optax.GradientTransformation, on_nonfinite: str = "stop"
) -> FitState:
    """Build the state before the first step."""
    none = jnp.int32(0)
    counts = None if on_nonfinite == "stop" else NonFiniteCounts(none, none, none)
    frozen = jnp.zeros(len(jax.tree.leaves(params)), bool)
    return FitState(params, _first(optimiser, params), frozen, counts)


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
    update = tolerant(optax.with_extra_args_support(optimiser).update, _EXTRA)

    def step(
        state: FitState, controls: Controls, args: PyTree
    ) -> tuple[FitState, StepInfo, Int[Array, ""]]:
        params = state.params
        factors = _like(params, controls.multipliers)
        frozen = jax.tree.map(lambda one: one == 0, factors)

        loss, gradient = jax.value_and_grad(problem.loss)(params, args)
        if bounds is not None:
            frozen = jax.tree.map(jnp.logical_or, frozen, bounds.blocked(params, gradient))

        def still(candidate: Params) -> Params:
            # Line searches mix the dtypes of parameters.
            candidate = jax.tree.map(lambda there, p: there.astype(p.dtype), candidate, params)
            inside = candidate if bounds is None else bounds.project(candidate)
            return jax.tree.map(jnp.where, frozen, params, inside)

        users = _promotion()

        @promoting(*users)
        def value_fn(candidate: Params) -> Array:
            return problem.loss(still(candidate), args)

        free_gradient = jax.tree.map(lambda f, g: jnp.where(f, 0, g), frozen, gradient)
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
        if problem.residuals_function is not None:
            extra["residuals"] = promoting(*users)(
                lambda there: problem.residuals(still(there), args)
            )
        # Optax relies on promotion, which the user may have forbidden for their own code.
        with promoting("standard", "allow"):
            updates, optimiser_state = update(free_gradient, state.optimiser, params, **extra)
        optimiser_state = _as_before(optimiser_state, state.optimiser)
        updates = jax.tree.map(
            lambda f, m, u, p: jnp.where(f, 0, u.astype(p.dtype) * m.astype(p.dtype)),
            frozen,
            factors,
            updates,
            params,
        )
        if on_nonfinite == "zero":
            zeroed += _count_bad(updates)
            updates = zero_nan_check(updates, infinities=True)
        moved = optax.apply_updates(params, updates)
        wide = any(leaf.dtype == jnp.float64 for leaf in (loss, *jax.tree.leaves(params)))
        norms = functools.partial(_norms, dtype=jnp.float64 if wide else jnp.float32)
        gradient_norms, step_norms = norms(free_gradient), norms(updates)
        outcome = jnp.where(
            jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient_norms)),
            jnp.where(jnp.all(jnp.isfinite(step_norms)), GOOD, BAD_UPDATE),
            BAD_EVALUATION,
        )
        if bounds is not None:
            moved = bounds.project(moved)
            step_norms = norms(jax.tree.map(jnp.subtract, moved, params))
        info = StepInfo(loss.astype(step_norms.dtype), gradient_norms, step_norms)
        outcome = outcome.astype(jnp.int32)
        after = FitState(moved, optimiser_state, state.frozen, state.nonfinite)
        if state.nonfinite is not None:
            after, outcome = _go_on_over(state, after, zeroed, outcome, on_nonfinite == "skip")
        return after, info, outcome

    return step


def capacity(params: Params) -> int:
    """Compute how many steps one chunk may take: as many as its record has room for."""
    columns = 1 + 2 * len(jax.tree.leaves(params))
    return max(16, min(16384, _RECORD_BUDGET // (8 * columns)))


def make_chunk(step: Step, optimiser: optax.GradientTransformation) -> Callable:
    """Compile a run of at most `steps` steps of an optimiser.

    The run ends at the first step that is not good, or once the optimiser's verdict is no longer
    0. Its length is data, so that it can follow the clock without compiling again. The state
    after a step that failed is not kept: a select in every step costs more than running the good
    ones again, which is what the caller does then. A chunk whose predecessor failed does nothing,
    so that it can be queued before that is known.

    What is frozen stays so throughout, so the optimiser's memory of it is put aside before the
    first step and put back after the last, which costs the steps nothing.
    """

    @jax.jit
    def chunk(
        state: FitState,
        controls: Controls,
        args: PyTree,
        steps: Int[Array, ""] | np.int32,
        outcome: Int[Array, ""] | np.int32,
    ) -> Chunk:
        # Of the row alone: states may refuse to be built of shapes, as those of kUPS do.
        row = jax.eval_shape(lambda: step(state, controls, args)[1].row())

        def goes_on(carry: Chunk) -> Array:
            return (carry.steps < steps) & (carry.outcome == GOOD) & (carry.verdict == 0)

        def body(carry: Chunk) -> Chunk:
            state, info, outcome = step(carry.state, controls, args)
            rows = lax.dynamic_update_index_in_dim(carry.rows, info.row(), carry.steps, 0)
            return Chunk(state, carry.steps + 1, rows, outcome, verdict_of(state.optimiser))

        rows = jnp.zeros((capacity(state.params), *row.shape), row.dtype)
        verdict, outcome = verdict_of(state.optimiser), jnp.asarray(outcome)
        params, optimiser_state = state.params, state.optimiser
        frozen = jnp.stack([one == 0 for one in controls.multipliers])
        fresh = _first(optimiser, params)
        aside = put_aside(optimiser_state, fresh, frozen, state.frozen, params)
        start = FitState(params, aside, frozen, state.nonfinite)
        end = lax.while_loop(goes_on, body, Chunk(start, jnp.int32(0), rows, outcome, verdict))
        after = put_back(end.state.optimiser, optimiser_state, frozen, params)
        return dataclasses.replace(end, state=dataclasses.replace(end.state, optimiser=after))

    return chunk


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
    return jax.tree.map(
        lambda new, old: new.astype(old.dtype) if eqx.is_array(new) else new, after, before
    )


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


def _norms(tree: PyTree, dtype: Any) -> Float[Array, " leaves"]:
    return jnp.stack([quick_norm(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)])
