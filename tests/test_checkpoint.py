"""The format of a checkpoint: exact, and nothing read from a file that is not as it was written."""

import hashlib
import io
import json
import math
import os
import pickle
import random
import struct
from enum import StrEnum

import ml_dtypes
import numpy as np
import pytest

from fitkit._checkpoint import CheckpointError, read, write

MAGIC = b"fitkit checkpoint 2\n"


class Status(StrEnum):
    RUNNING = "running"


HEADER = {"step": 70, "status": Status.RUNNING, "loss": 0.1, "names": ("a", "b")}
ARRAYS = {"a": np.arange(3.0), "b": np.array(0.5, np.float32)}


def same_arrays(one, other):
    assert [*one] == [*other]
    for name in one:
        assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
        assert one[name].tobytes() == other[name].tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit"


@pytest.fixture
def raw(path):
    write(path, HEADER, ARRAYS)
    return path.read_bytes()


def sealed(head: bytes, body: bytes = b"", magic: bytes = MAGIC) -> bytes:
    """A file with lengths and a checksum that are right, whatever it holds."""
    front = magic + struct.pack("<QQ", len(head), len(body))
    return front + hashlib.sha256(front + head + body).digest() + head + body


def refused(path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(caught.value).startswith(f"load: {str(path)!r} ")
    return str(caught.value)


# Round trips.


def test_header_comes_back_to_the_bit(path):
    rng = random.Random(0)
    floats = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(1000)]
    floats += [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    header = {
        "floats": floats,
        "ints": [0, -1, 2**63, -(2**200)],
        "strings": ["", "é日本", "\udcff", "\0\n\"'\\", "<script>"],
        "nothing": [None, True, False, [], {}],
        **HEADER,
    }
    write(path, header, {})
    again, arrays = read(path)
    assert arrays == {}
    for one, other in zip(floats, again.pop("floats"), strict=True):
        assert struct.pack("<d", one) == struct.pack("<d", other) or (one != one and other != other)
    del header["floats"]
    assert again == {**header, "names": ["a", "b"]}
    assert isinstance(again["loss"], float)


DTYPES = [
    *("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"),
    *(kind for kind in vars(ml_dtypes).values() if isinstance(kind, type)),
]
DTYPES = [np.dtype(kind) for kind in DTYPES if np.dtype(kind) != object]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_arrays_come_back_to_the_bit(path, dtype):
    rng = np.random.default_rng(0)
    arrays = {}
    for shape in [(), (1,), (7,), (0,), (0, 3), (2, 3), (1, 2, 1, 3), (1,) * 64]:
        count = math.prod(shape) * dtype.itemsize
        # A truth value has one bit that counts, everything else may be any bits: NaNs with payload.
        octets = rng.integers(0, 2 if dtype.kind == "b" else 256, count, np.uint8)
        arrays[f"shape {shape}"] = octets.view(dtype).reshape(shape)
    write(path, {}, arrays)
    header, again = read(path)
    assert header == {}
    same_arrays(arrays, again)
    assert all(array.flags.writeable and array.flags.owndata for array in again.values())


def test_arrays_of_any_layout_come_back(path):
    base = np.arange(24.0).reshape(4, 6)
    arrays = {
        "fortran": np.asfortranarray(base),
        "strided": base[::2, ::-1],
        "transposed": base.T,
        "big-endian": base.astype(">f8"),
        "large": np.arange(300_000.0),  # More than one block.
        "": np.ones(1),
    }
    write(path, {}, arrays)
    for name, array in read(path)[1].items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == np.float64


@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: os.fsencode(path)])
def test_paths_of_every_kind(path, kind):
    write(kind(path), HEADER, ARRAYS)
    same_arrays(read(kind(path))[1], ARRAYS)


@pytest.mark.parametrize(
    "array", [np.array([{}]), np.array(["a"]), np.array([b"a"]), np.zeros(1, "M8[s]")]
)
def test_arrays_of_no_numbers_are_refused(path, array):
    with pytest.raises(TypeError, match="the array 'x' has dtype"):
        write(path, {}, {"x": array})
    with pytest.raises(TypeError, match="JSON"):
        write(path, {"x": array}, {})
    assert os.listdir(path.parent) == []


