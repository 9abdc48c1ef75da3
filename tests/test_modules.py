"""Parameters that are callable modules, layers tied to each other, chains that are not optax's."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import fitkit as fk

X = np.linspace(0, 1, 30)
Y = 2 * np.exp(-1.3 * X) + 0.01 * np.sin(50 * X)


class Decay(eqx.Module):
    a: jax.Array
    k: jax.Array

    def __call__(self, x):
        return self.a * jnp.exp(-self.k * x)


def decay_residuals(model, args):
    return (model(X) - Y) / 0.01


def best_of_decay():
    # To the rounding of a sum of squares.
    return scipy.optimize.curve_fit(
        lambda x, a, k: a * np.exp(-k * x), X, Y, p0=[1, 1], xtol=1e-15, ftol=1e-15, gtol=1e-15
    )[0]


@pytest.mark.parametrize(
    "optimiser",
    [
        optax.lbfgs(),
        {("a", "k"): optax.lbfgs()},
        {"*": fk.gauss_newton()},
    ],
    ids=["lbfgs", "mapped lbfgs", "mapped gauss_newton"],
)
def test_a_callable_module(optimiser):
    start = Decay(jnp.array(1.0), jnp.array(1.0))
    fit = fk.Fit(residuals=decay_residuals, params=start, optimiser=optimiser)
    fit.run(400, progress=False)
    assert isinstance(fit.params, Decay)
    # L-BFGS sees the loss to half the digits.
    np.testing.assert_allclose([fit.params.a, fit.params.k], best_of_decay(), rtol=1e-6)


def network():
    return eqx.nn.MLP(1, "scalar", 3, 1, jax.nn.tanh, dtype=float, key=jax.random.key(0))


def network_residuals(model, args):
    x = np.linspace(-1, 1, 20)
    return (jax.vmap(model)(x[:, None]) - np.sin(2 * x)) / 0.1


def test_a_network(tmp_path):
    given: dict[str, Any] = {
        "residuals": network_residuals,
        "params": network(),
        "optimiser": {"layers.0": optax.lbfgs(), "layers.1": fk.gauss_newton()},
    }
    fit = fk.Fit(**given)
    begin = fit.loss
    fit.freeze("layers.0.bias")
    fit.run(100, progress=False)
    assert fit.loss < begin / 10
    np.testing.assert_array_equal(fit.params.layers[0].bias, network().layers[0].bias)
    assert np.isfinite(fit.params(jnp.ones(1)))
    fit.enter_eigenbasis(optax.lbfgs())
    fit.run(10, progress=False)
    fit.save(tmp_path / "fit")
    loaded = fk.Fit.load(tmp_path / "fit", **given)
    assert loaded.loss == fit.loss
    assert fk.find_nonfinite(lambda m, a: jnp.sum(network_residuals(m, a)), network(), None) is None


class Tied(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self, key):
        first = eqx.nn.Linear(2, 2, use_bias=False, dtype=float, key=key)
        second = eqx.nn.Linear(2, 2, use_bias=True, dtype=float, key=key)
        self.shared = eqx.nn.Shared(
            (first, second), where=lambda both: both[1].weight, get=lambda both: both[0].weight
        )

    def __call__(self, x):
        first, second = self.shared()
        return second(jnp.tanh(first(x)))


POINTS = np.random.default_rng(0).normal(size=(9, 2))
SEEN = np.random.default_rng(1).normal(size=(9, 2))


def tied_residuals(model, args):
    return jax.vmap(model)(POINTS) - SEEN


def untied_residuals(params, args):
    """The same by hand."""
    weight, bias = params["weight"], params["bias"]
    return jnp.tanh(POINTS @ weight.T) @ weight.T + bias[None] - SEEN


@pytest.mark.parametrize("optimiser", [None, optax.adam(0.05), {"*": optax.lbfgs()}])
def test_a_shared_layer_is_one_parameter(optimiser, tmp_path):
    model = Tied(jax.random.key(0))
    weight, bias = model.shared.pytree[0].weight, model.shared.pytree[1].bias
    own = {} if optimiser is None else {"optimiser": optimiser}
    fit = fk.Fit(residuals=tied_residuals, params=model, **own)
    equal = fk.Fit(residuals=untied_residuals, params={"weight": weight, "bias": bias}, **own)
    for one in (fit, equal):
        one.run(100, progress=False)
    # The same arithmetic but for the order of sums, which a hundred steps amplify.
    ours, theirs = fit.params.shared.pytree, equal.params
    np.testing.assert_allclose(ours[0].weight, theirs["weight"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours[1].bias, theirs["bias"], rtol=1e-6, atol=1e-8)
    both = fit.params.shared()
    assert both[0].weight is both[1].weight
    names = fit.fisher().labels
    assert len(names) == weight.size + bias.size
    errors, expected = (sorted(np.asarray(one.fisher().errors)) for one in (fit, equal))
    np.testing.assert_allclose(errors, expected, rtol=1e-5)
    fit.save(tmp_path / "fit")
    loaded = fk.Fit.load(tmp_path / "fit", residuals=tied_residuals, params=model, **own)
    assert loaded.loss == fit.loss
    loaded.restart(params=Tied(jax.random.key(1)))
    loaded.run(3, progress=False)
    assert fk.fisher_matrix(tied_residuals, model).labels == names


# To where Adam no longer jitters about the minimum.
DECAYING = optax.exponential_decay(0.02, 100, 0.7)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A chain as kUPS has it: no tuple of optax, and every link gets every argument."""

    links: tuple[Any, ...]

    def init(self, parameters, index_prefix=None):
        return tuple(link.init(parameters) for link in self.links)

    def update(self, updates, state, params=None, **extra):
        after = []
        for link, own in zip(self.links, state, strict=True):
            if isinstance(link, optax.GradientTransformation):
                link = optax.with_extra_args_support(link)
            updates, own = link.update(updates, own, params=params, **extra)
            after.append(own)
        return updates, tuple(after)


