"""A checkpoint: a header of plain values and named arrays in one file, with a checksum over all.

The file begins with the line ``fitkit checkpoint 2``, the length of the header and of the arrays
(eight bytes each) and a SHA-256 of everything but itself. The header follows as JSON, in front of
it a table with name, dtype and shape of every array, and then the arrays, end to end, in
little-endian bytes. Nothing is interpreted before the lengths agree with the file and the checksum
with the contents, and nothing in the format can run code.
"""

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from fitkit._checkpoint.replace_file import replacing

_FORMAT = 2
_MAGIC = b"fitkit checkpoint %d\n" % _FORMAT
_FIRST_FORMAT = b'{"format": "fitkit checkpoint 1"'
_LENGTHS = struct.Struct("<QQ")
_DIGEST_SIZE = hashlib.sha256().digest_size
_PREAMBLE_SIZE = len(_MAGIC) + _LENGTHS.size + _DIGEST_SIZE

# Bytes that are hashed and written at a time: enough that calls cost nothing, and little beside
# any array worth the care.
_BLOCK = 2**20

# NumPy's own limit, checked before the lengths are multiplied.
_MAX_NDIM = 64

_SCALARS = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
    *(kind for kind in vars(ml_dtypes).values() if isinstance(kind, type)),
)
_DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in _SCALARS if issubclass(kind, np.generic)}


class CheckpointError(ValueError):
    """A file that is no checkpoint, or a damaged one, or one of another version."""


def write(
    path: str | os.PathLike | bytes, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a checkpoint; a file of that name is replaced once all is written and synced.

    Parameters
    ----------
    path
        The file.
    header
        What JSON can hold, with strings as keys; floats come back to the bit, NaN and infinities
        too, and tuples as lists.
    arrays
        NumPy arrays of numbers, those of `ml_dtypes` among them.

    Raises
    ------
    TypeError
        If an array or a value in the header is of a type that cannot be written.
    OSError
        If the file cannot be written; one that was there is then as it was.
    """
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise TypeError(
                f"save: the array '{name}' has dtype {array.dtype}. Only numbers can be saved: "
                f"{', '.join(_DTYPES)}."
            )
    table = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
    head = json.dumps({"arrays": table, "header": dict(header)}).encode()
    front = _MAGIC + _LENGTHS.pack(len(head), sum(array.nbytes for array in arrays.values()))
    digest = hashlib.sha256(front)
    digest.update(head)
    with replacing(path) as file:
        file.write(front + bytes(_DIGEST_SIZE) + head)
        for array in arrays.values():
            for block in _blocks(array):
                digest.update(block)
                file.write(block)
        file.seek(len(front))
        file.write(digest.digest())


def read(path: str | os.PathLike | bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a checkpoint back.

    Returns
    -------
    header
        The header, with lists in place of tuples.
    arrays
        The arrays by name; each owns its memory.

    Raises
    ------
    CheckpointError
        If the file is damaged, foreign or written by another version.
    OSError
        If it cannot be opened.
    """
    name = os.fsdecode(path)
    with _open(name) as file:
        size = os.fstat(file.fileno()).st_size
        front = file.read(_PREAMBLE_SIZE)
        _check_format(name, front)
        head_size, body_size = _LENGTHS.unpack_from(front, len(_MAGIC))
        expected = _PREAMBLE_SIZE + head_size + body_size
        if size < expected:
            raise _truncated(name, size, expected)
        if size > expected:
            raise CheckpointError(
                f"load: {name!r} is damaged: {size - expected:,} bytes follow its end. "
                f"{_cure(name)}"
            )
        try:
            head, body = file.read(head_size), file.read(body_size)
        except MemoryError as error:
            raise CheckpointError(
                f"load: {name!r} needs {expected:,} bytes of memory, which are not free."
            ) from error
    if len(head) + len(body) < head_size + body_size:  # Cut while it was read.
        raise _truncated(name, _PREAMBLE_SIZE + len(head) + len(body), expected)
    digest = hashlib.sha256(front[:-_DIGEST_SIZE])
    digest.update(head)
    digest.update(body)
    if digest.digest() != front[-_DIGEST_SIZE:]:
        raise CheckpointError(
            f"load: {name!r} is damaged: its checksum does not agree with its contents. "
            f"{_cure(name)}"
        )
    try:
        return _unpack(head, body)
    except (ArithmeticError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"load: {name!r} has contents that fitkit does not write ({error!s:.200}). "
            f"{_cure(name)}"
        ) from error


def _blocks(array: np.ndarray) -> Iterator[bytes]:
    """Yield the bytes of an array, copied, so that what is hashed is what is written."""
    little = _DTYPES[array.dtype.name].newbyteorder("<")
    flat = np.ascontiguousarray(array, little).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK].tobytes()


