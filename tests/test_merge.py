import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import fitkit as fk
from fitkit._fit.merge import Merged
from fitkit._fit.packing import Packed, PackedStep, Packing
from fitkit._fit.problem import make_problem
from fitkit._fit.step import GOOD, Controls, initial_state, make_step
from fitkit._optimisers import map_optimisers

#: They ask for more than a learning rate, or for matrices.
LEFT_OUT = {"noisy_sgd", "sophia", "galore", "sm3"}


def optimisers_of(module):
    """Every optimiser that is made from a learning rate, or from nothing."""
    for name, make in sorted(vars(module).items()):
        if not inspect.isfunction(make) or name.startswith("_") or name in LEFT_OUT:
            continue
        wanted = [
            p.name
            for p in inspect.signature(make).parameters.values()
            if p.default is p.empty and p.kind is not p.VAR_KEYWORD
        ]
        learning_rate = "learning_rate" in inspect.signature(make).parameters
        if learning_rate and set(wanted) <= {"learning_rate"}:
            rates = {"learning_rate": 0.01} if wanted else {}
            yield name, lambda make=make, rates=rates: make(**rates)


CHAINS = {
    "clipped by the norm of all": lambda: optax.chain(
        optax.clip_by_global_norm(0.1), optax.adam(0.01)
    ),
    "clipped by the norm of each": lambda: optax.chain(
        optax.clip_by_block_rms(0.1), optax.adamw(0.01)
    ),
    "with momentum and a schedule": lambda: optax.sgd(
        optax.cosine_decay_schedule(0.1, 100), momentum=0.9, nesterov=True
    ),
    "noisy": lambda: optax.chain(optax.add_noise(0.1, 0.5, key=1), optax.adam(0.01)),
    "masked": lambda: optax.masked(optax.adam(0.01), _first_four),
    "with rates that are data": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.01),
    "ten Adams": lambda: map_optimisers(
        start(), {name: optax.adam(0.01 * (k + 1)) for k, name in enumerate(start())}
    )[0],
    "two families": lambda: map_optimisers(
        start(), {"a": optax.sgd(0.1), "c": optax.sgd(0.2), "*": optax.adam(fk.delay(0.01, 3))}
    )[0],
    "accumulating": lambda: optax.MultiSteps(
        optax.adam(0.01), every_k_schedule=2
    ).gradient_transformation(),
}
OPTIMISERS = {
    **dict(optimisers_of(optax)),
    **{f"contrib.{name}": make for name, make in optimisers_of(contrib)},
    **CHAINS,
}


def _first_four(tree: Any) -> dict[str, bool]:
    return {name: name < "e" for name in tree}


def start():
    shapes = {"a": (), "b": (), "c": (3,), "d": (2, 2), "e": (), "f": (5, 20), "g": (3,)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        name: 1 + jax.random.uniform(key, shape, float)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def loss(params, args):
    a, b, e = params["a"], params["b"], params["e"]
    arrays = params["c"] * jnp.cos(params["g"]), params["d"] @ params["d"], params["f"] ** 2
    return (a * b - e) ** 2 + jnp.sin(e) + sum(jnp.sum(jnp.square(one)) for one in arrays)


def steps_of(optimiser):
    problem, arrays, data = make_problem(loss, None, start(), None)
    step = make_step(problem, optimiser)
    return step, initial_state(arrays, optimiser), data


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_optimiser_makes_the_same_steps(name):
    """Operation by operation: compiled as wholes, XLA fuses the two differently."""
    step, state, args = steps_of(optax.with_extra_args_support(OPTIMISERS[name]()))
    controls = Controls.of([1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 2.0])
    packed = Packed.of(state)
    merged = PackedStep(step, packed, controls, args)
    with jax.disable_jit():
        state, *_ = step(state, controls, args)
        packed, *_ = merged(packed, controls, args)
        state, info, outcome = step(state, controls, args)
        packed, row, packed_outcome = merged(packed, controls, args)
    assert outcome == packed_outcome == GOOD
    for one, other in zip(
        jax.tree.leaves((state, info.row())), jax.tree.leaves((packed.tree, row)), strict=True
    ):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        # Sums of a few terms, and powers, round otherwise where they are vectorised.
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-16)


