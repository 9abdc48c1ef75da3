"""Replacing a file: the old bytes or the new ones, and nothing beside them."""

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fitkit._checkpoint import read, replace_file, write
from fitkit._checkpoint.replace_file import hidden_prefix, replacing

posix = pytest.mark.skipif(os.name != "posix", reason="permissions, links and pipes of POSIX")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit"


def put(path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


def listing(directory) -> list[str]:
    return sorted(os.listdir(directory))


def test_a_new_file_and_one_that_was_there(path):
    put(path, b"one")
    assert path.read_bytes() == b"one"
    put(path, b"two")
    assert path.read_bytes() == b"two"
    assert listing(path.parent) == ["fit"]


def test_bytes_are_synced_before_the_rename_and_the_rename_after(path, monkeypatch):
    calls = []

    def recorded(name):
        function = getattr(os, name)

        def call(*args):
            size = os.fstat(args[0]).st_size if name == "fsync" else None
            calls.append((name, size if path.exists() is False else "there"))
            return function(*args)

        monkeypatch.setattr(os, name, call)

    recorded("fsync")
    recorded("replace")
    put(path, b"three")
    assert calls == [("fsync", 5), ("replace", None), ("fsync", "there")]


# What is respected.


@posix
def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    real, link, second = tmp_path / "there" / "real", tmp_path / "link", tmp_path / "second"
    real.write_bytes(b"old")
    link.symlink_to("there/real")
    second.symlink_to(link)
    put(second, b"new")
    assert (link.is_symlink(), second.is_symlink(), real.read_bytes()) == (True, True, b"new")
    real.unlink()
    put(link, b"newer")  # A link that leads nowhere.
    assert (link.is_symlink(), real.read_bytes()) == (True, b"newer")
    assert listing(tmp_path / "there") == ["real"]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o755])
def test_permissions_are_kept(path, mode):
    path.write_bytes(b"old")
    path.chmod(mode)
    put(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_any_new_file(path, umask):
    before = os.umask(umask)
    try:
        put(path, b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@posix
def test_a_private_file_is_never_readable_by_others(path):
    path.write_bytes(b"old")
    path.chmod(0o600)
    with replacing(path):
        (temporary,) = path.parent.glob(".fitkit-*")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


@posix
def test_a_file_that_may_not_be_written_is_not_replaced(path):
    path.write_bytes(b"old")
    path.chmod(0o444)
    code = (
        "import os, sys\n"
        "from fitkit._checkpoint.replace_file import replacing\n"
        "if not os.geteuid(): os.setuid(65534)\n"
        "try:\n"
        "    with replacing(sys.argv[1]) as file: file.write(b'new')\n"
        "except PermissionError as error: print(error.filename)"
    )
    if not os.geteuid():  # Root may write anything: another user tries it, who must get there.
        for directory in (path.parent, *path.parent.parents[:2]):
            directory.chmod(0o755)
    done = run(code, path)
    assert done.stdout.strip() == str(path)
    assert path.read_bytes() == b"old"


def run(code, *args, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        **{"capture_output": True, "text": True, "check": True, **options},
    )


# What is refused, before anything is written.


@posix
@pytest.mark.parametrize("name", ["pipe", "link to pipe", "/dev/null", "/dev/full", "socket"])
def test_what_is_no_file_is_refused(tmp_path, name):
    import socket

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))  # Names of sockets must be short.
        before = listing(tmp_path)
        with pytest.raises(OSError, match="Not a regular file") as caught:
            put(tmp_path / name, b"new")
    assert caught.value.filename == str(tmp_path / name)
    assert listing(tmp_path) == before
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("name", ["directory", "directory/", "new/", ".", "directory/.."])
def test_directories_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkdir("directory")
    for path in (name, os.fsencode(name)):
        with pytest.raises(IsADirectoryError):
            put(path, b"new")
    with pytest.raises(IsADirectoryError):
        put("", b"new")
    assert listing(".") == ["directory"]
    assert listing("directory") == []


def test_the_error_names_the_directory_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such directory") as caught:
        put(tmp_path / "no" / "such" / "fit", b"new")
    assert caught.value.filename == str(tmp_path / "no" / "such")
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError):
        put(tmp_path / "file" / "fit", b"new")


@posix
def test_a_circle_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError) as caught:
        put(tmp_path / "a", b"new")
    assert caught.value.errno == errno.ELOOP
    assert listing(tmp_path) == ["a", "b"]


def test_long_names_are_as_good_as_others(tmp_path):
    for length in (240, 250, 255):
        put(tmp_path / ("n" * length), b"new")
    with pytest.raises(OSError):
        put(tmp_path / ("n" * 256), b"new")
    assert [len(name) for name in listing(tmp_path)] == [240, 250, 255]


# Failures.


class Failure(BaseException):
    """Neither an Exception nor an OSError, like the interruption by Ctrl-C."""


