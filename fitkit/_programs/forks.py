"""A forked child has none of JAX's threads: it can run what was compiled, and compile nothing.

JAX holds locks while it traces and compiles, which nobody would release in a child that was forked
meanwhile; so a fork waits until every fit that runs in a thread waits for its device.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

_used = _forked = _forking = False

#: The threads that are inside JAX, and what is held while they change or a process forks.
_inside: set[int] = set()
_change = threading.Condition()

#: How long a fork waits, in seconds: most models compile sooner, and one that forks from another
#: thread and waits for that would wait for itself.
_LONGEST = 30


def is_forked() -> bool:
    """Return whether this process was forked from one that had made a fit."""
    return _forked


def refuse_in_fork(event: str) -> None:
    """Raise in such a child, where JAX would hang as soon as it compiles."""
    global _used
    _used = True
    if _forked:
        raise RuntimeError(
            f"{event}: this process was forked from one that uses JAX, and JAX cannot compile "
            "here. Start processes by multiprocessing.get_context('spawn') instead."
        )


@contextlib.contextmanager
def inside_jax() -> Iterator[None]:
    """Let no other thread fork this process meanwhile."""
    _note(inside=True)
    try:
        yield
    finally:
        _note(inside=False)


@contextlib.contextmanager
def waiting_for_device() -> Iterator[None]:
    """Let other threads fork this process meanwhile."""
    known = threading.get_ident() in _inside
    _note(inside=False)
    try:
        yield
    finally:
        _note(inside=known)


def _note(inside: bool) -> None:
    with _change:
        if inside:
            _change.wait_for(lambda: not _forking)
        (_inside.add if inside else _inside.discard)(threading.get_ident())
        _change.notify_all()


def _before_fork() -> None:
    global _forking
    _change.acquire()
    _forking = True
    _change.wait_for(lambda: _inside <= {threading.get_ident()}, _LONGEST)


def _in_parent() -> None:
    global _forking
    _forking = False
    _change.notify_all()
    _change.release()


def _in_child() -> None:
    global _forked, _forking, _change
    _forked, _forking = _used, False
    _change = threading.Condition()
    _inside.intersection_update({threading.get_ident()})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
