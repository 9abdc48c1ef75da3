"""The dashboard on every kernel that users have, and in the front ends beside JupyterLab."""

import os
import subprocess
import sys
import time

import pytest
from browser import PATIENCE, ROOT, wait_until
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

MODEL = """
import gc, threading
import ipywidgets, jax.numpy as jnp, optax
import fitkit as fk

def loss(params, args):
    return jnp.sum((params["flux"] - 3.0) ** 2) + 0.1

fit = fk.Fit(loss=loss, params={"flux": jnp.zeros(3)}, optimiser=optax.adam(1e-6))
dashboard = fk.Dashboard(fit)
"""


class Kernel:
    """A kernel, and its client as a person's front end would be: it allows input."""

    def __init__(self, folder, packages):
        self.manager = KernelManager(
            connection_file=str(folder / "kernel.json"),
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        )
        path = [*packages, ROOT, os.environ.get("PYTHONPATH", "")]
        self.manager.start_kernel(
            cwd=str(folder),
            env=os.environ
            | {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": os.pathsep.join(map(str, path))},
        )
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def end(self):
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def send(self, kind, content, cell=None):
        """Send a message to the kernel and give its id."""
        metadata = {"cellId": cell} if cell else {}
        message = self.client.session.msg(kind, content, metadata=metadata)
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def start(self, code, cell=None, **wanted):
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": True}
        content |= {"user_expressions": wanted, "stop_on_error": True}
        return self.send("execute_request", content, cell)

    def reply(self, asked):
        """Wait until the kernel has run what was asked."""
        while True:
            reply = self.client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"].get("msg_id") == asked:
                assert reply["content"]["status"] == "ok", reply["content"]
                return reply["content"]

    def run(self, code, cell=None):
        return self.reply(self.start(code, cell))

    def ask(self, expression):
        """Give the value of an expression in the kernel."""
        answer = self.reply(self.start("", wanted=expression))["user_expressions"]["wanted"]
        return eval(answer["data"]["text/plain"])

    def until(self, expression, value):
        wait_until(lambda: self.ask(expression) == value, f"{expression} to be {value!r}")

    def frames(self, asked):
        """Yield the pictures that the kernel sends to a widget while it runs what was asked."""
        state = None
        while state != "idle":
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") == asked and message["msg_type"] == "status":
                state = message["content"]["execution_state"]
            if state == "busy" and message["msg_type"] == "comm_msg":
                buffers = (bytes(buffer) for buffer in message["buffers"])
                yield from (buffer for buffer in buffers if buffer.startswith(b"\x89PNG"))


@pytest.fixture(scope="module", params=["6.30", "7.3", "newest"])
def packages(request, tmp_path_factory):
    """Give the folders in which a kernel finds its own ipykernel."""
    if request.param == "newest":
        return []
    folder = tmp_path_factory.mktemp("ipykernel")
    wanted = f"ipykernel=={request.param}.*"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder, wanted]
    answer = subprocess.run(pip, capture_output=True, text=True, timeout=PATIENCE)
    if answer.returncode:
        pytest.skip(f"pip cannot install {wanted}: {answer.stderr.strip()[-300:]}")
    return [folder]


@pytest.fixture
def kernel(packages, tmp_path):
    kernel = Kernel(tmp_path, packages)
    try:
        kernel.run(MODEL)
        yield kernel
    finally:
        kernel.end()


def test_widget_messages_reach_a_fit_in_the_background(kernel):
    print("ipykernel", kernel.ask("__import__('ipykernel').__version__"))
    kernel.run("dashboard")
    slider = kernel.ask("dashboard._table.rows[0].slider.model_id")
    pause = kernel.ask("dashboard._header.pause.model_id")
    kernel.run("fit.start(10**9)")
    kernel.until("fit.status", "running")
    assert kernel.ask("fit.learning_rates['flux']") == pytest.approx(1.0)

    state = {"method": "update", "state": {"value": 10.0}, "buffer_paths": []}
    kernel.send("comm_msg", {"comm_id": slider, "data": state})
    # The shell takes its messages in turn: who asks after the move sees it.
    assert kernel.ask("fit.learning_rates['flux']") == pytest.approx(10.0)
    step = kernel.ask("fit.step")
    wait_until(lambda: kernel.ask("fit.step") > step, "the fit to go on")

    click = {"method": "custom", "content": {"event": "click"}}
    kernel.send("comm_msg", {"comm_id": pause, "data": click})
    kernel.until("fit.status", "paused")


def test_a_fit_that_blocks_its_cell_shows_live_frames(kernel):
    kernel.run("dashboard")
    asked = kernel.start("fit.run(10**9)")
    frames = kernel.frames(asked)
    assert len({next(frames) for _ in range(4)}) > 2
    kernel.manager.interrupt_kernel()
    kernel.reply(asked)
    assert kernel.ask("fit.status") == "paused"
