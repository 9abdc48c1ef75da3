"""What the processes of a fit agree on between two chunks: the first decides, the others follow.

Where the data are spread over several processes, all must send the same chunks to their devices in
the same order, and none may compute alone. So before anything is sent each says what it was asked
for, and all go on with what the first one says. A process by itself agrees with itself, at no cost.
"""

import contextlib
import dataclasses
import functools
import json
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fitkit._fit.status import Status
from fitkit._fit.steering import Steering
from fitkit._sharding import is_shared

#: Bytes in which what a process says fits as a rule; a longer message is sent in two.
_SHORT = 1024
#: What a process can be asked for, and what is asked for by nobody. The latest wins.
_REQUESTS = (None, Status.PAUSED, Status.STOPPED, Status.FAILED)


@dataclasses.dataclass(frozen=True)
class Decision:
    """How a run goes on.

    Attributes
    ----------
    request
        What it was asked for, by anybody: ``PAUSED``, ``STOPPED``, or ``FAILED`` where a process
        met an error of its own.
    waits
        Whether it must come to rest, for a command.
    size, depth
        How many steps the next chunk takes, and how many chunks may be on their way.
    due
        Which callbacks are due.
    hopeful, met
        Whether the stop rule wants to look at the fit at rest; whether `until` was met.
    steering
        What steers the next chunk.
    """

    request: Status | None
    waits: bool
    size: int
    depth: int
    due: tuple[bool, ...]
    hopeful: bool
    met: bool
    steering: Steering


class Agreement:
    """Lets the processes of a run agree.

    Parameters
    ----------
    mesh
        The devices over which the data are spread; of one process, or None, there is no other.
    """

    def __init__(self, mesh: Mesh | None) -> None:
        self._mesh = mesh if is_shared(mesh) else None
        self._told: Steering | None = None

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self._mesh is None

    def on(self, own: Decision) -> Decision:
        """Return how the run goes on, by what this process and the others say."""
        if self._mesh is None:
            return own
        said: dict[str, Any] = {}
        if leads(self._mesh):
            names = ("size", "depth", "due", "hopeful", "met")
            said = {name: getattr(own, name) for name in names}
            if own.steering is not self._told:
                said["factors"] = dict(own.steering.factors)
                said["frozen"] = sorted(own.steering.frozen)
                self._told = own.steering
        code = _REQUESTS.index(own.request) + len(_REQUESTS) * own.waits
        codes, first = _exchanged(self._mesh, code, said)
        return dataclasses.replace(
            own,
            request=_REQUESTS[max(code % len(_REQUESTS) for code in codes)],
            waits=any(code >= len(_REQUESTS) for code in codes),
            size=first["size"],
            depth=first["depth"],
            due=tuple(first["due"]),
            hopeful=first["hopeful"],
            met=first["met"],
            steering=_steering(own.steering, first),
        )

    def follows(self, decided: Decision, own: Steering) -> bool:
        """Whether this process has to take over what steers the first."""
        return self._mesh is not None and not leads(self._mesh) and decided.steering is not own

    def on_all(self, own: bool) -> bool:
        """Return whether all processes say so."""
        return own if self._mesh is None else min(_exchanged(self._mesh, int(own), {})[0]) == 1

    def leave(self, own: Decision) -> None:
        """Tell the others, who wait for a decision, that this process leaves the run."""
        if self._mesh is not None:
            with contextlib.suppress(Exception):
                self.on(own)


def leads(mesh: Mesh | None) -> bool:
    """Whether this process is the one that decides, shows and saves: that of the first device."""
    return not is_shared(mesh) or _first(mesh) == jax.process_index()


class _Inside(threading.local):
    """Whether the present thread drives a run, step by step with the other processes."""

    now = False


_INSIDE = _Inside()
_RUNNING: set[int] = set()


@contextlib.contextmanager
def in_step() -> Iterator[None]:
    """Let the present thread compute what all processes compute at the same time."""
    before, _INSIDE.now = _INSIDE.now, True
    try:
        yield
    finally:
        _INSIDE.now = before


def note_run(mesh: Mesh | None, run: Any, under_way: bool) -> None:
    """Note that a run of several processes has begun, or has ended."""
    if is_shared(mesh):
        (_RUNNING.add if under_way else _RUNNING.discard)(id(run))


def require_all(mesh: Mesh | None, event: str) -> None:
    """Raise where one process would compute alone, and wait for the others for ever."""
    if not is_shared(mesh) or _INSIDE.now:
        return
    main = threading.current_thread() is threading.main_thread()
    if not main or _RUNNING:
        raise RuntimeError(
            f"{event}: the data of this fit are spread over several processes, which must all "
            "compute this, at the same time. Call it in every process, from the main thread while "
            "the fit stands still (after wait() or pause()), or in a callback, which runs in all."
        )


def _steering(own: Steering, first: dict[str, Any]) -> Steering:
    """Take over what steers the first process, if that is something else."""
    factors, frozen = first.get("factors", own.factors), frozenset(first.get("frozen", own.frozen))
    if (factors, frozen) == (dict(own.factors), own.frozen):
        return own
    return dataclasses.replace(own, factors=factors, frozen=frozen)


def _first(mesh: Any) -> int:
    return mesh.devices.flat[0].process_index


def _exchanged(mesh: Mesh, code: int, said: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """Return the codes of all processes, and what the first one says."""
    text = json.dumps(said).encode()
    head = len(text).to_bytes(4, "little") + bytes([code])
    rows = _gathered(mesh, (head + text)[:_SHORT].ljust(_SHORT, b"\0"))
    first = rows[0].tobytes()
    length = int.from_bytes(first[:4], "little")
    if length > _SHORT - len(head):
        # A power of two, so that few lengths compile.
        whole = (text if leads(mesh) else b"").ljust(2 ** (length - 1).bit_length(), b"\0")
        first = first[: len(head)] + _gathered(mesh, whole)[0].tobytes()
    return [int(row[4]) for row in rows], json.loads(first[len(head) : len(head) + length])


def _gathered(mesh: Mesh, row: bytes) -> np.ndarray:
    """Gather a row of bytes of every device's process, the same length for all."""
    devices = _line(mesh)
    mine = np.frombuffer(row, np.uint8)[None]
    spread = NamedSharding(devices, PartitionSpec("all"))
    shape = (devices.size, len(row))
    rows = jax.make_array_from_callback(shape, spread, lambda index: mine, dtype=np.uint8)
    return np.asarray(_everywhere(devices)(rows))


@functools.cache
def _line(mesh: Mesh) -> Mesh:
    return Mesh(mesh.devices.ravel(), ("all",))


@functools.cache
def _everywhere(devices: Mesh) -> Any:
    return jax.jit(lambda rows: rows, out_shardings=NamedSharding(devices, PartitionSpec()))