@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("name", ["fsync", "replace", "fchmod", "write"])
@pytest.mark.parametrize("new", [True, False])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    path, monkeypatch, error: BaseException | type[BaseException], name, new
):
    if not new:
        path.write_bytes(b"old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, name, fail)
    kind = error if isinstance(error, type) else type(error)
    if name == "fchmod" and new:  # Not called.
        return put(path, b"new")
    with pytest.raises(kind) as caught, replacing(path) as file:
        file.write(b"new")
        if name == "write":
            raise error
    monkeypatch.undo()
    assert listing(path.parent) == ([] if new else ["fit"])
    assert new or path.read_bytes() == b"old"
    if isinstance(caught.value, OSError):
        assert caught.value.filename == str(path)
    return None


@posix
def test_a_limit_on_the_size_of_files(path):
    write(path, {"step": 1}, {"a": np.arange(3.0)})
    before = path.read_bytes()
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from fitkit._checkpoint import write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "for size in (200, 10**6):\n"
        "    try: write(sys.argv[1], {}, {'a': np.zeros(size)})\n"
        "    except OSError as error: print(error.errno, error.filename)"
    )
    assert run(code, path).stdout.splitlines() == [f"{errno.EFBIG} {path}"] * 2
    assert path.read_bytes() == before
    assert listing(path.parent) == ["fit"]


# Temporaries of the dead and of the living.


def stale(path, ending="0" * 16 + ".tmp"):
    name = hidden_prefix(str(path)) + ending
    with open(name, "wb") as file:
        file.write(b"half")
    return name


@posix
def test_what_a_killed_process_left_is_removed_by_the_next_save_of_that_file(path):
    left = stale(path)
    other = stale(path.parent / "other")
    before = stale(path, "before")  # No temporary, though it begins like one.
    put(path, b"new")
    assert not os.path.exists(left)
    assert os.path.exists(other)
    assert os.path.exists(before)


@posix
def test_the_temporary_of_one_who_writes_is_left_alone(path):
    with replacing(path) as slow:
        slow.write(b"slow")
        put(path, b"quick")
        assert path.read_bytes() == b"quick"
    assert path.read_bytes() == b"slow"
    assert listing(path.parent) == ["fit"]


@posix
def test_a_temporary_taken_away_before_it_was_locked_is_made_again(path, monkeypatch):
    lock = replace_file._lock
    removed = []

    def late(descriptor, *, wait):
        if wait and not removed:
            removed.extend(path.parent.glob(".fitkit-*.tmp"))
            replace_file._remove_stale(str(path))
        return lock(descriptor, wait=wait)

    monkeypatch.setattr(replace_file, "_lock", late)
    put(path, b"new")
    assert len(removed) == 1
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("system", ["no fcntl", "no locks"])
def test_without_locks_only_age_makes_a_temporary_stale(path, monkeypatch, system):
    if system == "no fcntl":
        monkeypatch.setattr(replace_file, "fcntl", None)
    else:
        monkeypatch.setattr(replace_file, "_lock", lambda descriptor, *, wait: None)
    young, old = stale(path, "1.tmp"), stale(path, "2.tmp")
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    put(path, b"one")
    put(path, b"two")
    assert path.read_bytes() == b"two"
    assert listing(path.parent) == sorted([os.path.basename(young), "fit"])


@posix
def test_hostile_names_are_not_followed(path):
    precious = path.parent / "precious"
    precious.write_bytes(b"precious")
    os.symlink(precious, hidden_prefix(str(path)) + "0.tmp")
    os.mkdir(hidden_prefix(str(path)) + "1.tmp")
    put(path, b"new")
    assert precious.read_bytes() == b"precious"


def test_saves_by_many_threads(path):
    failures = []

    def save(number):
        try:
            for step in range(20):
                write(path, {"number": number, "step": step}, {"a": np.full(1000, number)})
                header, arrays = read(path)
                assert (arrays["a"] == header["number"]).all()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert listing(path.parent) == ["fit"]


WRITER = """
import sys, numpy as np
from fitkit._checkpoint import write
path, number, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("begun", flush=True)
for step in range(count):
    write(path, {"number": number, "step": step}, {"a": np.full(50_000, number)})
"""


def writer(path, number, count, **options):
    command = [sys.executable, "-c", WRITER, str(path), str(number), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


@pytest.mark.slow
def test_saves_by_several_processes(path):
    processes = [writer(path, number, 50) for number in range(3)]
    while any(process.poll() is None for process in processes):
        if path.exists():
            header, arrays = read(path)
            assert (arrays["a"] == header["number"]).all()
    assert [process.wait() for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()  # closes its pipe
    assert listing(path.parent) == ["fit"]


@posix
@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_file_that_loads_and_no_litter(path):
    rng = random.Random(0)
    litter = 0
    # A child forked from one that has imported all begins to write at once.
    code = (
        "import os, sys, numpy as np\n"
        "from fitkit._checkpoint import write\n"
        "for line in sys.stdin:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        for step in range(10**9): write(sys.argv[1], {'step': step}, "
        "{'a': np.full(50_000, step)})\n"
        "    print(child, flush=True)\n"
        "    os.waitpid(child, 0)\n"
        "    print('dead', flush=True)\n"
    )
    write(path, {"step": -1}, {"a": np.full(50_000, -1)})
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as parent:  # fmt: skip
        assert parent.stdin is not None and parent.stdout is not None
        for _ in range(50):
            print("go", file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            time.sleep(rng.uniform(0, 0.05))  # The random moment.
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"
            header, arrays = read(path)
            assert (arrays["a"] == header["step"]).all()
            litter += len(listing(path.parent)) - 1
            write(path, {"step": -1}, {"a": np.full(50_000, -1)})
            assert listing(path.parent) == ["fit"]
        parent.stdin.close()
    assert litter > 10  # Else the kills came at no interesting moment.
