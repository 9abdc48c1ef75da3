"""`Fit`: the one live object, which runs in the background and is watched and steered meanwhile."""

import dataclasses
import math
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
import optax
from jaxtyping import Array, PyTree

from fitkit._checkpoint import read, write
from fitkit._fisher import FisherMatrix, FisherSpectrum
from fitkit._fit.additive import in_batches, in_blocks
from fitkit._fit.advance import given_up, with_event
from fitkit._fit.agree import Agreement, leads, require_all
from fitkit._fit.autosave import Autosave
from fitkit._fit.batches import Minibatch
from fitkit._fit.by_hand import checked_values, undone_values, with_values
from fitkit._fit.callbacks import Callback
from fitkit._fit.commands import (
    One,
    Optimiser,
    leapt,
    leapt_back,
    program_for,
    refreshed,
    refuse_judging,
    require_finite,
    reread,
    resolved,
    restarted,
    rewound,
    with_program,
)
from fitkit._fit.diagnose import Reports, explain_derivatives
from fitkit._fit.draw_starts import Spread, draw_starts
from fitkit._fit.engine import Engine
from fitkit._fit.events import Events, steering_code
from fitkit._fit.history import History
from fitkit._fit.judgement import (
    Linearised,
    assess_place,
    fisher_at,
    linearise_at,
    spectrum_at,
)
from fitkit._fit.loop import Program
from fitkit._fit.multistart import Multistart, best_params, search
from fitkit._fit.overview import fit_as_html
from fitkit._fit.packing import Packing
from fitkit._fit.problem import ResidualsFunction, make_problem, traced_shapes
from fitkit._fit.profiles import at_minimum, intervals_at
from fitkit._fit.rates import own_learning_rates, rate_changes
from fitkit._fit.record import Columns, StepInfo
from fitkit._fit.remembered import Remembered
from fitkit._fit.run import CONVERGED, Run, Until
from fitkit._fit.saving import from_record, to_record
from fitkit._fit.snapshots import Best, Place, Snapshot
from fitkit._fit.status import Status
from fitkit._fit.steering import LearningRates, Steering
from fitkit._format import number
from fitkit._input import LossFunction, check_optimiser, left_on_disk, named_arguments
from fitkit._nonfinite import NonFiniteReport
from fitkit._optimisers import (
    bounded,
    gauss_newton,
    in_eigenbasis,
    spectrum_of,
)
from fitkit._paths import Paths, paths_as_given
from fitkit._profile import Contour, Minimum, Profile, make_contour, make_profile
from fitkit._programs import refuse_in_fork
from fitkit._progress import Progress
from fitkit._residuals import PriorFunction, RowPrior
from fitkit._result import (
    Assessment,
    DerivedFunction,
    Kind,
    Result,
    check_derived,
    make_result,
)
from fitkit._sharding import automatic_axes, is_shared

T = TypeVar("T")

#: For how long interrupts only ask for the pause that the first one asked for, in seconds.
_PATIENCE = 3.0

# What others call the number of steps.
_ENDS = dict.fromkeys(("steps", "n_steps", "num_steps", "maxiter", "epochs", "iterations"), "n")


