"""Several processes that fit together: the first decides, and all have the same answer."""

import numpy as np
import pytest
from processes import free_address, run_together

from fitkit._fit.agree import Agreement, Decision, leads
from fitkit._fit.status import Status
from fitkit._fit.steering import Steering

SCRIPT = """
import sys, time, random, warnings
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank = int(sys.argv[1])
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=rank)
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
import fitkit as fk

folder, chance = sys.argv[3], random.Random(int(sys.argv[4]))
sharding = NamedSharding(jax.make_mesh((2,), ("data",)), P("data"))
x = np.linspace(0.0, 5.0, 400)
y = 3 * np.exp(-0.7 * x) + 0.01 * np.random.default_rng(0).normal(size=400)


def part(data):
    return jax.make_array_from_callback(data.shape, sharding, lambda index: data[index])


args = {"x": part(x), "y": part(y)}


def residuals(params, args):
    return (params["height"] * jnp.exp(-params["rate"] * args["x"]) - args["y"]) / 0.01


def loss(params, args):
    return 0.5 * jnp.sum(residuals(params, args) ** 2)


def tell(*what):
    # Numbers to the last bit.
    print("|", *(one.hex() if isinstance(one, float) else one for one in what), flush=True)


def state(fit):
    return fit.step, str(fit.status), fit.loss, fit.best.loss, sorted(fit.frozen), fit.stop_reason


start = {"height": 1.0, "rate": 0.2}
problem = {"loss": loss, "params": start, "args": args, "optimiser": optax.adam(1e-3)}
fit = fk.Fit(**problem)
called = []
fit.add_callback(lambda fit: called.append((fit.step, float(fit.best.params["rate"]))), "20ms")
assert fit.shared and fit.leads == (rank == 0)

# Steered, paused and stopped by the first process alone, at random moments.
fit.start()
if rank == 0:
    for _ in range(8):
        time.sleep(chance.uniform(0, 0.1))
        what = chance.choice(["freeze", "thaw", "rate", "undo"])
        if what == "rate":
            fit.learning_rates["rate"] = chance.uniform(0.1, 3)
        elif what != "undo":
            getattr(fit, what)("height")
        elif fit.undoable:
            fit.undo()
    time.sleep(chance.uniform(0, 0.2))
    fit.pause()
else:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit.freeze("height")
    assert "the first one steers" in str(caught[0].message), caught
    try:
        fit.result()
    except RuntimeError as error:
        assert "in every process" in str(error), error
    else:
        raise AssertionError("computed alone")
    fit.wait()
tell("paused", *state(fit), dict(fit.learning_rates), called)
fit.thaw("*")
fit.resume()
if rank == 0:
    time.sleep(chance.uniform(0, 0.3))
    fit.stop()
fit.wait()
tell("stopped", *state(fit))
# What is asked of any process ends the run of all, as an interrupt of one would.
fit.start()
if rank == 1:
    time.sleep(chance.uniform(0, 0.3))
    fit.pause()
fit.wait()
tell("interrupted", *state(fit))
fit.learning_rates["*"] = 5.0
fit.remove_callback(fit._engine.callbacks[0].function)
fit.run(until="converged")
tell("converged", *state(fit))
fit.rewind(fit.best.step)
fit.save(f"{folder}/fit-{rank}")
result = fit.result()
tell("result", result.success, float(result.errors["rate"]), result.fisher.errors.tolist())
fit = fk.Fit.load(f"{folder}/fit-0", **problem)
losses = [float(info.loss) for info in fit.steps(3)]
tell("loaded", *state(fit), losses)

# What fails in one process ends the run of all.
def until(now):
    if rank == 1 and now.step > 20:
        raise OSError("no disk")
    return False

try:
    fit.run(until=until)
except (OSError, RuntimeError) as error:
    assert ("no disk" if rank else "another process") in str(error), error
tell("failed", str(fit.status))

# The same, by residuals, an autosave and a failure.
fit = fk.Fit(residuals=residuals, params=start, args=args, autosave=f"{folder}/auto-{rank}")
fit.run()
result = fit.result()
tell("gauss_newton", *state(fit), result.chi_square, float(np.sum(result.residuals**2)))
if rank == 0:
    print("ERRORS", fit.loss, *result.fisher.errors)
fit = fk.Fit(
    loss=lambda params, args: jnp.sum((jnp.sqrt(params["a"] - args["x"]) - 1) ** 2),
    params={"a": 9.0},
    args=args,
    optimiser=optax.sgd(1.0),
)
fit.run(9)
tell("report", fit.report.operation, fit.report.origin)
"""


@pytest.mark.slow
def test_two_processes_steered_by_the_first_have_the_same_answer(tmp_path):
    address, seed = free_address(), str(np.random.default_rng().integers(1000))
    ended = run_together(
        [["-c", SCRIPT, str(rank), address, str(tmp_path), seed] for rank in range(2)],
        [{}, {}],
        tmp_path,
    )
    assert not any(one.status for one in ended), (seed, ended)

    said = [[line for line in out.splitlines() if line.startswith("|")] for _, out, _ in ended]
    assert said[0] == said[1], seed
    for line, status in zip(said[0], ("paused", "stopped", "paused", "converged"), strict=False):
        assert f" {status} " in line, (seed, line)
    # The first process alone shows and saves.
    assert "loss" in ended[0].out.replace("| ", "") and "\r" not in ended[1].out
    assert {path.name for path in tmp_path.iterdir()} == {"fit-0", "auto-0"}

    # One process by itself, SciPy's, on all of the data.
    from scipy.optimize import least_squares

    x = np.linspace(0.0, 5.0, 400)
    y = 3 * np.exp(-0.7 * x) + 0.01 * np.random.default_rng(0).normal(size=400)
    best = least_squares(
        lambda p: (p[0] * np.exp(-p[1] * x) - y) / 0.01, [1.0, 0.2], xtol=1e-15, ftol=1e-15
    )
    errors = np.sqrt(np.diag(np.linalg.inv(best.jac.T @ best.jac)))
    line = next(line for line in ended[0].out.splitlines() if line.startswith("ERRORS"))
    # SciPy's Jacobian comes from differences, which have half the digits.
    np.testing.assert_allclose(
        [float(one) for one in line.split()[1:]], [best.cost, *errors], rtol=1e-6
    )


def test_a_process_by_itself_agrees_with_itself():
    steering = Steering.of(("a",), frozenset())
    own = Decision(Status.PAUSED, False, 8, 2, (True,), False, False, steering)
    assert Agreement(None).on(own) is own
    assert Agreement(None).on_all(True) and not Agreement(None).on_all(False)
    assert leads(None)
