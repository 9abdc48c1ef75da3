"""Saving while a fit runs and when its process ends: always a file that loads, never in the way."""

import errno
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from fitkit._checkpoint import read, write
from fitkit._fit import autosave as module
from fitkit._fit.autosave import Autosave

posix = pytest.mark.skipif(os.name != "posix", reason="signals and forks of POSIX")


class Fit:
    """As much of a fit as is asked of one."""

    def __init__(self):
        self.step = self.version = 0
        self.shared, self.leads = False, True
        self.callbacks = []
        self.saves = 0

    def go(self, step):
        self.step = step
        self.version += 1

    def add_callback(self, callback, every):
        self.callbacks.append((callback, every))

    def save(self, path):
        self.saves += 1
        write(path, {"step": self.step}, {"a": np.full(100, self.step)})


def step_of(path) -> int:
    header, arrays = read(path)
    assert (arrays["a"] == header["step"]).all()
    return header["step"]


def steps_in(directory) -> dict[str, int]:
    return {name: step_of(directory / name) for name in sorted(os.listdir(directory))}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit"


@pytest.fixture
def fit():
    return Fit()


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def autosave(path, fit, warnings):
    autosave = Autosave(path, warn=warnings.append)
    autosave.attach(fit)
    yield autosave
    assert autosave.wait(60)
    module._LIVING.pop(autosave.path, None)


def go_and_save(autosave, fit, step):
    fit.go(step)
    autosave(fit)
    assert autosave.wait(60)


# Rotation.


@pytest.mark.parametrize(("keep", "steps"), [(1, [5]), (2, [5, 4]), (3, [5, 4, 3])])
def test_the_newest_has_the_name_and_older_ones_have_numbers(path, fit, warnings, keep, steps):
    autosave = Autosave(path, keep=keep, warn=warnings.append)
    for step in range(1, 6):
        go_and_save(autosave, fit, step)
        names = ["fit", "fit.1", "fit.2"][: min(keep, step)]
        assert steps_in(path.parent) == dict(
            zip(names, range(step, step - len(names), -1), strict=True)
        )
    assert [*steps_in(path.parent).values()] == steps
    assert warnings == []


def test_it_is_a_callback(path, fit):
    autosave = Autosave(path, every=1000)
    autosave.attach(fit)
    assert fit.callbacks == [(autosave, 1000)]
    assert Autosave(path).every == "60s"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("keep", [0, -1, 2.5, True, "3"])
def test_keep_is_a_number_of_checkpoints(path, keep):
    with pytest.raises(ValueError, match="Pass 1 or more"):
        Autosave(path, keep=keep)


def test_a_wrong_path_raises_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        Autosave(tmp_path / "no" / "such")
    with pytest.raises(IsADirectoryError):
        Autosave(tmp_path)
    with pytest.raises(IsADirectoryError):
        Autosave(f"{tmp_path}/new/")


def test_the_path_is_that_of_the_directory_where_it_was_made(tmp_path, fit, monkeypatch):
    monkeypatch.chdir(tmp_path)
    autosave = Autosave(b"fit")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    go_and_save(autosave, fit, 1)
    assert step_of(tmp_path / "fit") == 1


@posix
def test_a_link_and_permissions_survive(tmp_path, fit):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/fit")
    autosave = Autosave(tmp_path / "link")
    for step in (1, 2):
        go_and_save(autosave, fit, step)
        os.chmod(tmp_path / "there" / "fit", 0o600)
    go_and_save(autosave, fit, 3)
    assert steps_in(tmp_path / "there") == {"fit": 3, "fit.1": 2, "fit.2": 1}
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "fit").stat().st_mode & 0o777 == 0o600


def test_long_names_are_saved_without_older_ones(tmp_path, fit, warnings):
    name = "n" * 255
    autosave = Autosave(tmp_path / name, warn=warnings.append)
    for step in (1, 2, 3):
        go_and_save(autosave, fit, step)
    assert steps_in(tmp_path) == {name: 3}
    assert len(warnings) == 1
    assert "could not be rotated" in warnings[0]


def test_file_systems_without_hard_links(path, fit, autosave, warnings, monkeypatch):
    def link(*args):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    for step in (1, 2, 3, 4):
        go_and_save(autosave, fit, step)
    assert steps_in(path.parent) == {"fit": 4, "fit.1": 3, "fit.2": 2}
    assert warnings == []