class Fit:
    """Fit a differentiable model: run it, watch it, steer it.

    Parameters
    ----------
    loss
        ``loss(params, args)``, a scalar to minimise: a negative log-likelihood where errors are
        wanted. It may return a pair ``(loss, aux)``, as for ``jax.grad(has_aux=True)``: see `aux`.
    residuals
        Instead of `loss`: ``residuals(params, args)``, a pytree of (model - data) / sigma. The
        loss is then half the sum of their squares; complex ones count as two, their parts.
    params
        Where to start: any pytree of real floating-point numbers and arrays.
    args
        What the function needs besides: a model, the data. Arrays of any library arrive as JAX's,
        tables as dictionaries of their columns; NumPy's masks and all else as they are.
    optimiser
        One optax optimiser for all parameters, or a mapping from paths, subtrees and globs to
        optimisers (see `map_optimisers`). A parameter that it leaves out stays frozen. Left out
        altogether, residuals are fitted with `gauss_newton`.
    bounds
        ``{"flux": (0, None)}``: from a path, subtree or glob to the lower and upper limit of its
        elements, in the parameter's unit; None is no limit. Whatever the optimiser, a step that
        leads outside ends on the bound, and an element that the data push against its bound is
        held there until they no longer do; nothing is evaluated outside.
    priors
        ``{"flux": fk.Normal(10, 2)}``: what is known beside the data, from a path, subtree or glob
        to a `Normal`, a `LogNormal`, or a function of the parameter's value that returns the
        negative logarithm of its density. They become part of the loss, and of standard errors and
        the Fisher matrix; chi-square is that of the data (see `Result`). The first two are
        residuals like those of data; with a function the loss is no sum of squares, and needs an
        optimiser.
    derived
        ``derived(params)``: whatever is to be known of the parameters besides, a dictionary of
        numbers and arrays: ``lambda params: {"total": params["a"] + params["b"]}``. `result`
        states it with its errors.
    minibatch
        How many data each step sees, of those that the first axes of the arrays in `args` count,
        which must have one length; or a `Minibatch`, which says which axes do. In every step
        they are drawn anew, with replacement, from a seed, so that a fit that is run again, rewound
        or loaded takes the same steps. Losses of steps, as recorded in `history`, estimate that
        of all data: a loss that is a sum over the data, as that of residuals is, is multiplied by
        how many more there are, and a mean is left as it is; `priors` count in full. All else is
        of all data: `loss`, `best` (the lowest where the fit stood still), `result`, `fisher`, and
        whether a run has converged.
    microbatch
        How many data the function sees at a time, of those that the first axes of the arrays in
        `args` count; or a `Minibatch`, which says which axes do. Everything is of all data, as
        without: the loss is added up over such blocks, and what the model makes of its data on the
        way is held in memory for one block only, also for derivatives, which evaluate it once more.
        Arrays in files (of `numpy.memmap`, h5py, zarr) stay there, and are read block by block.
    on_nonfinite
        What to do at a step whose loss, gradient, update or new parameters are not finite.
        ``"stop"`` there, keep the last finite state, and explain (see `report`). ``"skip"`` the
        step and count it (`skipped`); a hundred in a row stop the fit. ``"zero"``: put zero in
        the place of what is not finite in the gradient and the update, and count it (`zeroed`);
        a loss that is not finite stops the fit.
    autosave
        A file to `save` to while the fit runs, where a run ends, and where the process does. What
        goes wrong with it is an event, and the fit runs on.
    every, keep
        How often, in time (``"60s"``) or steps, and how many such files to keep: with 3 there are
        ``path``, ``path.1`` and ``path.2``, the newest first.

    Raises
    ------
    TypeError, ValueError
        If something of this cannot be fitted; the message names the parameter and the cure.

    Notes
    -----
    Fits share compiled programs where their functions, optimisers and shapes are the same, also if
    the functions were made anew; what a function reads (globals, closures, defaults, methods) is
    compared by value, and so are frozen dataclasses, as zodiax models are, of the same class. Not
    shared is what can change unseen: other objects of your own, arrays beyond 10 MB, what reads
    files or random numbers. At the start of a run the functions
    are read again, and compiled anew if a global that they read has another value.

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

    A prior weighs as much as a datum of its error, and what is derived gets an error:

    >>> fit = fk.Fit(
    ...     residuals=residuals,
    ...     params={"slope": 1.0, "offset": 0.0},
    ...     priors={"offset": fk.Normal(1.0, 0.1)},
    ...     derived=lambda params: {"end": params["offset"] + params["slope"]},
    ... )
    >>> fit.run(progress=False)
    >>> result = fit.result()
    >>> round(float(result.errors["offset"]), 2), round(float(result.derived["end"]), 2)
    (0.1, 4.0)

    Of many data a step may see a few; what the fit says is of all of them:

    >>> def residuals(params, x):
    ...     return params["slope"] * x + params["offset"] - (3.0 * x + 1.0)
    >>> fit = fk.Fit(
    ...     residuals=residuals,
    ...     params={"slope": 1.0, "offset": 0.0},
    ...     args=jnp.linspace(0.0, 1.0, 10_000),
    ...     optimiser=optax.adam(0.05),
    ...     minibatch=32,
    ... )
    >>> fit.run(1000, progress=False)
    >>> round(float(fit.params["slope"]), 2)
    3.0
    """

    @named_arguments("Fit")
    @automatic_axes()
    def __init__(
        self,
        *,
        loss: LossFunction | None = None,
        residuals: ResidualsFunction | None = None,
        params: PyTree,
        args: Any = None,
        optimiser: Optimiser | None = None,
        bounds: Mapping[Paths, tuple[Any, Any]] | None = None,
        priors: Mapping[Any, RowPrior | PriorFunction] | None = None,
        derived: DerivedFunction | None = None,
        minibatch: int | Minibatch | None = None,
        microbatch: int | Minibatch | None = None,
        on_nonfinite: Literal["stop", "skip", "zero"] = "stop",
        autosave: str | os.PathLike | None = None,
        every: int | str = "60s",
        keep: int = 3,
    ) -> None:
        if on_nonfinite not in ("stop", "skip", "zero"):
            raise ValueError(
                f"Fit: on_nonfinite={on_nonfinite!r}; must be 'stop', 'skip' or 'zero'."
            )
        refuse_in_fork("Fit")
        if microbatch is not None:
            args = left_on_disk(args)
        problem, arrays, data = make_problem(loss, residuals, params, args, priors)
        if derived is not None:
            check_derived(derived, problem.whole_params(arrays))
        if microbatch is not None:
            problem = in_blocks(problem, microbatch, arrays, data)
        if minibatch is not None:
            problem = in_batches(problem, minibatch, arrays, data)
        if optimiser is None:
            if minibatch is not None:
                raise ValueError(
                    "Fit: with `minibatch` an `optimiser` is needed, a first-order one, such as "
                    "optax.adam(1e-2): fitkit.gauss_newton needs all data in every step."
                )
            if residuals is None:
                raise ValueError(
                    "Fit: a loss needs an `optimiser`, such as optax.adam(1e-2). (Residuals do "
                    "without: they are fitted with fitkit.gauss_newton.)"
                )
            if not problem.squares:
                raise ValueError(
                    f"Fit: the prior of '{next(iter(problem.prior_functions))}' is a function, so "
                    "that the loss is no sum of squares and needs an `optimiser`, such as "
                    "optax.lbfgs(). (fitkit.Normal and fitkit.LogNormal do without.)"
                )
            optimiser = gauss_newton()
        limits = None if bounds is None else bounded(bounds, arrays)
        one, assignment = resolved(optimiser, arrays)
        given = (problem, data, limits, on_nonfinite, one, assignment, traced_shapes(arrays))
        program = Program.build(*given)
        place = Place(0, program.begin(arrays), program)
        refuse_judging("Fit", program, place.state)
        require_finite("Fit", place)
        self._engine = Engine(Snapshot.starting(place), weakref.ref(self))
        self._program, self._start = program, arrays
        self._order, self._derived = paths_as_given(params), derived
        self._bases: dict[int, Program] = {}
        self._inner: One | None = None
        self._factors_outside: Mapping[str, float] | None = None
        self._own_rates: tuple[Any, dict[str, float]] = (None, {})
        self._reports, self._remembered = Reports(), Remembered()
        self._autosave = None
        if autosave is not None:
            self._autosave = Autosave(autosave, every, keep, self._engine.note)
            self._autosave.attach(self)

    # Running.

    @named_arguments("run", **_ENDS)
    def run(self, n: int | None = None, until: Until | None = None, progress: bool = True) -> None:
        """Run until the fit has converged, or take `n` steps, and wait for that.

        Interrupting it (Ctrl-C, the stop button of the notebook) pauses the fit; nothing is lost,
        and `resume` or `run` go on.

        Parameters
        ----------
        n
            How many steps to take, at most; None for no limit.
        until
            What ends the run before that. ``"converged"``, which is meant where neither is given:
            the fit is at a minimum, whatever the optimiser, as `result` would say; or it is
            stalled, where steps no longer gain what could matter. This is asked while the fit
            runs, when its loss is quiet. Or a function of a `Snapshot`, which ends it by returning
            True; it is called after every chunk of steps, about 20 times a second, or after every
            step where that takes longer. An optimiser that knows when it is done, as `gauss_newton`
            does, ends a run in any case.
        progress
            Whether to print a line that says how far it is.

        Raises
        ------
        ValueError
            If `n` is not a positive whole number, or `until` something else.
        RuntimeError
            If the fit is running already.
        Exception
            Whatever the user's function raised.

        Examples
        --------
        >>> import jax.numpy as jnp, optax
        >>> import fitkit as fk
        >>> fit = fk.Fit(
        ...     loss=lambda params, args: (params["a"] - 1) ** 2,
        ...     params={"a": 0.0},
        ...     optimiser=optax.sgd(0.1),
        ... )
        >>> fit.run(until=lambda now: now.best.loss < 1e-6, progress=False)
        >>> fit.stop_reason
        '`until` was met'
        """

        def start_and_wait() -> None:
            self._engine.start(self._new_run("run", n, until))
            self._engine.wait(meanwhile=show if bar else None)

        def show() -> None:
            now = self.snapshot
            if bar is not None and now.status == Status.RUNNING:
                batches, latest = now.place.program.problem.batches, now.history.latest
                # The loss of all data may take as long as many steps that see a few of them.
                loss = now.loss if batches is None or latest is None else float(latest.loss)
                bar.show(now.step, now.target, f"loss {number(loss)}")

        bar = Progress("steps") if progress and self.leads else None

        self._pausing_on_interrupt(start_and_wait)
        report = self.report
        if bar is not None:
            bar.close(self.message, interrupted=self.status == Status.PAUSED)
        self._conclude(report)

    @named_arguments("start", **_ENDS)
    def start(self, n: int | None = None, until: Until | None = None) -> None:
        """Run until the fit has converged, or take `n` steps, in the background; return at once.

        Parameters
        ----------
        n, until
            As for `run`. With neither, the fit runs until it is stopped or has converged.

        Raises
        ------
        ValueError
            If `n` is not a positive whole number, or `until` something else.
        RuntimeError
            If the fit is running already.
        """
        self._begin(self._new_run("start", n, until))

    def resume(self) -> None:
        """Go on, in the background, to the end of the run that was paused.

        Raises
        ------
        RuntimeError
            If nothing is left of it, or the fit is running.
        """
        now = self.snapshot
        if not self._engine.active and now.target is not None and now.target <= now.step:
            raise RuntimeError(
                f"resume: nothing is left of the last run ({self.message}). Use run(n) or start(n)."
            )
        self._begin(Run(now.target, now.until))

    def pause(self, block: bool = True) -> None:
        """Stop after the chunk at hand, a tenth of a second or so; `resume` goes on.

        Parameters
        ----------
        block
            Whether to return only when the fit stands still.
        """
        self._pausing_on_interrupt(lambda: self._engine.pause(Status.PAUSED, block))

    def stop(self, block: bool = True) -> None:
        """Stop after the chunk at hand, and give up what is left of the run."""

        def stop() -> None:
            self._engine.pause(Status.STOPPED, block)
            if not self._engine.active:
                self._engine.update(given_up)

        self._pausing_on_interrupt(stop)

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
        RuntimeError
            If the run cannot end before this returns: in one of its own callbacks, or in the loop
            over `steps`.
        Exception
            Whatever the user's function raised.
        """
        self._pausing_on_interrupt(lambda: self._engine.wait(timeout))
        self._conclude(self.report)

    def steps(self, n: int | None = None, every: int = 1) -> Iterator[StepInfo]:
        """Run in a loop of your own, which gets its turn after every `every` steps.

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
            What is recorded of the last step taken, as numpy numbers and arrays.

        Examples
        --------
        >>> import optax
        >>> import fitkit as fk
        >>> fit = fk.Fit(
        ...     loss=lambda params, args: params["a"] ** 2,
        ...     params={"a": 1.0},
        ...     optimiser=optax.sgd(0.25),
        ... )
        >>> [float(info.loss) for info in fit.steps(3)]
        [1.0, 0.25, 0.0625]
        """
        every = _whole("steps", every)
        run = Run(self._target("steps", n), every=every)
        return self._infos(run)

    @named_arguments("restart")
    def restart(self, params: PyTree = None, args: Any = None) -> None:
        """Begin anew at step 0, with the same functions, optimiser, learning rates and freezing.

        Nothing compiles again where shapes are the same. A running fit is paused first.

        Parameters
        ----------
        params
            Where to start; a tree of the same paths. None: where the fit started before.
        args
            New data; None: the same as before.

        Raises
        ------
        TypeError, ValueError
            If something of this cannot be fitted; then nothing is changed.

        Examples
        --------
        >>> import jax.numpy as jnp, optax
        >>> import fitkit as fk
        >>> fit = fk.Fit(
        ...     loss=lambda params, data: (params["a"] - data) ** 2,
        ...     params={"a": 0.0},
        ...     args=jnp.array(1.0),
        ...     optimiser=optax.sgd(0.5),
        ... )
        >>> fit.run(1, progress=False)
        >>> fit.restart(args=jnp.array(3.0))
        >>> fit.run(1, progress=False)
        >>> float(fit.params["a"])
        3.0
        """

        def begin_anew() -> None:
            now = self.snapshot
            arrays, program = reread(now, self._start, params, args)
            code = "fit.restart()"
            if params is not None or args is not None:
                given = {"params": params, "args": args}
                names = ", ".join(f"{n}={n}" for n, one in given.items() if one is not None)
                code = f"fit.restart({names})  # define them: what was given here"
            self._engine.put(restarted(now, arrays, program, code))
            self._start = arrays

        self._engine.command(begin_anew, ends_run=True)

    @named_arguments("multistart", **dict.fromkeys(("starts", "n_starts"), "n"))
    def multistart(
        self, n: int, spread: Spread = None, key: int | Array = 0, progress: bool = True
    ) -> Multistart:
        """Fit from many starts at once, and go on from the lowest minimum that they find.

        For problems on which one start ends in a local minimum, or runs away. Frozen parameters
        stay, bounds are kept. The present parameters are the first of the starts; `undo` goes back
        to them. A running fit is paused first.

        Residuals are fitted by least squares, as `fit_many` fits them, whatever the optimiser of
        the fit. A loss is minimised by the optimiser of the fit, which has a state for each start
        and runs until the loss is at rest.

        Parameters
        ----------
        n
            How many starts.
        spread
            None: drawn uniformly between the bounds of the fit. A factor above 1, such as 10: each
            element is multiplied by the factor to the power of a standard normal number, and so
            keeps its sign. ``{"centre": 0.1}``: from a path, subtree or glob to the standard
            deviation of its elements around where they are, in the parameter's unit; what is not
            named is drawn between its bounds, or stays if it has not both.
        key
            A whole number, or a key of `jax.random`: the same starts for the same key.
        progress
            Whether to print a line that says how far it is.

        Returns
        -------
        Multistart
            The minima, the lowest first: losses, how many starts came to each, values.

        Raises
        ------
        UnknownPathError, TypeError, ValueError
            If starts cannot be drawn so; the message names the path and the cure.

        Examples
        --------
        >>> import fitkit as fk
        >>> import jax.numpy as jnp
        >>> x = jnp.linspace(0.0, 3.0, 40)
        >>> def residuals(params, args):
        ...     return (jnp.sin(params["frequency"] * x) - jnp.sin(9.0 * x)) / 0.1
        >>> fit = fk.Fit(
        ...     residuals=residuals, params={"frequency": 2.0}, bounds={"frequency": (0.1, 20.0)}
        ... )
        >>> found = fit.multistart(50, progress=False)
        >>> round(float(fit.params["frequency"]), 6)
        9.0
        >>> fit.undo()
        >>> float(fit.params["frequency"])
        2.0
        """
        self.pause()
        now = self._read_again()
        program = now.place.program
        drawn = (n, spread, now.place.state.params, program.bounds, now.frozen, key)
        require_all(self._engine.mesh, "multistart")
        table = search(now, draw_starts(*drawn), progress and self.leads)
        if not len(table) or not table.loss[0] <= now.loss:
            note = "none is lower than where the fit is, which stays there"
            return dataclasses.replace(table, note=note)
        params = best_params(table, now.place.state.params)
        words = f"leapt to the best of {n:,} starts, loss {number(float(table.loss[0]), 6)}"
        self._engine.command(
            lambda: self._engine.put(leapt(self.snapshot, params, words)), ends_run=True
        )
        return dataclasses.replace(table, note="the fit goes on from the first; undo() goes back")

    # Steering.

    @property
    def learning_rates(self) -> LearningRates:
        """The learning rate of every parameter, by path; assign to steer the running fit."""
        return LearningRates(
            lambda: self.snapshot.steering, self._own_learning_rates, self._set_factors
        )

    def freeze(self, pattern: Paths) -> None:
        """Freeze parameters, from the next chunk on.

        Parameters
        ----------
        pattern
            A path, the path of a subtree, a glob, or a tuple of those.

        Raises
        ------
        UnknownPathError
            If it matches no parameter; the message lists the nearest.
        """
        self._steer(lambda steering, now: steering.freeze(pattern, now))

    def thaw(self, pattern: Paths) -> None:
        """Let frozen parameters move again; the counterpart of `freeze`.

        Raises
        ------
        UnknownPathError
            If it matches no parameter; the message lists the nearest.
        ValueError
            If no optimiser was given for what it matches.
        """
        self._steer(lambda steering, now: steering.thaw(pattern, now))

    def undo(self) -> None:
        """Take back the latest change of rates, of values, of what is frozen, or by `multistart`.

        Changes of the same parameters within a second of each other count as one. Values go back to
        what they were before they were set, and the optimiser begins anew there. Where it takes
        back a `multistart`, the steps since are forgotten, and a running fit is paused first.

        Raises
        ------
        RuntimeError
            If there is nothing to take back.
        """
        past = self.snapshot.steering.past
        if past and past[-1].before is not None:
            self._engine.command(lambda: self._engine.put(leapt_back(self.snapshot)), ends_run=True)
        elif past and past[-1].values:
            self._engine.command(lambda: self._engine.put(undone_values(self.snapshot)))
        else:
            self._steer(lambda steering, now: steering.undone(), undoing=True)

    @automatic_axes()
    def set_values(self, values: Mapping[str, Any]) -> None:
        """Set values of parameters by hand, and go on from there: to look for a start, say.

        The step count stays, the optimiser begins anew, and nothing compiles. A running fit goes on
        by itself, after the chunk at hand. `undo` gives the values back; of the steps before, only
        the best can still be rewound to.

        Parameters
        ----------
        values
            From the path of a parameter to its value, of the parameter's shape and in its unit.

        Raises
        ------
        UnknownPathError
            If a path names no parameter; the message lists the nearest.
        ValueError
            If a value has another shape, is not finite or outside the bounds, or the loss is not
            finite there; then nothing is changed.

        Examples
        --------
        >>> import optax
        >>> import fitkit as fk
        >>> fit = fk.Fit(
        ...     loss=lambda params, args: (params["flux"] - 3) ** 2,
        ...     params={"flux": 100.0},
        ...     optimiser=optax.sgd(0.5),
        ... )
        >>> fit.set_values({"flux": 2.0})
        >>> fit.loss
        1.0
        """
        checked = checked_values(self.snapshot, values)
        when = time.monotonic()
        self._engine.command(lambda: self._engine.put(with_values(self.snapshot, checked, when)))

    def rewind(self, step: int) -> None:
        """Go back to an earlier step, optimiser and all; what came after it is forgotten.

        A running fit is paused first; one whose callback asks for it goes on from there. Learning
        rates and freezing stay as they are now.

        Raises
        ------
        ValueError
            If the fit was never at `step`, or that is no longer kept; nothing is changed, and a
            running fit goes on.
        """
        if isinstance(step, bool) or not isinstance(step, int | np.integer):
            raise ValueError(f"rewind: step {step!r} is no whole number.")

        def go_back() -> None:
            self._engine.put(rewound(self.snapshot, int(step)))

        self._engine.command(go_back, ends_run=True)

    @automatic_axes()
    def change_optimiser(self, optimiser: Optimiser) -> None:
        """Go on with another optimiser, started anew; a running fit goes on by itself.

        The learning rates are 1 again, what was frozen stays frozen. Of the steps before, only the
        best can still be rewound to.

        Parameters
        ----------
        optimiser
            An optax optimiser, or a mapping from paths to several; as for `Fit`.

        Raises
        ------
        UnknownPathError, ValueError, TypeError
            As `Fit` does; then nothing is changed.

        Examples
        --------
        >>> import optax
        >>> import fitkit as fk
        >>> fit = fk.Fit(
        ...     loss=lambda params, args: params["a"] ** 2,
        ...     params={"a": 1.0},
        ...     optimiser=optax.sgd(0.1),
        ... )
        >>> fit.run(10, progress=False)
        >>> fit.change_optimiser(optax.sgd(0.5))
        >>> fit.run(1, progress=False)
        >>> float(fit.params["a"])
        0.0
        """
        program = program_for(self.snapshot, optimiser)
        code = "fit.change_optimiser(optimiser)  # define it: the one given here"
        self._use(program, "changed the optimiser", code)

    @automatic_axes()
    def enter_eigenbasis(self, inner: One | None = None) -> None:
        """Go on in the Fisher eigenbasis of the present parameters, where no eigenvector is stiff.

        It is `change_optimiser` with `inner` in the basis of `fisher`. Called again, it renews the
        basis, without compiling again if `inner` is the same. Frozen parameters stay out of it, and
        eigenvectors that the data leave unconstrained do not move.

        Parameters
        ----------
        inner
            The optimiser to run there (see `eigen_projected`); ``optax.lbfgs()`` unless given.

        Raises
        ------
        ValueError
            If there is no Fisher matrix here, or none that constrains anything.
        """
        code = "fit.enter_eigenbasis()"
        if inner is not None:
            code = "fit.enter_eigenbasis(inner)  # define it: the optimiser given here"
        inner = inner or self._inner or optax.lbfgs()
        check_optimiser("enter_eigenbasis", "the optimiser", inner)
        fisher = self.fisher()
        optimiser = in_eigenbasis(inner, self.snapshot.place.state.params, fisher)
        built = program_for(self.snapshot, optimiser)
        known = self._bases.get(id(inner))
        if known is not None and known.traced is built.traced:
            # The basis is data in the optimiser's state, so what was compiled serves it, too.
            compiled = dataclasses.replace(built.compiled, value=known.chunk)
            built = dataclasses.replace(built, step=known.step, compiled=compiled)
        self._bases = {id(inner): built}
        self._inner = inner
        if not self.in_eigenbasis:
            self._factors_outside = self.snapshot.factors
        self._use(built, f"entered the eigenbasis, rank {fisher.rank}", code)

    def leave_eigenbasis(self) -> None:
        """Go on with the optimiser that the fit was made with, started anew, at its learning rates.

        Raises
        ------
        RuntimeError
            If the fit is not in the eigenbasis.
        """
        if not self.in_eigenbasis:
            raise RuntimeError("leave_eigenbasis: the fit is not in the eigenbasis.")
        self._use(
            self._program, "left the eigenbasis", "fit.leave_eigenbasis()", self._factors_outside
        )

    # Callbacks and files.

    def add_callback(
        self, function: Callable[["Fit"], object], every: int | str | None = None
    ) -> None:
        """Call a function of the fit between two chunks of steps, and once more where a run ends.

        It runs in the thread of the fit and may call any public method: what it freezes or rewinds
        is in force for the next step, and the run goes on. What it raises is printed and recorded
        in `events`; the fit goes on.

        Parameters
        ----------
        function
            Called with the fit.
        every
            A number of steps, at multiples of which it is called; a time such as ``"10s"``,
            ``"5min"`` or ``"1h"``; None for after every chunk, about 20 times a second.

        Raises
        ------
        TypeError, ValueError
            If `function` cannot be called, or `every` is none of these.

        Examples
        --------
        A rule of one's own for when to stop:

        >>> import optax
        >>> import fitkit as fk
        >>> fit = fk.Fit(
        ...     loss=lambda params, args: params["a"] ** 2,
        ...     params={"a": 1.0},
        ...     optimiser=optax.sgd(0.25),
        ... )
        >>> def stop_when_small(fit):
        ...     if fit.loss < 1e-3:
        ...         fit.stop()
        >>> fit.add_callback(stop_when_small, every=2)
        >>> fit.run(1000, progress=False)
        >>> fit.step
        6
        """
        self._engine.add_callback(Callback(function, every))

    def remove_callback(self, function: Callable[["Fit"], object]) -> None:
        """Call a function no more; the counterpart of `add_callback`.

        Raises
        ------
        ValueError
            If it is no callback of this fit.
        """
        self._engine.remove_callback(function)

    @automatic_axes()
    def save(self, path: str | os.PathLike) -> None:
        """Write the fit to a file: state, best state, history, learning rates, events, target.

        What is written is the fit at one moment; a running fit runs on. The file is complete before
        it takes the place of one of the same name. A fit in the eigenbasis is written as
        `leave_eigenbasis` would leave it.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        OSError
            If it cannot be written; then a file of that name is as it was.
        """
        now = self.snapshot
        if self.in_eigenbasis:
            outside = self._program.on(now.place.program)
            now = now.but(
                **with_program(now, outside, "left the eigenbasis", self._factors_outside)
            )
        _ = now.lowest.place
        if self.leads:
            write(path, *to_record(now))

    @classmethod
    @automatic_axes()
    def load(cls, path: str | os.PathLike, **problem: Any) -> "Fit":
        """Go on with a fit that was saved, to the very bits.

        Parameters
        ----------
        path
            A file that `save` wrote.
        **problem
            The same ``loss`` or ``residuals``, ``params``, ``args``, ``optimiser``, ``bounds``,
            ``priors`` and ``derived`` that the fit was made with: functions are not in the file.

        Raises
        ------
        CheckpointError
            If the file is damaged or none of ours, of a fit with other parameters, another
            optimiser or another loss. It is a ``ValueError``.
        OSError
            If there is no such file, or it cannot be read.

        Examples
        --------
        >>> import optax, tempfile
        >>> import fitkit as fk
        >>> problem = {
        ...     "loss": lambda params, args: params["a"] ** 2,
        ...     "params": {"a": 1.0},
        ...     "optimiser": optax.adam(0.1),
        ... }
        >>> fit = fk.Fit(**problem)
        >>> fit.run(10, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fit.save(f"{folder}/fit")
        ...     again = fk.Fit.load(f"{folder}/fit", **problem)
        >>> again.step, again.loss == fit.loss
        (10, True)
        """
        fit = cls(**problem)
        # The first process may be writing still what the others are about to read.
        Agreement(fit._engine.mesh).on_all(True)
        record = read(path)
        loaded = from_record(fit.snapshot, record, os.fspath(path))
        fit._engine.update(lambda now: loaded)
        return fit

    # What the fit found.

    def fisher(self) -> FisherMatrix:
        """Compute what the data constrain, at the present parameters.

        The parameters that are frozen are taken as known. See `fisher_matrix`. The answer is kept
        as `known_fisher`.
        """
        now = self._read_again()
        fisher = self._fisher(now)
        self._engine.update(lambda later: later.but(known_fisher=(now.step, fisher)))
        return fisher

    def fisher_spectrum(self, k: int = 20, **options: Any) -> FisherSpectrum:
        """Find the largest Fisher eigenvalues at the present parameters, where `fisher` takes long.

        The parameters that are frozen are taken as known. The answer is kept as `known_spectrum`.

        Parameters
        ----------
        k
            How many.
        options
            `units`, `rtol`, `probes` and `callback` of `fisher_spectrum`.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `fisher_spectrum` does.
        """
        now = self._read_again()
        require_all(self._engine.mesh, "fisher_spectrum")
        spectrum = spectrum_at(now, k=k, **options)
        self._engine.update(lambda later: later.but(known_spectrum=(now.step, spectrum)))
        return spectrum

    def result(
        self,
        absolute_sigma: bool = True,
        errors_from: Literal["jacobian", "hessian", "sandwich"] | None = None,
    ) -> Result:
        """Compute what the fit found: values with errors, correlations, and whether to trust them.

        At the present parameters; ``fit.rewind(fit.best.step)`` goes to the best ones first.

        Parameters
        ----------
        absolute_sigma
            Whether the residuals are in units of the true σ. If not, errors are scaled by the
            square root of the reduced chi-square, as in SciPy's ``curve_fit``.
        errors_from
            What standard errors come from. Of a loss, the ``"hessian"``. Of residuals, their
            ``"jacobian"`` as a rule, as if the model were straight; the ``"hessian"`` of half the
            sum of squares where that is a likelihood (`poisson_residuals`); or ``"sandwich"``, the
            scatter of the residuals around the model, which asks neither for their σ nor for its
            being the same everywhere, but for many independent data (`robust`).

        Raises
        ------
        ValueError
            If errors of a loss are to be scaled, or taken from what it does not have.
        """
        return self._result(self._read_again(), absolute_sigma, errors_from)

    def profile(
        self,
        path: str,
        *,
        levels: Sequence[float] = (1, 2),
        size: int = 31,
        absolute_sigma: bool = True,
    ) -> Profile:
        """Compute the loss along one element, minimised over all others, and where it has risen.

        Around the present parameters, where the fit must have converged. Frozen parameters stay as
        they are, and the others within their bounds.

        Parameters
        ----------
        path
            Of an element: ``"flux"``, or ``"position[0]"`` of a parameter of several.
        levels
            Of the intervals: probabilities below 1, or numbers of standard errors, as for
            `Result.intervals`.
        size
            At how many evenly spaced values; those of the fit and of the intervals' ends come
            besides.
        absolute_sigma
            As for `result`: if not, intervals are scaled as the errors there are.

        Returns
        -------
        Profile
            Values, losses, the other parameters and the intervals; `Profile.plot` draws them.

        Raises
        ------
        UnknownPathError
            If there is no such element; the message lists the nearest.
        ValueError
            If it is frozen, or the fit has not converged.

        Notes
        -----
        The interval of n standard errors ends where chi-square has risen by n², a negative
        log-likelihood by n²/2, as MINOS has it (Eadie et al., Statistical Methods in Experimental
        Physics, section 9.3). Residuals are minimised side by side as `fit_many` does it, losses
        by Newton's method, both from where their neighbours are.

        Examples
        --------
        >>> import fitkit as fk
        >>> import jax.numpy as jnp
        >>> counts = jnp.array([3.0, 5.0, 2.0])
        >>> fit = fk.Fit(
        ...     loss=lambda p, n: jnp.sum(p["rate"] - n * jnp.log(p["rate"])),
        ...     params={"rate": 3.0},
        ...     args=counts,
        ...     optimiser=optax.lbfgs(),
        ... )
        >>> fit.run(progress=False)
        >>> fit.profile("rate", levels=(1,))
        Profile of rate: 3.3 ± 1.1 by the parabola
          level 1: 2.38... to 4.50...  (-0.9..., +1.1...)
        warning: the standard error misleads: at level 1 the upper side is 1.11 times as ...
        """

        def compute(minimum: Minimum) -> Profile:
            return make_profile(minimum, path, levels, size)

        return self._at_minimum(absolute_sigma, compute)

    def contour(
        self, x: str, y: str, *, level: float = 1, size: int = 64, absolute_sigma: bool = True
    ) -> Contour:
        """Compute where chi-square has risen so much, minimised over all elements but two.

        Parameters
        ----------
        x, y
            Paths of two elements.
        level
            The probability that both lie inside, below 1; or a number of standard errors, which
            stands for the probability of a normal variable to lie within them. So 1 is 0.6827,
            where chi-square has risen by 2.30, as in MINUIT's ``mncontour``.
        size
            How many points the curve has, at least.
        absolute_sigma
            As for `profile`.

        Returns
        -------
        Contour
            Points of a closed curve; `Contour.plot` draws it.

        Raises
        ------
        UnknownPathError, ValueError
            As for `profile`.

        Notes
        -----
        Every point is where a straight line from the minimum reaches the level first. A curve that
        folds back behind itself, as seen from there, is shown up to the fold, with a warning.

        Examples
        --------
        >>> import fitkit as fk
        >>> import jax.numpy as jnp
        >>> fit = fk.Fit(
        ...     residuals=lambda p, args: jnp.array([p["a"] - 1.0, p["b"] - 2.0, p["a"] - p["b"]]),
        ...     params={"a": 0.0, "b": 0.0},
        ... )
        >>> fit.run(progress=False)
        >>> fit.contour("a", "b", level=0.95)
        Contour of a and b at level 0.95: 64 points where chi-square has risen by 5.991
        """

        def compute(minimum: Minimum) -> Contour:
            return make_contour(minimum, x, y, level, size)

        return self._at_minimum(absolute_sigma, compute)

    # Seeing.

    @property
    def snapshot(self) -> Snapshot:
        """Everything about the fit at this moment, of which no part changes any more."""
        return self._engine.snapshot

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the parameters."""
        return self.snapshot.steering.names

    @property
    def params(self) -> PyTree:
        """The parameters, built as they came."""
        return self.snapshot.params

    @property
    def loss(self) -> float:
        """The loss at `params`."""
        return self.snapshot.loss

    @property
    def aux(self) -> PyTree:
        """What the loss function returns beside the loss, at `params`; None if nothing.

        Of a loss that returns a pair ``(loss, aux)``: any tree of arrays and numbers, such as the
        terms of the loss or the model's image. It is computed when it is first asked for at a
        step, so that it costs the steps nothing and needs no memory for those nobody looked at. A
        dashboard shows its numbers from time to time.

        Examples
        --------
        >>> import jax.numpy as jnp, optax
        >>> import fitkit as fk
        >>> def loss(params, data):
        ...     misfit = jnp.sum((params["flux"] - data) ** 2)
        ...     penalty = params["flux"] ** 2
        ...     return misfit + penalty, {"misfit": misfit, "penalty": penalty}
        >>> fit = fk.Fit(
        ...     loss=loss,
        ...     params={"flux": 0.0},
        ...     args=jnp.array([1.0, 2.0]),
        ...     optimiser=optax.sgd(0.1),
        ... )
        >>> fit.run(100, progress=False)
        >>> {name: round(float(value), 3) for name, value in fit.aux.items()}
        {'misfit': 1.0, 'penalty': 1.0}
        """
        return self.snapshot.aux

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self.snapshot.step

    @property
    def best(self) -> Best:
        """The step with the smallest loss so far, with its parameters."""
        return self.snapshot.best

    @property
    def history(self) -> History:
        """Loss, gradient norms, step norms and values of every step, in bounded memory."""
        return self.snapshot.history

    @property
    def events(self) -> Events:
        """What happened to the fit: steering, rewinding, skipped steps; the latest last.

        ``events.as_code()`` is the Python that repeats what was done by hand.
        """
        now = self.snapshot
        return Events(now.events, now.step)

    @property
    def frozen(self) -> frozenset[str]:
        """The paths of the parameters that do not move."""
        return self.snapshot.frozen

    @property
    def undoable(self) -> str:
        """The change that `undo` would take back; empty if there is none."""
        return self.snapshot.steering.undoable

    @property
    def status(self) -> Status:
        """What the fit is doing."""
        return self.snapshot.status

    @property
    def stop_reason(self) -> str:
        """Why the latest run ended; empty while one is under way."""
        return self.snapshot.stop_reason

    @property
    def target(self) -> int | None:
        """The step at which the present run ends; None for a run without an end."""
        return self.snapshot.target

    @property
    def steps_per_second(self) -> float:
        """How fast the fit runs; 0 before it ran."""
        return self.snapshot.steps_per_second

    @property
    def error(self) -> BaseException | None:
        """What the user's function raised in the latest run, or None."""
        return self.snapshot.error

    @property
    def spectrum(self) -> tuple[np.ndarray, int] | None:
        """The Fisher eigenvalues that the optimiser works with, and their rank; None without.

        `gauss_newton` keeps them in its state, so they are free of charge. They are descending
        and free of units; before the first step there are none. For any fit, `fisher` computes
        them.
        """
        now = self.snapshot
        found = spectrum_of(now.place.view.optimiser)
        return (np.empty(0), 0) if found and now.step == 0 else found

    @property
    def known_fisher(self) -> tuple[int, FisherMatrix] | None:
        """The latest Fisher matrix that `fisher` computed, after the step it belongs to."""
        return self.snapshot.known_fisher

    @property
    def known_spectrum(self) -> tuple[int, FisherSpectrum] | None:
        """The latest that `fisher_spectrum` found, after the step it belongs to."""
        return self.snapshot.known_spectrum

    @property
    def in_eigenbasis(self) -> bool:
        """Whether the fit goes on in the Fisher eigenbasis; see `enter_eigenbasis`."""
        chunk = self.snapshot.place.program.chunk
        return any(basis.chunk is chunk for basis in self._bases.values())

    @property
    def report(self) -> NonFiniteReport | None:
        """Where the value was born that ended the last run as ``"non-finite"``; else None.

        It is made when first asked for, by replaying the failing step, and takes about a second.
        """
        return self._reports.of(self.snapshot)

    @property
    def skipped(self) -> int:
        """How many steps were skipped because they were not finite."""
        counts = self.snapshot.place.view.nonfinite
        return 0 if counts is None else int(counts.skipped)

    @property
    def zeroed(self) -> int:
        """How many elements of gradients and updates were not finite and became zero."""
        counts = self.snapshot.place.view.nonfinite
        return 0 if counts is None else int(counts.zeroed)

    @property
    def shared(self) -> bool:
        """Whether several processes fit together, because the data are spread over them."""
        return is_shared(self._engine.mesh)

    @property
    def leads(self) -> bool:
        """Whether this process decides, shows and saves: of several that fit together, the first.

        Without others it is True.
        """
        return leads(self._engine.mesh)

    @property
    def message(self) -> str:
        """What the fit is doing, in a line."""
        now = self.snapshot
        steps, elements = self.skipped, self.zeroed
        passed = (f", {steps:,} steps skipped" if steps else "") + (
            f", {elements:,} non-finite elements zeroed" if elements else ""
        )
        if now.error is not None:
            return f"failed at step {now.step:,}: {type(now.error).__name__}: {now.error}"
        if now.status == Status.NON_FINITE:
            known = self._reports.known(now)
            why = f": {known.operation} at {known.place}" if known else ""
            return (
                f"non-finite at step {now.step + 1:,}{why}; the last finite state is kept{passed}"
            )
        of = f" of {now.target:,}" if now.target is not None and now.target > now.step else ""
        return f"{now.status}: step {now.step:,}{of}, loss {number(now.loss, 6)}{passed}"

    @property
    def version(self) -> int:
        """A number that grows with every change that can be seen; see `wait_for_change`."""
        return self.snapshot.version

    def wait_for_change(self, since: int, timeout: float | None = None) -> int:
        """Sleep until something visible changed after version `since`; return the new version."""
        return self._engine.wait_for_change(since, timeout)

    def __repr__(self) -> str:
        frozen = f"; frozen: {', '.join(sorted(self.frozen))}" if self.frozen else ""
        # Small ones that travel together are what makes many of them fast.
        params = self.snapshot.place.view.params
        return f"<Fit of {Packing.of(params, params).describe()}; {self.message}{frozen}>"

    def _repr_html_(self) -> str:
        return fit_as_html(self.snapshot, self.message)

    def __copy__(self) -> NoReturn:
        self._refuse_copy()

    def __deepcopy__(self, memo: dict) -> NoReturn:
        self._refuse_copy()

    def __reduce__(self) -> NoReturn:
        self._refuse_copy()

    def _refuse_copy(self) -> NoReturn:
        raise TypeError(
            "A Fit holds compiled functions and threads, and cannot be copied or pickled. Write it "
            "to a file with save(path) and read that with Fit.load(path, …); or make another Fit "
            "from fit.params."
        )

    # Helpers.

    def _new_run(self, event: str, n: int | None, until: Until | None) -> Run:
        if until is None and n is None:
            until = CONVERGED
        if until not in (None, CONVERGED) and not callable(until):
            raise ValueError(
                f"{event}: until={until!r}; must be 'converged' or a function of a Snapshot."
            )
        return Run(self._target(event, n), until)

    def _target(self, event: str, n: int | None) -> int | None:
        return None if n is None else self.step + _whole(event, n)

    def _infos(self, run: Run) -> Iterator[StepInfo]:
        # A method, so that the fit lives as long as somebody iterates.
        columns = Columns.of(self.snapshot.place.view.params)
        for rows in self._engine.steps(run):
            yield columns.read(rows[-1])

    def _begin(self, run: Run) -> None:
        try:
            self._engine.start(run)
        except KeyboardInterrupt:
            self.pause()
            raise

    def _pausing_on_interrupt(self, action: Callable[[], None]) -> None:
        """Do something that waits; an interrupt turns it into a pause, a second changes nothing."""
        first = math.inf
        while True:
            try:
                action()
                return
            except KeyboardInterrupt:
                first = min(first, time.monotonic())
                if time.monotonic() - first > _PATIENCE:
                    raise
                action = partial(self._engine.pause, Status.PAUSED, True)

    def _use(
        self, program: Program, text: str, code: str, factors: Mapping[str, float] | None = None
    ) -> None:
        """Go on with another program, on the present problem and data."""

        def change() -> None:
            now = self.snapshot
            self._engine.put(with_program(now, program.on(now.place.program), text, factors, code))

        self._engine.command(change)

    def _steer(self, change: Callable[[Steering, float], Steering], undoing: bool = False) -> None:
        """Change what steers the next chunk, and record it."""
        if self._engine.follows:
            warnings.warn(
                "While several processes fit together, the first one steers: what is set in this "
                "process is ignored until the fit stands still.",
                stacklevel=4,
            )
            return
        when, own = time.monotonic(), self._own_learning_rates()

        def steered(now: Snapshot) -> Snapshot:
            steering = change(now.steering, when)
            words = f"undid: {now.steering.undoable}" if undoing else steering.undoable
            same = not undoing and steering.continues(now.steering)
            before = now.steering.undone() if same else now.steering
            code = steering_code(before, steering, own)
            rates = rate_changes((before, own), (steering, own))
            events = with_event(now, words, None, same, code, rates)
            return now.but(steering=steering, events=events)

        self._engine.update(steered)

    def _set_factors(self, factors: Mapping[str, float], words: str, kind: str) -> None:
        self._steer(lambda steering, now: steering.with_factors(factors, words, now, kind))

    def _own_learning_rates(self) -> dict[str, float]:
        place = self.snapshot.place
        state = place.view.optimiser
        if state is not self._own_rates[0]:
            # A dashboard asks for every row: what is on the device is fetched once for a state.
            self._own_rates = state, own_learning_rates(place)
        return self._own_rates[1]

    def _read_again(self) -> Snapshot:
        """Return the snapshot; where the fit stands still, of its functions as they are now."""

        def read() -> None:
            now = self.snapshot
            if changes := refreshed(now, now.place.program.settings):
                self._engine.update(lambda now: now.but(**changes))

        if not self._engine.active:
            self._engine.command(read)
        return self.snapshot

    def _result(
        self, now: Snapshot, absolute_sigma: bool, errors_from: str | None = None
    ) -> Result:
        require_all(self._engine.mesh, "result")
        frozen = tuple(sorted(now.frozen))
        fisher = None if len(frozen) == len(now.steering.names) else self._fisher(now)
        assessment = self._assessment(now)
        # The user's own function sees the parameters as they came.
        whole, derived = now.place.program.problem.whole_params, self._derived
        with now.place.program.applied():
            result = make_result(
                **now.place.functions,
                **now.place.apart,
                derived=None if derived is None else lambda params: derived(whole(params)),
                initial=self._start,
                order=self._order,
                assessment=assessment,
                fisher=fisher,
                frozen=frozen,
                status=now.status,
                steps=now.step,
                absolute_sigma=absolute_sigma,
                errors_from=errors_from,
                bounds=now.place.program.bounds,
            )
        result = dataclasses.replace(result, _by_profile=partial(intervals_at, now, result))
        report = self._reports.of(now)
        if report is None and assessment.kind is Kind.NONFINITE:
            # Steps may do without a derivative that an assessment takes.
            report = self._remembered.of(now, "derivatives", lambda: explain_derivatives(now))
        if report is None:
            return result
        why = f"{report.operation} at {report.place}, from {report.origin}: {report.advice}"
        return dataclasses.replace(result, warnings=(why, *result.warnings))

    def _at_minimum(self, absolute_sigma: bool, compute: Callable[[Minimum], T]) -> T:
        now = self._read_again()
        return at_minimum(now, self._result(now, absolute_sigma), compute)

    def _fisher(self, now: Snapshot) -> FisherMatrix:
        require_all(self._engine.mesh, "fisher")
        return self._remembered.of(now, "fisher", lambda: fisher_at(now, self._linearised(now)))

    def _assessment(self, now: Snapshot) -> Assessment:
        # Where all is frozen there is nothing to linearise.
        some = len(now.frozen) < len(now.steering.names)

        def assess() -> Assessment:
            linearised = self._linearised(now) if some else None
            return assess_place(now, now.place, linearised=linearised)

        return self._remembered.of(now, "assessment", assess)

    def _linearised(self, now: Snapshot) -> Linearised | None:
        return self._remembered.of(now, "linearised", lambda: linearise_at(now))

    def _conclude(self, report: NonFiniteReport | None) -> None:
        """Show the user who waited what went wrong, with the last checkpoint written."""
        if self._autosave is not None:
            self._autosave(self)  # Where the fit stands now, unless that is written already.
            self._autosave.wait()
        if report is not None and self.leads:
            print(report, flush=True)
        if self.error is not None:
            raise self.error


def _whole(event: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{event}: {n!r} steps; must be a whole number, 1 or more.")
    return int(n)
