"""`Fit`: the one live object, that runs in the background and is watched and steered meanwhile."""

import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from fitkit._fisher import FisherMatrix, fisher_matrix
from fitkit._fit import checkpoint
from fitkit._fit.diagnose import explain_start
from fitkit._fit.engine import Runner
from fitkit._fit.loop import Loop, Taken
from fitkit._fit.problem import LossFunction, ResidualsFunction, make_problem
from fitkit._fit.steering import LearningRates, Steering
from fitkit._fit.step import StepInfo, knows_verdict, started, verdict_of
from fitkit._fit.visible import Event, Visible
from fitkit._nonfinite import NonFiniteReport
from fitkit._optimisers import (
    assign,
    bounded,
    gauss_newton,
    in_eigenbasis,
    injected_learning_rates,
    map_optimisers,
)
from fitkit._paths import Paths, named_leaves
from fitkit._result import Result, make_result


class Fit(Visible):
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
        optimisers (see `map_optimisers`). A parameter that it leaves out stays frozen. Left out
        altogether, residuals are fitted with `gauss_newton`.
    bounds
        ``{"flux": (0, None)}``: from a path, subtree or glob to the lower and upper limit of its
        elements, in the parameter's unit; None is no limit. Whatever the optimiser, a step that
        leads outside ends on the bound, and an element that the data push against its bound is
        held there until they no longer do; nothing is evaluated outside.
    on_nonfinite
        What to do at a step whose loss, gradient, update or new parameters are not finite.
        ``"stop"`` there, keep the last finite state, and explain (see `report`). ``"skip"`` the
        step and count it (`skipped`); a hundred in a row stop the fit. ``"zero"``: put zero in
        the place of what is not finite in the gradient and the update, and count it (`zeroed`);
        a loss that is not finite stops the fit.

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

    Residuals need no optimiser, and then the fit knows by itself when it is done:

    >>> fit = fk.Fit(residuals=residuals, params={"slope": 1.0, "offset": 0.0})
    >>> fit.run(500, progress=False)
    >>> fit.status
    'converged'
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
        bounds: Mapping[Paths, tuple[Any, Any]] | None = None,
        on_nonfinite: Literal["stop", "skip", "zero"] = "stop",
    ) -> None:
        if on_nonfinite not in ("stop", "skip", "zero"):
            raise ValueError(
                f"Fit: on_nonfinite={on_nonfinite!r}; must be 'stop', 'skip' or 'zero'."
            )
        self._problem, arrays, data = make_problem(loss, residuals, params, args)
        self.names: tuple[str, ...] = tuple(named_leaves(arrays))
        if optimiser is None:
            if residuals is None:
                raise ValueError(
                    "Fit: a loss needs an `optimiser`, such as optax.adam(1e-2). (Residuals do "
                    "without: they are fitted with fitkit.gauss_newton.)"
                )
            optimiser = gauss_newton()
        # Functions of arrays alone, whatever else the trees of the user hold.
        self._loss = self._problem.loss if residuals is None else None
        self._residuals = self._problem.residuals if loss is None else None
        self._bounds = None if bounds is None else bounded(bounds, arrays)
        self._assignment = assign(self.names, optimiser)
        if isinstance(optimiser, Mapping):
            optimiser = map_optimisers(arrays, optimiser)[0]

        self.events: list[Event] = []
        unmapped = tuple(path for path, own in self._assignment.items() if own is None)
        self._steering = Steering(self.names, unmapped, self._note)
        self._own_rates: tuple[Any, Mapping[str, float]] = (None, {})
        self.learning_rates = LearningRates(self._steering, self._own_learning_rates)
        self._loop = Loop(
            self._problem,
            arrays,
            data,
            optimiser,
            self._steering.controls,
            self._bounds,
            on_nonfinite,
        )
        self._runner = Runner(self._loop, lambda: self._steering.controls, self._saw)
        self._optimiser, self._inner, self._known_fisher = optimiser, None, None
        if not math.isfinite(self.loss):
            raise ValueError(
                f"Fit: the loss is {self.loss} at the start. Start where the model is finite.\n"
                f"{explain_start(self._problem, arrays, data) or ''}"
            )

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
            self._runner.launch(self.step + _whole("run", n))
            self._runner.watch(show=self._show_progress if progress else None)
        except KeyboardInterrupt:
            self.pause()
        report = self.report
        if progress:
            print(f"\r{self.message:<100}", flush=True)
        self._conclude(report)

    def start(self, n: int = 1000) -> None:
        """Take `n` steps in the background, and return at once.

        Raises
        ------
        ValueError
            If `n` is not a positive whole number.
        RuntimeError
            If the fit is running already.
        """
        self._runner.launch(self.step + _whole("start", n))

    def resume(self) -> None:
        """Go on, in the background, to the end of the run that was paused.

        Raises
        ------
        RuntimeError
            If nothing is left of it, or the fit is running.
        """
        if not self._runner.active and self.target <= self.step:
            raise RuntimeError(
                f"resume: nothing is left of the last run ({self.message}). Use run(n) or start(n)."
            )
        self._runner.launch(self.target)

    def pause(self, block: bool = True) -> None:
        """Stop after the chunk at hand, a tenth of a second or so; `resume` goes on.

        Parameters
        ----------
        block
            Whether to return only when the fit stands still.
        """
        self._runner.pause(block)

    def stop(self, block: bool = True) -> None:
        """Stop after the chunk at hand, and give up what is left of the run."""
        self._runner.stop(block)

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
        self._runner.watch(timeout)
        self._conclude(self.report)

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
        count = sys.maxsize // 2 if n is None else _whole("steps", n)
        return self._steps(count, every)

    def _steps(self, count: int, every: int) -> Iterator[StepInfo]:
        self._runner.begin(self.step + count)
        for taken in self._runner.chunks(every):
            if len(taken.rows):
                yield StepInfo.of_row(taken.rows[-1])

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

    def undo(self) -> None:
        """Take back the latest change of a learning rate, or the latest freezing or thawing.

        Changes of the same parameters within a second of each other count as one.

        Raises
        ------
        RuntimeError
            If there is nothing to take back.
        """
        self._steering.undo()

    def enter_eigenbasis(self, inner: optax.GradientTransformation | None = None) -> None:
        """Go on in the Fisher eigenbasis of the present parameters, where every direction is alike.

        Called again, it renews the basis, without compiling again if `inner` is the same. The
        learning rates multiply 1 in there; those outside are kept for the way back. Frozen
        parameters stay out of it, and directions that the data leave free do not move. Steps from
        before can no longer be rewound to, but for the best. A running fit goes on
        by itself.

        Parameters
        ----------
        inner
            The optimiser to run there (see `eigen_projected`); ``optax.lbfgs()`` unless given.

        Raises
        ------
        ValueError
            If there is no Fisher matrix here, or none that constrains anything.
        """
        if inner is None:
            inner = self._inner or optax.lbfgs()
        fisher = self.fisher()
        with self._runner.held():
            optimiser = in_eigenbasis(inner, self._loop.now.state.params, fisher)
            self._loop.change_optimiser(optimiser, inner)
            if self._inner is None:
                self._steering.swap_factors()
            self._inner = inner
            self._note(f"entered the eigenbasis, rank {fisher.rank}")

    def leave_eigenbasis(self) -> None:
        """Go on with the optimiser that the fit was made with, started anew.

        Raises
        ------
        RuntimeError
            If the fit is not in the eigenbasis.
        """
        if self._inner is None:
            raise RuntimeError("leave_eigenbasis: the fit is not in the eigenbasis.")
        with self._runner.held():
            self._loop.change_optimiser(self._optimiser, None)
            self._inner = None
            self._steering.swap_factors()
            self._note("left the eigenbasis")

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
        self._runner.target, self._runner.error = self.step, None
        self._runner.become("stopped" if step else "ready")
        self._note(f"rewound to step {step:,}")

    def save(self, path: str | os.PathLike) -> None:
        """Write the fit to a file: state, best state, history, learning rates, events.

        A running fit stands still for it and goes on. One in the eigenbasis is written as it would
        be after `leave_eigenbasis`.

        Parameters
        ----------
        path
            The file; one of that name is replaced.
        """
        loop, steering = self._loop, self._steering
        with self._runner.held():
            states = loop.now.state, loop.timeline.at(loop.lowest.step)
            factors = steering.factors
            if self.in_eigenbasis:
                states = tuple(started(state, self._optimiser) for state in states)
                factors = steering.elsewhere
            header = {
                "names": self.names,
                "step": self.step,
                "loss": self.loss,
                "lowest": loop.lowest,
                "factors": dict(factors),
                "frozen": sorted(steering.frozen),
                "events": self.events,
            }
            checkpoint.write(path, header, (*states, loop.history.arrays()))

    @classmethod
    def load(cls, path: str | os.PathLike, **problem: Any) -> "Fit":
        """Go on with a fit that was saved.

        Parameters
        ----------
        path
            A file that `save` wrote.
        **problem
            The same ``loss`` or ``residuals``, ``params``, ``args``, ``optimiser`` and ``bounds``
            that the fit was made with: functions are not in the file.

        Raises
        ------
        ValueError
            If the file is none of ours, or of a fit with other parameters or another optimiser.
        """
        fit = cls(**problem)
        loop, steering = fit._loop, fit._steering
        like = (loop.now.state, loop.now.state, loop.history.arrays())
        header, (state, best, history) = checkpoint.read(path, fit.names, like)
        steering.factors = header["factors"]
        steering.frozen = frozenset(header["frozen"]) | steering.frozen
        steering.publish()
        loop.history.restore(history)
        loop.restore(header["step"], state, header["loss"], header["lowest"], best)
        fit.events = [Event(*event) for event in header["events"]]
        fit._runner.target = header["step"]
        fit._runner.become("stopped" if header["step"] else "ready")
        return fit

    def fisher(self) -> FisherMatrix:
        """Work out what the data constrain, at the present parameters.

        The parameters that are frozen are taken as given. See `fisher_matrix`. The answer is kept
        as `known_fisher`.
        """
        now = self._loop.now
        fisher = fisher_matrix(
            self._residuals,
            now.state.params,
            self._loop.args,
            loss=self._loss,
            frozen=tuple(sorted(self.frozen)),
        )
        self._known_fisher = now.step, fisher
        self._runner.touch()
        return fisher

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
        now, status = self._loop.now, self.status
        knows = knows_verdict(now.state)
        result = make_result(
            residuals=self._residuals,
            loss=self._loss,
            params=now.state.params,
            args=self._loop.args,
            frozen=tuple(self.frozen),
            verdict=int(verdict_of(now.state)) == 1 if knows else None,
            status=status,
            steps=now.step,
            absolute_sigma=absolute_sigma,
            bounds=self._bounds,
        )
        report = self.report
        if report is None:
            return result
        why = f"{report.operation} at {report.place}, from {report.origin}: {report.advice}"
        return dataclasses.replace(result, warnings=(why, *result.warnings))

    def _conclude(self, report: NonFiniteReport | None) -> None:
        """Show the user who waited what went wrong."""
        if report is not None:
            print(report, flush=True)
        if self.error is not None:
            raise self.error

    def _show_progress(self) -> None:
        if self.status == "running":
            bar = ("━" * int(24 * self.step / max(self.target, 1))).ljust(24, "─")
            line = f"{bar} {self.message}, {self.steps_per_second:,.0f} steps/s"
            print(f"\r{line:<100}", end="", flush=True)

    def _own_learning_rates(self) -> Mapping[str, float]:
        if self.in_eigenbasis:
            return {}
        state = self._loop.now.state.optimiser
        if state is not self._own_rates[0]:
            # A dashboard asks for every row: what is on the device is fetched once for a state.
            rates = jax.device_get(injected_learning_rates(state, self._assignment))
            self._own_rates = state, {path: float(rate) for path, rate in rates.items()}
        return self._own_rates[1]

    def _saw(self, taken: Taken) -> None:
        if taken.mended is None:
            return
        step, text = taken.mended
        last = self.events[-1] if self.events else Event(0, "")
        # One event for a stretch of them, or a fit that skips all day would fill the memory.
        near = step - last.step < max(100, step // 50)
        if not (near and last.text.split(" ")[0] == text.split(" ")[0]):
            self.events.append(Event(step, text))

    def _note(self, text: str) -> None:
        self.events.append(Event(self.step, text))
        self._runner.touch()


def _whole(event: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{event}: {n!r} steps; must be a whole number, 1 or more.")
    return int(n)
