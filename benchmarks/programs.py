"""What does a second fit of the same functions cost? CPU seconds to its first step, and a result.

The model is optical, as one writes it with dLux: three stars through an aperture of 128 by 128
pixels whose aberrations are sums of seven Zernike polynomials, each star a Fourier transform.

first     a fit in a fresh process,
cell      the cell runs again: the functions are made anew, of the same content,
rate      the same with another learning rate, which is another optimiser,
restart   `Fit.restart` with other data,

and each of these in a process of its own with JAX's persistent cache, empty and then filled. Run
it with ``python benchmarks/programs.py``; it takes about two minutes and prints date and machine.

On 2026-11-26, two shared x86_64 cores, jax 0.10.2, CPU seconds to the first step: first 1.7, with a
filled cache 0.6, cell 0.07, restart 0.1; a result after it 6.9, 1.9, 0.7 and 0.8.
"""

import datetime
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import optax

import fitkit as fk

MODEL = """
import jax.numpy as jnp

SIZE = 128

def zernikes():
    x, y = jnp.meshgrid(*2 * [jnp.linspace(-1.0, 1.0, SIZE)])
    r2 = x**2 + y**2
    modes = [x, y, 2 * r2 - 1, x**2 - y**2, 2 * x * y, (3 * r2 - 2) * x, (3 * r2 - 2) * y]
    return jnp.where(r2 < 1, 1.0, 0.0), jnp.stack(modes)

aperture, basis = zernikes()

def spread(wavefront, x, y):
    phase = jnp.tensordot(wavefront, basis, 1) + x * basis[0] + y * basis[1]
    field = jnp.fft.fftshift(jnp.fft.fft2(aperture * jnp.exp(1j * phase)))
    return jnp.abs(field) ** 2 / SIZE**2

def image(params):
    stars = zip(params["flux"], params["x"], params["y"])
    return sum(flux * spread(params["wavefront"], x, y) for flux, x, y in stars)

def residuals(params, data):
    return (image(params) - data) / 10.0
"""
START = {
    "flux": jnp.ones(3),
    "wavefront": jnp.zeros(7),
    "x": jnp.array([0.0, 1.0, 2.0]),
    "y": jnp.array([0.0, -1.0, 1.0]),
}
HEAD = "{:<24}{:<10}{:>12}{:>12}{:>12}{:>12}"
ROW = "{:<24}{:<10}{:>12.2f}{:>12.2f}{:>12.2f}{:>12}"


def cell() -> dict:
    """Run the cell of a notebook that makes the functions."""
    names = {"__name__": "__main__"}
    exec(MODEL, names)
    return names


def main(title: str) -> None:
    """Print the rows of one process."""
    compiled: list[int] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(1)

    def note_read(event: str, **kwargs: str | int) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            compiled.append(-1)

    jax.monitoring.register_event_duration_secs_listener(note)
    jax.monitoring.register_event_listener(note_read)
    data = cell()["image"]({**START, "wavefront": jnp.full(7, 0.1)})

    def row(name: str, make) -> fk.Fit:
        compiled.clear()
        times = [time.process_time()]
        fit = make()
        times.append(time.process_time())
        fit.run(1, progress=False)
        times.append(time.process_time())
        count = sum(compiled)
        fit.result()
        times.append(time.process_time())
        seconds = [after - before for before, after in itertools.pairwise(times)]
        print(ROW.format(title, name, *seconds, count), flush=True)
        return fit

    def make(rate: float = 1e-2) -> fk.Fit:
        adam = optax.adam(rate)
        return fk.Fit(residuals=cell()["residuals"], params=START, args=data, optimiser=adam)

    fit = row("first", make)
    row("cell", make)
    row("rate", lambda: make(2e-2))

    brighter = 1.1 * data

    def again() -> fk.Fit:
        fit.restart(args=brighter)
        return fit

    row("restart", again)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
        sys.exit()
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    print(f"Python {platform.python_version()}, jax {jax.__version__}; CPU seconds\n")
    print(HEAD.format("process", "fit", "Fit(…)", "run(1)", "result()", "compiled"))
    with tempfile.TemporaryDirectory() as folder:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        without = {name: one for name, one in os.environ.items() if name not in cache}
        for title, more in (("no cache", {}), ("empty cache", cache), ("filled cache", cache)):
            subprocess.run([sys.executable, __file__, title], env={**without, **more}, check=True)
