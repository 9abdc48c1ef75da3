"""How fast is `Fit.run`? Beside a bare `lax.scan` and beside the loop that tutorials teach.

    python benchmarks/loop.py [problem ...]

The loops take turns within one process, so that whatever else the machine does disturbs them alike;
times are CPU times, and ratios are medians of paired ones. All minimise the same loss with the same
optimiser, in float64:

scan       one compiled `lax.scan` that records nothing, not even evaluates the loss,
scan+loss  the same, with the loss evaluated and kept,
fitkit     `Fit.run`, which records the loss, every parameter's step and gradient norm, and values,
tutorial   a jitted `value_and_grad` and an eager `optimiser.update` in a Python loop.

Without names all problems are measured, in processes of their own: about ten minutes.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitkit as fk

ROUNDS = 7
HEAD = ("problem", "loop", "µs/step", "scan ÷", "scan+loss ÷", "first run, s", "faults/step")


class Problem(NamedTuple):
    """A loss with its parameters and data, an optimiser, and how many steps to take at a time."""

    loss: Callable
    params: dict
    data: jax.Array
    optimiser: optax.GradientTransformation
    steps: int
    eager: int = 0  # of the tutorial's loop; 0 leaves it out
    scanned: bool = True  # whether a bare scan compiles within minutes


def ring_down(optimiser, eager=0):
    """Build a damped oscillation over 500 points, by three parameters."""
    t = jnp.linspace(0.0, 10.0, 500)
    noise = 0.05 * jax.random.normal(jax.random.key(0), t.shape)
    data = 1.5 * jnp.exp(-t / 4.0) * jnp.cos(2.2 * t) + noise

    def loss(params, data):
        wave = jnp.cos(params["frequency"] * t)
        model = params["amplitude"] * jnp.exp(-t / params["decay"]) * wave
        return 0.5 * jnp.sum((model - data) ** 2)

    start = {"amplitude": jnp.array(1.0), "decay": jnp.array(3.0), "frequency": jnp.array(2.0)}
    return Problem(loss, start, data, optimiser, 30_000, eager)


def twelve():
    """Build twelve scalars and a model of a microsecond: next to nothing but the loop itself."""
    names = [f"p{number:02d}" for number in range(12)]

    def loss(params, data):
        return sum((params[name] - data[k]) ** 2 for k, name in enumerate(names))

    start = {name: jnp.array(0.0) for name in names}
    return Problem(loss, start, jnp.arange(1.0, 13.0), optax.adam(1e-4), 50_000)


def line(count, steps, eager=0):
    """Build the points of a line, each a scalar parameter with a name."""
    names = [f"point{number:03d}" for number in range(count)]
    data = 1.0 + jax.random.normal(jax.random.key(0), (count,))

    def loss(params, data):
        points = jnp.stack([params[name] for name in names])
        return 0.5 * jnp.sum((points - data) ** 2) + jnp.sum(jnp.diff(points) ** 2)

    start = {name: jnp.array(0.0) for name in names}
    return Problem(loss, start, data, optax.adam(1e-4), steps, eager)


def mixed():
    """Build forty parameters of five shapes in a linear model of 400 data."""
    shapes = [(), (3,), (2, 2), (10,), (26,)]
    start = {f"leaf{k:02d}": jnp.zeros(shapes[k % 5]) for k in range(40)}
    count = sum(leaf.size for leaf in start.values())
    matrix = jax.random.normal(jax.random.key(1), (400, count)) / 10
    data = jax.random.normal(jax.random.key(2), (400,))

    def loss(params, data):
        x = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
        return 0.5 * jnp.sum((matrix @ x - data) ** 2)

    return Problem(loss, start, data, optax.adam(1e-4), 3_000)


def image(optimiser):
    """Build an image of a million pixels in one leaf, compared with another."""
    data = jax.random.normal(jax.random.key(0), (1_000_000,))

    def loss(params, data):
        return 0.5 * jnp.sum((params["image"] - data) ** 2)

    return Problem(loss, {"image": jnp.zeros(data.shape)}, data, optimiser, 64)


def optics():
    """Build a telescope: eight aberrations and a flux, by one FFT of 1024² a step, some 41 ms."""
    y, x = jnp.mgrid[-1:1:512j, -1:1:512j]
    square = x**2 + y**2
    aperture = (square < 1).astype(float)
    modes = [x, y, 2 * square - 1, x * x - y * y, 2 * x * y, (3 * square - 2) * x]
    basis = jnp.stack([*modes, (3 * square - 2) * y, 6 * square**2 - 6 * square + 1])

    def model(params):
        wave = aperture * jnp.exp(1j * jnp.tensordot(params["zernikes"], basis, 1))
        return params["flux"] * jnp.abs(jnp.fft.fft2(jnp.pad(wave, 256))) ** 2 / 512**2

    data = model({"zernikes": 0.1 * jnp.ones(8), "flux": jnp.array(1.0)})

    def loss(params, data):
        return 0.5 * jnp.sum((model(params) - data) ** 2) / 512

    start = {"zernikes": jnp.zeros(8), "flux": jnp.array(0.9)}
    return Problem(loss, start, data, optax.adam(1e-3), 16)


PROBLEMS = {
    "3 × 500, Adam": lambda: ring_down(optax.adam(1e-4), eager=300),
    "3 × 500, SGD": lambda: ring_down(optax.sgd(1e-5)),
    "12 scalars, 1 µs": twelve,
    "100 scalars": lambda: line(100, 10_000, eager=100),
    "40 mixed leaves": mixed,
    "300 scalars": lambda: line(300, 2_000),
    "1000 scalars": lambda: line(1000, 500)._replace(scanned=False),
    "one leaf of 10⁶, Adam": lambda: image(optax.adam(1e-4)),
    "one leaf of 10⁶, SGD": lambda: image(optax.sgd(1e-3)),
    "FFT optics": optics,
    "FFT optics, keep_memory": optics,
}


def scan_loop(problem: Problem, record: bool) -> Callable[[int], object]:
    """Carry parameters and state through one compiled scan; called again, it goes on."""

    @partial(jax.jit, static_argnums=1)
    def advance(carry, length):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(problem.loss)(params, problem.data)
            updates, state = problem.optimiser.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value if record else None

        return jax.lax.scan(step, carry, None, length)

    carry = problem.params, problem.optimiser.init(problem.params)

    def run(steps: int):
        nonlocal carry
        carry, _ = jax.block_until_ready(advance(carry, steps))

    return run


def tutorial_loop(problem: Problem) -> Callable[[int], object]:
    value_and_grad = jax.jit(jax.value_and_grad(problem.loss))
    params, losses = problem.params, []
    state = problem.optimiser.init(params)

    def run(steps: int):
        nonlocal params, state
        for _ in range(steps):
            value, gradient = value_and_grad(params, problem.data)
            updates, state = problem.optimiser.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(value)
        jax.block_until_ready(params)

    return run


def fitkit_loop(problem: Problem) -> Callable[[int], object]:
    fit = fk.Fit(
        loss=problem.loss,
        params=problem.params,
        args=problem.data,
        optimiser=problem.optimiser,
    )
    return lambda steps: fit.run(steps, progress=False)


def cost(run: Callable[[int], object], steps: int) -> tuple[float, float]:
    """Return CPU seconds and page faults of a step."""
    seconds, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(steps)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return (time.process_time() - seconds) / steps, faults / steps


def measure(name: str, problem: Problem) -> None:
    """Print the rows of one problem: time of a step, ratios, and what the first run took beside."""
    if "keep_memory" in name:
        fk.keep_memory()
    makers: dict[str, Callable] = {"fitkit": fitkit_loop}
    if problem.scanned:
        makers = {
            "scan": partial(scan_loop, record=False),
            "scan+loss": partial(scan_loop, record=True),
            **makers,
        }
    if problem.eager:
        makers["tutorial"] = tutorial_loop
    steps = {loop: problem.eager if loop == "tutorial" else problem.steps for loop in makers}
    loops, first = {}, {}
    for loop, make in makers.items():
        begun = time.process_time()
        loops[loop] = make(problem)
        loops[loop](steps[loop])
        first[loop] = time.process_time() - begun
        loops[loop](steps[loop])  # Its chunks find their length.
    costs = {loop: [] for loop in loops}
    for _ in range(ROUNDS):
        for loop, run in loops.items():
            costs[loop].append(cost(run, steps[loop]))
    seconds = {loop: np.array([one for one, _ in costs[loop]]) for loop in loops}
    for loop, times in seconds.items():
        median = statistics.median(times)
        ratios = [
            np.median(seconds[other] / times) if other in seconds else np.nan
            for other in ("scan", "scan+loss")
        ]
        faults = statistics.median(count for _, count in costs[loop])
        compiling = first[loop] - median * steps[loop]
        numbers = (1e6 * median, *ratios, compiling, faults)
        print(f"| {name} | {loop} | " + " | ".join(f"{number:.2f}" for number in numbers) + " |")


if __name__ == "__main__":
    if names := sys.argv[1:]:
        for name in names:
            measure(name, PROBLEMS[name]())
    else:
        print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float64\n")
        print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
        for name in PROBLEMS:
            subprocess.run([sys.executable, __file__, name], check=True)
