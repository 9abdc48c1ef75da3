"""What a fit is at one moment, and the earlier states that can still be gone back to."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fisher import FisherMatrix, FisherSpectrum
from fitkit._fit.events import Event
from fitkit._fit.history import History
from fitkit._fit.loop import Program
from fitkit._fit.packing import Packed
from fitkit._fit.problem import Params
from fitkit._fit.record import Columns
from fitkit._fit.status import Status
from fitkit._fit.steering import Steering
from fitkit._fit.step import Controls, FitState
from fitkit._residuals import WithPriors
from fitkit._result import Priors
from fitkit._sharding import is_explicit, relabelled

#: Memory that earlier states may take, in bytes, and how many are kept at most.
_BUDGET = 64_000_000
_MOST = 128

#: Changes of the controls that are remembered, to run on from a state that is kept: hours of
#: moving sliders, and a megabyte or so.
_MOST_CHANGES = 2000

#: Events that are kept, of which the oldest go first: a few hundred kilobytes.
MOST_EVENTS = 2000


class Best(NamedTuple):
    """The step with the smallest loss so far."""

    step: int
    loss: float
    params: PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A step of a fit, the state there as it is kept, and the program that came to it."""

    step: int
    kept: FitState | Packed
    program: Program

    @functools.cached_property
    def state(self) -> FitState:
        """The state, as a tree."""
        return self.kept.tree if isinstance(self.kept, Packed) else self.kept

    @functools.cached_property
    def view(self) -> FitState:
        """The state to be looked at: its small leaves may be arrays of NumPy."""
        return self.kept.view if isinstance(self.kept, Packed) else self.kept

    @functools.cached_property
    def loss(self) -> float:
        """The loss here, evaluated when it is first asked for."""
        return self.program.loss_at(self.view)

    @functools.cached_property
    def aux(self) -> PyTree:
        """What the loss function returns beside the loss here; None if nothing."""
        return self.program.aux_at(self.view)

    @property
    def params(self) -> PyTree:
        """The parameters, built as they came."""
        problem = self.program.problem
        mesh = problem.mesh if is_explicit(problem.mesh) else None
        arrays = jax.tree.map(jnp.asarray, self.view.params)
        return problem.whole_params(relabelled(arrays, mesh))

    @property
    def functions(self) -> dict[str, Any]:
        """Arguments of `fisher_matrix` or `assess`: functions of arrays alone."""
        problem = self.program.traced.value.problem
        return {
            "residuals": problem.residuals if problem.squares else None,
            "loss": None if problem.squares else problem.loss,
            "params": self.state.params,
            "args": self.program.args,
        }

    @property
    def apart(self) -> dict[str, Any]:
        """Arguments of `make_result` beside `functions`: what tells data and priors apart."""
        problem = self.program.traced.value.problem
        if not isinstance(self.program.args, WithPriors):
            return {}
        return {
            "data": None if problem.residuals_function is None else problem.data_residuals,
            "priors": Priors(
                problem.prior_loss, problem.prior_residuals if problem.squares else None
            ),
        }

    @property
    def eps(self) -> float:
        """The unit of rounding of the coarsest parameter."""
        return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(self.view.params))

    def with_params(self, params: Params) -> "Place":
        """Return the same step with other parameters."""
        return Place(self.step, dataclasses.replace(self.state, params=params), self.program)


