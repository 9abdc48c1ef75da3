"""Many systems at once: `fit_many` beside SciPy and vmapped optimistix, in one run.

    python benchmarks/many.py [speed] [growth] [size] [nist]

*speed*: fits per second of the processor, in float64, of two problems of NIST with perturbed
starts, how many are right to six digits, and how many claim success without. *growth*: from a
thousand to a million systems of three parameters and 40 points, and the memory that takes. *nist*:
all problems of NIST that are here from both starts, perturbed 256 times: successes, and how many of
those are at another minimum than the certified one.
"""

import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax
import jax.numpy as jnp
import nist
import numpy as np
import optimistix
from scipy.optimize import curve_fit

import fitkit as fk

WANTED = 6
SPREAD = 0.05


def perturbed(problem: nist.Problem, start: int, count: int, spread: float) -> dict:
    draw = np.random.default_rng(0)
    return {
        name: value * (1 + spread * draw.normal(size=count))
        for name, value in problem.starts[start].items()
    }


def by_fitkit(problem: nist.Problem, starts: dict) -> tuple[dict, np.ndarray]:
    many = fk.fit_many(
        problem.residuals, starts, problem.args, params_axes=0, args_axes=None, progress=False
    )
    return many.values, many.success


def by_optimistix(problem: nist.Problem, starts: dict) -> tuple[dict, np.ndarray]:
    solver = optimistix.LevenbergMarquardt(rtol=1e-8, atol=1e-8)

    def one(start: dict) -> tuple[dict, jax.Array]:
        solution = optimistix.least_squares(
            problem.residuals, solver, start, problem.args, max_steps=500, throw=False
        )
        return solution.value, solution.result == optimistix.RESULTS.successful

    program = _programs.setdefault(problem.name, jax.jit(jax.vmap(one)))
    values, success = program(starts)
    return values, np.asarray(success)


_programs: dict = {}


def by_scipy(problem: nist.Problem, starts: dict) -> tuple[dict, np.ndarray]:
    x, y = problem.args
    names, count = list(starts), len(next(iter(starts.values())))
    values, success = np.full((count, len(names)), np.nan), np.zeros(count, bool)
    model = NUMPY[problem.name]
    for i in range(count):
        start = [starts[name][i] for name in names]
        try:
            values[i], _ = curve_fit(model, x, y, start, xtol=1e-10, ftol=1e-10)
            success[i] = True
        except RuntimeError:
            pass
    return dict(zip(names, values.T, strict=True)), success


NUMPY = {
    "Misra1a": lambda x, a, b: a * (1 - np.exp(-b * x)),
    "Gauss1": lambda x, a, b, c, d, e, f, g, h: (
        a * np.exp(-b * x) + c * np.exp(-((x - d) ** 2) / e**2) + f * np.exp(-((x - g) ** 2) / h**2)
    ),
}


def right(problem: nist.Problem, values: dict) -> np.ndarray:
    columns = {name: np.asarray(column) for name, column in values.items()}
    count = len(next(iter(columns.values())))
    rows = ({name: column[i] for name, column in columns.items()} for i in range(count))
    return np.array([problem.digits(row) >= WANTED for row in rows])


