"""A forked child has none of JAX's threads: it can run what was compiled, and compile nothing."""

import os

_used = _forked = False


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


def _after_fork() -> None:
    global _forked
    _forked = _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