def test_an_array_that_changes_while_it_is_written_makes_no_damaged_file(path, monkeypatch):
    array = np.zeros(2**18)  # Two blocks.
    sha256 = hashlib.sha256

    class Changing:
        def __init__(self, data=b""):
            self.hash = sha256(data)
            self.digest, self.hexdigest = self.hash.digest, self.hash.hexdigest

        def update(self, data):
            self.hash.update(data)
            array[:] += 1

    monkeypatch.setattr(hashlib, "sha256", Changing)
    write(path, {}, {"a": array})
    monkeypatch.undo()
    read(path)


# Damage.


@pytest.mark.slow
def test_every_bit_flip_is_found(path, raw):
    for bit in range(8 * len(raw)):
        data = bytearray(raw)
        data[bit // 8] ^= 1 << bit % 8
        refused(path, bytes(data))


def test_truncation_at_every_byte_is_found(path, raw):
    for size in range(len(raw)):
        assert f"is truncated at byte {size:,}" in refused(path, raw[:size])
    assert f"at byte {len(raw) - 1:,} of {len(raw):,}" in refused(path, raw[:-1])


def test_the_cure_names_an_older_checkpoint(path, raw):
    assert f"{path}.1" in refused(path, raw[:-1])


@pytest.mark.parametrize("more", [b"\0", b"garbage", b"\n"])
def test_trailing_bytes_are_refused(path, raw, more):
    assert f"{len(more)} bytes follow its end" in refused(path, raw + more)
    assert f"{len(raw)} bytes follow its end" in refused(path, raw + raw)


def test_a_block_written_over_is_found(path, raw):
    rng = random.Random(1)
    for _ in range(50):
        start = rng.randrange(len(raw))
        end = rng.randrange(start, len(raw)) + 1
        data = raw[:start] + rng.randbytes(end - start) + raw[end:]
        if data != raw:
            refused(path, data)
    assert "checksum" in refused(path, raw[:-1] + b"!")


# Other files.


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        pickle.dumps({"a": 1}),
        b"[" * 200_000,
        b"{" * 5_000_000,
        b"\xff\xfe\n",
        bytes(1000),
        b"fitkit checkpoint \n" + bytes(100),
        b"fitkit checkpoint -3\n" + bytes(100),
        b"fitkit checkpoint 0\n" + bytes(100),
        b"fitkit checkpoint " + b"9" * 5000 + b"\n",
    ],
    ids=lambda data: repr(data[:22]),
)
def test_foreign_files_are_refused(path, data):
    words = refused(path, data)
    assert "is not a fitkit checkpoint: it begins with b" in words
    assert len(words) < 400 + len(str(path))


def test_an_empty_file_is_a_truncated_one(path):
    assert "is truncated at byte 0." in refused(path, b"")


def test_other_formats_are_named(path, raw):
    for number in (3, 10, 123):
        words = refused(path, raw.replace(b"checkpoint 2", b"checkpoint %d" % number))
        assert f"a newer fitkit (format {number}; this one reads format 2). Upgrade" in words
    first = json.dumps({"format": "fitkit checkpoint 1", "names": ["a"]}).encode() + b"\n\x93NUMPY"
    assert "written by fitkit 0.1 (format 1" in refused(path, first)


@pytest.mark.parametrize("sizes", [(2**63, 0), (0, 4 * 10**12), (2**64 - 1, 2**64 - 1)])
def test_lengths_are_checked_against_the_file_before_memory_is_taken(path, raw, sizes):
    lengths = struct.pack("<QQ", *sizes)
    data = raw[: len(MAGIC)] + lengths + raw[len(MAGIC) + len(lengths) :]
    assert "is truncated at byte" in refused(path, data)


def test_a_sparse_file_of_terabytes_is_refused_at_once(path):
    front = MAGIC + struct.pack("<QQ", 0, 4 * 10**12) + bytes(32)
    path.write_bytes(front)
    try:
        os.truncate(path, len(front) + 4 * 10**12)
    except OSError:
        pytest.skip("no file of that size on this file system")
    with pytest.raises(CheckpointError, match="of memory"):
        read(path)


