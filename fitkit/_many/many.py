"""`Many`: what is known of many fits, and the handle on them while they run."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from fitkit._input import shortened
from fitkit._many import saving, tables
from fitkit._many.best import Best, best_of
from fitkit._many.completion import Clock, Completion
from fitkit._many.engine import Engine
from fitkit._many.priors import apart, contributions
from fitkit._many.queue import Method
from fitkit._many.record import KINDS, Record
from fitkit._many.systems import Systems
from fitkit._many.worker import Worker
from fitkit._paths import named_leaves
from fitkit._progress import Progress
from fitkit._result import CONVERGED, LEAST_FREEDOM, Result, make_result

Index = int | tuple[int, ...]

# For how long interrupts only ask for the pause that the first one asked for, in seconds.
_PATIENCE = 3.0
# The status of a system that was not fitted yet, beside the kinds of an `Assessment`.
_WORDS = np.array([*map(str, KINDS), "waiting"])


class Many:
    """Fits of many systems; made by `fit_many`.

    Arrays have the shape of the systems, ``shape``, in front; those by parameter path have the
    shape of the parameter behind it. What was not fitted yet is NaN there, and its status
    ``"waiting"``: all can be read while the fits run.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp, numpy as np
    >>> x = np.linspace(0.0, 2.0, 20)
    >>> rates = np.array([0.5, 1.0, 2.0])
    >>> noise = 0.01 * np.sin(50 * (x + rates[:, None]))
    >>> y = 3.0 * np.exp(-rates[:, None] * x) + noise
    >>> def residuals(params, args):
    ...     x, y = args
    ...     return (params["height"] * jnp.exp(-params["rate"] * x) - y) / 0.01
    >>> many = fk.fit_many(
    ...     residuals, {"height": 1.0, "rate": 1.0}, (x, y), args_axes=(None, 0), progress=False
    ... )
    >>> many.counts()
    {'minimum': 3}
    >>> many.values["rate"].round(1).tolist()
    [0.5, 1.0, 2.0]
    >>> many[1].success
    True
    """

    def __init__(
        self, systems: Systems, record: Record | None = None, method: Method | None = None
    ) -> None:
        self._systems = systems
        self._engine = Engine(systems, record, method)
        self._worker = Worker(self._engine, self._call_back)
        self._callbacks: list[Callable[[Many], object]] = []
        self._clock, self._ended = Clock(self._engine.record), False
        self._best: tuple[int, Best] | None = None

    # Running.

    @property
    def running(self) -> bool:
        """Whether fits are being made."""
        return self._worker.running

    @property
    def finished(self) -> bool:
        """Whether all fits were made."""
        return self.progress == 1.0

    @property
    def progress(self) -> float:
        """The share of the fits that were made."""
        return self._engine.done / len(self._engine.record.kind)

    @property
    def notes(self) -> tuple[str, ...]:
        """What did not go as planned: smaller batches for lack of memory, callbacks that raised."""
        return tuple(self._engine.notes)

    @property
    def stopped(self) -> bool:
        """Whether `stop` ended the run, so that nobody waits for what is left."""
        return self._ended

    @property
    def error(self) -> BaseException | None:
        """What the user's function raised; None once `wait` has raised it."""
        return self._worker.error

    @property
    def completion(self) -> Completion:
        """How many fits were made and how many converged, second by second."""
        return self._clock.completion

    def start(self) -> None:
        """Make the fits that are left in the background; return at once."""
        self._ended = False
        if not self.running:
            self._clock.start()
        self._worker.start()

    def resume(self) -> None:
        """Go on after a pause, in the background, with what is left."""
        self.start()

    def pause(self, block: bool = True) -> None:
        """Stop within a tenth of a second or so. What was finished stays; `resume` goes on.

        Parameters
        ----------
        block
            Whether to wait until the fits stand still.
        """
        self._worker.stop()
        if block:
            self._worker.join()

    def stop(self, block: bool = True) -> None:
        """Give up what is left, as `pause` does and for good; only `start` goes on with it.

        Parameters
        ----------
        block
            Whether to wait until the fits stand still.
        """
        self._ended = not self.finished
        self.pause(block)

    def add_callback(self, function: Callable[["Many"], object]) -> None:
        """Call a function while the fits run, about ten times a second, and once at the end.

        It runs in the thread of the fits, which wait for it, and may look at everything and call
        `pause` or `save`. What it raises is printed and kept in `notes`; the fits go on.

        Parameters
        ----------
        function
            Called with this object.

        Raises
        ------
        TypeError
            If it cannot be called.
        """
        if not callable(function):
            raise TypeError(f"add_callback: {shortened(function)} is no function of the fits.")
        self._callbacks.append(function)

    def _call_back(self) -> None:
        self._clock.note()
        for function in self._callbacks:
            try:
                function(self)
            except Exception as error:
                name = getattr(function, "__name__", type(function).__name__)
                note = f"callback {name} raised {type(error).__name__}: {error}"
                # Each of them is told once, or a fit would be buried in them.
                if note not in self._engine.notes:
                    self._engine.notes.append(note)
                    print(f"\nfit_many: {note}", flush=True)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> None:
        """Wait until all fits were made. Interrupting this (Ctrl-C) pauses them.

        Parameters
        ----------
        timeout
            For how long at most, in seconds.
        progress
            Whether to print how far they are.

        Raises
        ------
        TimeoutError
            If they still run after `timeout` seconds.
        Exception
            Whatever the user's function raised.
        """
        interrupted, bar = None, Progress("systems") if progress else None

        def show() -> None:
            if bar is not None:
                bar.show(self._engine.done, len(self._engine.record.kind))

        while True:
            try:
                if interrupted is not None:
                    self._worker.stop()
                if not self._worker.join(timeout, show):
                    raise TimeoutError(f"fit_many: still running after {timeout} s: {self}")
                break
            except KeyboardInterrupt:
                interrupted = interrupted or time.monotonic()
                if time.monotonic() - interrupted > _PATIENCE:
                    raise
        if bar is not None:
            bar.close(tables.progress_line(self), interrupted is not None)
        elif interrupted is not None:
            print(tables.progress_line(self), flush=True)
        if (error := self._worker.error) is not None:
            self._worker.error = None
            raise error

    # What was found.

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes that count systems."""
        return self._systems.shape

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the elements that were fitted."""
        return self._systems.labels

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Values by parameter path, in its unit; those of frozen parameters as they were given."""
        return self._by_path(self._of_best("values", np.nan), frozen=True)

    @property
    def errors(self) -> dict[str, np.ndarray]:
        """Standard errors by parameter path; infinite where the data leave free, 0 where frozen."""
        return self._by_path(self._of_best("errors", np.nan), frozen=False)

    @property
    def at_bound(self) -> dict[str, Bool[np.ndarray, "..."]]:
        """Which elements a limit holds back, by parameter path: their errors are none."""
        return self._by_path(self._of_best("held", False), frozen=False)

    @property
    def chi_square(self) -> np.ndarray:
        """Sum of the squared residuals of the data, weighted."""
        return self._of_best("chi_square", np.nan).reshape(self.shape) - self._of_priors[0]

    @property
    def prior_chi_square(self) -> np.ndarray:
        """Sum of the squared residuals of the priors; 0 without any."""
        return np.zeros(self.shape) + self._of_priors[0]

    @property
    def degrees_of_freedom(self) -> np.ndarray:
        """Number of residuals that are data, less that of parameters which the data determine.

        Without priors the latter is the number of constrained eigenvectors; see `Result`.
        """
        record, rows, systems = self._engine.record, self._rows, self._systems
        freedom = record.data[rows] - record.rank[rows]
        freedom = np.where(record.finished[rows], freedom, 0).reshape(self.shape)
        if not systems.priors:
            return freedom
        left = freedom - (systems.residual_count - systems.data_count) + self._of_priors[1]
        return np.where(left > LEAST_FREEDOM, left, 0.0)

    @property
    def reduced_chi_square(self) -> np.ndarray:
        """Chi-square over its degrees of freedom; NaN where there are none."""
        freedom = self.degrees_of_freedom
        return self.chi_square / np.where(freedom > 0, freedom, np.nan)

    @property
    def status(self) -> np.ndarray:
        """Where every fit stands, in a word: the kinds of an `Assessment`, and ``"waiting"``.

        ``"minimum"`` is what is wanted; ``"met"`` are data without noise, met to rounding;
        ``"flat"`` a minimum along which the data leave something free; ``"non-finite"`` a system
        whose data, start or residuals are not finite. All else is no minimum.
        """
        return _WORDS[self._engine.record.kind[self._rows]].reshape(self.shape)

    @property
    def success(self) -> Bool[np.ndarray, "..."]:
        """Whether a fit is at a minimum, with every element constrained or held by a limit."""
        return self._of_best("success", False).reshape(self.shape)

    @property
    def converged(self) -> Bool[np.ndarray, "..."]:
        """Whether a fit is at a minimum, be it a flat one."""
        kinds = np.array([kind in CONVERGED for kind in KINDS] + [False])
        return kinds[self._engine.record.kind[self._rows]].reshape(self.shape)

    @property
    def rounds(self) -> Int[np.ndarray, "..."]:
        """How often the residuals and their derivatives were computed for a fit."""
        return self._of_best("rounds", 0).reshape(self.shape)

    @property
    def times_found(self) -> Int[np.ndarray, "..."]:
        """From how many of its starts a system came to what is stated: a lone one is suspicious."""
        return self._found.times.reshape(self.shape)

    @property
    def starts(self) -> int:
        """Number of starts of every system."""
        return self._systems.starts_each

    def counts(self) -> dict[str, int]:
        """Count the systems of every status, the most frequent first."""
        words, numbers = np.unique(self.status, return_counts=True)
        order = np.argsort(-numbers, kind="stable")
        return {str(words[i]): int(numbers[i]) for i in order}

    def worst(self, n: int = 10) -> list[Index]:
        """List the systems to look at first: those without success, then by reduced chi-square.

        Those that were not fitted yet come last.

        Parameters
        ----------
        n
            How many.

        Returns
        -------
        list
            Indices as ``many[index]`` takes them.

        Raises
        ------
        ValueError
            If `n` is negative.
        """
        if n < 0:
            raise ValueError(f"worst: n={n}; must be the number of systems to list.")
        bad = np.nan_to_num(self.reduced_chi_square.ravel(), nan=np.inf, posinf=np.inf)
        waiting = ~self._engine.record.finished[self._rows]
        order = np.lexsort((-bad, self.success.ravel(), waiting))[:n]
        return [self._index(int(i)) for i in order]

    def __len__(self) -> int:
        return self._systems.count

    def __getitem__(self, index: Index) -> Result:
        """Return the result of one system, as `Fit.result` states it.

        Parameters
        ----------
        index
            Number of the system, or one number for each axis that counts them.

        Raises
        ------
        IndexError
            If there is no such system.
        ValueError
            If it was not fitted yet.
        """
        system = self._system(index)
        row = int(self._rows[system])
        record = self._engine.record
        if not record.finished[row]:
            raise ValueError(
                f"fit_many: system {index} was not fitted yet; {tables.progress_line(self)}."
            )
        return self._result(system, row)

    def refit(self, mask: Any, starts: Any = None) -> int:
        """Fit some systems again, and keep what is better.

        Parameters
        ----------
        mask
            Which: booleans in the shape of the systems, such as ``~many.success``.
        starts
            Where to start, as for `fit_many`; by default where those systems are now.

        Returns
        -------
        int
            How many came to a minimum where there was none before, or to a lower one.
        """
        which = np.flatnonzero(self._checked(mask))
        if not len(which):
            return 0
        systems, rows = self._systems, self._rows[which]
        if starts is None:
            now = self._engine.record.values[rows]
            rows_of_starts = systems.starts[which if len(systems.starts) > 1 else [0]][:, 0]
            began = np.where(np.isfinite(now), now, rows_of_starts)[:, None]
        else:
            began = systems.read_starts(starts)
            began = began[which] if len(began) > 1 else began
        again = Many(systems.subset(which, began))
        again.start()
        again.wait()
        return self._engine.record.improved(rows, again._engine.record, again._rows)

    # To files and tables.

    def to_dataframe(self) -> Any:
        """Tabulate as a pandas ``DataFrame``, one row for each system.

        Raises
        ------
        ImportError
            If pandas, which fitkit does not require, is not installed.
        """
        return tables.dataframe(self)

    def to_xarray(self) -> Any:
        """Return an ``xarray.Dataset``, with the axes that count systems as dimensions.

        Raises
        ------
        ImportError
            If xarray, which fitkit does not require, is not installed.
        """
        return tables.dataset(self)

    def save(self, path: str | os.PathLike) -> None:
        """Save what was found to a file, which `load` goes on from.

        Parameters
        ----------
        path
            A file of that name is replaced once all is written.
        """
        saving.save(path, self._systems, self._engine.record)

    def __repr__(self) -> str:
        return tables.text(self)

    @property
    def _found(self) -> Best:
        done = self._engine.done
        if self._best is None or self._best[0] != done:
            self._best = done, best_of(self._engine.record, self._systems.starts_each)
        return self._best[1]

    @property
    def _rows(self) -> Int[np.ndarray, " systems"]:
        return self._found.rows

    @property
    def _of_priors(self) -> tuple[Any, Any]:
        """Chi-square of the priors, and how many parameters they determine."""
        priors = self._systems.priors
        return contributions(priors, self.values, self.errors, self.shape) if priors else (0.0, 0)

    def _of_best(self, name: str, waiting: Any) -> np.ndarray:
        record, rows = self._engine.record, self._rows
        found, done = getattr(record, name)[rows], record.finished[rows]
        return np.where(done.reshape(-1, *[1] * (found.ndim - 1)), found, waiting)

    def _by_path(self, columns: np.ndarray, frozen: bool) -> dict[str, np.ndarray]:
        """Give the columns of elements the shape of the parameters that they belong to."""
        systems, found, at = self._systems, {}, 0
        free = named_leaves(systems.free)
        for path, leaf in named_leaves(systems.params).items():
            if path in free:
                part = columns[:, at : at + leaf.size]
                at += leaf.size
                dtype = leaf.dtype if part.dtype != bool and frozen else part.dtype
                found[path] = part.reshape((*self.shape, *leaf.shape)).astype(dtype)
            elif frozen:
                found[path] = systems.given(path)
            else:
                found[path] = np.zeros((*self.shape, *leaf.shape), columns.dtype)
        return found

    def _checked(self, mask: Any) -> Bool[np.ndarray, " systems"]:
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != self.shape:
            raise ValueError(
                f"refit: the mask has shape {mask.shape} and dtype {mask.dtype}; must be booleans "
                f"of shape {self.shape}, one for each system, such as ~many.success."
            )
        if self.running:
            raise RuntimeError("refit: the fits are running. Pause them first, or wait.")
        return mask.ravel()

    def _index(self, system: int) -> Index:
        if len(self.shape) == 1:
            return system
        return tuple(int(i) for i in np.unravel_index(system, self.shape)) if self.shape else ()

    def _system(self, index: Index) -> int:
        shape = self.shape
        where = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in where):
            raise TypeError(
                f"fit_many: many[{shortened(index)}]; must be the number of one system, or one for "
                f"each axis of the shape {shape}. Of several at once many.values has the arrays."
            )
        if not shape and where in ((), (0,)):
            return 0
        inside = len(where) == len(shape) and all(
            -size <= i < size for i, size in zip(where, shape, strict=True)
        )
        if not inside:
            raise IndexError(f"fit_many: no system {index}; the shape of the systems is {shape}.")
        positive = [i % size for i, size in zip(where, shape, strict=True)]
        return int(np.ravel_multi_index(positive, shape))

    def _result(self, system: int, row: int) -> Result:
        systems, record = self._systems, self._engine.record
        residuals = self._engine.second.residuals
        params, given = self._engine.second.inputs(system, record.values[row])
        status = "non-finite" if _WORDS[record.kind[row]] == "non-finite" else "finished"
        return make_result(
            residuals=residuals,
            params=params,
            args=given,
            frozen=systems.frozen,
            status=status,
            steps=int(record.rounds[row]),
            bounds=systems.bounds,
            **(apart(residuals, systems.data_count) if systems.priors else {}),
        )

    if TYPE_CHECKING:  # Attached by fitkit._plotting, so that this can be had without matplotlib.

        def plot_map(self, path: str, ax: Any = None) -> Any: ...
        def plot_chi_square(self, ax: Any = None) -> Any: ...
        def plot_worst(self, n: int = 10, ax: Any = None) -> Any: ...
