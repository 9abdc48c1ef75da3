"""The one owner of a fit's state: commands in, snapshots out, one run at a time."""

import atexit
import contextlib
import os
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from jax.sharding import Mesh

from fitkit._fit.advance import Rows, at_rest, with_event
from fitkit._fit.agree import in_step, leads, note_run, require_all
from fitkit._fit.callbacks import Callback
from fitkit._fit.driver import Driver
from fitkit._fit.interrupts import uninterrupted
from fitkit._fit.run import Command, Run
from fitkit._fit.snapshots import Snapshot
from fitkit._fit.status import Status
from fitkit._programs import inside_jax
from fitkit._sharding import automatic_axes, is_shared, users_axes

T = TypeVar("T")


class Engine:
    """Owns everything about a fit that changes.

    Readers see one immutable `Snapshot`, which is replaced as a whole. Whoever wants a change sends
    a command: while a run is under way its driver carries it out between two chunks, in the order
    in which commands came, and otherwise the thread that sends it does, so that one thread at a
    time changes the state. What steers (learning rates, freezing) is data to the next chunk, and
    changes at once.

    Parameters
    ----------
    snapshot
        Where the fit begins.
    fit
        Returns what callbacks are called with, or None once nobody holds that any more.
    """

    def __init__(self, snapshot: Snapshot, fit: Callable[[], Any]) -> None:
        self.callbacks: tuple[Callback, ...] = ()
        self._snapshot = snapshot
        self._fit = fit
        self._run: Run | None = None
        self._busy: threading.Thread | None = None
        self._commands: deque[Command] = deque()
        self._make_locks()
        _ENGINES.add(self)

    def _make_locks(self) -> None:
        # Held for a few lines at a time, never while something runs. Taken as it is: the `with` of
        # a Condition is Python code, which an interrupt can leave locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    # Reading.

    @property
    def snapshot(self) -> Snapshot:
        """Everything about the fit at this moment."""
        return self._snapshot

    @property
    def active(self) -> bool:
        """Whether a run is under way."""
        return self._run is not None

    @property
    def mesh(self) -> Mesh | None:
        """The devices over which the data are spread."""
        return self._snapshot.place.program.problem.mesh

    @property
    def follows(self) -> bool:
        """Whether another process steers the run that is under way."""
        return self.active and not leads(self.mesh) and not self._may_change()

    def wait_for_change(self, since: int, timeout: float | None) -> int:
        """Sleep until the version is no longer `since`; return the new one."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._snapshot.version == since:
            left = 0.1 if end is None else min(0.1, end - time.monotonic())
            if left <= 0:
                break
            # A tenth of a second at a time, because meanwhile an interrupt is kept back.
            with uninterrupted(), self._lock:
                self._changed.wait_for(lambda: self._snapshot.version != since, left)
        return self._snapshot.version

    # Changing.

    def update(self, change: Callable[[Snapshot], Snapshot]) -> Snapshot:
        """Replace the snapshot by the one that `change` computes from it, quickly."""
        with self._lock:
            self._snapshot = change(self._snapshot)
            self._changed.notify_all()
            return self._snapshot

    def put(self, changes: dict[str, Any]) -> Snapshot:
        """Replace parts of the snapshot.

        Where several processes fit together, nothing is left to compute of them for who reads it.
        """
        if is_shared(self.mesh):
            if "place" in changes:
                _ = changes["place"].loss, changes["place"].aux
            if "lowest" in changes:
                _ = changes["lowest"].place
        return self.update(lambda now: now.but(**changes))

    def note(self, text: str) -> None:
        """Record an event."""
        self.update(lambda now: now.but(events=with_event(now, text)))

    def command(self, function: Callable[[], T], ends_run: bool = False) -> T:
        """Carry out a change of the state, and return what `function` returns.

        While a run is under way its driver calls `function` between two chunks. What it raises is
        raised here, and then nothing has changed.

        Parameters
        ----------
        function
            Computes all that is new first, and then replaces the snapshot.
        ends_run
            Whether a run that is under way ends there; one whose own callback asks goes on.
        """
        function = automatic_axes()(function)
        if self._may_change():
            return function()
        require_all(self.mesh, "A change of a running fit")
        command = Command(function, ends_run)
        with self._lock:
            self._commands.append(command)
        while not command.done.is_set:
            try:
                if self._claim_rest():
                    self.carry_out_commands()
                else:
                    command.done.wait(0.05)
            finally:
                if self._busy is threading.current_thread():
                    self._busy = None
        if command.error is not None:
            raise command.error
        return command.answer

    def add_callback(self, callback: Callback) -> None:
        """Call a function of the fit from now on."""
        callback.called(self._snapshot.step, time.monotonic())
        with self._lock:
            self.callbacks = (*self.callbacks, callback)

    def remove_callback(self, function: Callable[[Any], object]) -> None:
        """Call it no more."""
        with self._lock:
            kept = tuple(one for one in self.callbacks if one.function != function)
            if len(kept) == len(self.callbacks):
                raise ValueError(f"remove_callback: {function!r} is no callback of this fit.")
            self.callbacks = kept

    # Running.

    def start(self, run: Run) -> None:
        """Begin a run in a thread of its own."""
        thread = threading.Thread(target=self._work, args=(run,), name="fitkit-fit", daemon=True)
        with uninterrupted():
            try:
                run.thread = thread
                self._claim(run, thread)
                thread.start()
            except BaseException:
                self._abandon(run)
                raise

    def steps(self, run: Run) -> Iterator[Rows]:
        """Run in the caller's thread, and stand still while the caller looks at the rows."""
        with uninterrupted():
            self._claim(run, threading.current_thread())
        run.begun = True
        chunks = Driver(self, run).chunks()
        try:
            while True:
                with in_step():
                    rows = next(chunks, None)
                if rows is None:
                    return
                if not len(rows):
                    continue
                self._suspend(run)
                try:
                    yield rows
                finally:
                    goes_on = self._resume(run)
                if not goes_on:
                    return
        finally:
            with in_step():
                chunks.close()
                self._finish(run)

    def pause(self, request: Status, block: bool) -> None:
        """Ask the run to end after the chunk at hand, as ``PAUSED`` or ``STOPPED``."""
        with self._lock:
            run = self._run
            if run is None:
                return
            run.ask(request)
        if run.suspended:
            self.command(lambda: self._finish(run) if run.suspended else None)
        if block and not self._may_change():
            self._join(run)

    def wait(
        self, timeout: float | None = None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Wait for the end of the run that is under way, if there is one."""
        run = self._run
        if run is None:
            return
        if run.driver is threading.current_thread():
            raise RuntimeError(
                "wait: the run cannot end while its own callback, or the loop over its steps(), "
                "waits for it. Let that return, or call pause()."
            )
        if not self._join(run, timeout, meanwhile):
            raise TimeoutError(f"wait: the fit is still {self._snapshot.status} after {timeout} s.")

    # What a driver asks of its owner.

    @property
    def wanted(self) -> bool:
        """Whether a command waits, or nobody holds the fit any more."""
        return bool(self._commands) or self._fit() is None

    def carry_out_commands(self) -> None:
        """Carry out what was asked for, in the order in which it came."""
        while self._commands:
            command = self._commands.popleft()
            command.carry_out()
            if command.ends_run and command.error is None and self._run is not None:
                self._run.ask(Status.STOPPED)
        if self._fit() is None and self._run is not None:
            self._run.ask(Status.STOPPED)

    def call_back(self, callbacks: Sequence[Callback]) -> None:
        """Call the callbacks that are due; what one raises is reported and changes nothing."""
        for one in callbacks:
            now, fit = self._snapshot, self._fit()
            if fit is None or one not in self.callbacks:
                continue
            one.called(now.step, time.monotonic())
            try:
                with users_axes():
                    one.function(fit)
            except Exception as error:
                self.note(f"callback {one.name} raised {type(error).__name__}: {error}")
                traceback.print_exception(error)

    # Who may change the state.

    def _may_change(self) -> bool:
        """Return whether the present thread is the one that may change the state now."""
        me, run = threading.current_thread(), self._run
        return self._busy is me or (run is not None and run.driver is me and not run.suspended)

    def _claim(self, run: Run, driver: threading.Thread) -> None:
        """Let a run own the state, once nobody changes it."""
        while True:
            with self._lock:
                if self._run is not None:
                    now = self._snapshot
                    raise RuntimeError(
                        f"The fit is running already (step {now.step:,}). Call pause(), stop() or "
                        "wait() first, or make another Fit."
                    )
                if self._busy in (None, threading.current_thread()):
                    run.driver = driver
                    self._run = run
                    note_run(self.mesh, run, under_way=True)
                    # At once: whoever started the run may look before its thread has begun.
                    self._snapshot = self._snapshot.but(target=run.target, until=run.until)
                    return
                self._changed.wait(0.05)

    def _claim_rest(self) -> bool:
        """Become the thread that may change the state, if no other is."""
        with self._lock:
            if self._busy is not None or not (self._run is None or self._run.suspended):
                return False
            self._busy = threading.current_thread()
            return True

    def _abandon(self, run: Run) -> None:
        """Leave a run whose start was interrupted: it is asked to pause, or never was."""
        with self._lock:
            if run.begun:
                run.ask(Status.PAUSED)
                return
            run.cancelled = True
            if self._run is run:
                self._run = None
                note_run(self.mesh, run, under_way=False)
        run.over.set()

    def _work(self, run: Run) -> None:
        with self._lock:
            if run.cancelled:
                return
            run.begun = True
        with in_step(), inside_jax():
            try:
                # What it raises is kept in the snapshot, and raised again where the user waits.
                with contextlib.suppress(BaseException):
                    run.settings.call(lambda: deque(Driver(self, run).chunks(), maxlen=0))
            finally:
                run.settings.call(lambda: self._finish(run))

    def _suspend(self, run: Run) -> None:
        with self._lock:
            run.suspended = True
            self._changed.notify_all()

    def _resume(self, run: Run) -> bool:
        """Go on after the user's own loop; return whether the run is still under way."""
        me = threading.current_thread()
        while True:
            with self._lock:
                if self._busy in (None, me):
                    run.suspended, run.driver = False, me
                    return self._run is run
            time.sleep(0.001)  # Somebody's command is being carried out.

    def _finish(self, run: Run) -> None:
        """End a run: settle what the fit is from now on."""
        if self._run is not run:
            return
        try:
            status, reason = run.end_at(self._snapshot.step)
            known: dict[str, Any] = {}
            with contextlib.suppress(Exception):
                # What the user's function raises here it raised in the step, which is reported.
                known = at_rest(self._snapshot)
            changes = {"status": status, "stop_reason": reason, "error": run.error, **known}
            if status in (Status.FINISHED, Status.STOPPED):
                changes |= {"target": self._snapshot.step, "until": None}
            self.put(changes)
            step = self._snapshot.step
            self.call_back([one for one in self.callbacks if one.due_at_end(step)])
        finally:
            with self._lock:
                self._run = None
                note_run(self.mesh, run, under_way=False)
                self._changed.notify_all()
            run.over.set()

    def _join(
        self, run: Run, timeout: float | None = None, meanwhile: Callable[[], None] | None = None
    ) -> bool:
        if not run.over.wait(timeout, meanwhile):
            return False
        if run.thread is not None and run.thread is not threading.current_thread():
            # What is left are a few lines; but JAX must not go down before they have run.
            with uninterrupted():
                run.thread.join()
        return True

    def _forget_run(self) -> None:
        """Begin anew in a forked child, where no thread of the parent is."""
        self._make_locks()
        run, self._run, self._busy = self._run, None, None
        note_run(self.mesh, run, under_way=False)
        self._commands.clear()
        if run is not None:
            self.update(lambda now: now.but(status=Status.PAUSED, stop_reason="the process forked"))


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Leave no thread of ours inside JAX when the interpreter goes down."""
    engines = list(_ENGINES)
    for engine in engines:
        engine.pause(Status.PAUSED, block=False)
    for engine in engines:
        engine.wait()


def _after_fork() -> None:
    for engine in list(_ENGINES):
        engine._forget_run()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