@dataclasses.dataclass(frozen=True, eq=False)
class Lowest:
    """The smallest loss so far, exactly: a state that is kept, and how many steps to take from it.

    The loss of a step is known only when its chunk is read, and the states within a chunk are not
    kept. So what is kept is where the chunk began; the few steps from there are taken once more
    when somebody asks.
    """

    step: int
    loss: float
    origin: Place
    controls: Controls

    @functools.cached_property
    def place(self) -> Place:
        """The state of the smallest loss."""
        origin = self.origin
        if self.step == origin.step:
            return origin
        steps = self.step - origin.step
        state, _ = origin.program.replay(origin.kept, self.controls, steps)
        return Place(self.step, state, origin.program)

    def among(self, rows: Float[np.ndarray, "steps columns"], origin: Place, controls: Controls):
        """Return the lower one of this and the rows of the steps from `origin`."""
        # The loss of a batch says nothing: the lowest is met where the batch is easy.
        if not len(rows) or origin.program.problem.batches is not None:
            return self
        # A loss that is not finite was skipped.
        losses = np.where(np.isfinite(rows[:, 0]), rows[:, 0], np.inf)
        index = int(np.argmin(losses))
        if losses[index] >= self.loss:
            return self
        return Lowest(origin.step + index, float(losses[index]), origin, controls)


