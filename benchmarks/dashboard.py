"""What a dashboard costs: CPU time of a frame, and the pace of a fit that is watched.

Run it from the root of the repository: ``python benchmarks/dashboard.py``. Frames are of fits with
a million recorded steps and 4,000 residuals, which are new in every frame, 1,000 CSS pixels wide on
an ordinary and on a dense screen. Watched and unwatched fits of 12 parameters alternate, and the
ratio of their steps in a second of CPU is the median of pairs, so that what else the machine does
counts for both.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitkit as fk
from fitkit._plotting import Scatter

NAMES = [f"p{i:02}" for i in range(12)]
WANTED = {12: 20, 300: 45}  # ms of CPU, of a blitted frame on an ordinary screen
PAIRS, WARM_UP, SECONDS = 5, 6.0, 5.0


def make_fit() -> fk.Fit:
    x = jnp.linspace(0.0, 1.0, 4000)

    def loss(params, args):
        model = sum(params[name] * jnp.cos(i * x) for i, name in enumerate(NAMES))
        return jnp.mean((model - jnp.exp(-x)) ** 2) + 1e-3

    return fk.Fit(loss=loss, params=dict.fromkeys(NAMES, 0.1), optimiser=optax.adam(1e-5))


def make_long_fit(count: int) -> fk.Fit:
    """Run a fit whose parameters are measured once each, with little noise, beside 4,000 data."""
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=4000))

    def residuals(params, args):
        values = jnp.stack(jax.tree.leaves(params))
        return jnp.zeros(data.size).at[:count].set(10 * values) - data

    start = {f"p{i:03}": 0.1 * value for i, value in enumerate(rng.normal(size=count))}
    fit = fk.Fit(residuals=residuals, params=start, optimiser=optax.adam(1e-4))
    fit.run(1_000_000, progress=False)
    fit.fisher()
    return fit


def frames(dashboard: fk.Dashboard, density: float) -> tuple[float, float]:
    """Time full and blitted frames, in seconds of CPU."""
    _ = dashboard.widget
    live = dashboard._live
    live.picture.room.value = f"1000 {density}"
    latest = live._panels._residuals
    latest.evaluate()
    dashboard.refresh()
    full, blitted = [], []
    for _ in range(20):
        live.picture.renderer._layout = None
        for times in (full, blitted):
            latest.scatter = Scatter(latest.scatter.leaves, latest.scatter.step)
            begun = time.thread_time()
            dashboard.refresh()
            times.append(time.thread_time() - begun)
    return statistics.median(full), statistics.median(blitted)


def pace(watched: bool) -> float:
    """Count the steps in a second of CPU of a fit in its steady state."""
    fit = make_fit()
    fit.run(200, progress=False)
    dashboard = fk.Dashboard(fit)
    if watched:
        _ = dashboard.widget
    fit.start(10**9)
    time.sleep(WARM_UP)  # the first Fisher matrix compiles after two seconds
    step, begun = fit.step, time.process_time()
    time.sleep(SECONDS)
    speed = (fit.step - step) / (time.process_time() - begun)
    fit.stop()
    dashboard.close()
    return speed


def main() -> None:
    for count, wanted in WANTED.items():
        dashboard = fk.Dashboard(make_long_fit(count))
        for density, words in ((1.0, f"   (at most {wanted} wanted)"), (2.0, "")):
            full, blitted = (1e3 * seconds for seconds in frames(dashboard, density))
            print(f"{count} parameters and residuals, {density:g} device pixels for one of CSS")
            print(f"  frame, drawn in full   {full:6.1f} ms of CPU")
            print(f"  frame, blitted         {blitted:6.1f} ms of CPU{words}")
        dashboard.close()
    ratios = [pace(True) / pace(False) for _ in range(PAIRS)]
    print(
        f"fit watched : unwatched {statistics.median(ratios):5.2f}          (at least 0.96 wanted)"
    )
    print("  pairs: " + ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios)))


if __name__ == "__main__":
    main()
