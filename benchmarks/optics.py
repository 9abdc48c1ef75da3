"""What does a hierarchical optical fit cost? CPU seconds until reduced chi-square is below 1.05.

The model is that of the notebook `optics`: three images of one star, made by dLux, that share eight
aberrations. `fitkit.gauss_newton` beside optimistix' Levenberg-Marquardt, from the same start, in
processes of their own: first with compiling, then again with other photons. Run it from the root of
the repository: ``python benchmarks/optics.py``. It needs ``fitkit[optics,optimistix]`` and
takes two minutes.
"""

import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import nbformat
import numpy as np

import fitkit as fk

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "optics.ipynb"
#: Cells of the notebook: imports, classes, the telescope, and the data with their residuals.
CELLS, REPEATS, ENOUGH = 4, 5, 1.05


def problem() -> dict:
    """Run the cells of the notebook that make the model, its data and where a fit starts."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    names: dict = {"__name__": "__main__"}
    for cell in cells[:CELLS]:
        exec(cell.source, names)
    return names


def by_fitkit(names: dict, photons: np.ndarray) -> object:
    args = (names["start"], photons)
    fit = fk.Fit(residuals=names["residuals"], params=names["params"], args=args)
    count = photons.size - sum(np.size(leaf) for leaf in names["params"].values())
    fit.run(until=lambda now: 2 * now.loss < ENOUGH * count, progress=False)
    return fit.params


def by_optimistix(names: dict, photons: np.ndarray) -> object:
    import optimistix as optx

    # With a looser tolerance it ends above the goal.
    solver = optx.LevenbergMarquardt(rtol=1e-3, atol=1e-3)
    params = jax.tree.map(jax.numpy.asarray, names["params"])
    args = (names["start"], jax.numpy.asarray(photons, float))
    return jax.block_until_ready(
        optx.least_squares(names["residuals"], solver, params, args, max_steps=500).value
    )


def main(which: str) -> None:
    """Print the row of one process."""
    names = problem()
    count = names["photons"].size - sum(np.size(leaf) for leaf in names["params"].values())
    images = names["start"].set(names["truth"]).images()
    fits = {"fitkit": by_fitkit, "optimistix": by_optimistix}
    seconds, worst = [], 0.0
    for seed in range(REPEATS):
        photons = np.random.default_rng(seed).poisson(images)
        begun = time.process_time()
        params = fits[which](names, photons)
        seconds.append(time.process_time() - begun)
        left = names["residuals"](params, (names["start"], photons))
        worst = max(worst, float(np.sum(np.square(left))) / count)
    first, *rest = seconds
    print(f"{which:<12}{first:>14.2f}{np.median(rest):>10.2f}{worst:>22.3f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
        sys.exit()
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    print(f"Python {platform.python_version()}, jax {jax.__version__}; CPU seconds\n")
    print(f"{'':<12}{'with compiling':>14}{'warm':>10}{'reduced chi-square':>22}")
    for which in ("fitkit", "optimistix"):
        subprocess.run([sys.executable, __file__, which], check=True)
