"""Fisher matrices and steps of Gauss-Newton: fitkit beside zodiax and optimistix.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/fisher.py [spectrum]

Two models of many parameters: *spline*, whose data depend on two parameters each, so that its
derivatives cost next to nothing, and *design*, tanh of a dense matrix times the parameters, which
are half of the work. Seconds of CPU time in float64, of a later call, the smallest of some that
take turns; a step is the difference between a run of one and of three. Memory is that of a process
of its own above what it took to compile and run the model and its gradient, peak; compiling is a
part of it. Then come fits whose Jacobian is not stored, and the spectra of matrices that are not;
*spectrum* prints these alone.

On one of two shared cores of an AMD EPYC, jax 0.10.2, 26 November 2026:

    Fisher spline 100 x 100,000    fitkit 0.11 s, 124 MB   zodiax 0.13 s
    Fisher design 100 x 100,000    fitkit 0.28 s, 158 MB   zodiax 0.19 s
    Fisher spline 1000 x 100,000   fitkit 0.69 s, 123 MB
    a step spline 300 x 10,000     fitkit 0.055 s          optimistix 0.107 s
    a step spline 1000 x 10,000    fitkit 0.61 s           optimistix 0.81 s
    5,000 parameters, 20,000 data  converged in 10 steps, 3.6 s with compiling, 204 MB
    an image of 1,000,000 pixels   loss 3.2e8 -> 5.2e5 in 4 steps, 9.7 s with compiling, 389 MB

The machine was busy with other work. The step with 1000 parameters, the memory and the last two
lines are single measurements of the same models by a shorter script: this one has not yet run
there from end to end.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")

import jax
import jax.numpy as jnp
import optax
import optimistix
import zodiax

import fitkit as fk

ROUNDS = 3
STEPS = 2
FISHER = (("spline", 100, 100_000), ("design", 100, 100_000), ("spline", 1000, 100_000))
GAUSS_NEWTON = (("spline", 300, 10_000), ("spline", 1000, 10_000), ("spline", 100, 100_000))


def spline(n: int, m: int) -> tuple[Callable, tuple, jax.Array]:
    """Build the exponential of a line through n points at m places: model, its args, a start."""
    place = jnp.linspace(0, n - 1.001, m)
    left = place.astype(int)

    def model(params, args):
        left, right = args
        return jnp.exp((1 - right) * params[left] + right * params[left + 1])

    return model, (left, place - left), jnp.linspace(0, 1, n)


def design(n: int, m: int) -> tuple[Callable, tuple, jax.Array]:
    """Build a dense model of n parameters and m data."""
    matrix = jax.random.normal(jax.random.key(0), (m, n)) / n**0.5
    return lambda params, args: jnp.tanh(args[0] @ params), (matrix,), jnp.linspace(0, 1, n)


MODELS = {"spline": spline, "design": design}


def seconds(run: Callable[[], object]) -> float:
    """Measure the CPU time of a call."""
    start = time.process_time()
    jax.block_until_ready(run())
    return time.process_time() - start


def peak() -> int:
    """Read the most memory that this process has had, in MB."""
    # The counter of `resource` is inherited by a child.
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (one for one in lines if one.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def by_fitkit(model, args, params) -> Callable[[], object]:
    return lambda: fk.fisher_matrix(model, params, args).eigenvalues


def by_zodiax(model, args, params) -> Callable[[], object]:
    """Build JᵀJ of zodiax, and its eigenvalues: what `gauss_hessian` and `decompose` say to do."""

    @jax.jit
    def fisher(params, args):
        return zodiax.gauss_hessian(jax.jacfwd(model)(params, args))

    return lambda: zodiax.optimisation.decompose(fisher(params, args))


FISHERS = {"fitkit": by_fitkit, "zodiax": by_zodiax}


def fisher_row(name: str, n: int, m: int) -> None:
    """Print the times of both, and their memory."""
    problem = MODELS[name](n, m)
    # The Jacobian that zodiax asks for would have to fit several times.
    names = [who for who in FISHERS if who == "fitkit" or n * m <= 2e7]
    calls = {who: FISHERS[who](*problem) for who in names}
    for call in calls.values():
        seconds(call)
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for who, call in calls.items():
            best[who] = min(best[who], seconds(call))
    for who, least in best.items():
        memory = subprocess.run(
            [sys.executable, __file__, who, name, str(n), str(m)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        print(f"Fisher {name:<6} {n:>5} x {m:>7,} {who:<10} {least:8.3f} s {memory:>6} MB")


def memory(who: str, name: str, n: int, m: int) -> None:
    """Print by how much a Fisher matrix raises the peak of this process above its model's."""
    model, args, params = MODELS[name](n, m)
    seconds(lambda: jax.jit(jax.grad(lambda p: jnp.sum(model(p, args) ** 2)))(params))
    before = peak()
    call = FISHERS[who](model, args, params)
    seconds(call)
    seconds(call)
    print(peak() - before)


