"""Save a fit while it runs, and once more when its process ends."""

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from fitkit._checkpoint import hidden_prefix, resolve

# The time to write the last checkpoints after SIGTERM. Docker kills after 10 s, Kubernetes and
# SLURM after 30 s: to wait longer than those saves nothing, and a save that waits for something
# that the interrupted main thread holds would never end.
_SECONDS_AT_SIGTERM = 25.0


def _print_to_stderr(words: str) -> None:
    print(words, file=sys.stderr)


class Autosave:
    """A callback that saves the fit, in a thread of its own so that the fit runs on meanwhile.

    Parameters
    ----------
    path
        The file; the newest checkpoint always has this name.
    every
        How often, as `Fit.add_callback` takes it.
    keep
        How many checkpoints: 3 keeps ``path``, ``path.1`` and ``path.2``, newest first.
    warn
        Called with a sentence when a save fails, unless the save before failed in the same way.
        The fit runs on whatever happens. By default the sentence is printed to stderr.

    Raises
    ------
    OSError
        If `path` is a directory, a pipe or a device, or lies in a directory that does not exist.

    Notes
    -----
    Saves that fall due while one is being written become one save after it. A last checkpoint is
    written when the interpreter exits and on SIGTERM, if the fit has changed since the one before.
    """

    def __init__(
        self,
        path: str | os.PathLike | bytes,
        every: str | int = "60s",
        keep: int = 3,
        warn: Callable[[str], object] = _print_to_stderr,
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(
                f"autosave: keep={keep!r} is no number of checkpoints. Pass 1 or more."
            )
        resolve(os.fsdecode(path))  # A wrong path raises now, not when the first save is due.
        self.path = os.path.abspath(os.fsdecode(path))
        self.every = every
        self.keep = keep
        self._warn = warn
        self._failures: set[object] = set()  # Of the latest save.
        self._fit: Callable[[], Any] = lambda: None
        self._version: int | None = None
        self._step: int | None = None
        self._lock = threading.Lock()  # Guards the two below.
        self._due = False
        self._saver: threading.Thread | None = None
        # One save at a time. Never taken by the thread that handles a signal, and by the one that
        # runs the fit only where no other can be started.
        self._saving = threading.Lock()
        _LIVING[self.path] = self
        _take_over_sigterm()

    def attach(self, fit: Any) -> None:
        """Save `fit` from now on, every so often while it runs."""
        self._fit = weakref.ref(fit)
        # An unchanged fit is not saved: the file may hold a run before this one.
        self._version = fit.version
        fit.add_callback(self, every=self.every)

    def __call__(self, fit: Any) -> None:
        """Begin to save `fit`, and return at once."""
        if self._fit() is not fit:
            self._fit = weakref.ref(fit)
        if fit.shared:
            # All processes compute what is saved, here and now, and one writes it.
            _ = fit.best
            if fit.leads:
                self._save(fit)
            return
        with self._lock:
            self._due = True
            # One that was never started was interrupted on the way.
            if self._saver is not None and self._saver.is_alive():
                return
            # No daemon: the interpreter waits for it before anything is taken down.
            saver = threading.Thread(target=self._work, args=(fit,), name="fitkit-autosave")
            saver.daemon = False
            with contextlib.suppress(RuntimeError):  # An interpreter that exits starts no thread.
                if not _EXITING.is_set():
                    self._saver = saver
                    saver.start()
                    return
            self._saver = None
        self._save(fit)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until what is being saved is saved; return False if `timeout` seconds pass first."""
        saver = self._saver
        if saver is None or not saver.is_alive():
            return True
        saver.join(timeout)
        return not saver.is_alive()

    def save_if_changed(self) -> None:
        """Save the fit here and now, unless it is as it was saved last."""
        fit = self._fit()
        if fit is None:
            return
        if fit.shared:
            # All processes compute what is saved, which they do where their run ends. In a loop
            # over steps, which stands still meanwhile, what was saved last remains.
            with contextlib.suppress(RuntimeError):
                fit.pause()
        if fit.leads:
            self._save(fit)

    def _work(self, fit: Any) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._saver = None
                    return
                self._due = False
            self._save(fit)

    def _save(self, fit: Any) -> None:
        with self._saving:
            # Read before the save: a change in between is saved again rather than never.
            version, step = fit.version, fit.step
            if version == self._version:
                return
            self._failures, before = set(), self._failures
            path = os.path.realpath(self.path)
            # A save that fails rotates nothing; a rotation that fails costs older ones at most.
            aside = self.keep > 1 and self._attempt(before, "set aside", _set_aside, path)
            if self._attempt(before, "written", fit.save, self.path):
                self._version, self._step = version, step
                if aside:
                    self._attempt(before, "rotated", _rotate, path, self.keep)
            with contextlib.suppress(OSError):
                os.unlink(_aside(path))

    def _attempt(
        self, before: set[object], action: str, function: Callable[..., object], *args: Any
    ) -> bool:
        """Call a function; what it raises becomes a warning, unless the last save met the same."""
        try:
            function(*args)
        except Exception as error:  # Whatever it is, the fit runs on.
            kind = (action, type(error), getattr(error, "errno", None))
            self._failures.add(kind)
            if kind not in before:
                newest = "none yet" if self._step is None else f"of step {self._step:,}"
                self._warn(
                    f"autosave: {self.path!r} could not be {action} ({type(error).__name__}: "
                    f"{error}). The fit runs on, and the next autosave tries again; the newest "
                    f"checkpoint is {newest}."
                )
            return False
        return True


def _aside(path: str) -> str:
    """Return the second name that a checkpoint has while the next one is being written."""
    return f"{hidden_prefix(path)}before"


def _set_aside(path: str) -> None:
    """Link the present checkpoint under a second name, so that the first is never missing."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_aside(path))  # Of a process that was killed.
    if os.path.isfile(path):
        try:
            os.link(path, _aside(path))
        except OSError:  # A file system without hard links.
            shutil.copy2(path, _aside(path))


def _rotate(path: str, keep: int) -> None:
    """Rename what was set aside to ``path.1``, what was there to ``path.2``, and so on."""
    if os.path.exists(_aside(path)):
        names = [_aside(path), *(f"{path}.{number}" for number in range(1, keep))]
        for name, next_name in reversed(list(itertools.pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                os.replace(name, next_name)


# The newest autosave of each path: one whose fit was made anew in a notebook does not save over
# its successor.
_LIVING: weakref.WeakValueDictionary[str, Autosave] = weakref.WeakValueDictionary()
_EXITING = threading.Event()


def _living() -> list[Autosave]:
    return [autosave for ref in _LIVING.valuerefs() if (autosave := ref()) is not None]


def _save_at_exit() -> None:
    _EXITING.set()
    # The process ends anyway: let SIGTERM not cut the save short.
    handler = signal.getsignal(signal.SIGTERM)
    ours = _is_ours(handler)
    if ours:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for autosave in _living():
        autosave.wait()
        autosave.save_if_changed()
    if ours:
        signal.signal(signal.SIGTERM, handler)


# Imported after JAX, whose own hook takes the devices down: the latest hook runs first.
atexit.register(_save_at_exit)
if hasattr(os, "register_at_fork"):
    # The fits run on in the parent, and a child that ends must not save its old copies of them.
    os.register_at_fork(after_in_child=_LIVING.clear)


def _is_ours(handler: Any) -> bool:
    return isinstance(handler, functools.partial) and handler.func is _on_sigterm


def _take_over_sigterm() -> None:
    """Save on SIGTERM before what else was to happen, where Python lets us and has a say."""
    previous = signal.getsignal(signal.SIGTERM)
    # None was installed by other means than Python's and cannot be called from here.
    if previous is None or previous == signal.SIG_IGN or _is_ours(previous):
        return
    with contextlib.suppress(ValueError):  # Only the main thread may.
        signal.signal(signal.SIGTERM, functools.partial(_on_sigterm, previous))


def _on_sigterm(previous: Any, number: int, frame: FrameType | None) -> None:
    """Write the last checkpoints, then do what was done before.

    The main thread stands at an arbitrary line, perhaps with a lock in its hands. So others save,
    and it waits for a limited time.
    """
    try:
        deadline = time.monotonic() + _SECONDS_AT_SIGTERM
        savers = [
            threading.Thread(target=autosave.save_if_changed, daemon=True) for autosave in _living()
        ]
        with contextlib.suppress(RuntimeError):  # An interpreter that exits starts no thread.
            for saver in savers:
                saver.start()
            for saver in savers:
                saver.join(max(0.0, deadline - time.monotonic()))
    finally:
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
