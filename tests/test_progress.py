"""How far a run is, where there is a terminal, and where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fitkit as fk

# Terminals of POSIX.
pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")

# They wait for processes.
pytestmark = pytest.mark.slow

SCRIPT = """
import time
import jax, optax
import fitkit as fk

@jax.custom_jvp
def slow(a):
    return jax.pure_callback(lambda a: (time.sleep(0.02), a)[1], a, a)

slow.defjvp(lambda at, along: (slow(*at), *along))
fit = fk.Fit(
    loss=lambda params, args: slow(params["a"]) ** 2,
    params={"a": 1.0},
    optimiser=optax.sgd(1e-3),
)
fit.run(50)
"""


def shown(terminal):
    """Run the script; return what it wrote to its output and to a terminal or a log file."""
    command = [sys.executable, "-c", SCRIPT]
    environment = os.environ | {"PYTHONPATH": str(Path(fk.__file__).parents[1])}
    if not terminal:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        return done.stdout, done.stderr
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=300
    )
    written = os.read(ours, 2**20).decode()
    os.close(ours)
    os.close(theirs)
    return done.stdout, written


def test_a_terminal_shows_a_bar_with_the_time_left():
    output, bar = shown(terminal=True)
    assert "/50 [" in bar
    assert "loss" in bar
    assert output.startswith("finished: step 50, loss")


def test_a_log_file_gets_one_line():
    output, log = shown(terminal=False)
    assert log == ""
    assert output.count("\n") == 1
    assert output.startswith("finished: step 50, loss")
