"""Several processes on this machine that run one script together."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

import pytest


class Ended(NamedTuple):
    """How a process has ended, and what it wrote."""

    status: int
    out: str
    err: str


def free_address() -> str:
    """Return an address of this machine on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def run_together(
    commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], folder: os.PathLike
) -> list[Ended]:
    """Run Python with other arguments and additions to the environment in each of some processes.

    Those that hang are killed, and the test fails.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env=inherited | own,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, own in zip(commands, environments, strict=True)
    ]
    written = [("", "")] * len(processes)

    def read(rank: int) -> None:
        written[rank] = processes[rank].communicate()

    readers = [threading.Thread(target=read, args=(rank,)) for rank in range(len(processes))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=600)  # Seconds they take alone, on a busy machine minutes.
    hung = any(reader.is_alive() for reader in readers)
    for process in processes:
        process.kill()
    for reader in readers:
        reader.join()
    if hung:
        pytest.fail(f"Some processes have hung: {written}")
    return [Ended(one.returncode, *both) for one, both in zip(processes, written, strict=True)]
