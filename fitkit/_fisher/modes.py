"""Forward or reverse mode: the one place that decides how a function is differentiated.

JAX differentiates most functions both ways, and some one way only: `jax.custom_vjp` (the default
adjoint of diffrax, ``odeint``) in reverse, `jax.lax.while_loop` forward. Which of them exists shows
when the derivative is traced, and nothing is compiled for that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Float, PyTree

from fitkit._jaxprs import largest_array
from fitkit._paths import ravel

# Sixteen vectors share one pass, wide enough to vectorise, where what the model makes of them stays
# in the cache: with 100,000 data 8 are as fast and with a megabyte for each vector 16 take twice
# as long; of large models (FFT optics) one at a time is twice as fast as 16. Up to twice as many go
# without a loop, whose body is compiled apart from what it has in common with the values: a quarter
# more.
BLOCK, CACHE = 16, 2**23

# What JAX and Equinox raise where a derivative does not exist; NotImplementedError among them.
_REFUSALS = (TypeError, ValueError, RuntimeError)


class NotDifferentiableError(TypeError):
    """A function of parameters that JAX can differentiate neither forward nor in reverse."""


def first(event: str, function: Callable, x: Any, *ways: Callable[[], Any]) -> Any:
    """Take the first way that can be traced: a function may lack one mode of differentiation.

    Each is traced once, and what was traced is evaluated, so that a choice costs nothing.

    Parameters
    ----------
    event
        Who asks, to open the error with: ``"gauss_newton"``.
    function, x
        What is differentiated, and where.
    ways
        Compute the same derivatives in one mode or another, the best first.

    Raises
    ------
    NotDifferentiableError
        If there is none.
    Exception
        Whatever the function itself raises.
    """
    # Without tracing, which JAX's loops in Python would not survive.
    prepare = _untraced if jax.config.jax_disable_jit else _traced  # pyright: ignore
    reasons: list[Exception] = []
    for way in ways:
        try:
            answer = prepare(way)
        except _REFUSALS as error:
            reasons.append(error)
        else:
            return answer()
    jax.eval_shape(function, x)
    raise NotDifferentiableError(_refusal(event, reasons)) from reasons[0]


def has_reverse(event: str, function: Callable, params: PyTree) -> bool:
    """Whether the gradient of a function exists in reverse mode; else it does in forward mode.

    Parameters
    ----------
    event
        Who asks, to open the error with.
    function
        ``function(params)`` -> a real number.
    params
        Tree of real floating arrays.

    Raises
    ------
    NotDifferentiableError
        If neither exists.
    """
    reasons: list[Exception] = []
    for way in (function, gradient_by_columns(function)):
        try:
            with jax.disable_jit(False):
                closed = jax.make_jaxpr(jax.grad(way))(params)
            _require_executable(closed.jaxpr)
        except _REFUSALS as error:
            reasons.append(error)
        else:
            return way is function
    raise NotDifferentiableError(_refusal(event, reasons)) from reasons[0]


def gradient_by_columns(function: Callable) -> Callable:
    """Let reverse mode differentiate a function of one tree that has forward mode only."""

    def forward(params: PyTree) -> tuple[Array, PyTree]:
        flat, unravel = ravel(params)
        value, push = jax.linearize(lambda x: function(unravel(x)), flat)
        return value, unravel(mapped(push, basis(flat)).astype(flat.dtype))

    def backward(gradient: PyTree, factor: Array) -> tuple[PyTree]:
        return (jax.tree.map(lambda one: one * factor.astype(one.dtype), gradient),)

    by_columns = jax.custom_vjp(function)
    by_columns.defvjp(forward, backward)
    return by_columns


def transposed_push(
    function: Callable, x: Float[Array, " n"]
) -> tuple[Float[Array, " m"], Callable]:
    """Return values, and the map of a vector to the derivative along it, in reverse mode alone.

    It is the pull-back of the pull-back, which is linear.
    """
    values, pull = jax.vjp(function, x)
    _, push = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(values))
    return values, lambda v: push(v)[0]


class Products(NamedTuple):
    """A Jacobian by its products with vectors, from both sides."""

    push: Callable[[Float[Array, " n"]], Float[Array, " m"]]
    pull: Callable[[Float[Array, " m"]], Float[Array, " n"]]


def products_with(
    event: str, function: Callable, x: Float[Array, " n"]
) -> tuple[Float[Array, " m"], Products]:
    """Compute values, and let their Jacobian be multiplied; reverse mode must exist."""
    try:
        values, pull = jax.vjp(function, x)
    except _REFUSALS as error:
        raise NotDifferentiableError(_refusal(event, [error])) from error
    push = jax.linear_transpose(lambda u: pull(u)[0], values)
    return values, Products(lambda v: push(v)[0], lambda u: pull(u)[0])


def jacobian_rows(
    function: Callable, x: Float[Array, " n"], of_row: Callable[[Float[Array, " n"]], Any]
) -> tuple[Float[Array, " m"], Any]:
    """Compute values, and something of every row of the Jacobian, in reverse mode."""
    values, pull = jax.vjp(function, x)

    def one(i: Array) -> Any:
        return of_row(pull(jnp.zeros_like(values).at[i].set(1))[0])

    count = values.size
    return values, jax.lax.map(one, jnp.arange(count), batch_size=max(1, min(BLOCK, count)))


def mapped(function: Callable, vectors: Float[Array, "k n"]) -> Any:
    """Apply a linear function to every row, as many at a time as is fast."""
    most = _most(function, vectors[0])
    if len(vectors) <= min(most, 2 * BLOCK):
        return jax.vmap(function)(vectors)
    count = min(most, BLOCK)
    # What is left over is put beside the rest in a copy of all.
    count = next((k for k in range(count, count // 2, -1) if len(vectors) % k == 0), count)
    return jax.lax.map(function, vectors, batch_size=count if count > 1 else None)


def _most(function: Callable, vector: Float[Array, " n"]) -> int:
    """Compute for how many vectors the largest array that a pass makes stays in the cache."""
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return BLOCK
    return max(CACHE // max(largest_array(jax.make_jaxpr(function)(vector)), 1), 1)


def basis(x: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Return the unit vectors."""
    return jnp.eye(x.size, dtype=x.dtype)


def _traced(way: Callable[[], Any]) -> Callable[[], Any]:
    closed, shape = jax.make_jaxpr(way, return_shape=True)()
    _require_executable(closed.jaxpr)
    # Without another call of the user's function.
    return lambda: jax.tree.unflatten(jax.tree.structure(shape), jaxpr_as_fun(closed)())


def _untraced(way: Callable[[], Any]) -> Callable[[], Any]:
    answer = way()
    return lambda: answer


def _require_executable(jaxpr: Any) -> None:
    """Raise where forward mode has met a `custom_vjp`, which JAX says only when it runs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "custom_lin":
            raise TypeError("a jax.custom_vjp function has a derivative in reverse mode only")
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    _require_executable(inner)


def _refusal(event: str, reasons: list[Exception]) -> str:
    said = dict.fromkeys(str(reason).strip().partition("\n")[0].rstrip(".") for reason in reasons)
    return (
        f"{event}: this function has a derivative neither in reverse mode nor in forward mode. "
        f"JAX says: {'; '.join(said)}. Give the operation that is named there a rule of its own "
        "with jax.custom_jvp or jax.custom_vjp, or write it in operations of jax.numpy; what is "
        "not fitted belongs into `args`."
    )
