"""Which elements of its operands one element of an equation's output was made from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitkit._jaxprs import single
from fitkit._nonfinite.numpy_rules import Mask, Value, evaluate, to_device

Element = tuple[int, ...]
Source = tuple[int, Mask]  # operand, and the mask of its elements

_MOVES = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice")
_MOVES += ("concatenate", "pad", "gather", "dynamic_slice", "dynamic_update_slice", "scatter")
_MOVES += ("split", "copy", "copy_p", "sharding_constraint")
_MATRIX = ("cholesky", "eigh", "eig", "lu", "qr", "geqrf", "householder_product", "svd", "schur")
_MATRIX += ("hessenberg", "tridiagonal", "triangular_solve", "lu_solve", "custom_linear_solve")
_ALONG = ("sort", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "top_k")
_LINEAR = ("scatter-add", "scatter_add", "conv_general_dilated", "reduce_window_sum", "fft")
_LINEAR += ("select_and_scatter_add",)


def sources(equation: Any, operands: list[Value | None], k: int, element: Element) -> list[Source]:
    """List the operand elements that element `element` of output `k` depends on.

    Operands of integers and booleans never appear: they steer, and hold no NaN. `operands` may
    have None where a value was dropped; then the answer may name more elements than it must.
    """
    floating = [
        j for j, atom in enumerate(equation.invars) if jnp.issubdtype(atom.aval.dtype, np.inexact)
    ]
    name = equation.primitive.name
    if name == "select_n":
        floating = _chosen(operands[0], element, floating)
    try:
        return _by_rule(equation, operands, k, element, name, floating)
    except Exception:  # an unknown form of a known primitive: everything may matter
        return [(j, np.ones(equation.invars[j].aval.shape, bool)) for j in floating]


def _by_rule(
    equation: Any,
    operands: list[Value | None],
    k: int,
    element: Element,
    name: str,
    floating: list[int],
) -> list[Source]:
    shapes = [tuple(atom.aval.shape) for atom in equation.invars]
    out = tuple(equation.outvars[k].aval.shape)
    if name == "optimization_barrier":
        return [(k, _one(shapes[k], element))] if k in floating else []
    if name in _MOVES:
        return _moved(equation, operands, k, element, floating)
    if name.startswith(("reduce_", "arg")) and "axes" in equation.params:
        axes = set(equation.params["axes"])
        return [(j, _kept(shapes[j], axes, element)) for j in floating]
    if name in _ALONG:
        axis = equation.params.get("axis", equation.params.get("dimension", -1))
        return [(j, _along(shapes[j], axis, element)) for j in floating]
    if name == "dot_general":
        return _product(equation, shapes, element, floating)
    if name in _MATRIX:
        batch = len(shapes[floating[0]]) - 2
        return [(j, _lead(shapes[j], element[: max(0, batch)])) for j in floating]
    if name in _LINEAR:
        return _probed(equation, operands, k, element, floating)
    if all(shapes[j] in (out, ()) for j in floating):
        return [(j, _one(shapes[j], element if shapes[j] else ())) for j in floating]
    return _probed(equation, operands, k, element, floating)


def _chosen(which: Value | None, element: Element, floating: list[int]) -> list[int]:
    if which is None:
        return floating
    which = np.asarray(which)
    return [1 + int(which[element] if which.ndim else which)]


def _one(shape: Element, element: Element) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[element] = True
    return mask


def _lead(shape: Element, element: Element) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[element[: len(shape)]] = True
    return mask


def _kept(shape: Element, axes: set[int], element: Element) -> np.ndarray:
    rest = iter(element)
    mask = np.zeros(shape, bool)
    mask[tuple(slice(None) if d in axes else next(rest) for d in range(len(shape)))] = True
    return mask


def _along(shape: Element, axis: int, element: Element) -> np.ndarray:
    mask = np.zeros(shape, bool)
    axis = axis % len(shape)
    mask[tuple(slice(None) if d == axis else element[d] for d in range(len(shape)))] = True
    return mask


def _product(
    equation: Any, shapes: list[Element], element: Element, floating: list[int]
) -> list[Source]:
    summed, batched = equation.params["dimension_numbers"]
    found, position = [], len(batched[0])
    for j in (0, 1):
        index: list[Any] = [slice(None)] * len(shapes[j])
        for at, d in enumerate(batched[j]):
            index[d] = element[at]
        for d in range(len(shapes[j])):
            if d not in (*summed[j], *batched[j]):
                index[d] = element[position]
                position += 1
        mask = np.zeros(shapes[j], bool)
        mask[tuple(index)] = True
        found.append((j, mask))
    return [source for source in found if source[0] in floating]


def _moved(
    equation: Any, operands: list[Value | None], k: int, element: Element, floating: list[int]
) -> list[Source]:
    """Send numbered elements through an operation that only moves them."""
    numbered, start, starts = list(operands), 1, {}
    for j in floating:
        aval = equation.invars[j].aval
        size = int(np.prod(aval.shape))
        starts[j] = (start, size)
        numbered[j] = np.arange(start, start + size).astype(aval.dtype).reshape(aval.shape)
        start += size
        if start > 2 / np.finfo(aval.dtype).eps:
            raise OverflowError("more elements than the dtype can number")
    number = np.asarray(evaluate(equation, numbered)[k])[element]
    if not np.isfinite(number):
        return []  # filled in: an index out of bounds
    found = []
    for j, (first, size) in starts.items():
        at = round(float(number.real)) - first
        if 0 <= at < size:
            shape = tuple(equation.invars[j].aval.shape)
            found.append((j, _one(shape, tuple(map(int, np.unravel_index(at, shape))))))
    return found


def _probed(
    equation: Any, operands: list[Value | None], k: int, element: Element, floating: list[int]
) -> list[Source]:
    """Read the dependence off the derivative at a random point."""
    random = np.random.default_rng(0)
    function = single(equation)

    def of_floats(*floats: Any) -> Any:
        full = list(operands)
        for j, value in zip(floating, floats, strict=True):
            full[j] = value
        return function(*map(to_device, full))[k]

    points = [
        jnp.asarray(random.uniform(0.5, 1.5, equation.invars[j].aval.shape)).astype(
            equation.invars[j].aval.dtype
        )
        for j in floating
    ]
    out, pull = jax.vjp(of_floats, *points)
    gradients = pull(jnp.zeros_like(out).at[element].set(1))
    return [(j, np.asarray(g) != 0) for j, g in zip(floating, gradients, strict=True)]
