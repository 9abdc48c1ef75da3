"""Makes fits in a thread of its own, which stops where it is asked to and loses nothing."""

import atexit
import threading
import weakref
from collections.abc import Callable

from fitkit._many.engine import Engine
from fitkit._programs import JaxSettings, no_debugging, refuse_in_fork


class Worker:
    """Drives an engine in the background.

    Parameters
    ----------
    engine
        What makes the fits.
    after
        Called in its thread after every portion.
    """

    def __init__(self, engine: Engine, after: Callable[[], None]) -> None:
        self._engine, self._after = engine, after
        self._thread: threading.Thread | None = None
        # Not `Thread.join` and `is_alive`: up to Python 3.12 an interrupt of the one makes the
        # other say that a thread which runs on has ended.
        self._idle = threading.Event()
        self._idle.set()
        self._stopping = False
        self.error: BaseException | None = None
        atexit.register(_stop, weakref.ref(self))

    @property
    def running(self) -> bool:
        """Whether it is at work."""
        return not self._idle.is_set()

    def start(self) -> None:
        """Go on with what is left; nothing if it is at work."""
        if self.running:
            return
        refuse_in_fork("fit_many")
        self._stopping, self.error = False, None
        settings = JaxSettings()
        self._thread = threading.Thread(
            target=lambda: settings.call(self._drive), name="fitkit-many", daemon=True
        )
        self._idle.clear()
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop after the portion at hand."""
        self._stopping = True

    def join(
        self, timeout: float | None = None, meanwhile: Callable[[], None] | None = None
    ) -> bool:
        """Wait until it stands still; return whether it does. An interrupt is the caller's."""
        left = timeout
        if self._thread is threading.current_thread():
            # A callback, which runs between two portions, and what it waits for comes after it.
            return False
        while self.running:
            if left is not None and left <= 0:
                return False
            # In short pieces, or some systems hear no interrupt.
            self._idle.wait(_LOOK if left is None else min(_LOOK, left))
            left = None if left is None else left - _LOOK
            if meanwhile is not None:
                meanwhile()
        return True

    def _drive(self) -> None:
        try:
            with no_debugging():
                for _ in self._engine.portions():
                    self._after()
                    if self._stopping:
                        return
        except BaseException as error:
            self.error = error
        finally:
            self._idle.set()


# How long a wait sleeps before it looks again, in seconds.
_LOOK = 0.1


def _stop(worker: "weakref.ref[Worker]") -> None:
    """Let no thread compute when JAX goes down."""
    if (alive := worker()) is not None:
        alive.stop()
        alive.join()