@jax.tree_util.register_pytree_node_class
class Column:
    """What kUPS keeps in its states: a column that checks what it is built of."""

    def __init__(self, data):
        self.data = jnp.broadcast_to(data, data.shape)

    def tree_flatten(self):
        return (self.data,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        if any(isinstance(child, jax.ShapeDtypeStruct) for child in children):
            raise TypeError("a column is made of an array")
        column = object.__new__(cls)
        (column.data,) = children
        return column


@pytest.mark.parametrize("how", [{}, {"microbatch": 7}, {"minibatch": 7}], ids=str)
def test_nodes_that_check_what_they_are_built_of(how):
    def residuals(p, args):
        return Column(
            (p["a"].data * jnp.exp(-p["k"].data * args["x"].data) - args["y"].data) / 0.01
        )

    params = {name: Column(jnp.array(1.5)) for name in "ak"}
    args = {"x": Column(jnp.asarray(X)), "y": Column(jnp.asarray(Y))}
    optimiser = optax.adam(DECAYING) if "minibatch" in how else fk.gauss_newton()
    fit = fk.Fit(residuals=residuals, params=params, args=args, optimiser=optimiser, **how)
    fit.run(2000 if how else 30, progress=False)
    # Batches lead near the best, whole data to a thousandth of a standard error.
    found = [column.data for column in fit.params.values()]
    np.testing.assert_allclose(found, best_of_decay(), rtol=1e-2 if "minibatch" in how else 1e-5)
    assert np.isfinite(fit.result().covariance).all()


class Rate:
    """A link with an update of its own, which takes one extra argument of all."""

    def init(self, parameters, index_prefix=None):
        return Column(jnp.array([1.0]))

    def update(self, updates, state, params=None, *, value, **extra):
        assert {"grad", "value_fn", "frozen"} <= extra.keys()
        return jax.tree.map(lambda u: u * state.data[0] + 0 * value, updates), state


@pytest.mark.parametrize(
    "optimiser",
    [
        Chain((optax.adam(DECAYING), Rate())),
        Chain((optax.lbfgs(), Rate())),
        {"a": Chain((optax.lbfgs(), Rate())), "k": Chain((optax.adam(DECAYING), Rate()))},
    ],
    ids=["adam", "lbfgs", "mapped"],
)
def test_chains_that_are_not_of_optax(optimiser, tmp_path):
    params = {"a": 1.9, "k": 1.2}
    given: dict[str, Any] = {
        "residuals": lambda p, args: (p["a"] * jnp.exp(-p["k"] * X) - Y) / 0.01,
        "params": params,
        "optimiser": optimiser,
    }
    fit = fk.Fit(**given)
    fit.run(2000, progress=False)
    # A thousandth of a standard error.
    np.testing.assert_allclose([*fit.params.values()], best_of_decay(), rtol=1e-5)
    fit.save(tmp_path / "fit")
    assert fk.Fit.load(tmp_path / "fit", **given).loss == fit.loss
    if isinstance(optimiser, Chain):
        fit.restart(params=params)
        fit.enter_eigenbasis(optimiser)
        fit.run(20, progress=False)
