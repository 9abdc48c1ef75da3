"""Room for programs: Linux allows a process only so many pieces of memory."""

from pathlib import Path

import jax

#: Of the pieces that are allowed, how much may be taken before programs are forgotten. A fit with
#: its result takes some 300 of 65,530, so that there is room for all that is compiled meanwhile.
_MOST = 0.5


def leave_room() -> None:
    """Let JAX forget what it compiled, where that takes half of the pieces of memory there are.

    JAX keeps every program for as long as the process lives. Where no piece is left, the next
    program to be compiled ends the process. Those in use stay, and others are compiled again when
    they are wanted.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        taken = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return  # Only Linux has such a limit.
    if taken > _MOST * allowed:
        jax.clear_caches()
