import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

DATA = Path(__file__).parent / "data" / "max_step_size"
CASES = json.loads((DATA / "cases.json").read_text())
GROUPS = sorted({case["group"] for case in CASES})
WIDTHS = [np.float32, np.float64]


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "cases.npz") as file:
        return dict(file)


def build(tree, arrays):
    """Read the notation of the cases: see the README beside them."""
    if tree is None:
        return None
    if isinstance(tree, int):
        return arrays[tree]
    ((kind, children),) = tree.items()
    if kind == "d":
        return {name: build(child, arrays) for name, child in children.items()}
    return {"l": list, "t": tuple}[kind](build(child, arrays) for child in children)


def limited(updates, *args, **kwargs):
    transform = fk.max_step_size(*args, **kwargs)
    return jax.jit(transform.update)(updates, transform.init(updates))[0]


@pytest.mark.parametrize("group", GROUPS)
def test_reference_cases(group, arrays):
    for case in (case for case in CASES if case["group"] == group and "eps" not in case["tags"]):
        name = case["name"]
        leaves = [arrays[f"{name}/leaves{i}"] for i in range(case["leaves"])]
        ids = [arrays[f"{name}/ids{i}"] for i in range(case["ids"])]
        outs = [arrays[f"{name}/out{i}"] for i in range(case["leaves"])]
        systems = build(case["systems"], ids)
        limit = jnp.array(case["limit"])
        ours = limited(build(case["tree"], leaves), limit, systems, case["num_systems"])
        # Tolerances from the README: rounding in float32, kUPS' 1e-12 in float64.
        tolerance = 1e-6 if leaves[0].dtype == np.float32 else 1e-8
        tolerance = 0 if "exact" in case["tags"] else tolerance
        expected = jax.tree.leaves(build(case["tree"], outs))
        inputs = jax.tree.leaves(build(case["tree"], leaves))
        bad = {-1}
        if "nonfinite" in case["tags"]:
            bad = {
                i
                for leaf, out, of in zip(inputs, expected, ids, strict=True)
                for i in of[~np.isfinite(leaf).all(-1) | ~np.isfinite(out).all(-1)]
            }
        for index, (our, out, leaf) in enumerate(
            zip(jax.tree.leaves(ours), expected, inputs, strict=True)
        ):
            good = ~np.isin(ids[index], list(bad)) if "nonfinite" in case["tags"] else ...
            np.testing.assert_allclose(our[good], out[good], tolerance, 0, err_msg=name)
            same = (out == leaf)[good]
            np.testing.assert_array_equal(our[good][same], leaf[good][same], err_msg=name)