class Killed(BaseException):
    """What stands for a kill: nothing in between may catch it."""


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("error", [Killed, OSError(errno.EIO, "broken")])
def test_a_rotation_interrupted_at_any_call_leaves_the_newest(
    path, fit, monkeypatch, links, error, warnings
):
    """At the n-th call that changes the directory, for all n, before it and after it."""
    calls = 0
    stop = None

    def counted(function, after):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls == stop and not after:
                raise error
            function(*args, **options)
            if calls == stop and after:
                raise error

        return call

    def link(*args):
        raise OSError(errno.EPERM, "no links")

    interrupted = 0
    for after in (False, True):
        stop = 0
        while True:
            for name in os.listdir(path.parent):
                os.unlink(path.parent / name)
            autosave = Autosave(path, warn=warnings.append)
            for step in (1, 2, 3):
                go_and_save(autosave, fit, step)
            calls, stop = 0, stop + 1
            with monkeypatch.context() as patch:
                for module, name in [(os, "replace"), (os, "unlink"), (shutil, "copy2")]:
                    patch.setattr(module, name, counted(getattr(module, name), after))
                patch.setattr(os, "link", counted(os.link, after) if links else link)
                fit.go(4)
                try:
                    autosave.save_if_changed()
                except Killed:
                    interrupted += 1
            assert step_of(path) in (3, 4)
            for name in os.listdir(path.parent):
                step_of(path.parent / name)
            if calls < stop:
                break
            # A new process goes on, and clears up.
            again = Autosave(path, warn=warnings.append)
            for step in (5, 6, 7):
                go_and_save(again, fit, step)
            assert steps_in(path.parent) == {"fit": 7, "fit.1": 6, "fit.2": 5}
    assert interrupted > 5 or error is not Killed


# Failures.


def test_a_full_disk_is_told_once_and_costs_no_older_checkpoint(
    path, fit, autosave, warnings, monkeypatch
):
    for step in (1, 2, 3):
        go_and_save(autosave, fit, step)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for step in (4, 5, 6, 7):
            go_and_save(autosave, fit, step)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"autosave: {str(path)!r} could not be written (OSError: ")
    assert "No space left on device" in warnings[0]
    assert "The fit runs on" in warnings[0]
    assert warnings[0].endswith("the newest checkpoint is of step 3.")
    assert steps_in(path.parent) == {"fit": 3, "fit.1": 2, "fit.2": 1}
    go_and_save(autosave, fit, 8)
    assert steps_in(path.parent) == {"fit": 8, "fit.1": 3, "fit.2": 2}
    with monkeypatch.context() as patch:  # It has been well in between: this is news.
        patch.setattr(os, "fsync", full)
        go_and_save(autosave, fit, 9)
    assert len(warnings) == 2


def test_each_kind_of_failure_is_told(fit, autosave, warnings):
    errors = [
        *(ValueError("a"), ValueError("b"), TypeError("c")),
        *(OSError(errno.EIO, "d"), OSError(errno.EROFS, "e")),
    ]
    for number, error in enumerate(errors):

        def save(path, error=error):
            raise error

        fit.save = save
        go_and_save(autosave, fit, number)
    assert len(warnings) == 4
    assert "none yet" in warnings[0]


def test_warnings_go_to_stderr_where_nobody_else_asks(path, fit, capsys):
    def full(path):
        raise OSError(28, "No space left on device")

    fit.save = full
    autosave = Autosave(path)
    go_and_save(autosave, fit, 1)
    assert capsys.readouterr().err.startswith("autosave: ")


def test_a_file_system_that_is_gone_comes_back(tmp_path, fit, warnings):
    directory = tmp_path / "directory"
    directory.mkdir()
    autosave = Autosave(directory / "fit", warn=warnings.append)
    go_and_save(autosave, fit, 1)
    directory.rename(tmp_path / "away")
    go_and_save(autosave, fit, 2)
    assert len(warnings) == 1
    (tmp_path / "away").rename(directory)
    go_and_save(autosave, fit, 3)
    assert steps_in(directory) == {"fit": 3, "fit.1": 1}


# Never in the way.


