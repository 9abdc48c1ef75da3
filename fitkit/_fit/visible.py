"""What can be seen of a fit at any time, from any thread."""

from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import PyTree

from fitkit._fisher import FisherMatrix
from fitkit._fit.engine import Runner
from fitkit._fit.history import History
from fitkit._fit.loop import Loop
from fitkit._fit.problem import Problem
from fitkit._fit.steering import Steering
from fitkit._fit.step import spectrum_of
from fitkit._nonfinite import NonFiniteReport


class Event(NamedTuple):
    """Something that happened to a fit: at which step, and what, in words."""

    step: int
    text: str


class Best(NamedTuple):
    """The step with the smallest loss so far."""

    step: int
    loss: float
    params: PyTree


class Visible:
    """The read-only half of `Fit`: nothing here changes anything."""

    names: tuple[str, ...]
    events: list[Event]
    _inner: optax.GradientTransformation | None
    _known_fisher: tuple[int, FisherMatrix] | None
    _problem: Problem
    _loop: Loop
    _runner: Runner
    _steering: Steering

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
    def spectrum(self) -> tuple[np.ndarray, int] | None:
        """The Fisher eigenvalues that the optimiser works with, and their rank; None without.

        `gauss_newton` keeps them in its state, so they are free of charge. They are descending
        and free of units; before the first step there are none. For any fit, `fisher` works
        them out.
        """
        found = spectrum_of(self._loop.now.state)
        return (np.empty(0), 0) if found and self.step == 0 else found

    @property
    def known_fisher(self) -> tuple[int, FisherMatrix] | None:
        """The latest Fisher matrix that `fisher` worked out, after the step it belongs to."""
        return self._known_fisher

    @property
    def in_eigenbasis(self) -> bool:
        """Whether the fit goes on in the Fisher eigenbasis; see `enter_eigenbasis`."""
        return self._inner is not None

    @property
    def undoable(self) -> str:
        """The change that `undo` would take back, in words; empty if there is none."""
        return self._steering.undoable

    @property
    def frozen(self) -> frozenset[str]:
        """The paths of the parameters that do not move."""
        return self._steering.frozen

    @property
    def steps_per_second(self) -> float:
        """How fast the fit runs; 0 before it ran."""
        return self._loop.steps_per_second

    @property
    def status(self) -> str:
        """What the fit is doing, in a word.

        One of ``"ready"``, ``"compiling"``, ``"running"``, ``"paused"``, ``"finished"`` (all steps
        taken), ``"stopped"``, ``"converged"``, ``"stalled"``, ``"non-finite"``, ``"failed"``.
        """
        return self._runner.status

    @property
    def target(self) -> int:
        """The step at which the present run ends; 0 if it was stopped."""
        return self._runner.target

    @property
    def error(self) -> BaseException | None:
        """What the user's function raised in the latest run, or None."""
        return self._runner.error

    @property
    def version(self) -> int:
        """A number that grows with every change that can be seen; see `wait_for_change`."""
        return self._runner.version

    @property
    def report(self) -> NonFiniteReport | None:
        """Where the value was born that ended the last run as ``"non-finite"``; else None.

        It is made when first asked for, by replaying the failing step, and takes about a second.
        """
        return self._loop.report() if self.status == "non-finite" else None

    @property
    def skipped(self) -> int:
        """How many steps were skipped because they were not finite."""
        mended = self._loop.now.state.mended
        return 0 if mended is None else int(mended.skipped)

    @property
    def zeroed(self) -> int:
        """How many elements of gradients and updates were not finite and became zero."""
        mended = self._loop.now.state.mended
        return 0 if mended is None else int(mended.zeroed)

    @property
    def message(self) -> str:
        """What the fit is doing, in a line."""
        if self.error is not None:
            return f"failed at step {self.step:,}: {type(self.error).__name__}: {self.error}"
        if self.status == "non-finite":
            known = self._loop.known_report
            why = f": {known.operation} at {known.place}" if known else ""
            return (
                f"non-finite at step {self.step + 1:,}{why}; the last finite state is kept"
                f"{self._mended()}"
            )
        of = f" of {self.target:,}" if self.target > self.step else ""
        return f"{self.status}: step {self.step:,}{of}, loss {self.loss:.6g}{self._mended()}"

    def __repr__(self) -> str:
        frozen = f"; frozen: {', '.join(sorted(self.frozen))}" if self.frozen else ""
        return f"<Fit of {len(self.names)} parameters, {self.message}{frozen}>"

    def wait_for_change(self, since: int, timeout: float | None = None) -> int:
        """Sleep until something visible changed after version `since`; give the new version."""
        return self._runner.wait_for_change(since, timeout)

    def _mended(self) -> str:
        """Say what was skipped or zeroed: never silently."""
        steps, elements = self.skipped, self.zeroed
        return (f", {steps:,} steps skipped" if steps else "") + (
            f", {elements:,} non-finite elements zeroed" if elements else ""
        )
