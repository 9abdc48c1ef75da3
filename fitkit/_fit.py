"""`Fit`: the one live object. It runs the compiled chunks, and is watched and steered meanwhile."""

import atexit
import contextlib
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from fitkit._history import History
from fitkit._names import Paths, named_leaves
from fitkit._optimisers import assign, injected_learning_rates, map_optimisers
from fitkit._problem import LossFunction, ResidualsFunction, make_problem
from fitkit._steering import LearningRates, Steering
from fitkit._step import (
    BAD_EVALUATION,
    GOOD,
    Chunk,
    Controls,
    FitState,
    StepInfo,
    capacity,
    initial_state,
    make_chunk,
    make_step,
    verdict_of,
)
from fitkit._timeline import Timeline

#: How long a chunk should take, in seconds: short enough for sliders and pause to feel immediate.
_CHUNK_SECONDS = 0.05

_VERDICTS = {1: "converged", 2: "stalled", 3: "failed"}


class Event(NamedTuple):
    """Something that happened to a fit: at which step, and what, in words."""

    step: int
    text: str


class Best(NamedTuple):
    """The step with the smallest loss so far."""

    step: int
    loss: float
    params: PyTree


class _Now(NamedTuple):
    """Where the fit stands; replaced as a whole, so that a reader never sees half a change."""

    step: int
    state: FitState
    loss: float


class _Queued(NamedTuple):
    chunk: Chunk
    start: int
    controls: Controls
    queued_at: float