def head(table, header=None, **more) -> bytes:
    return json.dumps({"arrays": table, "header": header or {}, **more}).encode()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


class Evil:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    "data",
    [
        sealed(b""),
        sealed(b"{"),
        sealed(b"null"),
        sealed(b"[]"),
        sealed(b"{}"),
        sealed(b"\xff"),
        sealed(b"[" * 200_000),
        sealed(b'{"a":' * 100_000),
        sealed(b'{"arrays": [], "header": {"step": ' + b"9" * 5000 + b"}}"),
        sealed(b'{"arrays": [], "header": []}'),
        sealed(b'{"arrays": [], "header": {}, "more": 1}'),
        sealed(b'{"arrays": [], "header": {}}', b"1"),
        sealed(b'{"arrays": {"a": 1}, "header": {}}'),
        sealed(b'{"arrays": null, "header": {}}'),
        sealed(b'{"arrays": 3, "header": {}}'),
        sealed(b'{"arrays": "abc", "header": {}}'),
        sealed(head([["a", "object", [1]]]), npy(np.array([Evil()]))),
        sealed(head([["a", "float64", [1]]]), pickle.dumps(Evil())),
        sealed(head([["a", "O", [1]]]), bytes(8)),
        sealed(head([["a", "float64"]]), bytes(8)),
        sealed(head([["a", "float64", [1], 0]]), bytes(8)),
        sealed(head([["a", "<f8", [1]]]), bytes(8)),
        sealed(head([["a", "f8,f8", [1]]]), bytes(16)),
        sealed(head([["a", "str32", [1]]]), bytes(4)),
        sealed(head([["a", ["float64"], [1]]]), bytes(8)),
        sealed(head([["a", None, [1]]]), bytes(8)),
        sealed(head([["a", "float64", 1]]), bytes(8)),
        sealed(head([["a", "float64", "1"]]), bytes(8)),
        sealed(head([["a", "float64", None]]), bytes(8)),
        sealed(head([["a", "float64", [1.0]]]), bytes(8)),
        sealed(head([["a", "float64", [True]]]), bytes(8)),
        sealed(head([["a", "float64", [-1]]]), bytes(8)),
        sealed(head([["a", "float64", [-1, -1]]]), bytes(8)),
        sealed(head([["a", "float64", [2]]]), bytes(8)),
        sealed(head([["a", "float32", [1]]]), bytes(8)),
        sealed(head([["a", "float32", [5 * 10**11]]]), bytes(8)),
        sealed(head([["a", "float32", [0, 10**30]]])),
        sealed(head([["a", "float32", [0, 2**62]]])),
        sealed(head([["a", "float32", [1] * 65]]), bytes(4)),
        sealed(head([["a", "float32", [2**62] * 100_000]])),
        sealed(head([["a", "float32", [1]], ["a", "float32", [1]]]), bytes(8)),
        sealed(head([[3, "float32", [1]]]), bytes(4)),
        sealed(head([[["a"], "float32", [1]]]), bytes(4)),
        sealed(head([["a" * 10**6, "no dtype", [1]]]), bytes(4)),
        sealed(head([["a", "x" * 10**6, [1]]]), bytes(4)),
    ],
    ids=lambda data: repr(data[68:120]),
)
def test_contents_are_not_trusted_for_their_checksum(path, data):
    words = refused(path, data)
    assert "has contents that fitkit does not write" in words
    assert len(words) < 600 + len(str(path))


def test_what_cannot_be_opened_raises_what_opening_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(TypeError):
        read(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "link")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero", "/dev/null"):
        with pytest.raises(CheckpointError, match="is a pipe, a socket or a device"):
            read(path)


def test_names_that_cannot_be_printed_are_escaped(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\n'"
    try:
        with open(path, "wb") as file:
            file.write(b"foreign")
    except OSError:
        pytest.skip("no such names on this file system")
    with pytest.raises(CheckpointError) as caught:
        read(path)
    str(caught.value).encode()  # As printing does.
    assert "\n" not in str(caught.value)
