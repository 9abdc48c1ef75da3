"""What a dashboard costs: CPU time of a frame, and the pace of a fit that is watched.

Run it from the root of the repository: ``python benchmarks/dashboard.py``. The fit has 12
parameters, and a million recorded steps when frames are timed. Watched and unwatched fits
alternate, and the ratio is the median of pairs, so that what else the machine does counts for both.
"""

import statistics
import time

import jax.numpy as jnp
import optax

import fitkit as fk

NAMES = [f"p{i:02}" for i in range(12)]
PAIRS, WARM_UP, SECONDS = 5, 6.0, 5.0


def make_fit() -> fk.Fit:
    x = jnp.linspace(0.0, 1.0, 4000)

    def loss(params, args):
        model = sum(params[name] * jnp.cos(i * x) for i, name in enumerate(NAMES))
        return jnp.mean((model - jnp.exp(-x)) ** 2) + 1e-3

    return fk.Fit(loss=loss, params=dict.fromkeys(NAMES, 0.1), optimiser=optax.adam(1e-5))


def frames() -> tuple[float, float]:
    """Time full and blitted frames, in seconds of CPU."""
    fit = fk.Fit(
        loss=lambda p, a: 1.0 + sum((p[name] - 1.0) ** 2 for name in NAMES),
        params=dict.fromkeys(NAMES, 0.1),
        optimiser=optax.adam(1e-6),
    )
    fit.run(1_000_000, progress=False)
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    full, blitted = [], []
    for _ in range(20):
        dashboard._live.picture.renderer._layout = None
        for times in (full, blitted):
            begun = time.thread_time()
            dashboard.refresh()
            times.append(time.thread_time() - begun)
    dashboard.close()
    return statistics.median(full), statistics.median(blitted)


def pace(watched: bool) -> float:
    """Count the steps per second of a fit in its steady state."""
    fit = make_fit()
    fit.run(200, progress=False)
    dashboard = fk.Dashboard(fit)
    if watched:
        _ = dashboard.widget
    fit.start(10**9)
    time.sleep(WARM_UP)  # the first Fisher matrix compiles after two seconds
    step, begun = fit.step, time.perf_counter()
    time.sleep(SECONDS)
    speed = (fit.step - step) / (time.perf_counter() - begun)
    fit.stop()
    dashboard.close()
    return speed


def main() -> None:
    full, blitted = frames()
    print(f"frame, drawn in full   {1e3 * full:6.1f} ms of CPU")
    print(f"frame, blitted         {1e3 * blitted:6.1f} ms of CPU   (at most 40 wanted)")
    ratios = [pace(True) / pace(False) for _ in range(PAIRS)]
    print(
        f"fit watched : unwatched {statistics.median(ratios):5.2f}          (at least 0.90 wanted)"
    )
    print("  pairs: " + ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios)))


if __name__ == "__main__":
    main()