def fitkit_steps(residuals: Callable, count: int) -> Callable:
    optimiser = fk.gauss_newton()

    @jax.jit
    def run(params, args):
        def step(_, carry):
            params, state = carry
            updates, state = optimiser.update(
                None, state, params, residuals=lambda p: residuals(p, args)
            )
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, count, step, (params, optimiser.init(params)))

    return run


def optimistix_steps(residuals: Callable, count: int) -> Callable:
    solver = optimistix.LevenbergMarquardt(rtol=1e-30, atol=1e-30)

    @jax.jit
    def run(params, args):
        return optimistix.least_squares(
            residuals, solver, params, args, max_steps=count, throw=False
        ).value

    return run


def gauss_newton_row(name: str, n: int, m: int) -> None:
    """Print the time of a step of both."""
    model, args, truth = MODELS[name](n, m)
    data = model(truth, args) + 0.1 * jax.random.normal(jax.random.key(1), (m,))
    given = truth * 1.3 + 0.2, (args, data)

    def residuals(params, args):
        return model(params, args[0]) - args[1]

    makers = {"fitkit": fitkit_steps, "optimistix": optimistix_steps}
    runs = {who: [make(residuals, k) for k in (1, 1 + STEPS)] for who, make in makers.items()}
    best = {who: [float("inf")] * 2 for who in runs}
    for number in range(1 + ROUNDS):
        for who, pair in runs.items():
            taken = [seconds(lambda run=run: run(*given)) for run in pair]
            if number:
                best[who] = [min(a, b) for a, b in zip(best[who], taken, strict=True)]
    steps = {who: (longer - shorter) / STEPS for who, (shorter, longer) in best.items()}
    ratio = steps["fitkit"] / steps["optimistix"]
    times = "".join(f"{who:>11} {step:6.3f} s" for who, step in steps.items())
    print(f"a step {name:<6} {n:>5} x {m:>7,}{times}   ratio {ratio:.2f}")


def large_fit(what: str, residuals: Callable, params, args) -> None:
    """Print what a fit without a stored Jacobian takes."""
    before = peak()
    fit = fk.Fit(residuals=residuals, params=params, args=args)
    first = float(fit.loss)
    taken = seconds(lambda: fit.run(5, progress=False))
    print(f"{what}: loss {first:.3g} -> {float(fit.loss):.3g} in 5 steps, ", end="")
    print(f"{taken:.1f} s with compiling, {peak() - before} MB")


def large_fits() -> None:
    model, args, truth = spline(5000, 20_000)
    start = truth * 1.3 + 0.2
    data = model(truth, args) + 0.01 * jax.random.normal(jax.random.key(0), (20_000,))
    large_fit(
        "5,000 parameters, 20,000 data",
        lambda params, args: (model(params, args[0]) - args[1]) / 0.01,
        start,
        (args, data),
    )
    side = 1000
    axis = jnp.arange(side) - side // 2
    beam = jnp.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 8.0)
    transfer = jnp.fft.rfft2(beam / beam.sum())

    def blurred(image, transfer):
        return jnp.fft.irfft2(jnp.fft.rfft2(image**2) * transfer, s=image.shape)

    image = jax.random.uniform(jax.random.key(1), (side, side))
    data = blurred(image, transfer) + 0.01 * jax.random.normal(jax.random.key(2), image.shape)
    large_fit(
        "an image of 1,000,000 pixels",
        lambda image, args: [(blurred(image, args[0]) - args[1]) / 0.01, 0.1 * image],
        jnp.full((side, side), 0.5),
        (transfer, data),
    )


def spectra() -> None:
    """Print what the largest eigenvalues and the density of matrices take that are not stored."""
    for n in (1000, 10_000, 100_000):
        model, args, params = spline(n, 5 * n)
        for probes in (0, 8):
            before, begun = peak(), time.process_time()
            found = fk.fisher_spectrum(model, params, args, k=20, probes=probes)
            taken = time.process_time() - begun
            worst = float(max(found.residual_norms / found.eigenvalues))
            print(
                f"spectrum {n:>7,} x {5 * n:>7,}  20 largest to {worst:.0e}, {probes} probes"
                f"{taken:8.1f} s {peak() - before:6} MB",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:] == ["spectrum"]:
        spectra()
    elif sys.argv[1:]:
        who, name, n, m = sys.argv[1:]
        memory(who, name, int(n), int(m))
    else:
        for row in FISHER:
            fisher_row(*row)
        for row in GAUSS_NEWTON:
            gauss_newton_row(*row)
        large_fits()
        spectra()
