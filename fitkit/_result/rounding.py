"""How coarsely a function computes: the precision that its values pass through, and its noise."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal  # pyright: ignore[reportPrivateImportUsage]
from jaxtyping import Array, Float, PyTree

# Distance of the points at which noise is measured, in units of rounding of the parameters: far
# enough that they are distinct, and near enough that curvature shows nothing (Moré and Wild,
# "Estimating computational noise", SIAM J. Sci. Comput. 33, 1292, 2011).
APART = 8
# Pairs of points: three differences average out luck, at the price of six evaluations.
PAIRS = 3
# The second difference of independent errors of size e is of size √(1 + 4 + 1) e.
SECOND_DIFFERENCE = 6**0.5


@eqx.filter_jit
def coarsest_eps(function: Callable, free: PyTree, held: PyTree, args: Any) -> Float[Array, ""]:
    """Find the unit of rounding of the coarsest dtype that a value made of `free` passes through.

    Read off the traced function, so that float32 inside a model with float64 parameters is seen.
    The dtype of the parameters themselves counts too. (Compiled, the walk is done once for a
    function and shapes.)
    """
    leaves, structure = jax.tree.flatten(free)

    def of_leaves(leaves: list) -> Any:
        return function(eqx.combine(jax.tree.unflatten(structure, leaves), held), args)

    closed = jax.make_jaxpr(of_leaves)(leaves)
    found: set[Any] = {leaf.dtype for leaf in leaves}
    _walk(closed.jaxpr, [True] * len(leaves), found)
    return jnp.asarray(max(float(jnp.finfo(dtype).eps) for dtype in found), float)


def _walk(jaxpr: Jaxpr, depends: list[bool], found: set) -> list[bool]:
    """Collect the floating dtypes of what depends on the inputs marked; mark the outputs."""
    marked = {variable for variable, mark in zip(jaxpr.invars, depends, strict=True) if mark}
    for equation in jaxpr.eqns:
        inputs = [_among(v, marked) for v in equation.invars]
        if not any(inputs):
            continue
        for variable, mark in zip(equation.outvars, _outputs(equation, inputs, found), strict=True):
            if mark:
                marked.add(variable)
                dtype: Any = getattr(variable.aval, "dtype", None)
                if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
                    found.add(dtype)
    return [_among(v, marked) for v in jaxpr.outvars]


def _among(variable: Any, marked: set) -> bool:
    return not isinstance(variable, Literal) and variable in marked


def _outputs(equation: Any, inputs: list[bool], found: set) -> list[bool]:
    """Mark the outputs of an equation, walking the functions inside it."""
    every = [True] * len(equation.outvars)
    inner = _inner(equation)
    if not inner:
        return every
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        if "ft_in" in params:  # Newer JAX keeps trees in place of counts.
            constants, carry = (
                len(jax.tree.leaves(one, is_leaf=lambda leaf: leaf is None))
                for one in params["ft_in"][:2]
            )
        else:
            constants, carry = params["num_consts"], params["num_carry"]
        return _fixed_point(inner[0], inputs, constants, carry, found)
    if name == "while":
        inner = [params["body_jaxpr"].jaxpr]
        passed = inputs[params["cond_nconsts"] :]
        return _fixed_point(inner[0], passed, params["body_nconsts"], len(every), found)
    marks = [False] * len(every)
    for one in inner:
        # What chooses a branch comes before its operands.
        count = len(one.invars)
        passed = inputs[len(inputs) - count :] if count <= len(inputs) else [True] * count
        reached = _walk(one, passed, found)
        if len(reached) != len(every):
            return every
        marks = [mark or reach for mark, reach in zip(marks, reached, strict=True)]
    return marks


def _fixed_point(
    inner: Jaxpr, passed: list[bool], start: int, carried: int, found: set
) -> list[bool]:
    """Walk the body of a loop until what it carries is marked for good."""
    while True:
        marks = _walk(inner, passed, found)
        grown = [*passed]
        for i in range(carried):
            grown[start + i] |= marks[i]
        if grown == passed:
            return marks
        passed = grown


def _inner(equation: Any) -> list[Jaxpr]:
    values = [
        one
        for value in equation.params.values()
        for one in (value if isinstance(value, tuple | list) else (value,))
    ]
    found = [one.jaxpr if isinstance(one, ClosedJaxpr) else one for one in values]
    return [one for one in found if isinstance(one, Jaxpr)]


def measured_noise(
    at: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    x: Float[np.ndarray, " n"],
    steps: Float[np.ndarray, " n"],
) -> tuple[float, Float[np.ndarray, "pairs n"]]:
    """Measure rounding errors by second differences.

    Parameters
    ----------
    at
        Computes values and the gradient of the loss.
    x
        Where.
    steps
        One unit of rounding of every element.

    Returns
    -------
    values : float
        Length of the errors of the values.
    gradients : Float[np.ndarray, "pairs n"]
        Errors of the gradient, one row for a pair of points.
    """
    values, gradient = at(x)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (PAIRS, x.size))
    squares, rows = 0.0, []
    for sign in signs:
        (after, up), (before, down) = at(x + APART * sign * steps), at(x - APART * sign * steps)
        bent = np.nan_to_num(after - 2 * values + before) / SECOND_DIFFERENCE
        squares += float(bent @ bent) / PAIRS
        rows.append(np.nan_to_num(up - 2 * gradient + down) / SECOND_DIFFERENCE)
    return squares**0.5, np.stack(rows)