def speed() -> None:
    print(f"{'':10}{'':12}{'fits/core-s':>12}{'right':>10}{'false':>8}")
    for name, most in (("Misra1a", 2**16), ("Gauss1", 2**13)):
        problem = nist.problems[name]
        for method, count in ((by_fitkit, most), (by_optimistix, most // 16), (by_scipy, 512)):
            starts, best = perturbed(problem, 1, count, SPREAD), np.inf
            for _ in range(4):  # The first compiles.
                begun = time.process_time()
                values, success = jax.block_until_ready(method(problem, starts))
                best = min(best, time.process_time() - begun)
            good = right(problem, values)
            print(
                f"{name:10}{method.__name__[3:]:12}{count / best:12,.0f}"
                f"{np.count_nonzero(good & success):7,}/{count:,}{np.sum(success & ~good):6}",
                flush=True,
            )


def growth() -> None:
    x = np.linspace(-1.0, 1.0, 40)

    def residuals(params: dict, args: tuple) -> jax.Array:
        x, y = args
        bell = params["flux"] * jnp.exp(-8 * (x - params["centre"]) ** 2)
        return (bell + params["sky"] - y) / 0.1

    start = {"flux": 3.0, "centre": 0.0, "sky": 0.0}
    print(f"{'systems':>10}{'seconds':>10}{'fits/core-s':>14}{'data, GB':>10}{'peak, GB':>10}")
    for count in (1000, 1000, 10_000, 100_000, 1_000_000):
        draw, y = np.random.default_rng(0), np.empty((count, x.size))
        for rows in np.array_split(np.arange(count), -(-count // 50_000)):
            centre = draw.uniform(-0.4, 0.4, (len(rows), 1))
            y[rows] = 5 * np.exp(-8 * (x - centre) ** 2)
            y[rows] += 0.1 * draw.normal(size=(len(rows), x.size))
        begun, wall = time.process_time(), time.perf_counter()
        many = fk.fit_many(residuals, start, (x, y), args_axes=(None, 0), progress=False)
        taken, wall = time.process_time() - begun, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        line = f"{count:10,}{wall:10.2f}{count / taken:14,.0f}{y.nbytes / 1e9:10.2f}{peak:10.2f}"
        print(line, "" if many.success.all() else many.counts(), flush=True)


# Parameters, data and systems: one of the first two grows. Some seconds each.
SIZES = (
    *((n, 250, max(64, 8192 // n**2)) for n in (2, 4, 8, 16, 40)),
    *((4, m, max(16, 2**20 // m // 4)) for m in (14, 100, 1000, 10_000, 100_000)),
)


def size() -> None:
    print(f"{'parameters':>10}{'data':>9}{'systems':>9}{'compiled, s':>13}{'fits/core-s':>13}")
    for n, m, count in SIZES:
        x = jnp.linspace(0.0, 1.0, m)
        bells = n // 2
        places = (jnp.arange(bells) + 0.5) / bells

        def residuals(params: dict, args: tuple, places=places, bells=bells) -> jax.Array:
            x, y = args
            shift = x[:, None] - (places + 0.2 / bells * params["shift"])[None]
            shapes = jnp.exp(-0.5 * (4 * bells * shift) ** 2)
            return (jnp.sum(params["height"][None] * shapes, axis=1) - y) / 0.05

        draw = np.random.default_rng(0)
        truth = {"height": 1 + 0.2 * draw.random((count, bells))}
        truth["shift"] = draw.normal(size=(count, bells)) / 3
        model = jax.jit(jax.vmap(lambda p, x=x, f=residuals: 0.05 * f(p, (x, 0.0))))
        y = np.asarray(model(truth)) + 0.05 * draw.normal(size=(count, m))
        start = {"height": jnp.ones(bells), "shift": jnp.zeros(bells)}
        seconds = []
        for _ in range(2):  # The first compiles.
            begun = time.process_time()
            many = fk.fit_many(residuals, start, (x, y), args_axes=(None, 0), progress=False)
            seconds.append(time.process_time() - begun)
        line = f"{n:10}{m:9,}{count:9,}{seconds[0] - seconds[1]:13.1f}{count / seconds[1]:13,.0f}"
        print(line, "" if many.success.all() else many.counts(), flush=True)


def all_problems() -> None:
    print(f"{'':10}{'start':>6}{'success':>9}{'certified':>11}{'other':>7}  status")
    for name, problem in nist.problems.items():
        for start in (0, 1):
            starts = perturbed(problem, start, 256, 2 * SPREAD)
            many = fk.fit_many(
                problem.residuals,
                starts,
                problem.args,
                params_axes=0,
                args_axes=None,
                progress=False,
            )
            good = right(problem, many.values)
            print(
                f"{name:10}{start + 1:6}{many.success.sum():9}{np.sum(good & many.success):11}"
                f"{np.sum(many.success & ~good):7}  {many.counts()}",
                flush=True,
            )


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ["speed", "growth", "size", "nist"]:
        {"speed": speed, "growth": growth, "size": size, "nist": all_problems}[wanted]()