def equations_of(fit) -> list[Any]:
    """List what a step of a fit computes, as it is traced."""
    place, controls = fit.snapshot.place, fit.snapshot.steering.controls
    step = PackedStep(place.program.step, Packed.of(place.kept), controls, None)
    jaxpr = jax.make_jaxpr(lambda state: step(state, controls, None))(Packed.of(place.kept))
    return jaxpr.jaxpr.eqns


def primitives_of(fit) -> list[str]:
    return [equation.primitive.name for equation in equations_of(fit)]


def test_a_hundred_scalars_take_a_few_kernels():
    names = [f"p{k:02d}" for k in range(100)]
    fit = fk.Fit(
        loss=lambda params, args: jnp.sum(jnp.stack([params[n] for n in names]) ** 2),
        params=dict.fromkeys(names, 1.0),
        optimiser=optax.adam(0.1),
    )
    arithmetic = ("mul", "add", "sub", "div", "select_n", "sqrt")
    # 22 of Adam, of the norms and of the choice between frozen and free.
    assert sum(name in arithmetic for name in primitives_of(fit)) < 40


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_of_several_shapes_take_a_few_kernels(dtype):
    shapes = [(), (3,), (2, 2), (10,), (26,)]
    fit = fk.Fit(
        loss=lambda params, args: sum(jnp.sum(leaf**2) for leaf in params.values()),
        params={f"p{k:02d}": np.ones(shapes[k % 5], dtype) for k in range(40)},
        optimiser=optax.sgd(0.1),
    )
    found = primitives_of(fit)
    # A branch for each norm, and scatters, made a step in float32 three times as slow.
    assert "cond" not in found and "scatter-add" not in found
    # Those of the loss, and of both norms one for each of four sizes.
    assert found.count("reduce_sum") == 40 + 2 * 4


def test_gauss_newton_branches_on_a_few_arrays():
    """Each that a branch takes is compiled; there were two for every parameter."""

    def taken(count: int) -> list[int]:
        names = [f"p{k:02d}" for k in range(count)]
        fit = fk.Fit(
            residuals=lambda params, _: jnp.stack([params[name] for name in names]) - 1.0,
            params=dict.fromkeys(names, 0.0),
        )
        return [len(one.invars) for one in equations_of(fit) if one.primitive.name == "cond"]

    assert taken(5) == taken(30) != []


def test_what_differs_becomes_a_vector():
    def function(a, b, c):
        return a * 2.0, b * 3.0, jnp.exp(c) * 4.0

    x = jnp.array([1.0, 2.0]), jnp.array(3.0), jnp.array(0.5)
    closed = jax.make_jaxpr(function)(*x)
    merged = Merged(closed, [[0, 1], [2]])
    packed = jnp.concatenate([x[0], x[1][None]])
    out = merged([packed, x[2]], [[0, 1], [2]])
    np.testing.assert_array_equal(out[0], [2.0, 4.0, 9.0])
    assert out[1] == np.exp(0.5) * 4
    names = [
        e.primitive.name
        for e in jax.make_jaxpr(merged, static_argnums=1)([packed, x[2]], ((0, 1), (2,))).jaxpr.eqns
    ]
    assert names.count("mul") == 2


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([1] * 100, "100 parameters in 1 vector"),
        ([1, 3, 1000], "3 parameters, 2 of them in 1 vector"),
        ([65, 66], "2 parameters"),
        ([1], "1 parameter"),
    ],
)
def test_what_travels_together_can_be_read(sizes, words):
    params = {f"p{k:03d}": jnp.zeros(size) for k, size in enumerate(sizes)}
    assert Packing.of(params, params).describe() == words
    fit = fk.Fit(
        loss=lambda p, _: sum(jnp.sum(leaf**2) for leaf in p.values()),
        params=params,
        optimiser=optax.sgd(0.1),
    )
    assert repr(fit).startswith(f"<Fit of {words}; ready")
