"""Ctrl-C: kept back where it would tear something in two, heard where a thread only waits."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

#: How long a wait sleeps before it looks again, in seconds: what a lost wake-up costs at most.
_LOOK = 0.2


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep an interrupt back until the end of the block, and raise it there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # Somebody else handles it, or nobody hears it.
        yield
        return
    try:
        signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            before(signal.SIGINT, None)


class Flag:
    """An event that is set once, for threads that an interrupt may hit while they wait.

    `threading.Event` takes a lock in Python code; an interrupt between two lines of that leaves it
    locked for ever, and the thread that sets the event hangs. Here a lost wake-up costs a fifth of
    a second.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def set(self) -> None:
        """Wake all who wait."""
        self.is_set = True
        with contextlib.suppress(RuntimeError):  # It was open already.
            self._gate.release()

    def wait(
        self, timeout: float | None = None, meanwhile: Callable[[], None] | None = None
    ) -> bool:
        """Wait until it is set; return whether it is. `meanwhile` is called now and then."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set:
            left = _LOOK if end is None else min(_LOOK, end - time.monotonic())
            if left <= 0:
                break
            if self._gate.acquire(timeout=left):
                self._gate.release()
            if meanwhile is not None:
                meanwhile()
        return self.is_set
