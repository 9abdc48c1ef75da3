"""The loop and the Fisher matrix on a GPU, beside the CPU of the same machine.

    python benchmarks/gpu.py

Wall-clock time, medians of interleaved runs, in float32, which is what GPUs are made for. Without a
GPU that JAX can use it says so and measures nothing.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax

import fitkit as fk

ROUNDS = 7


def spectrum(count=20, points=200_000):
    """Build residuals of many Gaussian lines over many points."""
    x = jnp.linspace(0.0, 1.0, points)
    centres = jnp.linspace(0.05, 0.95, count)

    def model(params):
        shapes = jnp.exp(-0.5 * ((x[:, None] - params["centres"]) / params["width"]) ** 2)
        return shapes @ params["heights"]

    truth = {"centres": centres, "heights": jnp.ones(count), "width": jnp.array(0.02)}
    data = model(truth) + 0.01 * jax.random.normal(jax.random.key(0), x.shape)
    start = {**truth, "heights": 0.9 * truth["heights"]}
    return lambda params, data: (model(params) - data) / 0.01, start, data


def on(device, repeat):
    """Return functions that run the fit and compute its Fisher matrix on a device."""
    function, *arrays = spectrum()
    params, data = jax.device_put(arrays, device)
    with jax.default_device(device):
        fit = fk.Fit(residuals=function, params=params, args=data, optimiser=optax.adam(1e-5))
        fit.run(repeat, progress=False)

    def run():
        with jax.default_device(device):
            fit.run(repeat, progress=False)

    def fisher():
        with jax.default_device(device):
            fk.fisher_matrix(residuals=function, params=fit.params, args=data)

    fisher()
    return {"step": (run, repeat), "Fisher matrix": (fisher, 1)}


def main() -> int:
    try:
        gpu = jax.devices("gpu")[0]
    except RuntimeError as error:
        print(f"No GPU, nothing to measure: {error}")
        return 0
    tasks = {"CPU": on(jax.devices("cpu")[0], 50), gpu.device_kind: on(gpu, 500)}
    print("| what | " + " | ".join(tasks) + " |\n" + "|---" * (1 + len(tasks)) + "|")
    for what in ("step", "Fisher matrix"):
        times = {where: [] for where in tasks}
        for _ in range(ROUNDS):
            for where, task in tasks.items():
                function, count = task[what]
                begun = time.perf_counter()
                function()
                times[where].append((time.perf_counter() - begun) / count)
        medians = [f"{1e3 * statistics.median(one):.3f} ms" for one in times.values()]
        print(f"| {what} | " + " | ".join(medians) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
