"""Replace a file as a whole: whatever happens, its name leads to the old bytes or to the new ones.

The bytes go into a temporary file beside the target, are synced to the disk, and the temporary is
then renamed. A process that is killed leaves its temporary behind; the next replacement of the
same file removes it. A lock on the temporary says that its writer lives.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway.
    fcntl = None

# Where there are no locks only the age tells that the writer is gone. A writer touches its
# temporary many times a second, and one that sleeps with its computer only has to write again.
_SECONDS_UNTIL_STALE = 3600.0


@contextlib.contextmanager
def replacing(path: str | os.PathLike | bytes) -> Iterator[BinaryIO]:
    """Open a file to write that takes the place of `path` once all is written.

    A symbolic link stays one, and the file it leads to is replaced. The permissions of an existing
    file are kept.

    Raises
    ------
    OSError
        If `path` is a directory, a pipe or a device, if it may not be written, or if the disk is
        full. The file of that name is then as it was, and no temporary remains.
    """
    name = os.fsdecode(path)
    target, mode = resolve(name)
    _remove_stale(target)
    temporary = f"{hidden_prefix(target)}{secrets.token_hex(8)}.tmp"
    try:
        with _create(temporary, mode) as file:
            yield file
            file.flush()
            if mode is not None and fcntl is not None:
                os.fchmod(file.fileno(), mode)  # The umask may have taken some of it.
            os.fsync(file.fileno())
            # Renamed under the lock, or another save could take the temporary for a stale one.
            if fcntl is not None:
                os.replace(temporary, target)
        if fcntl is None:  # Windows does not rename what is open.
            os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            # With the name that the user knows in place of the temporary's, or of none.
            raise OSError(error.errno, error.strerror, name) from error
        raise
    _sync_directory(os.path.dirname(target))


def resolve(name: str) -> tuple[str, int | None]:
    """Return the file that `name` leads to, and its permissions where it exists.

    Raises
    ------
    OSError
        If that can be no file, or is one that may not be written.
    """
    if os.path.basename(name) in ("", os.curdir, os.pardir):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    try:
        found = os.stat(name)
    except FileNotFoundError:  # A new file, or a link that leads to none.
        found = None
    target = os.path.realpath(name)
    directory = os.path.dirname(target)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "No such directory", directory)
    if found is None:
        return target, None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(found.st_mode):
        words = "Not a regular file but a pipe, socket or device; choose another name"
        raise OSError(errno.EINVAL, words, name)
    # A rename needs no permission to write the file, but who took that permission away meant it.
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    return target, stat.S_IMODE(found.st_mode)


def hidden_prefix(target: str) -> str:
    """Return how hidden files beside `target` begin: short, however long its own name is."""
    directory, name = os.path.split(target)
    mark = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return os.path.join(directory, f".fitkit-{mark}-")


def _create(temporary: str, mode: int | None) -> BinaryIO:
    """Create and lock the temporary, from the start with no more permissions than `mode`."""
    permissions = 0o666 if mode is None else mode

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, permissions)

    while True:
        file = open(temporary, "xb", opener=opener)  # noqa: SIM115 (the caller closes it)
        _lock(file.fileno(), wait=True)
        # Another save may have found it unlocked, and removed it, a moment ago.
        if os.path.exists(temporary):
            return file
        file.close()


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock a file; return False if another holds the lock, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_stale(target: str) -> None:
    """Remove the temporaries that processes left behind which were killed while they wrote."""
    directory, prefix = os.path.split(hidden_prefix(target))
    try:
        names = os.listdir(directory)
    except PermissionError:  # A directory in which one may write and not look.
        return
    for name in names:
        if name.startswith(prefix) and name.endswith(".tmp"):
            # Another user's stays, and another save may have been quicker.
            with contextlib.suppress(OSError):
                _remove_if_stale(os.path.join(directory, name))


def _remove_if_stale(temporary: str) -> None:
    flags = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(temporary, flags)
    try:
        locked = _lock(descriptor, wait=False)
        age = time.time() - os.fstat(descriptor).st_mtime
        if locked:
            os.unlink(temporary)
    finally:
        os.close(descriptor)
    if locked is None and age > _SECONDS_UNTIL_STALE:
        os.unlink(temporary)


def _sync_directory(directory: str) -> None:
    """Make the rename itself last, where directories can be synced."""
    # The new file stands and is whole by now: a failure here is none of the save.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
