"""How fast is `Fit.run`? Beside a bare `lax.scan` and beside the loop that tutorials teach.

They take turns within one process, so that whatever else the machine does disturbs them alike,
and the table holds medians of their paired ratios. All minimise the same loss with the same Adam:

scan       one compiled `lax.scan` that records nothing, not even evaluates the loss,
scan+loss  the same, with the loss evaluated and kept,
fitkit     `Fit.run`, which records the loss and every parameter's step and gradient norm,
tutorial   a jitted `value_and_grad` and an eager `optimiser.update` in a Python loop.

Run it with ``python benchmarks/loop.py``; it takes about two minutes.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitkit as fk

ROUNDS = 11
HEAD = "{:>10}  {:<11}{:>10}{:>10}{:>12}{:>12}"
ROW = "{:>10}  {:<11}{:>10.2f}{:>10.3f}{:>12.1f}{:>12.2f}"


def ring_down():
    """Build a loss of three parameters: a damped oscillation over 250 points."""
    t = jnp.linspace(0.0, 10.0, 250)
    data = 1.5 * jnp.exp(-t / 4.0) * jnp.cos(2.2 * t) + 0.05 * jax.random.normal(
        jax.random.key(0), t.shape
    )

    def loss(params, data):
        wave = jnp.cos(params["frequency"] * t)
        model = params["amplitude"] * jnp.exp(-t / params["decay"]) * wave
        return 0.5 * jnp.sum((model - data) ** 2)

    start = {"amplitude": 1.0, "decay": 3.0, "frequency": 2.0}
    return loss, jax.tree.map(jnp.array, start), data


def peak():
    """Build a loss of three parameters: a Gaussian peak over 250 points.

    So little work that evaluating the loss, which a bare scan for the gradient can leave out, is a
    sixth of it.
    """
    x = jnp.linspace(-3.0, 3.0, 250)
    data = 2.0 * jnp.exp(-0.5 * ((x - 0.3) / 0.8) ** 2) + 0.05 * jax.random.normal(
        jax.random.key(0), x.shape
    )

    def loss(params, data):
        model = params["height"] * jnp.exp(-0.5 * ((x - params["centre"]) / params["width"]) ** 2)
        return 0.5 * jnp.sum((model - data) ** 2)

    return loss, {name: jnp.array(1.0) for name in ("height", "centre", "width")}, data


def image():
    """Build a loss of a thousand parameters: a blurred image of 25 by 40 pixels, kept smooth."""
    blur = jnp.exp(-0.5 * (jnp.arange(-4.0, 5.0) / 1.5) ** 2)
    blur = blur / blur.sum()

    def observe(image):
        rows = jax.vmap(partial(jnp.convolve, v=blur, mode="same"))(image)
        return jax.vmap(partial(jnp.convolve, v=blur, mode="same"))(rows.T).T

    truth = jax.random.uniform(jax.random.key(1), (25, 40))
    data = observe(truth) + 0.01 * jax.random.normal(jax.random.key(2), truth.shape)

    def loss(params, data):
        image = params["image"]
        roughness = jnp.sum(jnp.diff(image) ** 2) + jnp.sum(jnp.diff(image, axis=0) ** 2)
        return 0.5 * jnp.sum((observe(image) - data) ** 2) + 1e-3 * roughness

    return loss, {"image": jnp.zeros(truth.shape)}, data


def line():
    """Build a loss of a hundred parameters by name: the points of a line, each a leaf."""
    names = [f"point{number:02d}" for number in range(100)]
    data = 1.0 + jax.random.normal(jax.random.key(0), (100,))

    def loss(params, data):
        points = jnp.stack([params[name] for name in names])
        return 0.5 * jnp.sum((points - data) ** 2) + jnp.sum(jnp.diff(points) ** 2)

    return loss, {name: jnp.array(0.0) for name in names}, data


def scan_loop(loss, params, data, optimiser, record=False) -> Callable[[int], object]:
    """Carry parameters and state through one compiled scan; called again, it goes on."""

    @partial(jax.jit, static_argnums=1)
    def advance(carry, length):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, data)
            updates, state = optimiser.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value if record else None

        return jax.lax.scan(step, carry, None, length)

    carry = params, optimiser.init(params)

    def run(steps: int):
        nonlocal carry
        carry, _ = jax.block_until_ready(advance(carry, steps))

    return run


def tutorial_loop(loss, params, data, optimiser) -> Callable[[int], object]:
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    state, losses = optimiser.init(params), []

    def run(steps: int):
        nonlocal params, state
        for _ in range(steps):
            value, gradient = value_and_grad(params, data)
            updates, state = optimiser.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(value)
        jax.block_until_ready(params)

    return run


def fitkit_loop(loss, params, data, optimiser) -> Callable[[int], object]:
    fit = fk.Fit(loss=loss, params=params, args=data, optimiser=optimiser)
    return lambda steps: fit.run(steps, progress=False)


def seconds(run: Callable[[int], object], steps: int) -> float:
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


def measure(name: str, problem, compiled: int, eager: int) -> None:
    """Print the rows of one problem: compile time apart, then time per step and the ratios."""
    loss, params, data = problem
    makers = {
        "scan": scan_loop,
        "scan+loss": partial(scan_loop, record=True),
        "fitkit": fitkit_loop,
        "tutorial": tutorial_loop,
    }
    steps = {loop: eager if loop == "tutorial" else compiled for loop in makers}
    loops, first = {}, {}
    for loop, make in makers.items():
        start = time.perf_counter()
        loops[loop] = make(loss, params, data, optax.adam(1e-3))
        loops[loop](steps[loop])
        first[loop] = time.perf_counter() - start
    per_step = {loop: [] for loop in loops}
    for _ in range(ROUNDS):
        for loop, run in loops.items():
            per_step[loop].append(seconds(run, steps[loop]) / steps[loop])
    for loop, times in per_step.items():
        median = statistics.median(times)
        speed = np.median(np.array(per_step["scan"]) / np.array(times))
        gain = np.median(np.array(per_step["tutorial"]) / np.array(times))
        compiling = first[loop] - median * steps[loop]
        print(ROW.format(name, loop, 1e6 * median, speed, gain, compiling))


if __name__ == "__main__":
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, float32\n")
    print(HEAD.format("parameters", "loop", "µs/step", "/ scan", "/ tutorial", "compile s"))
    measure("3, ring", ring_down(), compiled=100_000, eager=500)
    measure("3, peak", peak(), compiled=100_000, eager=500)
    measure("100 leaves", line(), compiled=20_000, eager=100)
    measure("1000", image(), compiled=20_000, eager=300)