def _open(name: str) -> BinaryIO:
    """Open a file to read, but no pipe, which might never open, and no device, which never ends."""
    mode = os.stat(name).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # `open` itself refuses a directory.
        raise CheckpointError(
            f"load: {name!r} is a pipe, a socket or a device. Pass a file that `Fit.save` wrote."
        )
    return open(name, "rb")


def _check_format(name: str, front: bytes) -> None:
    """Raise unless `front` is the whole preamble of a file in our format."""
    if front.startswith(_FIRST_FORMAT):
        raise CheckpointError(
            f"load: {name!r} was written by fitkit 0.1 (format 1; this fitkit reads format "
            f"{_FORMAT}) and cannot be read. Run the fit again, or load it with fitkit 0.1."
        )
    found = re.match(rb"fitkit checkpoint (\d{1,9})\n", front)
    if found and int(found[1]) > _FORMAT:
        raise CheckpointError(
            f"load: {name!r} was written by a newer fitkit (format {int(found[1])}; this one reads "
            f"format {_FORMAT}). Upgrade fitkit."
        )
    if front[: len(_MAGIC)] != _MAGIC[: len(front)]:
        raise CheckpointError(
            f"load: {name!r} is not a fitkit checkpoint: it begins with {front[:24]!r}. Pass a "
            "file that `Fit.save` wrote."
        )
    if len(front) < _PREAMBLE_SIZE:
        raise _truncated(name, len(front), None)


def _truncated(name: str, size: int, expected: int | None) -> CheckpointError:
    of = "" if expected is None else f" of {expected:,}"
    return CheckpointError(f"load: {name!r} is truncated at byte {size:,}{of}. {_cure(name)}")


def _cure(name: str) -> str:
    return f"Load an older checkpoint: autosave keeps them as {name + '.1'!r} and so on."


def _unpack(head: bytes, body: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Interpret what the checksum has vouched for, and still trust nothing in it."""
    contents = json.loads(head)
    if not isinstance(contents, dict) or contents.keys() != {"arrays", "header"}:
        raise ValueError("no table of arrays")
    if not isinstance(contents["header"], dict):
        raise ValueError("no header")
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for name, kind, shape in contents["arrays"]:
        if not isinstance(name, str) or name in arrays:
            raise ValueError(f"an array of the name {name!r}")
        if kind not in _DTYPES:
            raise ValueError(f"an array of the dtype {kind!r}")
        whole = all(type(length) is int and length >= 0 for length in shape)
        if not whole or len(shape) > _MAX_NDIM:
            raise ValueError(f"an array of the shape {shape!r}")
        dtype = _DTYPES[kind]
        end = start + math.prod(shape) * dtype.itemsize
        if end > len(body):
            raise ValueError(f"an array '{name}' beyond the end")
        little = np.ndarray(tuple(shape), dtype.newbyteorder("<"), body, start)
        arrays[name] = little.astype(dtype)
        start = end
    if start != len(body):
        raise ValueError("bytes that belong to no array")
    return contents["header"], arrays
