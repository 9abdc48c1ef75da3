"""Data spread over the devices of a mesh: the answers of one device, to rounding."""

import json
import os
import subprocess
import sys

import pytest

# Eight virtual devices exist from the start of a process or never, so this runs in one of its own.
SCRIPT = """
import contextlib, json, tempfile
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import fitkit as fk

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
x = np.linspace(0.0, 5.0, 80)
data = {"x": x, "y": 3 * np.exp(-0.7 * x) + 0.01 * rng.normal(size=80)}
data["image"] = rng.normal(size=(8, 6, 2))
specs = {"x": P("rows"), "y": P("rows"), "image": P("rows", "columns")}


def residuals(params, args):
    model = params["height"] * jnp.exp(-params["rate"] * args["x"])
    return {"y": (model - args["y"]) / 0.01, "image": args["image"] - params["sky"][:, None]}


def roots(params, args):
    return jnp.sqrt(params["height"] - args["x"]) - 1


def answers(args, held):
    given = None if held else args

    def function(f):
        return (lambda params, _: f(params, args)) if held else f

    def loss(params, given):
        leaves = jax.tree.leaves(function(residuals)(params, given))
        return 0.5 * sum(jnp.sum(leaf**2) for leaf in leaves)

    start, out = {"height": 1.0, "rate": 0.5, "sky": np.zeros(6)}, {}
    problem = {"residuals": function(residuals), "params": start, "args": given}
    fit = fk.Fit(**problem)
    fit.run(progress=False)
    result = fit.result()
    out["status"] = str(fit.status)
    out["gauss_newton"] = [fit.loss, result.chi_square, *result.fisher.errors]
    out["fisher"] = list(fk.fisher_matrix(problem["residuals"], fit.params, given).errors)
    # The parameters can be used beside the data.
    out["model"] = float(jnp.sum(residuals(fit.params, args)["y"]))

    problem = {"loss": loss, "params": start, "args": given, "optimiser": optax.adam(0.05)}
    fit = fk.Fit(**problem)
    seen = []
    fit.add_callback(lambda fit: seen.append(float(loss(fit.best.params, given))), every=10)
    fit.start(40)
    fit.wait()
    fit.freeze("sky")
    fit.learning_rates["rate"] = 0.5
    fit.run(10, progress=False)
    fit.rewind(45)
    fit.run(5, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        fit.save(f"{folder}/fit")
        again = fk.Fit.load(f"{folder}/fit", **problem)
    again.run(5, progress=False)
    fit.restart()
    fit.run(3, progress=False)
    errors = fit.result().fisher.errors
    out["adam"] = [again.step, again.loss, again.best.loss, fit.loss, *errors, *seen]

    fit = fk.Fit(
        residuals=function(roots), params={"height": 9.0}, args=given, optimiser=optax.sgd(1.0)
    )
    with contextlib.redirect_stdout(None):
        fit.run(20, progress=False)
    out["report"] = [str(fit.status), fit.report.operation, fit.report.origin]
    return out


def on_eight(kind, in_force, held):
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(getattr(AxisType, kind),) * 2)
    spread = {name: jax.device_put(v, NamedSharding(mesh, specs[name])) for name, v in data.items()}
    with jax.set_mesh(mesh) if in_force == "set" else contextlib.nullcontext():
        return answers(spread, held == "held")


print(json.dumps([[on_eight(*case) for case in CASES], answers(data, False)]))
"""


def close(a, b):
    """Compare lists of numbers, at a tolerance that leaves out zeros; anything else as it is."""
    if isinstance(a, list) and not any(isinstance(one, str) for one in a):
        # Sums in another order differ by a few units of rounding, and fifty steps of Adam carry
        # them on: 1e-12 was seen.
        return a == pytest.approx(b, rel=1e-9, abs=1e-9)
    return a == pytest.approx(b, rel=1e-6) if isinstance(a, float) else a == b


def ask(script, cases):
    """Run a script on eight devices: what it finds there in each case, and on one device."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"CASES = {cases}\n{script}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(cases, found, strict=True)), expected


def assert_same(found, expected):
    differing = {k: (found[k], expected[k]) for k in expected if not close(found[k], expected[k])}
    assert not differing


CASES = [
    ("Auto", "carried", "passed"),
    ("Explicit", "carried", "passed"),
    ("Explicit", "set", "held"),
]


@pytest.fixture(scope="module")
def answers():
    return ask(SCRIPT, CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_data_on_eight_devices_have_the_answers_of_one(answers, case):
    found, expected = answers
    assert_same(found[case], expected)


# Of `fit_many`, whose systems may be spread over the devices, and what they share too.
MANY = """
import contextlib, json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import fitkit as fk

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
x = np.linspace(0.0, 5.0, 40)
y = 3 * np.exp(-rng.uniform(0.5, 1.0, (64, 1)) * x) + 0.01 * rng.normal(size=(64, 40))


def residuals(params, args):
    x, y = args
    return (params["height"] * jnp.exp(-params["rate"] * x) - y) / 0.01


def answers(x, y):
    many = fk.fit_many(
        residuals, {"height": 1.0, "rate": 0.5}, (x, y), args_axes=(None, 0), progress=False
    )
    numbers = [many.values["rate"], many.errors["rate"], many.chi_square]
    return {"status": many.counts(), "numbers": np.ravel(numbers).tolist(), "one": many[3].loss}


def on_eight(kind, in_force):
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(getattr(AxisType, kind),))
    own, shared = (jax.device_put(a, NamedSharding(mesh, P("devices"))) for a in (y, x))
    with jax.set_mesh(mesh) if in_force == "set" else contextlib.nullcontext():
        return answers(shared, own)


print(json.dumps([[on_eight(*case) for case in CASES], answers(x, y)]))
"""

MANY_CASES = [("Auto", "carried"), ("Explicit", "set")]


@pytest.fixture(scope="module")
def answers_of_many():
    return ask(MANY, MANY_CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", MANY_CASES, ids="-".join)
def test_many_systems_on_eight_devices_have_the_answers_of_one(answers_of_many, case):
    found, expected = answers_of_many
    assert_same(found[case], expected)
