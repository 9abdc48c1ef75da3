"""The host side of the compiled step: programs, what a chunk did, how long the next one is."""

import contextlib
import dataclasses
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, PyTree

from fitkit._fit.agree import require_all
from fitkit._fit.chunk import Chunk, make_chunk
from fitkit._fit.packing import Packed, of_packed
from fitkit._fit.problem import Params, Problem, traced_shapes
from fitkit._fit.shared import Programs, Shared
from fitkit._fit.step import (
    GOOD,
    Controls,
    FitState,
    Step,
    initial_state,
    make_step,
    promoting,
    strongly_typed,
)
from fitkit._optimisers import Assignment, Bounds, restart_judged
from fitkit._programs import JaxSettings, no_debugging, waiting_for_device
from fitkit._sharding import everywhere, replicated

#: How long a chunk should take, in seconds: short enough for sliders and pause to feel immediate.
_CHUNK_SECONDS = 0.05

#: How many steps it should take all the same, and for how long at most: memory that a model works
#: in is allocated once for a chunk, and where that comes from the operating system page by page,
#: one step a chunk costs a heavy model of a step of 40 ms a third of its speed, four a sixth.
_FEWEST, _LONGEST = 6, 0.3


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A problem as it is traced, and what was compiled of it.

    Attributes
    ----------
    problem
        The functions that are traced, of the first fit of this content.
    loss, aux
        Compiled.
    chunks
        Many steps, compiled, by optimiser.
    """

    problem: Problem
    loss: Any
    aux: Any
    chunks: Programs[Callable[..., Chunk]]

    @classmethod
    def of(cls, problem: Problem) -> "Traced":
        """Trace nothing yet."""
        # A new object, of which JAX knows no traces.
        problem = dataclasses.replace(problem)
        loss, aux = map(of_packed, (problem.loss, problem.aux))
        loss, aux = (jax.jit(one, out_shardings=replicated(problem.mesh)) for one in (loss, aux))
        return cls(problem, loss, aux, Programs(_MOST_CHUNKS))


#: What fits share: a few megabytes each, of compiled code and of what the functions hold.
_MOST_PROBLEMS, _MOST_CHUNKS = 16, 4
_TRACED: Programs[Traced] = Programs(_MOST_PROBLEMS)
_READY: weakref.WeakSet[Callable[..., Chunk]] = weakref.WeakSet()


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """One optimiser on one problem and its data, compiled when it is first used.

    What is compiled is shared with other fits of the same content.

    Attributes
    ----------
    problem, args, bounds, on_nonfinite
        What is fitted.
    optimiser, assignment
        One optax transformation for all parameters, and which optimiser moves each of them.
    shapes
        What a trace knows of the parameters.
    settings
        The JAX settings under which all of this runs.
    step
        The pure step.
    traced, compiled
        What is shared: the problem as it is traced, and many steps, compiled.
    """

    problem: Problem
    args: PyTree
    bounds: Bounds | None
    on_nonfinite: str
    optimiser: optax.GradientTransformation
    assignment: Assignment
    shapes: tuple[Any, ...]
    settings: JaxSettings
    step: Step
    traced: Shared[Traced]
    compiled: Shared[Callable[..., Chunk]]

    @classmethod
    def build(
        cls,
        problem: Problem,
        args: PyTree,
        bounds: Bounds | None,
        on_nonfinite: str,
        optimiser: optax.GradientTransformation,
        assignment: Assignment,
        shapes: tuple[Any, ...],
        settings: JaxSettings | None = None,
        own: "Program | None" = None,
    ) -> "Program":
        """Build the program of an optimiser, of what is compiled already; nothing compiles yet.

        What serves of the fit's `own` program is kept.
        """
        settings = settings or JaxSettings()
        traced = _TRACED.find(
            problem.parts,
            (shapes, traced_shapes(args), settings.key),
            lambda: Traced.of(problem),
            own and own.traced,
        )

        def steps() -> Callable[..., Chunk]:
            step = make_step(traced.value.problem, optimiser, bounds, on_nonfinite)
            return make_chunk(step, problem.mesh)

        compiled = traced.value.chunks.find(
            (optimiser.init, optimiser.update, bounds),
            on_nonfinite,
            steps,
            own.compiled if own is not None and own.traced is traced else None,
        )
        step = make_step(problem, optimiser, bounds, on_nonfinite)
        given = (problem, args, bounds, on_nonfinite, optimiser, assignment, shapes, settings)
        return cls(*given, step, traced, compiled)

    def but(self, **changes: Any) -> "Program":
        """Build the program in which some of what it is made of is different."""
        shared = ("step", "traced", "compiled")
        fields = [one.name for one in dataclasses.fields(self) if one.name not in shared]
        made_of = {name: getattr(self, name) for name in fields}
        return Program.build(**{**made_of, **changes}, own=self)

    @property
    def chunk(self) -> Callable[..., Chunk]:
        """Many steps, compiled."""
        return self.compiled.value

    @property
    def ready(self) -> bool:
        """Whether they have been compiled."""
        return self.chunk in _READY

    @property
    def unmapped(self) -> frozenset[str]:
        """The parameters that no optimiser moves."""
        return frozenset(path for path, own in self.assignment.items() if own is None)

    def on(self, other: "Program") -> "Program":
        """Return this optimiser's program on the problem and data of another."""
        return self.but(**{name: getattr(other, name) for name in ("problem", "args", "settings")})

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put its settings in force, to trace its functions."""
        with self.settings.applied(), no_debugging():
            yield
        _TRACED.forget_changed(self.traced)

    def begin(self, params: Params) -> FitState:
        """Build the state before the first step."""
        draws = self.problem.batches is not None
        return initial_state(params, self.optimiser, self.on_nonfinite, draws)

    def judged_anew(self, state: FitState) -> FitState:
        """Let an optimiser that gave a verdict begin anew."""
        with promoting("standard", "allow"):
            again = restart_judged(state.optimiser, self.optimiser, state.params)
        return dataclasses.replace(state, optimiser=strongly_typed(again))

    def queue(self, state: FitState | Packed, controls: Controls, size: int, outcome: Any) -> Chunk:
        """Queue a chunk of steps on the device."""
        arguments = (state, controls, self.args, np.int32(size), outcome)
        try:
            chunk = self.chunk(*arguments)
        except FloatingPointError:
            # Under jax.debug_nans JAX raises at the chunk that holds it; we find the step.
            with no_debugging():
                chunk = self.chunk(*arguments)
        _READY.add(self.chunk)
        return chunk

    def replay(
        self, state: FitState | Packed, controls: Controls, steps: int
    ) -> tuple[FitState | Packed, Float[np.ndarray, "steps columns"]]:
        """Take good steps once more: the state they lead to, and their rows."""
        require_all(self.problem.mesh, "An earlier state")
        rows = []
        with self.settings.applied(), no_debugging():
            while steps > 0:
                chunk = self.chunk(state, controls, self.args, np.int32(steps), np.int32(GOOD))
                size = min(steps, len(chunk.rows))  # No more than its record has room for.
                state, steps = chunk.state, steps - size
                rows.append(np.asarray(chunk.rows)[:size])
        return state, np.concatenate(rows) if rows else np.empty((0, 0))

    def loss_at(self, state: FitState) -> float:
        """Evaluate the loss at a state."""
        return float(self._evaluated("The loss", self.traced.value.loss, state))

    def aux_at(self, state: FitState) -> PyTree:
        """Evaluate what the loss function returns beside the loss at a state; None if nothing."""
        if not self.problem.has_aux:
            return None
        return self._evaluated("What is beside the loss", self.traced.value.aux, state)

    def _evaluated(self, what: str, function: Callable, state: FitState) -> Any:
        require_all(self.problem.mesh, what)
        params = Packed.of_params(state.params)
        with self.settings.applied(), no_debugging():
            return function(everywhere(params, self.problem.mesh), self.args)


class Taken(NamedTuple):
    """What one chunk did.

    Attributes
    ----------
    rows
        One of each step whose loss, gradient and update were finite, or passed over.
    outcome
        Whether the last step was good; see `Chunk`.
    verdict
        What the optimiser says.
    state
        Where it led, if all was good.
    """

    rows: Float[np.ndarray, "steps columns"]
    outcome: int
    verdict: int
    state: Packed


class Queued(NamedTuple):
    """A chunk on its way: from which step to which, what steers it, and when it was sent."""

    chunk: Chunk
    start: int
    end: int
    controls: Controls
    began: float

    def read(self) -> Taken:
        """Wait for the device."""
        chunk = self.chunk
        with waiting_for_device():
            count = int(chunk.steps)
        rows = np.asarray(chunk.rows)[:count]
        return Taken(rows, int(chunk.outcome), int(chunk.verdict), chunk.state)


class Pace:
    """How fast the steps are, and so how many the next chunk should take.

    Parameters
    ----------
    steps_per_second
        How fast they were in the run before; 0 where there was none.
    watched
        Whether the user is asked after every chunk if that is enough, so that slow steps beyond
        it would be for nothing.
    """

    def __init__(self, steps_per_second: float, watched: bool = False) -> None:
        self._fewest = 1 if watched else _FEWEST
        # Unless steps are known to be quick, what answers first is a short chunk; a later run may
        # be of other data, so it begins with a few.
        self.size = int(min(8, self._count(1 / steps_per_second))) if steps_per_second else 1
        self._steps, self._seconds, self._read = 0.0, 0.0, 0.0

    @property
    def steps_per_second(self) -> float:
        """How fast the latest chunks were; 0 before the first."""
        return self._steps / self._seconds if self._seconds else 0.0

    @property
    def depth(self) -> int:
        """How many chunks to have on their way: of long ones the next may wait for us."""
        return 1 if self._seconds * _FEWEST > self._steps * _CHUNK_SECONDS else 2

    def read(self, count: int, began: float) -> None:
        """Note a chunk of `count` steps that was queued at `began` and has just been read."""
        now = time.perf_counter()
        seconds, self._read = now - max(began, self._read), now
        if not count:
            return
        per_step = max(seconds, 1e-7) / count
        # Weighed by steps, so that the short chunks of the beginning, mostly overhead, fade fast.
        self._steps = 0.7 * self._steps + count
        self._seconds = 0.7 * self._seconds + seconds
        self.size = int(np.clip(self._count(per_step), max(self.size // 4, 1), 16 * self.size))

    def _count(self, seconds: float) -> float:
        """Compute how many steps a chunk should take, if one takes so long."""
        return max(1, min(max(_CHUNK_SECONDS / seconds, self._fewest), _LONGEST / seconds))