class Fit:
    """Fit a differentiable model: run it, watch it, steer it.

    Parameters
    ----------
    loss
        ``loss(params, args)``, a scalar to minimise: a negative log-likelihood where errors are
        wanted.
    residuals
        Instead of `loss`: ``residuals(params, args)``, a pytree of (model - data) / sigma. The
        loss is then half the sum of their squares.
    params
        Where to start: any pytree of real floating-point numbers and arrays.
    args
        What the function needs besides, passed on as it is: a model, the data.
    optimiser
        One optax optimiser for all parameters, or a mapping from paths, subtrees and globs to
        optimisers (see `map_optimisers`). A parameter that it leaves out stays frozen.

    Raises
    ------
    TypeError, ValueError
        If something of this cannot be fitted; the message names the parameter and the cure.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> x = jnp.linspace(0.0, 1.0, 20)
    >>> def residuals(params, args):
    ...     return params["slope"] * x + params["offset"] - (3.0 * x + 1.0)
    >>> fit = fk.Fit(
    ...     residuals=residuals, params={"slope": 1.0, "offset": 0.0}, optimiser=optax.adam(0.1)
    ... )
    >>> fit.run(500, progress=False)
    >>> round(float(fit.params["slope"]), 2)
    3.0
    """

    def __init__(
        self,
        *,
        loss: LossFunction | None = None,
        residuals: ResidualsFunction | None = None,
        params: PyTree,
        args: Any = None,
        optimiser: optax.GradientTransformation
        | Mapping[Paths, optax.GradientTransformation]
        | None = None,
    ) -> None:
        self._problem, arrays, self._args = make_problem(loss, residuals, params, args)
        self.names: tuple[str, ...] = tuple(named_leaves(arrays))
        if optimiser is None:
            raise ValueError("Fit: `optimiser` is missing; pass one, such as optax.adam(1e-2).")
        self._assignment = assign(self.names, optimiser)
        transformation = (
            map_optimisers(arrays, optimiser)[0] if isinstance(optimiser, Mapping) else optimiser
        )
        step = make_step(self._problem, transformation)
        self._chunk = make_chunk(step, verdict_of)
        self._loss_at = jax.jit(self._problem.loss)
        self._capacity = capacity(arrays)
        self._per_chunk = 8
        self._seconds_per_step = 0.0

        start_loss = float(self._loss_at(arrays, self._args))
        if not np.isfinite(start_loss):
            raise ValueError(
                f"Fit: the loss is {start_loss} at the start. Start where the model is finite; "
                "`fitkit.find_nonfinite` says which operation made it so."
            )
        state = initial_state(arrays, transformation)
        self._now = _Now(0, state, start_loss)
        self._best = (0, start_loss)
        self.history = History(self.names)
        self.events: list[Event] = []
        self.error: BaseException | None = None
        self.target = 0
        self._status = "ready"
        self._compiled = False
        self._still = threading.Event()
        self._still.set()
        self._pause = threading.Event()
        self._condition = threading.Condition()
        self.version = 0

        unmapped = tuple(path for path, own in self._assignment.items() if own is None)
        self._steering = Steering(self.names, unmapped, self._note)
        self.learning_rates = LearningRates(self._steering, self._own_learning_rates)
        self._timeline = Timeline(self._again, state, self._steering.controls)

    # What can be seen.

    @property
    def params(self) -> PyTree:
        """The parameters, built as they came."""
        return self._problem.whole_params(self._now.state.params)

    @property
    def loss(self) -> float:
        """The loss at `params`; while the fit runs, the latest that was recorded."""
        return self._now.loss

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self._now.step

    @property
    def status(self) -> str:
        """What the fit is doing, in a word.

        One of ``"ready"``, ``"compiling"``, ``"running"``, ``"paused"``, ``"finished"`` (all steps
        taken), ``"stopped"``, ``"converged"``, ``"stalled"``, ``"non-finite"``, ``"failed"``.
        """
        return self._status

    @property
    def message(self) -> str:
        """What the fit is doing, in a line."""
        if self.error is not None:
            return f"failed at step {self.step}: {type(self.error).__name__}: {self.error}"
        if self._status == "non-finite":
            return f"non-finite at step {self.step + 1}; the last finite state is kept"
        return f"{self._status}: step {self.step} of {self.target}, loss {self.loss:.6g}"

    @property
    def steps_per_second(self) -> float:
        """How fast the fit runs; 0 before it ran."""
        return 1 / self._seconds_per_step if self._seconds_per_step else 0.0

    @property
    def frozen(self) -> frozenset[str]:
        """The paths of the parameters that do not move."""
        return self._steering.frozen

    @property
    def best(self) -> Best:
        """The step with the smallest loss so far, with its parameters."""
        step, loss = self._best
        return Best(step, loss, self._problem.whole_params(self._timeline.at(step).params))

    def __repr__(self) -> str:
        frozen = f", frozen: {', '.join(sorted(self.frozen))}" if self.frozen else ""
        return f"Fit({len(self.names)} parameters, {self.message}{frozen})"

    # What can be done.

    def run(self, n: int = 1000, progress: bool = True) -> None:
        """Take `n` steps and wait for them.

        Interrupting it (Ctrl-C, the stop button of the notebook) pauses the fit; nothing is lost,
        and `resume` or `run` go on.

        Parameters
        ----------
        n
            How many steps to take, at most.
        progress
            Whether to print a line that says how far it is.

        Raises
        ------
        ValueError
            If `n` is not a positive whole number.
        RuntimeError
            If the fit is running already.
        Exception
            Whatever the user's function raised.
        """
        self.start(n)
        self._watch(progress)

    def start(self, n: int = 1000) -> None:
        """Take `n` steps in the background, and return at once.

        Raises
        ------
        ValueError
            If `n` is not a positive whole number.
        RuntimeError
            If the fit is running already.
        """
        self._begin(self.step + _whole("start", n))
        self._launch()

    def resume(self) -> None:
        """Go on to the end of the run that was paused, in the background."""
        if self.target <= self.step:
            raise RuntimeError(
                f"resume: nothing is left of the last run, which ended at step {self.step} "
                f"({self._status}). Use run(n) or start(n)."
            )
        self._begin(self.target)
        self._launch()

    def pause(self, block: bool = True) -> None:
        """Stop after the present chunk, a tenth of a second or so; `resume` goes on.

        Parameters
        ----------
        block
            Whether to return only when the fit stands still.
        """
        self._pause.set()
        if block and threading.current_thread() is not getattr(self, "_worker", None):
            self._still.wait()

    def stop(self, block: bool = True) -> None:
        """Stop after the present chunk and give up what is left of the run."""
        self.target = 0
        self.pause(block)
        if self._still.is_set():
            self._settle()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the fit stands still. Interrupting this pauses the fit.

        Raises
        ------
        TimeoutError
            If the fit still runs after `timeout` seconds.
        Exception
            Whatever the user's function raised.
        """
        self._watch(progress=False, timeout=timeout)

    def steps(self, n: int | None = None, every: int = 1) -> Iterator[StepInfo]:
        """Run in a loop of your own: yield after every `every` steps.

        Stop asking and the fit stands still. Between two steps everything can be seen and changed.

        Parameters
        ----------
        n
            How many steps to take; None for no end.
        every
            How many to take at a time.

        Yields
        ------
        StepInfo
            The loss and norms recorded of the last step taken, as numpy numbers and arrays.
        """
        every = min(_whole("steps", every), self._capacity)
        self._begin(self.step + (_whole("steps", n) if n is not None else sys.maxsize >> 1))
        try:
            for rows in self._chunks(every):
                if len(rows):
                    yield _as_info(rows[-1], len(self.names))
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._settle()

    def freeze(self, pattern: Paths) -> None:
        """Hold parameters where they are, from the next chunk on.

        Parameters
        ----------
        pattern
            A path, the path of a subtree, a glob, or a tuple of those.

        Raises
        ------
        UnknownPathError
            If it matches no parameter; the message lists the nearest.
        """
        self._steering.freeze(pattern)

    def thaw(self, pattern: Paths) -> None:
        """Let frozen parameters move again; the counterpart of `freeze`."""
        self._steering.thaw(pattern)

    def rewind(self, step: int) -> None:
        """Go back to an earlier step, optimiser and all; what came after it is forgotten.

        A running fit is paused first. Learning rates and freezing stay as they are now.

        Raises
        ------
        ValueError
            If the fit was never at `step`.
        """
        self.pause()
        if not 0 <= step <= self.step:
            raise ValueError(f"rewind: step {step} is not between 0 and {self.step}.")
        state = self._timeline.at(step)
        self._timeline.truncate(step)
        self.history.truncate(step)
        self._now = _Now(step, state, float(self._loss_at(state.params, self._args)))
        self._best = self._best_of_history() if self._best[0] > step else self._best
        self.target, self.error = step, None
        self._set_status("ready" if step == 0 else "stopped")
        self._note(f"rewound to step {step}")

    def wait_for_change(self, since: int, timeout: float | None = None) -> int:
        """Sleep until something visible differs from version `since`; give the new version."""
        with self._condition:
            self._condition.wait_for(lambda: self.version != since, timeout)
            return self.version

    # How it runs.

    def _begin(self, target: int) -> None:
        with self._condition:
            if not self._still.is_set():
                raise RuntimeError(
                    f"The fit is running already (step {self.step} of {self.target}). pause() "
                    "or wait() first, or open another Fit."
                )
            self._still.clear()
        self._pause.clear()
        self.target, self.error = target, None
        self._set_status("running" if self._compiled else "compiling")

    def _launch(self) -> None:
        self._worker = threading.Thread(target=self._work, name="fitkit-fit", daemon=True)
        _RUNNING.add(self)
        self._worker.start()

    def _work(self) -> None:
        try:
            for _ in self._chunks(None):
                pass
        except BaseException as error:  # It reaches the user from `wait` or `run`.
            self._fail(error)
        finally:
            self._settle()

    def _chunks(self, every: int | None) -> Iterator[np.ndarray]:
        """Run to the target; yield the rows of each chunk once they are in the history.

        With `every` None the length of the chunks follows the clock, and the next one is queued
        before the last is read, so that the device need not wait for us.
        """
        depth = 1 if every else 2
        queue: deque[_Queued] = deque()
        step, state, outcome = self.step, self._now.state, np.int32(GOOD)
        try:
            while True:
                while len(queue) < depth and step < self.target and not self._pause.is_set():
                    size = min(every or self._per_chunk, self._capacity, self.target - step)
                    controls = self._steering.controls
                    began = time.perf_counter()
                    chunk = self._chunk(state, controls, self._args, np.int32(size), outcome)
                    if not self._compiled:
                        self._compiled, began = True, time.perf_counter()
                        self._set_status("running")
                    queue.append(_Queued(chunk, step, controls, began))
                    step, state, outcome = step + size, chunk.state, chunk.outcome
                if not queue:
                    return
                rows, goes_on = self._absorb(queue.popleft())
                if not goes_on:
                    queue.clear()
                yield rows
                if not goes_on:
                    return
        finally:
            for queued in queue:
                self._absorb(queued)

    def _absorb(self, queued: _Queued) -> tuple[np.ndarray, bool]:
        """Read a chunk that was queued: its rows into the history, its state as the present one."""
        chunk, start, controls, queued_at = queued
        taken, outcome = int(chunk.steps), int(chunk.outcome)
        done = time.perf_counter()
        self._keep_pace(taken, done - max(queued_at, getattr(self, "_last_read", 0.0)))
        self._last_read = done
        rows = np.asarray(chunk.rows)[:taken]
        self._timeline.record(start, self._now.state, controls)
        if outcome != GOOD:
            return self._undo(start, taken, outcome, rows), False
        self.history.append(rows)
        self._keep_best(start, rows[:, 0])
        loss = float(rows[-1, 0]) if taken else self._now.loss
        self._now = _Now(start + taken, chunk.state, loss)
        verdict = int(chunk.verdict)
        if verdict:
            self._set_status(_VERDICTS[verdict])
        self._touch()
        return rows, not verdict

    def _undo(self, start: int, taken: int, outcome: int, rows: np.ndarray) -> np.ndarray:
        """Go back to the last state at which loss, gradient and parameters are finite."""
        failed = start + taken - 1
        good = max(failed - (outcome == BAD_EVALUATION), 0)
        rows = rows[: max(good - start, 0)]
        self.history.append(rows)
        self.history.truncate(good)
        self._keep_best(start, rows[:, 0])
        state = self._timeline.at(good)
        self._timeline.truncate(good)
        self._now = _Now(good, state, float(self._loss_at(state.params, self._args)))
        self._set_status("non-finite")
        self._note(f"non-finite at step {good + 1}")
        return rows

    def _again(self, state: FitState, controls: Controls, steps: int) -> FitState:
        """Run good steps once more, for a state that was not kept."""
        while steps > 0:
            size = min(steps, self._capacity)
            state = self._chunk(state, controls, self._args, np.int32(size), np.int32(GOOD)).state
            steps -= size
        return state

    def _keep_pace(self, taken: int, seconds: float) -> None:
        """Choose the length of the next chunk, at most four times longer or shorter."""
        if not taken:
            return
        per_step = max(seconds, 1e-7) / taken
        self._seconds_per_step = (
            0.7 * self._seconds_per_step + 0.3 * per_step if self._seconds_per_step else per_step
        )
        wanted = _CHUNK_SECONDS / per_step
        self._per_chunk = int(np.clip(wanted, max(taken // 4, 1), 4 * self._per_chunk))

    def _keep_best(self, start: int, losses: np.ndarray) -> None:
        if len(losses):
            index = int(np.argmin(losses))
            if losses[index] < self._best[1]:
                self._best = (start + index, float(losses[index]))

    def _best_of_history(self) -> tuple[int, float]:
        """Find the best again after a rewind, as exactly as the history still knows it."""
        lowest = (self.step, self.loss)
        if len(self.history):
            losses = self.history.loss
            index = int(np.argmin(losses))
            if losses[index] < lowest[1]:
                lowest = (int(self.history.steps[index]), float(losses[index]))
        return lowest

    def _settle(self) -> None:
        """Stand still: the loss at the present parameters, and what the fit is from now on."""
        now = self._now
        if self._status in ("running", "compiling"):
            with contextlib.suppress(Exception):
                # If the user's function raises here, it raised before, and that is reported.
                now = now._replace(loss=float(self._loss_at(now.state.params, self._args)))
            self._now = now
            self._keep_best(now.step, np.array([now.loss]))
            self._status = "paused" if now.step < self.target else "finished"
        if self.target == 0 and self._status in ("paused", "finished"):
            self._status = "stopped"
        _RUNNING.discard(self)
        self._still.set()
        self._touch()

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, GeneratorExit):
            self.error = error
            self._set_status("failed")

    def _watch(self, progress: bool, timeout: float | None = None) -> None:
        """Wait in the caller's thread, which alone hears an interrupt, until all stands still."""
        until = None if timeout is None else time.monotonic() + timeout
        line = _ProgressLine() if progress else None
        try:
            while not self._still.wait(0.2 if until is None else min(0.2, _left(until))):
                if line:
                    line.show(self)
                if until is not None and _left(until) == 0:
                    raise TimeoutError(f"The fit still runs after {timeout} s: {self.message}.")
        except KeyboardInterrupt:
            self.pause()
        if line:
            line.close(self)
        if self.error is not None:
            raise self.error

    def _own_learning_rates(self) -> dict[str, float]:
        rates = injected_learning_rates(self._now.state.optimiser, self._assignment)
        return {path: float(rate) for path, rate in rates.items()}

    def _note(self, text: str) -> None:
        self.events.append(Event(self.step, text))
        self._touch()

    def _set_status(self, status: str) -> None:
        self._status = status
        self._touch()

    def _touch(self) -> None:
        with self._condition:
            self.version += 1
            self._condition.notify_all()


