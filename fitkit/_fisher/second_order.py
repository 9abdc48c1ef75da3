"""Gradients and products with second derivatives, by whichever mode of differentiation exists.

Functions of residuals and of a loss are treated alike: the loss of residuals is half the sum of
their squares. All are compiled once for a function object and shapes.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Bool, Float, PyTree

from fitkit._paths import ravel

# Sixteen vectors share one pass: wide enough to vectorise, and bounded in memory.
BLOCK = 16


@eqx.filter_jit
def linearise(
    function: Callable, free: PyTree, held: PyTree, args: Any, x: Float[Array, " n"]
) -> tuple[Float[Array, " m"], Float[Array, "n m"]]:
    """Flat values at the vector of parameters `x`, and their Jacobian, transposed."""
    _, of_vector = _flattened(function, free, held, args)
    values = of_vector(x)
    basis = jnp.eye(x.size, dtype=x.dtype)

    def forward() -> Array:
        return _mapped(lambda v: jax.jvp(of_vector, (x,), (v,))[1], basis)

    def reverse() -> Array:
        _, pull = jax.vjp(of_vector, x)
        return _mapped(lambda u: pull(u)[0], jnp.eye(values.size, dtype=values.dtype)).T

    return values, _first(forward, reverse)


@eqx.filter_jit
def contracted_hessian(
    residuals: Callable, free: PyTree, held: PyTree, args: Any, weights: Float[Array, " m"]
) -> Float[Array, "n n"]:
    """Sum of the Hessians of all residuals, each times its weight, which is held constant."""
    flat, of_vector = _flattened(residuals, free, held, args)

    def contracted(x: Float[Array, " n"]) -> Float[Array, ""]:
        values = of_vector(x)
        return jnp.dot(weights.astype(values.dtype), values)

    return _hessian(contracted, flat)


@eqx.filter_jit
def second_derivative_norms(
    residuals: Callable,
    free: PyTree,
    held: PyTree,
    args: Any,
    along: Float[Array, " n"],
    others: Float[Array, "k n"],
) -> Float[Array, " k"]:
    """Lengths of the vectors of second derivatives along one vector and each of others."""
    flat, of_vector = _flattened(residuals, free, held, args)

    def slope(x: Float[Array, " n"]) -> Array:
        return _push(of_vector, x, along)

    def length(v: Float[Array, " n"]) -> Array:
        bent = _push(slope, flat, v)
        # The largest first: squares vanish in single precision.
        largest = jnp.max(jnp.abs(bent), initial=0)
        return largest * jnp.linalg.norm(bent / jnp.where(largest > 0, largest, 1))

    return _mapped(length, others)


@eqx.filter_jit
def hessian(
    function: Callable,
    free: PyTree,
    held: PyTree,
    args: Any,
    squares: bool,
    x: Float[Array, " n"],
) -> Float[Array, "n n"]:
    """Hessian of the loss at the vector of parameters `x`; `squares` as for `loss_product`."""
    _, of_vector = _flattened(function, free, held, args)
    return _hessian(_loss_of(of_vector, squares), x)


@eqx.filter_jit
def loss_product(
    function: Callable,
    free: PyTree,
    held: PyTree,
    args: Any,
    squares: bool,
    x: Float[Array, " n"],
    vector: Float[Array, " n"],
) -> tuple[Float[Array, " m"], Float[Array, " n"], Float[Array, " n"]]:
    """Flat values at the vector of parameters `x`, the gradient there, and Hessian times vector.

    `squares` says that the function returns residuals, whose loss is half the sum of squares.
    """
    _, of_vector = _flattened(function, free, held, args)
    gradient = _gradient(_loss_of(of_vector, squares))
    return of_vector(x), *_gradient_and_product(gradient, x, vector)


@eqx.filter_jit
def insensitive(function: Callable, free: PyTree, held: PyTree, args: Any) -> Bool[Array, " m"]:
    """Which values are exactly zero and stay so, to first order, whatever the parameters do.

    One derivative along a vector of no special direction is zero only where all are.
    """
    flat, of_vector = _flattened(function, free, held, args)
    vector = 1 + jax.random.uniform(jax.random.key(0), flat.shape, flat.dtype)
    return (of_vector(flat) == 0) & (_push(of_vector, flat, vector) == 0)


def _flattened(
    function: Callable, free: PyTree, held: PyTree, args: Any
) -> tuple[Float[Array, " n"], Callable]:
    flat, unravel = ravel(free)

    def of_vector(x: Float[Array, " n"]) -> Float[Array, " m"]:
        return ravel(function(eqx.combine(unravel(x), held), args))[0]

    return flat, of_vector


def _loss_of(of_vector: Callable, squares: bool) -> Callable:
    if squares:
        return lambda x: 0.5 * jnp.sum(of_vector(x) ** 2)
    return lambda x: jnp.sum(of_vector(x))


def _gradient(function: Callable) -> Callable:
    return lambda x: _first(lambda: jax.grad(function)(x), lambda: jax.jacfwd(function)(x))


def _gradient_and_product(gradient: Callable, x: Array, vector: Array) -> tuple[Array, Array]:
    def reverse() -> tuple[Array, Array]:
        value, pull = jax.vjp(gradient, x)
        return value, pull(vector)[0]

    return _first(lambda: jax.jvp(gradient, (x,), (vector,)), reverse)


def _hessian(function: Callable, x: Float[Array, " n"]) -> Float[Array, "n n"]:
    gradient = _gradient(function)
    basis = jnp.eye(x.size, dtype=x.dtype)
    return _mapped(lambda v: _gradient_and_product(gradient, x, v)[1], basis)


def _push(function: Callable, x: Array, vector: Array) -> Array:
    """Differentiate along a vector; in reverse mode by the pull-back of the pull-back."""

    def reverse() -> Array:
        values, pull = jax.vjp(function, x)
        _, push = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(values))
        return push(vector)[0]

    return _first(lambda: jax.jvp(function, (x,), (vector,))[1], reverse)


def _mapped(function: Callable, vectors: Float[Array, "k n"]) -> Array:
    return jax.lax.map(function, vectors, batch_size=min(BLOCK, len(vectors)))


def _first(*ways: Callable[[], Any]) -> Any:
    """Take the first way that can be traced: a function may lack one mode of differentiation."""
    reason: Exception | None = None
    for way in ways:
        try:
            traced = jax.make_jaxpr(way, return_shape=True)()
        except (TypeError, ValueError, NotImplementedError) as error:
            reason = reason or error
            continue
        closed, shape = traced
        if _lacks_forward(closed.jaxpr):
            reason = reason or TypeError(
                "the function has a derivative in reverse mode only (jax.custom_vjp)"
            )
            continue
        # Without another call of the user's function.
        leaves = jaxpr_as_fun(closed)()
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)
    assert reason is not None
    raise reason


def _lacks_forward(jaxpr: Any) -> bool:
    """Whether a derivative is left that forward mode cannot take; JAX says so only when it runs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "custom_lin":
            return True
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns") and _lacks_forward(inner):
                    return True
    return False
