"""What watching for non-finite values costs a step, and how long the replay of one takes.

    python benchmarks/nonfinite.py

The flags: the same chunk of steps of a 1000-parameter model, with the flags that `Fit` checks and
without, interleaved; the median of the ratios of neighbours, in processor time, which other work
on the machine disturbs less than the clock. The replay: the first time, on traced
functions of many equations, without tracing or compiling them.
"""

import statistics
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitkit as fk
from fitkit._fit import step as steps
from fitkit._fit.problem import make_problem
from fitkit._nonfinite.replay import run
from fitkit._nonfinite.scope import Memory, count_equations

STEPS = 20
PAIRS = 301


def chunk_of_a_thousand_parameters(flagged: bool):
    design = jnp.asarray(np.random.default_rng(0).standard_normal((2000, 1000)) / 30)
    data = design @ jnp.ones(1000)

    def loss(params, args):
        return jnp.mean((design @ params["w"] - data) ** 2)

    problem, params, args = make_problem(loss, None, {"w": jnp.zeros(1000)}, None)
    optimiser = optax.adam(1e-3)
    step = steps.make_step(problem, optimiser)
    finite = mock.patch.object(jnp, "isfinite", lambda x: jnp.asarray(True))
    chunk = steps.make_chunk(step)
    state = steps.initial_state(params, optimiser)
    controls = steps.Controls.of([1.0])
    arguments = (state, controls, args, np.int32(STEPS), np.int32(steps.GOOD))
    if flagged:
        compiled = chunk.lower(*arguments).compile()
    else:
        with finite:
            compiled = chunk.lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def cost_of_the_flags() -> float:
    flagged, bare = (chunk_of_a_thousand_parameters(flag) for flag in (True, False))
    ratios = []
    for _ in range(PAIRS):
        times = []
        for chunk in (flagged, bare):
            began = time.process_time()
            chunk()
            times.append(time.process_time() - began)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios[1:])


def replay(rounds: int) -> tuple[int, float]:
    def loss(params, args):
        x = params
        for _ in range(rounds):
            x = jnp.sin(x * 1.01 + 0.1) * 0.9
        return jnp.log(jnp.sum(x) - 1e3)

    closed = jax.make_jaxpr(jax.value_and_grad(loss))(jnp.ones(50), None)
    began = time.perf_counter()
    run(closed, [np.ones(50)], Memory())
    return count_equations(closed), time.perf_counter() - began


def typical() -> float:
    x = jnp.linspace(-1.0, 1.0, 200)

    def loss(params, args):
        profile = jnp.exp(-0.5 * ((x - params["mu"]) / params["sigma"]) ** 2)
        return jnp.sum((profile - args) ** 2)

    params = {"mu": jnp.asarray(0.1), "sigma": jnp.asarray(0.0)}
    began = time.perf_counter()
    assert fk.find_nonfinite(loss, params, jnp.ones(200), gradient=True) is not None
    return time.perf_counter() - began


if __name__ == "__main__":
    print(f"typical model, everything included, first time: {typical():.2f} s")
    equations, seconds = replay(1150)
    print(f"replay of {equations} equations, first time: {seconds:.2f} s")
    print(
        f"flags: {100 * (cost_of_the_flags() - 1):+.1f} % of a step (median of {PAIRS - 1} pairs)"
    )
