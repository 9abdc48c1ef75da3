"""Derivatives with respect to every parameter element, in blocks that keep memory bounded."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._fisher.residuals import check_residuals
from fitkit._paths import ravel

# Sixteen columns share one pass: wide enough to vectorise, and sixteen times the memory of one
# evaluation of the model rather than as many times as there are parameters.
BLOCK = 16


def forward_jacobian(
    function: Callable[[Array], Array], flat: Float[Array, " n"]
) -> tuple[Float[Array, " m"], Float[Array, "n m"]]:
    """Compute the value of a function of vectors, and its Jacobian transposed, by forward mode.

    One row for every element of `flat`; the function is evaluated once.
    """
    values, push = jax.linearize(function, flat)
    return values, _mapped(push, _basis(flat))


class Derivatives(eqx.Module):
    """The result of one compiled pass over the residuals: the Jacobian, or, if too big, JᵀJ."""

    residuals: Float[Array, " m"]
    transposed: Float[Array, "n m"] | None
    gram: Float[Array, "n n"] | None


@eqx.filter_jit
def residual_derivatives(
    residuals: Callable, free: PyTree, rest: PyTree, args: Any, weights: Any, most: int, gram: bool
) -> Derivatives:
    """Jacobian of flat residuals by forward mode, transposed: one row per free parameter.

    `free` and `rest` are two parts of one tree, with None where the other has a leaf.

    Where it would have more than `most` elements it is not stored: ``Jᵀ(JV)`` is returned instead
    if `gram` is set, and otherwise nothing, for the caller to ask for rows one block at a time.
    """
    function, flat = _flat(residuals, free, rest, args, weights)
    values = function(flat)  # Compiled, this and the value beside a derivative are one.
    if values.size * flat.size <= most:
        return Derivatives(*forward_jacobian(function, flat), None)
    if not gram:
        return Derivatives(values, None, None)
    _, pull = jax.vjp(function, flat)
    _, push = jax.linearize(function, flat)
    return Derivatives(values, None, _mapped(lambda v: pull(push(v))[0], _basis(flat)))


@eqx.filter_jit
def residual_rows(
    residuals: Callable,
    free: PyTree,
    rest: PyTree,
    args: Any,
    weights: Any,
    vectors: Float[Array, "k n"],
) -> Float[Array, "k m"]:
    """Differentiate the flat residuals along every row of `vectors`."""
    function, flat = _flat(residuals, free, rest, args, weights)
    return _mapped(jax.linearize(function, flat)[1], vectors)


@eqx.filter_jit
def loss_hessian(
    loss: Callable, free: PyTree, rest: PyTree, args: Any
) -> tuple[Float[Array, ""], Float[Array, "n n"]]:
    """Value and Hessian of a loss by Hessian-vector products (forward over reverse)."""
    function, flat = _flat_loss(loss, free, rest, args)
    _, product = jax.linearize(jax.grad(function), flat)
    return function(flat), _mapped(product, _basis(flat))


@eqx.filter_jit
def residual_gradient(
    residuals: Callable, free: PyTree, rest: PyTree, args: Any
) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
    """Flat residuals, and the gradient of half the sum of their squares."""
    function, flat = _flat(residuals, free, rest, args, None)
    values, pull = jax.vjp(function, flat)
    return values, pull(values)[0]


@eqx.filter_jit
def value_and_gradient(
    loss: Callable, free: PyTree, rest: PyTree, args: Any
) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """Value and flat gradient of a loss."""
    function, flat = _flat_loss(loss, free, rest, args)
    return jax.value_and_grad(function)(flat)


def _flat_loss(loss: Callable, free: PyTree, rest: PyTree, args: Any) -> tuple[Callable, Array]:
    flat, whole = _vector(free, rest)

    def function(x: Float[Array, " n"]) -> Float[Array, ""]:
        value = jnp.asarray(loss(whole(x), args))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"fisher_matrix: loss must return one real number, got {value.dtype} of shape "
                f"{value.shape}. Sum it; residuals go in as the first argument instead."
            )
        return value

    return function, flat


def _vector(free: PyTree, rest: PyTree) -> tuple[Array, Callable]:
    """Flatten the free leaves; the rest is put back for the user's function."""
    flat, unravel = ravel(free)
    return flat, lambda x: eqx.combine(unravel(x), rest)


def _flat(
    residuals: Callable, free: PyTree, rest: PyTree, args: Any, weights: Any
) -> tuple[Callable, Array]:
    """Make residuals, times the square root of their weights, a function of vectors."""
    flat, whole = _vector(free, rest)

    def function(x: Float[Array, " n"]) -> Float[Array, " m"]:
        values = residuals(whole(x), args)
        check_residuals(values, "fisher_matrix")
        if weights is not None:
            values = _weighted(values, weights)
        return ravel(values)[0]

    return function, flat


def _weighted(values: PyTree, weights: PyTree) -> PyTree:
    def scaled(weight: Array, branch: PyTree) -> PyTree:
        root = jax.lax.stop_gradient(jnp.sqrt(jnp.asarray(weight)))
        return jax.tree.map(lambda leaf: leaf * root.astype(jnp.result_type(leaf)), branch)

    return jax.tree.map(scaled, weights, values)


def _basis(flat: Float[Array, " n"]) -> Float[Array, "n n"]:
    return jnp.eye(flat.size, dtype=flat.dtype)


def _mapped(function: Callable, vectors: Float[Array, "k n"]) -> Float[Array, "k m"]:
    return jax.lax.map(function, vectors, batch_size=min(BLOCK, len(vectors)))