class _ProgressLine:
    """One line, written over itself, that says how far a fit is."""

    def show(self, fit: Fit) -> None:
        share = fit.step / max(fit.target, 1)
        bar = ("━" * int(24 * share)).ljust(24, "─")
        print(f"\r{bar} {self._words(fit)}", end="", flush=True)

    def close(self, fit: Fit) -> None:
        print(f"\r{' ' * 100}\r{fit.status}: {self._words(fit)}", flush=True)

    def _words(self, fit: Fit) -> str:
        return f"step {fit.step:,}, loss {fit.loss:.6g}, {fit.steps_per_second:,.0f} steps/s  "


_RUNNING: weakref.WeakSet[Fit] = weakref.WeakSet()


@atexit.register
def _pause_all() -> None:
    """Let no thread of ours be inside JAX while the interpreter goes down."""
    for fit in list(_RUNNING):
        fit.pause(block=False)
    for fit in list(_RUNNING):
        fit._still.wait(10)


def _whole(event: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{event}: {n!r} steps; must be a whole number, 1 or more.")
    return int(n)


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.0)


def _as_info(row: np.ndarray, count: int) -> StepInfo:
    loss, gradient_norms, step_norms = np.split(row, [1, 1 + count])
    return StepInfo(loss[0], gradient_norms, step_norms)


