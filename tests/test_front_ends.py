"""The dashboard on every kernel that users have, and in the front ends beside JupyterLab."""

import os
from pathlib import Path

import browser
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

def described(widget):
    yield getattr(widget, "description", None), widget.comm.comm_id
    for child in getattr(widget, "children", ()):
        yield from described(child)
"""


class Kernel:
    """A kernel, and its client as a person's front end would be: it allows input."""

    def __init__(self, folder, packages):
        self.manager = KernelManager(
            connection_file=str(folder / "kernel.json"),
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        )
        path = os.pathsep.join(map(str, [*packages, ROOT, os.environ.get("PYTHONPATH", "")]))
        own = {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": path}
        self.manager.start_kernel(cwd=str(folder), env=os.environ | own)
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


#: Other releases of ipykernel, besides the one that is installed.
OTHERS = [pytest.param(release, marks=pytest.mark.network) for release in ("6.30", "7.3")]


@pytest.fixture(scope="module", params=["installed", *OTHERS])
def packages(request):
    """Return the folders in which a kernel finds its own ipykernel."""
    if request.param == "installed":
        return []
    folder = Path(os.environ.get("FITKIT_KERNELS", "none")) / request.param
    if not folder.is_dir():
        pytest.skip(f"FITKIT_KERNELS names no folder with ipykernel {request.param}, as in .ci/run")
    return [folder]


@pytest.fixture(scope="module")
def started(packages, tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp("kernel"), packages)
    try:
        yield kernel
    finally:
        kernel.end()


@pytest.fixture
def kernel(started):
    started.run(MODEL)
    yield started
    started.run("fit.stop(); dashboard.close()")


@pytest.mark.slow
def test_widget_messages_reach_a_fit_in_the_background(kernel, packages):
    release = kernel.ask("__import__('ipykernel').__version__")
    assert all(release.startswith(f"{folder.name}.") for folder in packages)
    kernel.run("dashboard")
    controls = kernel.ask("dict(described(dashboard.widget))")
    kernel.run("fit.start(10**9)")
    kernel.until("fit.status", "running")
    assert kernel.ask("fit.learning_rates['flux']") == pytest.approx(1.0)

    # Twenty notches, a decade.
    state = {"method": "update", "state": {"value": 20}, "buffer_paths": []}
    kernel.send("comm_msg", {"comm_id": controls["flux"], "data": state})
    # The shell takes its messages in turn: who asks after the move sees it.
    assert kernel.ask("fit.learning_rates['flux']") == pytest.approx(10.0)
    step = kernel.ask("fit.step")
    wait_until(lambda: kernel.ask("fit.step") > step, "the fit to go on")

    click = {"method": "custom", "content": {"event": "click"}}
    kernel.send("comm_msg", {"comm_id": controls["Pause"], "data": click})
    kernel.until("fit.status", "paused")


@pytest.mark.slow
def test_a_fit_that_blocks_its_cell_shows_live_frames(kernel):
    kernel.run("dashboard")
    asked = kernel.start("fit.run(10**9)")
    frames = kernel.frames(asked)
    assert len({next(frames) for _ in range(3)}) > 1
    kernel.manager.interrupt_kernel()
    kernel.reply(asked)
    assert kernel.ask("fit.status") == "paused"


@pytest.mark.slow
def test_a_kernel_that_fits_shuts_down_and_restarts(kernel):
    kernel.run("dashboard")
    kernel.run("fit.start(10**9)")
    kernel.until("fit.status", "running")
    kernel.manager.request_shutdown(restart=True)
    # Long, yet within it: nobody would wait longer for a kernel that is asked to go.
    wait_until(lambda: not kernel.manager.is_alive(), "the kernel to end", patience=20)
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=PATIENCE)
    kernel.run(MODEL)
    kernel.run("fit.run(10)")
    assert kernel.ask("fit.step") == 10


COUNT = """
def count():
    gc.collect()
    alive = gc.get_objects()
    return (
        sum(thread.name.startswith("fitkit") for thread in threading.enumerate()),
        len(ipywidgets.widgets.widget._instances),
        len(get_ipython().kernel.comm_manager.comms),
        sum(type(thing) is Figure for thing in alive),
        sum(isinstance(thing, ipywidgets.Widget) for thing in alive),
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("packages", ["installed"], indirect=True)
def test_running_a_cell_many_times_leaves_what_one_run_leaves(kernel):
    kernel.run("from matplotlib.figure import Figure" + COUNT)
    again = "fk.Dashboard(fit, panels=['loss'])"  # most of the time goes into drawing panels
    kernel.run(again, cell="the cell")
    kernel.until("min(count()) > 0", True)  # A first frame was drawn.
    once = kernel.ask("count()")
    for _ in range(15):
        kernel.run(again, cell="the cell")
    # The threads of the last but one may still be on their way out.
    kernel.until("count()", once)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if reason := browser.missing():
        pytest.skip(reason)
    pytest.importorskip("notebook")
    with browser.lab(tmp_path_factory.mktemp("notebook"), app="notebook") as server:
        yield server


@pytest.mark.browser
def test_notebook_7_steers_saves_and_reopens(server, page):
    model = MODEL + "also = dict"
    notebook = browser.Notebook(page, server, "seven", model, "dashboard", "fit.start(10**9)")
    notebook.until(lambda told: told["status"] == "running", "the fit to run")
    # Notebook 7 takes the arrow keys for itself wherever the focus is; a page is five notches.
    notebook.slider(0).press("PageUp")
    raised = pytest.approx(10**0.25, rel=1e-5)
    notebook.until(lambda told: told["rates"]["flux"] == raised, "the learning rate")
    notebook.button("Pause").click()
    notebook.until(lambda told: told["status"] == "paused", "the fit to pause")
    page.get_by_text("Paused").first.wait_for()

    saved = browser.save(page, notebook.path)
    assert "widgets" not in saved.metadata
    assert any("image/png" in output.get("data", {}) for output in saved.cells[1].outputs)
    browser.assert_reads_well_when_reopened(page, server, notebook.name)


@pytest.mark.browser
def test_voila_steers(server, page):
    pytest.importorskip("voila")
    server.write("app.ipynb", [MODEL, "dashboard", "fit.start(10**9)"])
    page.goto(f"{server.url}/voila/render/app.ipynb?token={server.token}")
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("Paused").first.wait_for()
    page.locator(".fitkit-row [role=slider]").first.press("ArrowRight")
    # The kernel writes this number, from what the fit has: a notch is a twentieth of a decade.
    rate = page.locator(".fitkit-rate input").first
    wait_until(lambda: rate.input_value() == f"{10**0.05:.6g}", "the learning rate")
    # Drawn for the width that it has there.
    fits = "image => image.naturalWidth > 700 && image.naturalWidth === image.clientWidth"
    wait_until(lambda: page.locator(".fitkit-figure").evaluate(fits), "the picture to fit")
