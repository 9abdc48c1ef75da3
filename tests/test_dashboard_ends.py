"""Threads of a dashboard end with it and with the interpreter, whatever they are doing."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import ipywidgets as widgets
import jax.numpy as jnp
import optax
import pytest
from browser import wait_until
from controls import live

import fitkit as fk

# They mostly wait for processes.
pytestmark = pytest.mark.slow

SCRIPT = """
import jax, jax.numpy as jnp, optax, threading, warnings
import fitkit as fk

warnings.simplefilter("error", UserWarning)
# Old releases of matplotlib call pyparsing by its old names.
warnings.filterwarnings("ignore", "'.*deprecated[ ,-]+use '.*'")

x = jnp.linspace(0.0, 1.0, 2000)
names = [f"p{i}" for i in range(40)]

def residuals(params, args):
    return sum(params[name] * jnp.cos(i * x) for i, name in enumerate(names)) - jnp.exp(-x)

fit = fk.Fit(residuals=residuals, params=dict.fromkeys(names, 0.1), optimiser=optax.adam(1e-3))
"""
ENDS = {
    "made": "fk.Dashboard(fit).widget",
    "started": "fk.Dashboard(fit).widget; fit.start()",
    "held": "dashboard = fk.Dashboard(fit); dashboard.widget; fit.start(10**9)",
    "ran": "dashboard = fk.Dashboard(fit); dashboard.widget; fit.run(50, progress=False)",
    "closed": "dashboard = fk.Dashboard(fit); dashboard.widget; fit.start(); dashboard.close()",
    "fisher": """
dashboard = fk.Dashboard(fit)
dashboard.widget
begun, fisher = threading.Event(), fit.fisher
fit.fisher = lambda: (begun.set(), fisher())
background = next(t for t in threading.enumerate() if t.name == "fitkit background")
background.ask("Computing…", fit.fisher)
begun.wait()
""",
    "raised": "dashboard = fk.Dashboard(fit); dashboard.widget; fit.start(); raise SystemExit(0)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_script_that_ends_at_once_exits_with_code_0(end):
    environment = {**os.environ, "PYTHONPATH": str(Path(fk.__file__).parents[1])}
    command = [sys.executable, "-c", SCRIPT + ENDS[end]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def loss(params, args):
    return jnp.sum((params["flux"] - 3.0) ** 2)


def make_fit():
    return fk.Fit(loss=loss, params={"flux": jnp.zeros(3)}, optimiser=optax.adam(1e-4))


def test_close_joins_every_thread(fit):
    before = set(threading.enumerate())
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    assert len(dashboard._threads) == 2
    live(dashboard).background.ask("Computing the spectrum…", fit.fisher)
    dashboard.close()
    assert fit.known_fisher is not None  # What was asked for is done.
    assert not {thread for thread in set(threading.enumerate()) - before if thread.is_alive()}
    dashboard.close()


def test_close_from_a_handler_of_a_widget_of_the_user_s_own(fit):
    dashboard = fk.Dashboard(fit)
    button = widgets.Button()
    button.on_click(lambda _: dashboard.close())
    layout = widgets.VBox([dashboard.widget, button])
    fit.start(10**9)
    button.click()
    assert not any(thread.is_alive() for thread in dashboard._threads)
    layout.close()


def test_close_from_a_handler_of_a_control(fit):
    """While its message is handled, the control is locked, and the thread waits for it."""
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    slider = live(dashboard).table.rows[0].slider
    slider.observe(lambda _: dashboard.close(), "value")
    fit.start(10**9)
    slider.set_state({"value": 3})
    assert not any(thread.is_alive() for thread in dashboard._threads)


def test_close_from_what_is_drawn(fit):
    closed = threading.Event()

    def draw(axes, params):
        dashboard.close()
        closed.set()

    dashboard = fk.Dashboard(fit, draw=draw)
    _ = dashboard.widget
    wait_until(closed.is_set, "the drawing")
    wait_until(lambda: not any(t.is_alive() for t in dashboard._threads), "the threads to end")


def test_close_from_a_callback_of_the_fit(fit):
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    fit.add_callback(lambda fit: dashboard.close(), every=10)
    fit.run(20, progress=False)
    assert not any(thread.is_alive() for thread in dashboard._threads)


def test_the_close_button_closes_from_another_thread(fit):
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    threads, shown = dashboard._threads, live(dashboard)
    shown.header.close.click()
    wait_until(lambda: not any(t.is_alive() for t in threads), "the threads to end")
    assert shown.box.comm is None
