"""A dashboard of many systems in a real browser: paused, asked for a system, saved, reopened."""

import browser
import pytest
from browser import assert_reads_well_when_reopened, command, open_notebook, save, screenshot

browser.skip_where_missing()
pytestmark = pytest.mark.browser

MODEL = """
import jax.numpy as jnp, numpy as np
import fitkit as fk

x = np.linspace(-1, 1, 40)
rows, columns = np.mgrid[:64, :64] / 64
centres = 0.4 * np.sin(6 * columns) * np.cos(5 * rows)
heights = 3 + 2 * np.exp(-8 * ((columns - 0.5) ** 2 + (rows - 0.4) ** 2))
data = heights[..., None] * np.exp(-12 * (x - centres[..., None]) ** 2)
data += np.random.default_rng(0).normal(0, 0.1, data.shape)
data[10, 12] = np.nan
data[40:44, 20:30] += 0.3 * np.sin(20 * x)

def residuals(params, args):
    x, y = args
    return (params["height"] * jnp.exp(-params["width"] * (x - params["centre"]) ** 2) - y) / 0.1

start = {"height": 3.0, "centre": 0.0, "width": 10.0}
many = fk.fit_many(
    residuals, start, (x, data), systems=(64, 64), args_axes=(None, 0), progress=False, block=False
)
"""

# The fits wait for somebody to press the button.
HOLD = """
import time

def hold(many):
    while not many._worker._stopping:
        time.sleep(0.01)
    many._callbacks.clear()

many.add_callback(hold)
"""


def test_many_systems_are_watched_steered_saved_and_reopened(page, server, tmp_path):
    path = server.write("many.ipynb", [MODEL + HOLD, "fk.Dashboard(many)"])
    open_notebook(page, server, "many.ipynb")
    command(page, "notebook:run-all-cells")
    board = page.locator(".fitkit-live")
    board.get_by_role("button", name="Pause").click()
    board.get_by_text("Paused").wait_for()
    board.get_by_role("button", name="Resume").click()
    board.get_by_text("Finished").wait_for()
    typed = board.get_by_label("system")
    typed.fill("40, 25")
    typed.press("Enter")
    board.get_by_text("many[40, 25]: minimum").wait_for()
    for theme in ("Light", "Dark"):
        command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
        page.locator(f"body[data-jp-theme-name='JupyterLab {theme}']").wait_for(state="attached")
        screenshot(board, f"many-{theme.lower()}", tmp_path)
    board.get_by_role("button", name="Close").click()
    board.wait_for(state="detached")
    saved = save(page, path)
    assert any("image/png" in (output.get("data") or {}) for output in saved.cells[1].outputs)
    assert_reads_well_when_reopened(page, server, "many.ipynb")
