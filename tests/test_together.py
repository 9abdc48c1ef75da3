"""What is asked of a fit whose data are spread over two processes: the answers of one device."""

import json

import jax
import numpy as np
import pytest
from processes import free_address, run_together

X = np.linspace(0.0, 5.0, 400)
DATA = {"x": X, "y": 3 * np.exp(-0.7 * X) + 0.01 * np.random.default_rng(0).normal(size=400)}

# Run by each of the processes, and by one on its own device.
ASKED = """
import jax.numpy as jnp, optax
import fitkit as fk

def residuals(params, args):
    return (params["height"] * jnp.exp(-params["rate"] * args["x"]) - args["y"]) / 0.01

def loss(params, args):
    return 0.5 * jnp.sum(residuals(params, args) ** 2)

def ask(args, folder):
    by_loss = {"loss": loss, "optimiser": optax.lbfgs()}
    start = {"height": 1.0, "rate": 0.5}
    problem = {"params": start, "args": args, "bounds": {"*": (0.1, 9.0)}}
    fit = fk.Fit(residuals=residuals, **problem)
    fit.run(progress=False)
    result, profile = fit.result(), fit.profile("rate", size=5)
    fit.save(folder / "fit")
    loaded = fk.Fit.load(folder / "fit", residuals=residuals, **problem)
    said = {
        "result": [result.values, result.errors, result.chi_square],
        "residuals": result.residuals,
        "fisher": fit.fisher().matrix,
        "profile": [profile.values, profile.loss, profile.intervals],
        "loaded": [loaded.step, loaded.loss],
        "minima": fit.multistart(4, progress=False).loss,
    }
    fit = fk.Fit(**by_loss, **problem)
    fit.run(progress=False)
    said["loss"] = fit.result().errors
    return said
"""

SCRIPT = (
    ASKED
    + """
import json, sys, time, types
from pathlib import Path
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import fitkit._many.engine as engine

rank, folder = int(sys.argv[1]), Path(sys.argv[3])
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=rank)
jax.config.update("jax_enable_x64", True)
rows = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec("data"))
data = json.loads((folder / "data").read_text())
args = {
    name: jax.make_array_from_callback((400,), rows, lambda index, one=np.array(one): one[index])
    for name, one in data.items()
}

# A clock that runs fast in one of them changes no call that all must make.
calls, drain = [], engine._drain
engine._drain = lambda *given: calls.append(int(given[4])) or drain(*given)
engine.time = types.SimpleNamespace(perf_counter=lambda: time.perf_counter() * 1e4**rank)

said = ask(args, folder)
said = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), said)
(folder / f"said-{rank}").write_text(json.dumps([said, calls]))

# A dashboard that one process shows alone does not wait for the others.
fit = fk.Fit(residuals=residuals, params={"height": 1.0, "rate": 0.5}, args=args)
fit.run(progress=False)
if rank == 0:
    dashboard = fk.Dashboard(fit)
    dashboard.widget
    dashboard.refresh()
    dashboard.close()
    assert dashboard._repr_png_()
    print(dashboard._subject._panels._residuals.scatter.problem)
"""
)


@pytest.mark.slow
def test_two_processes_say_what_one_device_says(tmp_path):
    (tmp_path / "data").write_text(json.dumps({name: list(one) for name, one in DATA.items()}))
    address = free_address()
    ended = run_together(
        [["-c", SCRIPT, str(rank), address, str(tmp_path)] for rank in range(2)], [{}, {}], tmp_path
    )
    assert not any(one.status for one in ended), ended[0].err + ended[1].err
    (said, calls), other = (json.loads((tmp_path / f"said-{rank}").read_text()) for rank in (0, 1))
    assert [said, calls] == other
    assert "fit.result().plot_residuals()" in ended[0].out

    namespace = {}
    exec(ASKED, namespace)
    (tmp_path / "alone").mkdir()
    alone = namespace["ask"](jax.device_put(DATA), tmp_path / "alone")
    answers = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), alone)
    assert said.keys() == answers.keys()
    for name, answer in answers.items():
        # Sums in another order, which profiles and minima follow to their own tolerance of 1e-6.
        np.testing.assert_allclose(
            jax.tree.leaves(said[name]), jax.tree.leaves(answer), 1e-6, 1e-6, err_msg=name
        )
