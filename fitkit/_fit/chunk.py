"""The chunk: many compiled steps, which end by themselves where one fails."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from fitkit._fit.packing import Packed, PackedStep
from fitkit._fit.step import GOOD, Controls, FitState, Step
from fitkit._optimisers import verdict_of
from fitkit._sharding import everywhere, replicated

#: Memory for what a chunk records, in bytes: of a hundred parameters, a thousand steps, in
#: which the cost of a call does not show.
_RECORD_BUDGET = 2_000_000


class Chunk(eqx.Module):
    """What a compiled run of steps gives back."""

    state: Packed
    steps: Int[Array, ""]
    rows: Float[Array, "capacity columns"]
    outcome: Int[Array, ""]
    verdict: Int[Array, ""]


def capacity(columns: int) -> int:
    """Compute how many steps one chunk may take: as many as its record has room for."""
    return max(16, min(16384, _RECORD_BUDGET // (8 * columns)))


def make_chunk(step: Step, mesh: Mesh | None = None) -> Callable:
    """Compile a run of at most `steps` steps.

    The run ends at the first step that is not good, or once the optimiser's verdict is no longer
    0. Its length is data, so that it can follow the clock without compiling again. The state
    after a step that failed is not kept: a select in every step costs more than running the good
    ones again, which is what the caller does then. A chunk whose predecessor failed does nothing,
    so that it can be queued before that is known.

    Data may be spread over a mesh of devices: what comes back lies on all of them.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def chunk(
        state: Packed,
        controls: Controls,
        args: PyTree,
        steps: Int[Array, ""] | np.int32,
        outcome: Int[Array, ""] | np.int32,
    ) -> Chunk:
        take = PackedStep(step, state, controls, args)

        def verdict(state: Packed) -> Array:
            if not take.knows_verdict:
                return jnp.int32(0)
            return verdict_of(state.packing.unpack(state.arrays).optimiser)

        def goes_on(carry: Chunk) -> Array:
            return (carry.steps < most) & (carry.outcome == GOOD) & (carry.verdict == 0)

        def body(carry: Chunk) -> Chunk:
            state, row, outcome = take(carry.state, controls, args)
            rows = lax.dynamic_update_index_in_dim(carry.rows, row, carry.steps, 0)
            return Chunk(state, carry.steps + 1, rows, outcome, verdict(state))

        most = jnp.minimum(steps, capacity(take.row.size))
        rows = jnp.zeros((capacity(take.row.size), *take.row.shape), take.row.dtype)
        begun = take.begin(state, controls)
        start = Chunk(begun, jnp.int32(0), rows, jnp.asarray(outcome), verdict(state))
        done = lax.while_loop(goes_on, body, start)
        return dataclasses.replace(done, state=take.end(done.state, state))

    def packing(
        state: FitState | Packed, controls: Controls, args: PyTree, steps: Any, outcome: Any
    ) -> Chunk:
        # Where they are belongs to what is compiled.
        state, outcome = everywhere((Packed.of(state), outcome), mesh)
        return chunk(state, controls, args, steps, outcome)

    return packing
