"""Traced functions, read as a list of instructions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

# What only calls another function.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}

# What does the same to every element. Operands are of the result's shape, or scalars.
# fmt: off
ELEMENTWISE = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "cbrt", "ceil", "clamp", "convert_element_type", "copy", "cos", "cosh", "div", "eq", "erf",
    "exp", "exp2", "expm1", "floor", "ge", "gt", "imag", "integer_pow", "is_finite", "le", "log",
    "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "pow",
    "real", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub",
    "tan", "tanh", "xor",
))
# fmt: on


class Constant(NamedTuple):
    """An operand that is known when a function is traced."""

    value: Any


class Instruction(NamedTuple):
    """One operation.

    Attributes
    ----------
    equation
        As JAX has it: the primitive, its parameters and the shapes of its results.
    operands
        A `Constant`, or the number of a value: that of an input or of an earlier result.
    results
        The numbers of what it computes.
    """

    equation: Any
    operands: tuple[int | Constant, ...]
    results: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.equation.primitive.name


class Listing(NamedTuple):
    """A function as instructions, those of the functions that it calls among them.

    Attributes
    ----------
    inputs
        The numbers of its inputs.
    instructions
        In an order in which they can be carried out.
    outputs
        What it returns.
    """

    inputs: tuple[int, ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[int | Constant, ...]


def listing(closed: Any) -> Listing:
    """List the instructions of a function as `jax.make_jaxpr` traces it."""
    known: dict[Any, int | Constant] = {}
    count = 0

    def number(variable: Any) -> int:
        nonlocal count
        count += 1
        known[variable] = count - 1
        return count - 1

    def operand(atom: Any) -> int | Constant:
        if isinstance(atom, jex.Literal):
            aval: Any = atom.aval
            return Constant(np.asarray(atom.val, aval.dtype))
        return known[atom]

    def read(jaxpr: Any, constants: Sequence[Any]) -> Iterator[Instruction]:
        known.update(zip(jaxpr.constvars, map(Constant, constants), strict=True))
        for equation in jaxpr.eqns:
            operands = tuple(map(operand, equation.invars))
            inner = equation.params.get(_CALLS.get(equation.primitive.name, ""))
            if inner is None:
                yield Instruction(equation, operands, tuple(map(number, equation.outvars)))
                continue
            # JAX traces a function once, so that the same variables may stand for many calls.
            known.update(zip(inner.jaxpr.invars, operands, strict=True))
            yield from read(inner.jaxpr, inner.consts)
            results = map(operand, inner.jaxpr.outvars)
            known.update(zip(equation.outvars, list(results), strict=True))

    inputs = tuple(map(number, closed.jaxpr.invars))
    instructions = tuple(read(closed.jaxpr, closed.consts))
    return Listing(inputs, instructions, tuple(map(operand, closed.jaxpr.outvars)))


def evaluate(equation: Any, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation on values of all its operands, literals too."""
    if equation.primitive.name in ELEMENTWISE:
        return [equation.primitive.bind(*values, **equation.params)]
    return single(equation)(*values)


def single(equation: Any) -> Callable[..., list[Any]]:
    """Make a function of all operands of an equation (literals too) from it."""
    fresh = [(k, v) for k, v in enumerate(equation.invars) if not isinstance(v, jex.Literal)]
    # A variable may stand twice among the operands, and a jaxpr binds each input once.
    unique = list({id(v): (k, v) for k, v in reversed(fresh)}.values())
    jaxpr = jex.Jaxpr(
        (),
        [v for _, v in unique],
        equation.outvars,
        [equation],
        equation.effects,
        _debug_info(len(unique), len(equation.outvars)),
    )
    closed = jex.ClosedJaxpr(jaxpr, ())  # pyright: ignore[reportPrivateImportUsage]
    function = jex.jaxpr_as_fun(closed)
    return lambda *values: function(*(values[k] for k, _ in unique))


def _debug_info(inputs: int, outputs: int) -> Any:
    return jex.DebugInfo("replay", "fitkit", tuple(f"x{k}" for k in range(inputs)), ("",) * outputs)


def largest_array(closed: Any) -> int:
    """Return the bytes of the largest array that a traced function makes."""
    return _largest(closed.jaxpr)


def _largest(jaxpr: Any) -> int:
    sizes = [
        variable.aval.size * np.dtype(variable.aval.dtype).itemsize
        for equation in jaxpr.eqns
        for variable in equation.outvars
        if isinstance(getattr(variable.aval, "dtype", None), np.dtype)
    ]
    inner = [_largest(one) for equation in jaxpr.eqns for one in _inner(equation)]
    return max([*sizes, *inner], default=0)


def passed_through(closed: Any) -> set[Any]:
    """Collect the floating dtypes that values made of a function's inputs pass through.

    Of complex ones that of their parts.
    """
    found: set[Any] = set()
    _walk(closed.jaxpr, [True] * len(closed.jaxpr.invars), found)
    return found


def _walk(jaxpr: Any, depends: list[bool], found: set) -> list[bool]:
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
                if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
                    found.add(jnp.finfo(dtype).dtype)
    return [_among(v, marked) for v in jaxpr.outvars]


def _among(variable: Any, marked: set) -> bool:
    return not isinstance(variable, jex.Literal) and variable in marked


def _outputs(equation: Any, inputs: list[bool], found: set) -> list[bool]:
    """Mark the outputs of an equation, walking the functions inside it."""
    every = [True] * len(equation.outvars)
    inner = _inner(equation)
    if not inner:
        return every
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        if "ft_in" in params:  # Newer JAX keeps trees in place of counts.
            constants, carry = (len(one) for one in params["ft_in"].unpack()[:2])
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
    inner: Any, passed: list[bool], start: int, carried: int, found: set
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


def _inner(equation: Any) -> list[Any]:
    values = [
        one
        for value in equation.params.values()
        for one in (value if isinstance(value, tuple | list) else (value,))
    ]
    found = [one.jaxpr if isinstance(one, jex.ClosedJaxpr) else one for one in values]  # pyright: ignore[reportPrivateImportUsage]
    return [one for one in found if isinstance(one, jex.Jaxpr)]