class SlowFit(Fit):
    """A fit whose save waits until it is let go."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)

    def save(self, path):
        self.begun.release()
        assert self.let_go.acquire(timeout=60)
        super().save(path)


def test_the_callback_returns_while_the_file_is_written(path):
    fit = SlowFit()
    autosave = Autosave(path)
    for step in range(1, 100):
        fit.go(step)
        autosave(fit)  # The first begins to save, and 98 fall due meanwhile.
        if step == 1:
            assert fit.begun.acquire(timeout=60)
    assert not autosave.wait(0)
    fit.let_go.release()
    assert fit.begun.acquire(timeout=60)
    fit.let_go.release()
    assert autosave.wait(60)
    assert fit.saves == 2
    assert steps_in(path.parent)["fit"] == 99
    assert autosave.wait()


def test_no_thread_remains_between_saves(autosave, fit):
    go_and_save(autosave, fit, 1)
    assert "fitkit-autosave" not in [thread.name for thread in threading.enumerate()]


def test_an_unchanged_fit_is_not_saved_again(path, autosave, fit):
    autosave.save_if_changed()
    autosave(fit)
    assert autosave.wait(60)
    assert not path.exists()
    go_and_save(autosave, fit, 1)
    autosave(fit)
    autosave.save_if_changed()
    assert autosave.wait(60)
    assert fit.saves == 1


def test_a_thread_that_was_interrupted_before_it_began_is_begun_again(autosave, fit, monkeypatch):
    def interrupted(thread):
        raise KeyboardInterrupt

    fit.go(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            autosave(fit)
    assert autosave.wait(0)
    go_and_save(autosave, fit, 2)
    assert fit.saves == 1


def test_where_no_thread_can_be_started_it_saves_itself(path, autosave, fit, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    fit.go(1)
    autosave(fit)
    assert step_of(path) == 1


def test_saves_from_many_threads_at_once(path, fit, autosave, warnings):
    def call():
        for _ in range(10):
            fit.version += 1
            autosave(fit)
            autosave.save_if_changed()

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert autosave.wait(60)
    assert warnings == []
    assert [*steps_in(path.parent)] == ["fit", "fit.1", "fit.2"]


def test_it_keeps_no_fit_alive(path):
    fit = Fit()
    Autosave(path).attach(fit)
    gone = weakref.ref(fit)
    del fit
    gc.collect()
    assert gone() is None


# The end of the process. Every test starts an interpreter: all but two are slow.

PRELUDE = """
import os, signal, sys, threading, time
import numpy as np
from fitkit._fit.autosave import Autosave
from fitkit._checkpoint import write

class Fit:
    step = version = 0
    shared, leads = False, True
    def go(self, step): self.step, self.version = step, self.version + 1
    def add_callback(self, callback, every): pass
    def save(self, path): write(path, {"step": self.step}, {"a": np.full(100, self.step)})

path = sys.argv[1]
fit = Fit()
autosave = Autosave(path)
autosave.attach(fit)
"""


def run(code, path, *options):
    """Run a script with a fit and its autosave; it prints where it wants to be killed."""
    command = [sys.executable, *options, "-c", PRELUDE + code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def exits_with(process, status):
    assert process.returncode == status, process.stderr
    assert process.stderr == ""


def test_a_last_checkpoint_is_written_at_exit(path):
    exits_with(run("fit.go(5); autosave(fit); fit.go(7)", path), 0)
    assert step_of(path) == 7
    exits_with(run("fit.go(8)\nraise SystemExit(3)", path), 3)
    assert step_of(path) == 8


@pytest.mark.slow
def test_nothing_is_written_at_exit_where_nothing_happened(path):
    exits_with(run("", path), 0)
    exits_with(run("del fit", path), 0)
    assert os.listdir(path.parent) == []


@pytest.mark.slow
def test_the_end_waits_for_the_save_under_way(path):
    code = """
save = fit.save
def slow(path):
    time.sleep(0.5)
    save(path)
fit.save = slow
fit.go(1)
autosave(fit)
"""
    exits_with(run(code, path), 0)
    assert steps_in(path.parent) == {"fit": 1}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.slow
def test_a_run_that_is_stopped_at_exit_is_saved_as_it_ends(path, order):
    """The engine's hook may come before ours or after it, and calls back once more."""
    code = f"""
import atexit
import fitkit._fit.autosave as module
def stop():
    fit.go(9)
    autosave(fit)
if {order == "after"}:  # The hook that is registered first runs last.
    atexit.unregister(module._save_at_exit)
    atexit.register(stop)
    atexit.register(module._save_at_exit)
else:
    atexit.register(stop)
fit.go(1)
"""
    exits_with(run(code, path), 0)
    assert step_of(path) == 9


@pytest.mark.slow
def test_arrays_of_jax_can_still_be_read_at_exit(path):
    code = """
import jax.numpy as jnp
array = jnp.arange(5.0)
fit.save = lambda path: write(path, {"step": int((array + 1)[3])}, {"a": np.asarray(array * 0 + 4)})
fit.go(4)
"""
    exits_with(run(code, path), 0)
    assert step_of(path) == 4


@pytest.mark.slow
def test_the_newest_autosave_of_a_path_has_the_last_word(path):
    code = """
newer = Fit()
second = Autosave(path)
second.attach(newer)
newer.go(2)
fit.go(1)  # The cell was run again, and the old fit is still in the notebook's memory.
"""
    exits_with(run(code, path), 0)
    assert steps_in(path.parent) == {"fit": 2}


@posix
def test_sigterm_writes_a_last_checkpoint_and_kills(path):
    code = """
fits = [fit, Fit()]
other = Autosave(path + "-other")
other.attach(fits[1])
fit.go(5)
fits[1].go(6)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    exits_with(run(code, path), -signal.SIGTERM)
    assert steps_in(path.parent) == {"fit": 5, "fit-other": 6}


@posix
@pytest.mark.slow
def test_sigterm_goes_on_to_the_handler_before(path):
    code = """
