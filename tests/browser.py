"""A real JupyterLab and a real Chromium, for tests that look at what a person sees.

The server listens on loopback, asks for a token, opens no browser, and keeps its settings, its
kernels' connection files and its notebooks below one temporary folder.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = str(Path(__file__).parents[1])
CHROMIUM = (
    os.environ.get("FITKIT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120.0  # seconds; two slow shared cores start a server, a kernel and jax in this time


def missing() -> str | None:
    """Say what the machine lacks for a browser test, or None."""
    if CHROMIUM is None:
        return "no chromium on this machine"
    for module in ("playwright", "jupyterlab"):
        try:
            __import__(module)
        except ImportError:
            return f"the Python package {module} is not installed"
    return None


def skip_where_missing() -> None:
    """Skip the module that calls this where a browser test cannot run; in CI let it fail."""
    if (reason := missing()) and os.environ.get("CI") != "true":
        pytest.skip(reason, allow_module_level=True)


def wait_until(true: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Ask until the answer is true and return it; fail with `what` after `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        answer = true()
        if answer:
            return answer
        time.sleep(0.02)
    raise TimeoutError(f"waited {patience:.0f} s in vain: {what}")


class Lab:
    """A running JupyterLab or Notebook 7 server."""

    def __init__(self, folder: Path, app: str):
        self.folder, self.app, self.token = folder, app, secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        home = folder / ".home"
        settings = home / "lab" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(
            json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True})
        )
        environment = os.environ | {
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "lab"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
            "JAX_PLATFORMS": "cpu",
        }
        self.log = open(home / "server.log", "w")  # noqa: SIM115 - closed in `stop`
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", app, "--no-browser", "--allow-root"),
                *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}"),
                *("--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"),
                f"--IdentityProvider.token={self.token}",
                "--LabApp.expose_app_in_browser=True",
                "--JupyterNotebookApp.expose_app_in_browser=True",
                "--LabApp.extension_manager=readonly",
                "--LabApp.news_url=",
            ],
            cwd=folder,
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(self._answers, "the Jupyter server to answer")
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError("the server died: " + Path(self.log.name).read_text()[-3000:])
        try:
            self.api("status")
        except OSError:
            return False
        return True

    def api(self, path: str, method: str = "GET") -> Any:
        """Call the server's REST interface."""
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def shut_kernels(self) -> None:
        """End every kernel, so that a reopened notebook finds none of its old widgets."""
        for session in self.api("sessions"):
            self.api(f"sessions/{session['id']}", "DELETE")

    def stop(self) -> None:
        """End the server and its kernels."""
        with contextlib.suppress(OSError):
            self.shut_kernels()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def write(self, name: str, cells: list[str]) -> Path:
        """Put a notebook of these code cells where the server finds it."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        path = self.folder / name
        nbformat.write(notebook, path)
        return path


@contextlib.contextmanager
def lab(folder: Path, app: str = "lab") -> Iterator[Lab]:
    """Start a server (`app` is ``"lab"`` or ``"notebook"``) and stop it at the end."""
    server = Lab(folder, app)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def chromium(folder: Path, width: int = 1180, height: int = 1000, scale: float = 1.0) -> Iterator:
    """Start headless Chromium with a fresh profile and give its page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(folder / "profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=ARGUMENTS,
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
        )
        try:
            page = context.pages[0]
            page.set_default_timeout(PATIENCE * 1000)
            yield page
        finally:
            context.close()


def open_notebook(page: Any, server: Lab, name: str) -> None:
    """Open a notebook and wait until its kernel is there."""
    view = {"lab": "lab/tree", "notebook": "notebooks"}[server.app]
    page.goto(f"{server.url}/{view}/{name}?token={server.token}&reset", wait_until="load")
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell.currentWidget")
    page.wait_for_function(
        """() => {
            const context = window.jupyterapp.shell.currentWidget?.context;
            return context?.isReady && context.sessionContext.session?.kernel?.status === 'idle';
        }"""
    )


def command(page: Any, name: str, **arguments: Any) -> None:
    """Run a JupyterLab command by its id."""
    page.evaluate(
        "([name, given]) => window.jupyterapp.commands.execute(name, given).then(() => null)",
        [name, arguments],
    )


def save(page: Any, path: Path) -> nbformat.NotebookNode:
    """Save the notebook and read the file."""
    before = path.stat().st_mtime_ns
    command(page, "docmanager:save")
    wait_until(lambda: path.stat().st_mtime_ns != before, "the notebook to be saved")
    return nbformat.read(path, as_version=4)


def screenshot(part: Any, name: str, folder: Path) -> None:
    """Take a picture of a page or a part of it, into the folder that FITKIT_SCREENSHOTS names."""
    folder = Path(os.environ.get("FITKIT_SCREENSHOTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)
    part.screenshot(path=str(folder / f"{name}.png"))


def assert_reads_well_when_reopened(page: Any, server: Lab, name: str) -> None:
    """The notebook of a kernel that is gone: a picture, and no widget that failed."""
    page.goto("about:blank")
    server.shut_kernels()
    open_notebook(page, server, name)
    picture = page.locator(".jp-OutputArea img:visible")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 900
    wait_until(
        lambda: page.get_by_text("Loading widget").locator("visible=true").count() == 0,
        "the widget manager to give up",
    )
    shown = page.locator(".jp-Notebook").inner_text()
    assert "not found" not in shown
    assert "rror" not in shown


#: What the kernel runs after the cell that makes `fit`, and `also` for what else it should tell.
TELL = """
import json, threading, time

def tell():
    version = -1
    with open("NAME.told", "a") as file:
        while True:
            version = fit.wait_for_change(version)
            told = {
                "t": time.time(), "status": fit.status, "step": fit.step, "target": fit.target,
                "best": fit.best.step, "rates": fit.learning_rates.snapshot(),
                "frozen": sorted(fit.frozen), "basis": fit.in_eigenbasis,
                "fisher": (fit.known_fisher or [-1])[0],
            }
            print(json.dumps(told | also()), file=file, flush=True)

threading.Thread(target=tell, daemon=True).start()
"""


class Notebook:
    """A notebook with a dashboard, and what its kernel tells through a file.

    The cell `model` makes a `fit`, and a function `also` that gives what else to tell.
    """

    def __init__(self, page: Any, server: Lab, name: str, model: str, *cells: str):
        self.page, self.name = page, f"{name}.ipynb"
        self.path = server.write(self.name, [model + TELL.replace("NAME", name), *cells])
        self._told = server.folder / f"{name}.told"
        self.board = page.locator(".fitkit-live")
        open_notebook(page, server, self.name)
        command(page, "notebook:run-all-cells")
        self.button("Run").wait_for()

    def told(self) -> dict[str, Any]:
        """Give what the kernel told last; it has, once the dashboard is there."""
        wait_until(lambda: self._told.exists() and self._told.stat().st_size, "the kernel to tell")
        lines = self._told.read_text().splitlines(keepends=True)
        # The last line may still be on its way to the file.
        return json.loads(next(line for line in reversed(lines) if line.endswith("\n")))

    def until(self, true: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Wait until what the kernel tells is so, and give it."""
        try:
            return wait_until(lambda: true(told := self.told()) and told, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the kernel told last: {self.told()}") from None

    def button(self, name: str) -> Any:
        """Find a button of the dashboard by its name, or a part of it."""
        return self.board.get_by_role("button", name=name)

    def slider(self, number: int) -> Any:
        """Find a learning-rate slider by its place."""
        return self.page.locator(".fitkit-row [role=slider]").nth(number)
