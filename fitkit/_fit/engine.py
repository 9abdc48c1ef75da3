"""One run at a time, in a thread or in the caller's: begin, pause, stop, wait, status."""

import atexit
import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator

from fitkit._fit.loop import Loop, Taken
from fitkit._fit.step import Controls


class Runner:
    """Runs a loop, and knows what it is doing.

    Parameters
    ----------
    loop
        What to run.
    controls
        Gives what steers the next chunk.
    saw
        Called after each chunk, with what it did.

    Attributes
    ----------
    status
        ``"ready"``, ``"compiling"``, ``"running"``, ``"paused"``, ``"finished"``, ``"stopped"``, or
        what ended the run: ``"converged"``, ``"stalled"``, ``"non-finite"``, ``"failed"``.
    target
        The step at which the run ends.
    error
        What the user's function raised in the latest run, or None.
    version
        Grows with every change that can be seen.
    """

    def __init__(
        self, loop: Loop, controls: Callable[[], Controls], saw: Callable[[Taken], None]
    ) -> None:
        self.status = "ready"
        self.target = 0
        self.error: BaseException | None = None
        self.version = 0
        self._loop = loop
        self._controls = controls
        self._saw = saw
        self._condition = threading.Condition()
        self._still = threading.Event()
        self._still.set()
        self._pause = threading.Event()
        self._driver: threading.Thread | None = None
        self._holders = 0
        self._holding = False

    @property
    def active(self) -> bool:
        """Whether a run is under way."""
        return not self._still.is_set()

    def begin(self, target: int) -> None:
        """Claim the loop for a run to the step `target`."""
        with self._condition:
            if self.active:
                raise RuntimeError(
                    f"The fit is running already (step {self._loop.now.step:,} of "
                    f"{self.target:,}). Call pause(), stop() or wait() first, or make another Fit."
                )
            self._still.clear()
        self._pause.clear()
        self.target, self.error = target, None
        self.become("running" if self._loop.compiled else "compiling")

    def launch(self, target: int) -> None:
        """Run to the step `target` in a thread."""
        self.begin(target)
        worker = threading.Thread(target=self._work, name="fitkit-fit", daemon=True)
        try:
            _RUNNING.add(self)
            worker.start()
        finally:
            if worker.ident is None:  # Interrupted before it began.
                self._settle()

    def chunks(self, every: int | None = None) -> Iterator[Taken]:
        """Run to the target in the caller's thread, after `begin`."""
        self._driver = threading.current_thread()
        try:
            going = True
            while going:
                for taken in self._loop.chunks(self._left, self._controls, every):
                    self._saw(taken)
                    self.become(taken.end or "running")
                    going = not taken.end
                    # Chunks of a fixed length are not queued: between two of them all stands still.
                    if every:
                        self._offer_rest()
                    yield taken
                    if every:
                        self._go_on()
                self._offer_rest()
                self._go_on()
                going = going and not self._pause.is_set() and self._loop.now.step < self.target
        except GeneratorExit:
            self._pause.set()
            raise
        except BaseException as error:
            self.error = error
            self.become("failed")
            raise
        finally:
            self._settle()

    def pause(self, block: bool) -> None:
        """Ask the run to stop after the chunk at hand; with `block`, wait until it has."""
        self._pause.set()
        if block and threading.current_thread() is not self._driver:
            self._still.wait()

    def stop(self, block: bool) -> None:
        """Pause, and give up what is left of the run."""
        self.target = 0
        self.pause(block)
        if not self.active:
            self._settle()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the run stand still meanwhile; whoever waits for its end notices nothing."""
        with self._condition:
            self._holders += 1
            if threading.current_thread() is not self._driver:
                self._condition.wait_for(lambda: self._holding or not self.active)
        try:
            yield
        finally:
            with self._condition:
                self._holders -= 1
                self._condition.notify_all()

    def watch(self, timeout: float | None = None, show: Callable[[], None] | None = None) -> None:
        """Wait until all stands still, in the thread that hears an interrupt; that pauses.

        `show` is called meanwhile, a few times a second.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while not self._still.wait(max(0.0, min(0.2, until - time.monotonic()))):
                if show:
                    show()
                if time.monotonic() >= until:
                    raise TimeoutError(f"wait: the fit is still {self.status} after {timeout} s.")
        except KeyboardInterrupt:
            self.pause(block=True)

    def become(self, status: str) -> None:
        """Change the status, and tell those who watch."""
        self.status = status
        self.touch()

    def touch(self) -> None:
        """Tell those who watch that something can be seen to have changed."""
        with self._condition:
            self.version += 1
            self._condition.notify_all()

    def wait_for_change(self, since: int, timeout: float | None) -> int:
        """Sleep until the version is no longer `since`; give the new one."""
        with self._condition:
            self._condition.wait_for(lambda: self.version != since, timeout)
            return self.version

    def _work(self) -> None:
        try:
            for _ in self.chunks():
                pass
        except BaseException:
            # It is kept in `error`, and raised again where the user waits.
            return

    def _left(self, step: int) -> int:
        return 0 if self._pause.is_set() or self._holders else self.target - step

    def _offer_rest(self) -> None:
        with self._condition:
            self._holding = True
            self._condition.notify_all()

    def _go_on(self) -> None:
        """Go on once nobody holds the run any more."""
        with self._condition:
            self._condition.wait_for(lambda: not self._holders)
            self._holding = False

    def _settle(self) -> None:
        """Stand still, and say what the fit is from now on."""
        if self.status in ("running", "compiling"):
            self._loop.settle()
            self.status = "paused" if self._loop.now.step < self.target else "finished"
        if self.target == 0 and self.status in ("paused", "finished"):
            self.status = "stopped"
        _RUNNING.discard(self)
        self._driver, self._holding = None, False
        self._still.set()
        self.touch()


_RUNNING: weakref.WeakSet[Runner] = weakref.WeakSet()


@atexit.register
def _pause_all() -> None:
    """Let no thread of ours be inside JAX while the interpreter goes down."""
    running = list(_RUNNING)
    for runner in running:
        runner.pause(block=False)
    for runner in running:
        runner.watch(timeout=10)
