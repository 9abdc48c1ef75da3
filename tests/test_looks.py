"""How the dashboard looks with few and many parameters, in light and dark: pictures to look at."""

import browser
import pytest

browser.skip_where_missing()
pytestmark = [pytest.mark.browser, pytest.mark.slow]

COUNTS = (3, 12, 300)  # of parameters

MODEL = """
import jax, jax.numpy as jnp, numpy as np, optax
import fitkit as fk

def peak(x, line, width):
    return line["height"] * jnp.exp(-0.5 * ((x - line["centre"]) / width) ** 2)

def make(count):
    x = np.linspace(0.0, 1.0, 400)
    noise = np.random.default_rng(1).normal(0.0, 0.05, x.size)
    if count == 3:
        start = {"height": 1.0, "centre": 0.4, "width": 0.2}
        truth = {"height": 1.5, "centre": 0.5, "width": 0.1}
        model = lambda p: peak(x, p, p["width"])
    elif count == 12:
        start = {f"line{i}": {"height": 0.7, "centre": i / 6 + 0.1} for i in range(6)}
        truth = {f"line{i}": {"height": 1 - 0.1 * i, "centre": i / 6 + 0.085} for i in range(6)}
        model = lambda p: sum(peak(x, line, 0.03) for line in p.values())
    else:
        start = {
            "mirrors": [{"tip": 0.1, "tilt": -0.1} for i in range(147)],
            "star": {"flux": 1.0, "x": 0.1, "y": 0.2}, "background": 0.0, "gain": 1.0, "blur": 0.3,
        }
        truth = jax.tree.map(lambda leaf: leaf + 0.3, start)
        basis = np.random.default_rng(2).normal(size=(300, 400)) / 20
        model = lambda p: jnp.stack(jax.tree.leaves(p)) @ basis
    data = model(truth) + noise

    def draw(axes, params):
        axes.plot(x, data, ".", ms=2, label="data")
        axes.plot(x, model(params), label="model")
        axes.legend()
        axes.set_title("Data and model", loc="left")

    return fk.Fit(
        residuals=lambda p, a: (model(p) - data) / 0.05,
        params=jax.tree.map(jnp.asarray, start),
        optimiser=optax.inject_hyperparams(optax.adam)(learning_rate=2e-3),
    ), draw
"""


def test_finished_fits_fill_their_cells_and_no_more(server, tmp_path):
    cells = [MODEL]
    for count in COUNTS:
        draw = "draw" if count == 3 else "None"
        freeze = "fit.freeze(fit.names[1])" if count == 12 else ""
        cells += [f"fit, draw = make({count})\nfk.Dashboard(fit, draw={draw})"]
        cells += [f"fit.run(700)\n{freeze}\nfit.run(500)"]
    server.write("looks.ipynb", cells)
    with browser.chromium(tmp_path, width=1180, height=5000) as page:
        browser.open_notebook(page, server, "looks.ipynb")
        browser.command(page, "notebook:run-all-cells")
        boards = [page.locator(".fitkit-live").nth(number) for number in range(len(COUNTS))]
        for board in boards:
            board.get_by_text("Finished").wait_for()
            # The Fisher matrix of where the fit came to rest.
            board.get_by_text("At step 1,200 the data constrain").wait_for()
        for width, theme in ((2000, "light"), (1180, "dark"), (940, "light")):
            page.set_viewport_size({"width": width, "height": 5000})
            name = f"JupyterLab {theme.capitalize()}"
            browser.command(page, "apputils:change-theme", theme=name)
            page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")
            for board, count in zip(boards, COUNTS, strict=True):
                look_at(board, f"{theme}-{width}-{count}", tmp_path)


def look_at(board, name, tmp_path):
    cell = board.locator("xpath=ancestor::*[contains(@class, 'jp-OutputArea-output')][1]")
    figure = board.locator(".fitkit-figure")
    fits = "figure => figure.complete && figure.naturalWidth === figure.clientWidth"
    browser.wait_until(lambda: figure.evaluate(fits), "a picture of the width of its place")
    browser.screenshot(board, name, tmp_path)
    wide = cell.bounding_box()["width"]
    assert board.bounding_box()["width"] <= wide
    assert figure.bounding_box()["width"] > 0.95 * wide  # All but what is around it.
    for part in board.locator(".fitkit-row:visible, .fitkit-buttons, .fitkit-eigenvectors").all():
        assert part.evaluate("part => part.scrollWidth <= part.clientWidth + 1")
    assert board.locator(".fitkit-notice").count() == 0
