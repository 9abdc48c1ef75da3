"""Derivatives with respect to every parameter element, in blocks that keep memory bounded."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from fitkit._fisher.modes import (
    basis,
    first,
    jacobian_rows,
    mapped,
    products_with,
    transposed_push,
)
from fitkit._fisher.residuals import real_residuals
from fitkit._fisher.second_order import hessian_of
from fitkit._paths import ravel


def transposed_jacobian(
    function: Callable[[Array], Array], flat: Float[Array, " n"], event: str = "fisher_matrix"
) -> tuple[Float[Array, " m"], Float[Array, "n m"]]:
    """Compute the value of a function of vectors, and its Jacobian transposed.

    One row for every element of `flat`; in forward mode if that exists.
    """

    def forward() -> tuple[Array, Array]:
        values, push = jax.linearize(function, flat)
        return values, mapped(push, basis(flat))

    def columns() -> tuple[Array, Array]:
        values, push = transposed_push(function, flat)
        return values, mapped(push, basis(flat))

    def rows() -> tuple[Array, Array]:
        values, matrix = jacobian_rows(function, flat, lambda row: row)
        return values, matrix.T

    return first(event, function, flat, forward, columns, rows)


class Derivatives(eqx.Module):
    """The result of one compiled pass over the residuals: the Jacobian, or, if too big, JᵀJ."""

    residuals: Float[Array, " m"]
    transposed: Float[Array, "n m"] | None
    gram: Float[Array, "n n"] | None


@eqx.filter_jit
def residual_derivatives(
    residuals: Callable, free: PyTree, rest: PyTree, args: Any, weights: Any, most: int, gram: bool
) -> Derivatives:
    """Jacobian of flat residuals, transposed: one row per free parameter.

    `free` and `rest` are two parts of one tree, with None where the other has a leaf.

    Where it would have more than `most` elements it is not stored: ``Jᵀ(JV)`` is returned instead
    if `gram` is set, and otherwise nothing, for the caller to ask for rows one block at a time.
    """
    function, flat = _flat(residuals, free, rest, args, weights)
    values = function(flat)  # Compiled, this and the value beside a derivative are one.
    if values.size * flat.size <= most:
        return Derivatives(*transposed_jacobian(function, flat), None)
    if not gram:
        return Derivatives(values, None, None)
    return Derivatives(values, None, _gram(function, flat))


def _gram(function: Callable, flat: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Compute JᵀJ without storing J."""

    def both() -> Array:
        _, pull = jax.vjp(function, flat)
        _, push = jax.linearize(function, flat)
        return mapped(lambda v: pull(push(v))[0], basis(flat))

    def forward() -> Array:
        _, push = jax.linearize(function, flat)

        def products(v: Array) -> Array:
            column = push(v)
            return mapped(lambda u: jnp.dot(push(u), column), basis(flat))

        return mapped(products, basis(flat))

    def reverse() -> Array:
        values, pull = jax.vjp(function, flat)

        def add(i: Array, total: Array) -> Array:
            row = pull(jnp.zeros_like(values).at[i].set(1))[0]
            return total + jnp.outer(row, row)

        return jax.lax.fori_loop(0, values.size, add, jnp.zeros((flat.size,) * 2, flat.dtype))

    return first("fisher_matrix", function, flat, both, forward, reverse)


@eqx.filter_jit
def linearise(
    function: Callable, free: PyTree, held: PyTree, args: Any, x: Float[Array, " n"]
) -> tuple[Float[Array, " m"], Float[Array, "n m"]]:
    """Flat values at the vector of parameters `x`, and their Jacobian, transposed."""
    _, unravel = ravel(free)
    return transposed_jacobian(lambda x: ravel(function(eqx.combine(unravel(x), held), args))[0], x)


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
    return first(
        "fisher_matrix",
        function,
        flat,
        lambda: mapped(jax.linearize(function, flat)[1], vectors),
        lambda: mapped(transposed_push(function, flat)[1], vectors),
        lambda: jacobian_rows(function, flat, lambda row: vectors @ row)[1].T,
    )


@eqx.filter_jit
def residual_product(
    residuals: Callable,
    free: PyTree,
    rest: PyTree,
    args: Any,
    weights: Any,
    vector: Float[Array, " n"],
) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
    """Compute flat residuals, and ``JᵀJ`` times a vector; reverse mode must exist."""
    function, flat = _flat(residuals, free, rest, args, weights)
    values, jacobian = products_with("fisher_spectrum", function, flat)
    return values, jacobian.pull(jacobian.push(vector))


@eqx.filter_jit
def loss_hessian(
    loss: Callable, free: PyTree, rest: PyTree, args: Any
) -> tuple[Float[Array, ""], Float[Array, "n n"]]:
    """Value and Hessian of a loss."""
    function, flat = _flat_loss(loss, free, rest, args)
    return function(flat), hessian_of(function, flat)


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
        values = real_residuals(residuals(whole(x), args), "fisher_matrix")
        if weights is not None:
            values = _weighted(values, weights)
        return ravel(values)[0]

    return function, flat


def _weighted(values: PyTree, weights: PyTree) -> PyTree:
    def scaled(weight: Array, branch: PyTree) -> PyTree:
        root = jax.lax.stop_gradient(jnp.sqrt(jnp.asarray(weight)))
        return jax.tree.map(lambda leaf: leaf * root.astype(jnp.result_type(leaf)), branch)

    return jax.tree.map(scaled, weights, values)
