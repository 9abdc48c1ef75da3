"""The end of the dashboard's threads: none is inside matplotlib or JAX when Python goes down."""

import atexit

# SciPy imports it when JAX first needs LAPACK, which fails while Python goes down.
import concurrent.futures.thread  # noqa: F401
import os
import threading
import weakref
from collections.abc import Iterable


class EndingThread(threading.Thread):
    """A thread that ends when asked, and at the latest where the interpreter does."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.ending = threading.Event()
        _ALIVE.add(self)

    def end(self) -> None:
        """Ask it to finish what it does, and no more."""
        self.ending.set()


def join(threads: Iterable[threading.Thread], timeout: float | None = None) -> None:
    """Wait for threads to end, but not for the present one, nor for one that never started."""
    for thread in threads:
        if thread is not threading.current_thread() and thread.ident is not None:
            thread.join(timeout)


_ALIVE: "weakref.WeakSet[EndingThread]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    threads = list(_ALIVE)
    for thread in threads:
        thread.end()
    join(threads)


if hasattr(os, "register_at_fork"):
    # No thread of the parent is in a forked child.
    os.register_at_fork(after_in_child=_ALIVE.clear)