class Mark(NamedTuple):
    """A state that is kept, what steered the fit from there on, and the lowest loss until then."""

    place: Place
    controls: Controls
    lowest: Lowest


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """Earlier states by step number, in bounded memory; it never changes.

    A step is a pure function of state, controls and data, so a state between two marks is found by
    running on from the earlier one. On a CPU that gives the very same bits.

    Attributes
    ----------
    marks
        In the order of their steps.
    changes
        The controls that were in force from a step on.
    first
        The earliest step that can be gone back to.
    most
        How many marks are kept.
    """

    marks: tuple[Mark, ...]
    changes: tuple[tuple[int, Controls], ...]
    first: int
    most: int

    @classmethod
    def starting(cls, mark: Mark) -> "Timeline":
        """Build the one of a fit that goes on from here."""
        kept, step = mark.place.kept, mark.place.step
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(kept) if hasattr(leaf, "nbytes"))
        # Each may keep the state of its lowest loss as well. Two are the fewest: a step that is not
        # finite may have to be undone together with the one that led to it.
        most = max(2, min(_MOST, _BUDGET // max(2 * size, 1)))
        return cls((mark,), ((step, mark.controls),), step, most)

    def recorded(self, mark: Mark) -> "Timeline":
        """Keep a state; thin out the older ones."""
        step, changes, first = mark.place.step, self.changes, self.first
        if mark.controls is not changes[-1][1]:
            changes = (*changes, (step, mark.controls))
        marks = (*(one for one in self.marks if one.place.step < step), mark)
        if len(changes) > _MOST_CHANGES:
            changes = changes[_MOST_CHANGES // 2 :]
            first = max(first, changes[0][0])
            marks = tuple(one for one in marks if one.place.step >= first)
        if len(marks) > self.most:
            marks = (*marks[:-2:2], *marks[-2:])[-self.most :]
            first = max(first, marks[0].place.step)
        return Timeline(marks, changes, first, self.most)

    def truncated(self, step: int) -> "Timeline":
        """Forget what came after `step`, which is at or after `first`."""
        marks = tuple(mark for mark in self.marks if mark.place.step <= step)
        changes = tuple(change for change in self.changes if change[0] <= step)
        return dataclasses.replace(self, marks=marks, changes=changes or self.changes[:1])

    def at(self, step: int) -> tuple[Mark, Float[np.ndarray, "known columns"]]:
        """Find the state at `step`, and the rows of the steps that led there from a mark."""
        mark = max((m for m in self.marks if m.place.step <= step), key=lambda m: m.place.step)
        place, controls, lowest = mark
        turns = [change for change in self.changes if place.step < change[0] < step]
        known: list[np.ndarray] = []
        for turn, then in [*turns, (step, controls)]:
            if turn > place.step:
                state, rows = place.program.replay(place.kept, controls, turn - place.step)
                lowest = lowest.among(rows, place, controls)
                known.append(rows)
                place = Place(turn, state, place.program)
            controls = then
        return Mark(place, controls, lowest), np.concatenate(known) if known else np.empty((0, 1))

    def before(self, step: int, most: int) -> list[PyTree]:
        """Return the parameters at up to `most` steps up to `step`, the latest first."""
        steps = range(step, max(step - most, self.first - 1), -1)
        return [self.at(one)[0].place.state.params for one in steps]


@dataclasses.dataclass(frozen=True, eq=False)
class Failure:
    """A step that was not finite: its number, and what of it failed."""

    step: int
    outcome: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Snapshot:
    """Everything about a fit at one moment; it never changes.

    Made by `Fit.snapshot`. `Fit` replaces it as a whole, so that what is read from one snapshot
    belongs together, whatever the fit does meanwhile.

    Attributes
    ----------
    version : int
        Grows with every change that can be seen.
    status : Status
        What the fit is doing.
    stop_reason : str
        Why the latest run ended; empty while it goes on.
    optimiser_status : str
        What the optimiser says of itself: ``"converged"``, ``"stalled"``, ``"failed"``, or empty.
    target : int | None
        The step at which the run ends; None for one without an end, the present step without one.
    history : History
        Loss, gradient norms, step norms and values of every step.
    events : tuple[Event, ...]
        What happened to the fit, the latest last.
    error : BaseException | None
        What the user's function raised in the latest run.
    steps_per_second : float
        How fast the fit runs; 0 before it ran.
    start_loss : float
        The loss where the fit was first started.
    earlier : History | None
        That of the steps before the latest restart; None without.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> fit = fk.Fit(
    ...     loss=lambda params, args: params["flux"] ** 2,
    ...     params={"flux": 1.0},
    ...     optimiser=optax.sgd(0.25),
    ... )
    >>> fit.run(2, progress=False)
    >>> now = fit.snapshot
    >>> now.step, now.loss, now.status.value
    (2, 0.0625, 'finished')
    """

    version: int
    status: Status
    stop_reason: str
    optimiser_status: str
    target: int | None
    history: History
    events: tuple[Event, ...]
    error: BaseException | None
    steps_per_second: float
    start_loss: float
    # How the fit came here, and how it can go back.
    place: Place
    lowest: Lowest
    timeline: Timeline
    steering: Steering
    until: Callable[["Snapshot"], bool] | Literal["converged"] | None = None
    failure: Failure | None = None
    known_fisher: tuple[int, FisherMatrix] | None = None
    earlier: History | None = None
    known_spectrum: tuple[int, FisherSpectrum] | None = None

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self.place.step

    @property
    def params(self) -> PyTree:
        """The parameters, built as they came."""
        return self.place.params

    @property
    def loss(self) -> float:
        """The loss at `params`."""
        return self.place.loss

    @property
    def aux(self) -> PyTree:
        """What the loss function returns beside the loss, at `params`; None if nothing."""
        return self.place.aux

    @property
    def best(self) -> Best:
        """The step with the smallest loss so far, and its parameters."""
        lowest = self.lowest
        return Best(lowest.step, lowest.loss, lowest.place.params)

    @property
    def frozen(self) -> frozenset[str]:
        """The paths of the parameters that do not move."""
        return self.steering.frozen

    @property
    def factors(self) -> Mapping[str, float]:
        """By what each parameter's step is multiplied, by path."""
        return self.steering.factors

    def __repr__(self) -> str:
        return f"<Snapshot of step {self.step:,}, {self.status}>"

    @classmethod
    def starting(cls, place: Place) -> "Snapshot":
        """Build the one of a fit that has not run yet, at a place whose loss is finite."""
        names = tuple(place.program.assignment)
        steering = Steering.of(names, place.program.unmapped)
        lowest = Lowest(place.step, place.loss, place, steering.controls)
        return cls(
            version=0,
            status=Status.READY,
            stop_reason="",
            optimiser_status="",
            target=0,
            history=History.empty(Columns.of(place.view.params)),
            events=(),
            error=None,
            steps_per_second=0.0,
            start_loss=place.loss,
            place=place,
            lowest=lowest,
            timeline=Timeline.starting(Mark(place, steering.controls, lowest)),
            steering=steering,
        )

    def but(self, **changes: Any) -> "Snapshot":
        """Return the next snapshot, in which some of this is different."""
        return dataclasses.replace(self, version=self.version + 1, **changes)
