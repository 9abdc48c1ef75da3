"""Make the README's picture: the live dashboard of a real fit, as Chromium shows it in JupyterLab.

Run it from the root of the repository: ``python benchmarks/gallery.py``. It fits two Gaussian peaks
on a decaying baseline to NIST's Gauss1 data with one Adam per kind of parameter.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402 - the tests' harness

PICTURE = ROOT / "notebooks" / "images" / "dashboard.png"
CELLS = [
    f"""
import jax.numpy as jnp, numpy as np, optax, time
import fitkit as fk

y, x = np.loadtxt({str(ROOT / "notebooks/data/nist/Gauss1.dat")!r}, skiprows=60).T

def residuals(params, args):
    model = params["baseline"]["height"] * jnp.exp(-params["baseline"]["decay"] * x / 100)
    for peak in params["peaks"]:
        model += peak["height"] * jnp.exp(-(((x - peak["centre"]) / peak["width"]) ** 2))
    return (model - y) / 2.5

def draw(axes, params):
    axes.plot(x, y, ".", ms=3, label="Gauss1")
    axes.plot(x, 2.5 * residuals(params, None) + y, lw=1.8, label="model")
    axes.set_title("Data and model", loc="left")
    axes.legend()

start = {{
    "baseline": {{"height": 90.0, "decay": 0.8}},
    "peaks": [
        {{"height": 90.0, "centre": 60.0, "width": 18.0}},
        {{"height": 80.0, "centre": 185.0, "width": 22.0}},
    ],
}}
adam = optax.inject_hyperparams(optax.adam)
fit = fk.Fit(
    residuals=residuals,
    params=start,
    optimiser={{
        "baseline": adam(learning_rate=0.02),
        "peaks.*.height": adam(learning_rate=0.05),
        ("peaks.*.centre", "peaks.*.width"): adam(learning_rate=0.02),
    }},
)
""",
    "fk.Dashboard(fit, draw=draw)",
    """
fit.run(900, progress=False)
fit.learning_rates["peaks.0.centre"] = 0.1
fit.run(500, progress=False)
fit.freeze("baseline.decay")
fit.run(400, progress=False)
fit.thaw("baseline.decay")
fit.run(1200, progress=False)
print("settled")
""",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with (
            browser.lab(place) as server,
            browser.chromium(place, width=1500, height=1300, scale=1.5) as page,
        ):
            server.write("gallery.ipynb", CELLS)
            browser.open_notebook(page, server, "gallery.ipynb")
            browser.command(page, "notebook:run-all-cells")
            page.get_by_text("settled", exact=True).last.wait_for()
            page.locator(".fitkit-status").get_by_text("Finished").wait_for()
            page.locator(".fitkit-status").get_by_text("step 3,000").wait_for()
            page.get_by_text("At step 3,000 the data constrain").wait_for()
            page.wait_for_timeout(1500)  # the last frame
            PICTURE.parent.mkdir(exist_ok=True)
            page.locator(".fitkit-live").screenshot(path=str(PICTURE))
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
