"""Gradients and products with second derivatives, by whichever mode of differentiation exists.

Functions of residuals and of a loss are treated alike: the loss of residuals is half the sum of
their squares. All are compiled once for a function object and shapes.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from fitkit._fisher.modes import basis, first, gradient_by_columns, mapped, transposed_push
from fitkit._paths import ravel

# Two differences disagree by the square of their step, and rounding by its inverse.
STEP = 1 / 3
# Steps that are tried, relative to that: nothing says over what length a function bends. No longer
# ones, for it may not be defined far from its argument.
SCALES = (1.0, 1e3, 1e-4, 1e-8)
# Disagreements of two differences beyond which what they agree on is no noise.
DISAGREEMENTS = 3.0


@eqx.filter_jit
def contracted_hessian(
    residuals: Callable, free: PyTree, held: PyTree, args: Any, weights: Float[Array, " m"]
) -> Float[Array, "n n"]:
    """Sum of the Hessians of all residuals, each times its weight, which is held constant."""
    flat, of_vector = _flattened(residuals, free, held, args)

    def contracted(x: Float[Array, " n"]) -> Float[Array, ""]:
        values = of_vector(x)
        return jnp.dot(weights.astype(values.dtype), values)

    return hessian_of(contracted, flat)


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

    return mapped(length, others)


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
    return hessian_of(_loss_of(of_vector, squares), x)


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


def hessian_of(function: Callable, x: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Compute the Hessian of a function of a vector, by products."""
    gradient = _gradient(function)

    def forward() -> Array:
        return mapped(jax.linearize(gradient, x)[1], basis(x))

    def reverse() -> Array:
        _, pull = jax.vjp(gradient, x)
        return mapped(lambda v: pull(v)[0], basis(x))

    def differences() -> Array:
        return mapped(lambda v: _difference(gradient, x, v), basis(x))

    return first("fisher_matrix", gradient, x, forward, reverse, differences)


def _gradient(function: Callable) -> Callable:
    def gradient(x: Float[Array, " n"]) -> Float[Array, " n"]:
        forward = gradient_by_columns(function)
        ways = (lambda: jax.grad(function)(x), lambda: jax.grad(forward)(x))
        return first("fisher_matrix", function, x, *ways)

    return gradient


def _gradient_and_product(gradient: Callable, x: Array, vector: Array) -> tuple[Array, Array]:
    def reverse() -> tuple[Array, Array]:
        value, pull = jax.vjp(gradient, x)
        return value, pull(vector)[0]

    def differences() -> tuple[Array, Array]:
        return gradient(x), _difference(gradient, x, vector)

    def forward() -> tuple[Array, Array]:
        return jax.jvp(gradient, (x,), (vector,))

    return first("fisher_matrix", gradient, x, forward, reverse, differences)


def _push(function: Callable, x: Array, vector: Array) -> Array:
    """Differentiate along a vector."""
    return first(
        "fisher_matrix",
        function,
        x,
        lambda: jax.jvp(function, (x,), (vector,))[1],
        lambda: transposed_push(function, x)[1](vector),
        lambda: _difference(function, x, vector),
    )


def _difference(
    function: Callable, x: Float[Array, " n"], vector: Float[Array, " n"]
) -> Float[Array, " m"]:
    """Differentiate along a vector by differences, for what no mode can differentiate (again).

    Two central differences, of one step and of two, make one of fourth order and tell its error.
    What is no more than that is zero. Of some lengths of the step the one is taken for which the
    two agree best.
    """
    size = jnp.where(x == 0, 1, jnp.abs(x))
    moving = vector != 0
    reach = jnp.min(jnp.where(moving, size / jnp.where(moving, jnp.abs(vector), 1), jnp.inf))
    shortest = jnp.finfo(x.dtype).eps ** STEP * reach

    def at(scale: Array) -> tuple[Array, Array]:
        step = scale * shortest

        def slope(times: int) -> Array:
            there, back = function(x + times * step * vector), function(x - times * step * vector)
            return (there - back) / (2 * times * step)

        near, far = slope(1), slope(2)
        error = jnp.abs(near - far)
        value = (4 * near - far) / 3
        doubt = jnp.linalg.norm(error) / jnp.linalg.norm(value)
        kept = jnp.where(jnp.abs(value) > DISAGREEMENTS * error, value, 0)
        return kept, jnp.where(jnp.isfinite(doubt), doubt, jnp.inf)

    def best() -> Array:
        values, doubts = jax.lax.map(at, jnp.asarray(SCALES, x.dtype))
        return values[jnp.argmin(doubts)]

    zero = jnp.zeros_like(jax.eval_shape(function, x))
    return jax.lax.cond(jnp.any(moving), best, lambda: zero)
