"""NIST's nonlinear regression problems: fitkit beside optimistix and SciPy, in one run.

    python benchmarks/nist.py [problem ...]

For every problem and both of its starts: correct digits of the worst parameter (six are wanted;
``!`` marks a claim of success with fewer), evaluations of the residuals, and for the compiled
solvers the time of a warm solve, the best of many. Compile times are apart, below.
All in float64 on the CPU.
"""

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax
import jax.numpy as jnp
import nist
import numpy as np
import optax
import optimistix
from scipy.optimize import curve_fit, least_squares

import fitkit

WANTED = 6
MOST = 5000


class Solve(NamedTuple):
    """What one solver made of one problem from one start."""

    digits: float
    claimed: bool
    evaluations: int
    seconds: float | None  # of a warm solve
    compiling: float | None


def timed(solve: Callable, params: dict, args: tuple) -> tuple[tuple, float, float]:
    """Solve once cold and for half a second warm; give the outcome, the best time, the first."""
    begun = time.perf_counter()
    outcome = jax.block_until_ready(solve(params, args))
    first = time.perf_counter() - begun
    times, end = [], time.perf_counter() + 0.5
    while time.perf_counter() < end or not times:
        begun = time.perf_counter()
        jax.block_until_ready(solve(params, args))
        times.append(time.perf_counter() - begun)
    return outcome, min(times), first


def by_fitkit(problem: nist.Problem) -> Callable:
    optimiser = fitkit.gauss_newton()

    def solve(params: dict, args: tuple) -> tuple:
        def step(carry: tuple) -> tuple:
            params, state, steps = carry
            updates, state = optimiser.update(
                None, state, params, residuals=lambda p: problem.residuals(p, args)
            )
            return optax.apply_updates(params, updates), state, steps + 1

        return jax.lax.while_loop(
            lambda carry: (carry[1].verdict == 0) & (carry[2] < MOST),
            step,
            (params, optimiser.init(params), 0),
        )

    compiled = jax.jit(solve)

    def run(start: dict, args: tuple) -> Solve:
        (params, state, _), warm, cold = timed(compiled, start, args)
        claimed = bool(state.verdict == 1)
        return Solve(problem.digits(params), claimed, int(state.evaluations), warm, cold)

    return run


def by_optimistix(problem: nist.Problem) -> Callable:
    solver = optimistix.LevenbergMarquardt(rtol=1e-10, atol=1e-10)

    @jax.jit
    def solve(params: dict, args: tuple) -> tuple:
        found = optimistix.least_squares(
            problem.residuals, solver, params, args, max_steps=MOST, throw=False
        )
        return found.value, found.result == optimistix.RESULTS.successful, found.stats["num_steps"]

    def run(start: dict, args: tuple) -> Solve:
        (params, claimed, steps), warm, cold = timed(solve, start, args)
        return Solve(problem.digits(params), bool(claimed), int(steps), warm, cold)

    return run


def by_curve_fit(problem: nist.Problem) -> Callable:
    """SciPy's `curve_fit` as it comes: MINPACK, differences for derivatives."""
    names = list(problem.certified)

    def run(start: dict, args: tuple) -> Solve:
        x, y = (np.asarray(a) for a in args)
        model = jax.jit(lambda b: problem.model(dict(zip(names, b, strict=True)), jnp.asarray(x)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = curve_fit(
                    lambda _, *b: np.asarray(model(jnp.array(b))),
                    x,
                    y,
                    p0=[float(start[name]) for name in names],
                    full_output=True,
                )
        except RuntimeError:
            return Solve(0.0, False, 0, None, None)
        values, evaluations = found[0], found[2]["nfev"]
        digits = problem.digits(dict(zip(names, values, strict=True)))
        return Solve(digits, True, evaluations, None, None)

    return run


def by_least_squares(problem: nist.Problem) -> Callable:
    """SciPy's `least_squares`: MINPACK with exact derivatives and the tightest tolerances."""
    names = list(problem.certified)

    def run(start: dict, args: tuple) -> Solve:
        def residuals(values: np.ndarray) -> jnp.ndarray:
            return problem.residuals(dict(zip(names, values, strict=True)), args)

        function, jacobian = jax.jit(residuals), jax.jit(jax.jacfwd(residuals))
        try:
            found = least_squares(
                lambda b: np.asarray(function(b)),
                np.array([float(start[name]) for name in names]),
                jac=lambda b: np.asarray(jacobian(b)),  # pyright: ignore[reportArgumentType]
                method="lm",
                x_scale="jac",
                xtol=1e-15,
                ftol=1e-15,
                gtol=1e-15,
            )
        except ValueError:  # Residuals that are not finite.
            return Solve(0.0, False, 0, None, None)
        digits = problem.digits(dict(zip(names, found.x, strict=True)))
        return Solve(digits, bool(found.success), found.nfev, None, None)

    return run


SOLVERS = {
    "fitkit": by_fitkit,
    "optimistix LM": by_optimistix,
    "curve_fit": by_curve_fit,
    "least_squares": by_least_squares,
}


def written(solve: Solve) -> str:
    false = "!" if solve.claimed and solve.digits < WANTED else " "
    warm = "" if solve.seconds is None else f"{1e3 * solve.seconds:8.3f}"
    return f"{solve.digits:5.1f}{false}{solve.evaluations:6d}{warm:>9}"


def main() -> None:
    names = sys.argv[1:] or list(nist.problems)
    print(" " * 11 + "".join(f"| {name:<20}" for name in SOLVERS))
    print(" " * 11 + "| digits evals  ms    " * len(SOLVERS))
    table: dict[str, list[Solve]] = {name: [] for name in SOLVERS}
    for name in names:
        problem = nist.problems[name]
        args = tuple(jnp.asarray(array) for array in problem.args)
        runs = {solver: make(problem) for solver, make in SOLVERS.items()}
        for number, start in enumerate(problem.starts, start=1):
            params = {b: jnp.asarray(value) for b, value in start.items()}
            for solver, run in runs.items():
                table[solver].append(run(params, args))
            row = "".join(f"|{written(solves[-1]):<21}" for solves in table.values())
            print(f"{name:<9}{number} {row}", flush=True)
    print()
    for solver, solves in table.items():
        right = sum(solve.digits >= WANTED for solve in solves)
        false = sum(solve.claimed and solve.digits < WANTED for solve in solves)
        line = (
            f"{solver:<14} {right:2d} of {len(solves)} right, {false} false successes, "
            f"median {statistics.median(solve.evaluations for solve in solves):g} evaluations"
        )
        if solves[0].seconds is not None:
            warm = statistics.median(solve.seconds for solve in solves)
            compiling = statistics.median(solve.compiling for solve in solves[::2])
            line += f", {1e3 * warm:.2f} ms warm, {compiling:.1f} s to compile"
        print(line)


if __name__ == "__main__":
    main()