fit.go(5)
os.kill(os.getpid(), signal.SIGTERM)
"""
    before = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(40 + number))\n"
    )
    command = [sys.executable, "-c", before + PRELUDE + code, str(path)]
    exits_with(subprocess.run(command, capture_output=True, text=True), 40 + signal.SIGTERM)
    assert step_of(path) == 5


@posix
@pytest.mark.slow
def test_a_later_handler_is_respected_and_chained(path):
    code = """
ours = signal.getsignal(signal.SIGTERM)
Autosave(path + "2")
assert signal.getsignal(signal.SIGTERM) is ours
calls = []
signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
Autosave(path + "3")
assert signal.getsignal(signal.SIGTERM) is not ours
fit.go(5)
os.kill(os.getpid(), signal.SIGTERM)
assert calls == [signal.SIGTERM]
assert os.path.exists(path)
"""
    exits_with(run(code, path), 0)


@posix
@pytest.mark.slow
def test_sigterm_that_was_ignored_still_is(path):
    before = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code = "\nassert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN\n"
    command = [sys.executable, "-c", before + PRELUDE + code, str(path)]
    exits_with(subprocess.run(command, capture_output=True, text=True), 0)


@pytest.mark.slow
def test_an_autosave_made_in_another_thread_takes_over_no_signal(path):
    code = """
signal.signal(signal.SIGTERM, signal.SIG_DFL)
made = []
thread = threading.Thread(target=lambda: made.append(Autosave(path)))
thread.start()
thread.join()
assert made and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""
    exits_with(run(code, path), 0)


@posix
@pytest.mark.slow
def test_sigterm_does_not_wait_for_ever_for_what_the_main_thread_holds(path):
    code = """
import fitkit._fit.autosave as module
module._SECONDS_AT_SIGTERM = 0.2
lock = threading.Lock()
save = fit.save
def locked(path):
    with lock:
        save(path)
fit.save = locked
fit.go(5)
with lock:
    os.kill(os.getpid(), signal.SIGTERM)
"""
    exits_with(run(code, path), -signal.SIGTERM)
    assert not path.exists()


@posix
@pytest.mark.slow
def test_sigterm_within_the_callback_saves(path):
    """The main thread runs the fit and holds the lock of the callback."""
    code = """
fit.go(5)
with autosave._lock:
    os.kill(os.getpid(), signal.SIGTERM)
"""
    exits_with(run(code, path), -signal.SIGTERM)
    assert step_of(path) == 5


@posix
@pytest.mark.slow
def test_sigterm_while_a_save_is_under_way(path):
    code = """
save = fit.save
begun = threading.Event()
def slow(path):
    begun.set()
    time.sleep(0.5)
    save(path)
fit.save = slow
fit.go(5)
autosave(fit)
begun.wait()
fit.go(6)
os.kill(os.getpid(), signal.SIGTERM)
"""
    exits_with(run(code, path), -signal.SIGTERM)
    assert step_of(path) == 6


@posix
@pytest.mark.slow
def test_sigterm_does_not_cut_the_last_save_at_exit_short(path):
    code = """
save = fit.save
def slow(path):
    os.kill(os.getpid(), signal.SIGTERM)
    save(path)
fit.save = slow
fit.go(5)
"""
    exits_with(run(code, path), 0)
    assert step_of(path) == 5


@posix
@pytest.mark.slow
def test_a_forked_child_saves_nothing(path):
    code = """
fit.go(5)
for end in ("sys.exit(0)", "os.kill(os.getpid(), signal.SIGTERM)"):
    child = os.fork()
    if not child:
        fit.go(6)
        exec(end)
    os.waitpid(child, 0)
    assert not os.path.exists(path)
"""
    exits_with(run(code, path, "-W", "ignore"), 0)
    assert step_of(path) == 5


@posix
@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_file_that_loads_and_no_litter(path):
    rng = random.Random(0)
    code = """
for line in sys.stdin:
    child = os.fork()
    if not child:
        step = 0
        while True:
            step += 1
            fit.go(step)
            autosave.save_if_changed()
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""
    command = [sys.executable, "-W", "ignore", "-c", PRELUDE + code, str(path)]
    fit = Fit()
    autosave = Autosave(path)
    go_and_save(autosave, fit, 1)
    litter = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        for number in range(50):
            print("go", file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            time.sleep(rng.uniform(0, 0.05))  # The random moment.
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"
            step_of(path)
            for name in os.listdir(path.parent):
                if name.endswith(".tmp"):
                    litter += 1
                else:
                    step_of(path.parent / name)
            go_and_save(autosave, fit, number)
            assert set(steps_in(path.parent)) <= {"fit", "fit.1", "fit.2"}
        parent.stdin.close()
    assert litter > 5  # Else the kills came at no interesting moment.
