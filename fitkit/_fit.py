"""`Fit`: the one live object, that runs in the background and is watched and steered meanwhile."""

import atexit
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax
from jaxtyping import PyTree

from fitkit import _checkpoint
from fitkit._fisher import fisher_matrix
from fitkit._fisher_matrix import FisherMatrix
from fitkit._history import History
from fitkit._loop import Loop
from fitkit._names import Paths, named_leaves
from fitkit._optimisers import assign, injected_learning_rates, map_optimisers
from fitkit._problem import LossFunction, ResidualsFunction, make_problem
from fitkit._result import Result
from fitkit._steering import LearningRates, Steering
from fitkit._step import StepInfo, verdict_of
from fitkit._verdict import make_result


class Event(NamedTuple):
    """Something that happened to a fit: at which step, and what, in words."""

    step: int
    text: str


class Best(NamedTuple):
    """The step with the smallest loss so far."""

    step: int
    loss: float
    params: PyTree


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
        self._problem, arrays, data = make_problem(loss, residuals, params, args)
        self._args = args
        self.names: tuple[str, ...] = tuple(named_leaves(arrays))
        if optimiser is None:
            raise ValueError("Fit: `optimiser` is missing; pass one, such as optax.adam(1e-2).")
        self._assignment = assign(self.names, optimiser)
        if isinstance(optimiser, Mapping):
            optimiser = map_optimisers(arrays, optimiser)[0]

        self.events: list[Event] = []
        self.error: BaseException | None = None
        self.target = 0
        self.version = 0
        self._status = "ready"
        self._condition = threading.Condition()
        self._still = threading.Event()
        self._still.set()
        self._pause = threading.Event()
        self._worker: threading.Thread | None = None
        unmapped = tuple(path for path, own in self._assignment.items() if own is None)
        self._steering = Steering(self.names, unmapped, self._note)
        self.learning_rates = LearningRates(self._steering, self._own_learning_rates)
        self._loop = Loop(self._problem, arrays, data, optimiser, self._steering.controls)
        if not math.isfinite(self.loss):
            raise ValueError(
                f"Fit: the loss is {self.loss} at the start. Start where the model is finite; "
                "`fitkit.find_nonfinite` says which operation made it so."
            )

    # What can be seen.

    @property
    def params(self) -> PyTree:
        """The parameters, built as they came."""
        return self._problem.whole_params(self._loop.now.state.params)

    @property
    def loss(self) -> float:
        """The loss at `params`; while the fit runs, the latest that was recorded."""
        return self._loop.now.loss

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self._loop.now.step

    @property
    def history(self) -> History:
        """Loss, gradient norms and step norms of every step, in bounded memory."""
        return self._loop.history

    @property
    def best(self) -> Best:
        """The step with the smallest loss so far, with its parameters."""
        step, loss = self._loop.lowest
        return Best(step, loss, self._problem.whole_params(self._loop.timeline.at(step).params))

    @property
    def frozen(self) -> frozenset[str]:
        """The paths of the parameters that do not move."""
        return self._steering.frozen

    @property
    def steps_per_second(self) -> float:
        """How fast the fit runs; 0 before it ran."""
        return 1 / self._loop.seconds_per_step if self._loop.seconds_per_step else 0.0

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
            return f"failed at step {self.step:,}: {type(self.error).__name__}: {self.error}"
        if self._status == "non-finite":
            return f"non-finite at step {self.step + 1:,}; the last finite state is kept"
        of = f" of {self.target:,}" if self.target > self.step else ""
        return f"{self._status}: step {self.step:,}{of}, loss {self.loss:.6g}"

    def __repr__(self) -> str:
        frozen = f"; frozen: {', '.join(sorted(self.frozen))}" if self.frozen else ""
        return f"<Fit of {len(self.names)} parameters, {self.message}{frozen}>"

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
        try:
            self._launch(self.step + _whole("run", n))
            self._watch(progress)
        except KeyboardInterrupt:
            self.pause()

    def start(self, n: int = 1000) -> None:
        """Take `n` steps in the background, and return at once.

        Raises
        ------
        ValueError
            If `n` is not a positive whole number.
        RuntimeError
            If the fit is running already.
        """
        self._launch(self.step + _whole("start", n))

    def resume(self) -> None:
        """Go on, in the background, to the end of the run that was paused.

        Raises
        ------
        RuntimeError
            If nothing is left of it, or the fit is running.
        """
        if self._still.is_set() and self.target <= self.step:
            raise RuntimeError(
                f"resume: nothing is left of the last run ({self.message}). Use run(n) or start(n)."
            )
        self._launch(self.target)

    def pause(self, block: bool = True) -> None:
        """Stop after the chunk at hand, a tenth of a second or so; `resume` goes on.

        Parameters
        ----------
        block
            Whether to return only when the fit stands still.
        """
        self._pause.set()
        if block and threading.current_thread() is not self._worker:
            self._still.wait()

    def stop(self, block: bool = True) -> None:
        """Stop after the chunk at hand, and give up what is left of the run."""
        self.target = 0
        self.pause(block)
        if self._still.is_set():
            self._settle()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the fit stands still. Interrupting this pauses the fit.

        Parameters
        ----------
        timeout
            For how long at most, in seconds; None for as long as it takes.

        Raises
        ------
        TimeoutError
            If the fit still runs after `timeout` seconds.
        Exception
            Whatever the user's function raised.
        """
        self._watch(progress=False, timeout=timeout)

    def steps(self, n: int | None = None, every: int = 1) -> Iterator[StepInfo]:
        """Run in a loop of your own, which is handed control after every `every` steps.

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
        every = _whole("steps", every)
        self._begin(self.step + (sys.maxsize // 2 if n is None else _whole("steps", n)))
        try:
            for taken in self._loop.chunks(self._left, self._controls, every):
                self._follow(taken.end)
                if len(taken.rows):
                    yield StepInfo.of_row(taken.rows[-1])
        except GeneratorExit:
            self._pause.set()
            raise
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
        """Let frozen parameters move again; the counterpart of `freeze`.

        Raises
        ------
        UnknownPathError
            If it matches no parameter; the message lists the nearest.
        ValueError
            If no optimiser was given for what it matches.
        """
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
        first = self._loop.timeline.first
        if step != self._loop.lowest.step and not first <= step <= self.step:
            raise ValueError(f"rewind: step {step} is not between {first} and {self.step}.")
        self._loop.rewind(int(step))
        self.target, self.error = self.step, None
        self._set_status("stopped" if step else "ready")
        self._note(f"rewound to step {step:,}")

    def save(self, path: str | os.PathLike) -> None:
        """Write the fit to a file: state, best state, history, learning rates, events.

        A running fit is paused for it and goes on.

        Parameters
        ----------
        path
            The file; one of that name is replaced.
        """
        running = not self._still.is_set()
        self.pause()
        loop, steering = self._loop, self._steering
        header = {
            "names": self.names,
            "step": self.step,
            "loss": self.loss,
            "lowest": loop.lowest,
            "factors": dict(steering.factors),
            "frozen": sorted(steering.frozen),
            "events": self.events,
        }
        best = loop.timeline.at(loop.lowest.step)
        _checkpoint.write(path, header, (loop.now.state, best, loop.history.arrays()))
        if running and self._status == "paused":
            self.resume()

    @classmethod
    def load(cls, path: str | os.PathLike, **problem: Any) -> "Fit":
        """Go on with a fit that was saved.

        Parameters
        ----------
        path
            A file that `save` wrote.
        **problem
            The same ``loss`` or ``residuals``, ``params``, ``args`` and ``optimiser`` that the
            fit was made with: functions are not in the file.

        Raises
        ------
        ValueError
            If the file is none of ours, or of a fit with other parameters or another optimiser.
        """
        fit = cls(**problem)
        loop, steering = fit._loop, fit._steering
        like = (loop.now.state, loop.now.state, loop.history.arrays())
        header, (state, best, history) = _checkpoint.read(path, fit.names, like)
        steering.factors = header["factors"]
        steering.frozen = frozenset(header["frozen"]) | steering.frozen
        steering.publish()
        loop.history.restore(history)
        loop.restore(header["step"], state, header["loss"], header["lowest"], best)
        fit.events = [Event(*event) for event in header["events"]]
        fit.target = header["step"]
        fit._set_status("stopped" if header["step"] else "ready")
        return fit

    def fisher(self) -> FisherMatrix:
        """Work out what the data constrain, at the present parameters.

        The parameters that are frozen are taken as given. See `fisher_matrix`.
        """
        return fisher_matrix(
            self._problem.residuals_function,
            self.params,
            self._args,
            loss=self._problem.loss_function,
            frozen=tuple(self.frozen),
        )

    def result(self, absolute_sigma: bool = True) -> Result:
        """Say what the fit found: values with errors, correlations, and whether to believe them.

        At the present parameters; ``fit.rewind(fit.best.step)`` goes to the best ones first.

        Parameters
        ----------
        absolute_sigma
            Whether the residuals are in units of the true σ. If not, errors are scaled by the
            square root of the reduced chi-square, as in SciPy's ``curve_fit``.

        Raises
        ------
        ValueError
            If errors of a loss are to be scaled, which has no scatter to scale them by.
        """
        now, status = self._loop.now, self._status
        optimiser = now.state.optimiser
        knows = bool(optax.tree_utils.tree_get_all_with_path(optimiser, "verdict"))
        return make_result(
            residuals=self._problem.residuals_function,
            loss=self._problem.loss_function,
            params=self._problem.whole_params(now.state.params),
            args=self._args,
            frozen=tuple(self.frozen),
            verdict=int(verdict_of(now.state)) == 1 if knows else None,
            status=status,
            steps=now.step,
            absolute_sigma=absolute_sigma,
        )

    def wait_for_change(self, since: int, timeout: float | None = None) -> int:
        """Sleep until something visible changed after version `since`; give the new version."""
        with self._condition:
            self._condition.wait_for(lambda: self.version != since, timeout)
            return self.version

    # How it runs.

    def _begin(self, target: int) -> None:
        with self._condition:
            if not self._still.is_set():
                raise RuntimeError(
                    f"The fit is running already ({self.message}). Call pause(), stop() or wait() "
                    "first, or make another Fit."
                )
            self._still.clear()
        self._pause.clear()
        self.target, self.error = target, None
        self._set_status("running" if self._loop.compiled else "compiling")

    def _launch(self, target: int) -> None:
        self._begin(target)
        worker = threading.Thread(target=self._work, name="fitkit-fit", daemon=True)
        try:
            self._worker = worker
            _RUNNING.add(self)
            worker.start()
        finally:
            if worker.ident is None:  # Interrupted before it began.
                self._settle()

    def _work(self) -> None:
        try:
            for taken in self._loop.chunks(self._left, self._controls):
                self._follow(taken.end)
        except BaseException as error:  # It reaches the user from `run` or `wait`.
            self._fail(error)
        finally:
            self._settle()

    def _left(self, step: int) -> int:
        return 0 if self._pause.is_set() else self.target - step

    def _controls(self) -> Any:
        return self._steering.controls

    def _follow(self, end: str) -> None:
        """Take over what a chunk came to."""
        if end == "non-finite":
            self.events.append(Event(self.step, f"non-finite at step {self.step + 1:,}"))
        self._set_status(end or "running")

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self._set_status("failed")

    def _settle(self) -> None:
        """Stand still, and say what the fit is from now on."""
        if self._status in ("running", "compiling"):
            self._loop.settle()
            self._status = "paused" if self.step < self.target else "finished"
        if self.target == 0 and self._status in ("paused", "finished"):
            self._status = "stopped"
        _RUNNING.discard(self)
        self._still.set()
        self._touch()

    def _watch(self, progress: bool, timeout: float | None = None) -> None:
        """Wait in the caller's thread, which alone hears an interrupt, until all stands still."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while not self._still.wait(max(0.0, min(0.2, until - time.monotonic()))):
                if progress and self._status == "running":
                    print(f"\r{_progress_line(self):<100}", end="", flush=True)
                if time.monotonic() >= until:
                    raise TimeoutError(f"wait: no end after {timeout} s ({self.message}).")
        except KeyboardInterrupt:
            self.pause()
        if progress:
            print(f"\r{self.message:<100}", flush=True)
        if self.error is not None:
            raise self.error

    def _own_learning_rates(self) -> dict[str, float]:
        rates = injected_learning_rates(self._loop.now.state.optimiser, self._assignment)
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


_RUNNING: weakref.WeakSet[Fit] = weakref.WeakSet()


@atexit.register
def _pause_all() -> None:
    """Let no thread of ours be inside JAX while the interpreter goes down."""
    running = list(_RUNNING)
    for fit in running:
        fit.pause(block=False)
    for fit in running:
        fit._still.wait(10)


def _progress_line(fit: Fit) -> str:
    bar = ("━" * int(24 * fit.step / max(fit.target, 1))).ljust(24, "─")
    return f"{bar} {fit.message}, {fit.steps_per_second:,.0f} steps/s"


def _whole(event: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{event}: {n!r} steps; must be a whole number, 1 or more.")
    return int(n)
