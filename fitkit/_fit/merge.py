"""Many small arrays treated alike become one vector: the arithmetic of a step, merged.

A model of a hundred scalars makes an optimiser of hundreds of kernels, each with the cost of a
call and next to no work. Here a traced function is rewritten: instructions that do the same to
different arrays become one on their elements side by side, and what differs between them (a
learning rate, a bias correction) becomes a vector. What is not elementwise stays as it was traced,
so that no rule has to know which optimisers mix parameters, and every element is computed by the
same operations as before.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fitkit._fit.stretches import Place, Stretches
from fitkit._jaxprs import ELEMENTWISE, Constant, Instruction, Listing, evaluate, listing

#: Arrays of more elements stay alone: from here on the work of a kernel exceeds the cost of its
#: call, and sums over stretches lose against dot products.
SMALL = 64


def _sums(table: Array) -> Array:
    return jnp.sum(table, axis=1, dtype=table.dtype)


#: What makes one number of all elements, and how it does so for every row of a table.
_REDUCTIONS = {
    "reduce_sum": _sums,
    "reduce_max": lambda table: jnp.max(table, axis=1),
    "reduce_min": lambda table: jnp.min(table, axis=1),
    "dot_general": _sums,
}


class _Value(NamedTuple):
    """An operand or a result: where its elements are, its shape, and what expression it is."""

    place: Place | Constant
    shape: tuple[int, ...]
    term: int

    @property
    def size(self) -> int:
        """How many elements are stored: 1 of a number that was broadcast."""
        return 1 if isinstance(self.place, Constant) else self.place.size

    @property
    def wanted(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape))


class _Line(NamedTuple):
    """An instruction with its operands, and the sources that it defines."""

    equation: Any
    operands: tuple[_Value, ...]
    sources: tuple[int, ...]


class Merged:
    """A traced function whose elementwise instructions on small arrays are merged.

    Two instructions are merged if they are the same expression of inputs that were packed
    together, whatever their constants. An expression is never part of itself, so merging those of
    equal depth, the shallow ones first, needs no further order.

    Parameters
    ----------
    closed
        The function, as `jax.make_jaxpr` traces it.
    groups
        Which of its inputs come side by side in one vector, by their numbers; an input alone is a
        group of one, and comes as it is.
    """

    def __init__(self, closed: Any, groups: Sequence[Sequence[int]]) -> None:
        self._terms: dict[Hashable, int] = {}
        self._depths: list[int] = []
        self._many: list[bool] = []
        self._values: dict[int, _Value] = {}
        self._constants: dict[int, _Value] = {}
        self._arrays: list[tuple[int, Any]] = []
        self._sources = 0
        self._lines: dict[int, list[_Line]] = {}
        self._known: dict[Hashable, _Line] = {}
        # Held, so that the identities of its constants stay theirs.
        self._listing = read = listing(closed)
        self._inputs = [self._take(read, closed.jaxpr.invars, group) for group in groups]
        for instruction in read.instructions:
            self._read(instruction)
        self._outputs = [self._value(operand) for operand in read.outputs]

    def __call__(self, inputs: Sequence[Any], groups: Sequence[Sequence[int]]) -> list[Array]:
        """Compute the outputs.

        Parameters
        ----------
        inputs
            One array for every group of inputs.
        groups
            Which outputs to return side by side in one vector, as for the inputs.
        """
        stretches = Stretches()
        for source, value in [*zip(self._inputs, inputs, strict=True), *self._arrays]:
            stretches.define(source, jnp.asarray(value))
        for term in sorted(self._lines, key=self._depths.__getitem__):
            lines = self._lines[term]
            # What is the same for all (a count of steps, say) stays as it was traced.
            if len(lines) > 1 and self._many[term]:
                _compute_together(stretches, lines)
            else:
                for line in lines:
                    _compute_alone(stretches, line)
        return [
            _array(stretches, self._outputs[group[0]])
            if len(group) == 1
            else _vector(stretches, [self._outputs[index] for index in group])
            for group in groups
        ]

    def _source(self) -> int:
        self._sources += 1
        return self._sources - 1

    def _take(self, read: Listing, variables: Sequence[Any], group: Sequence[int]) -> int:
        """Note where the inputs of a group are."""
        source, start = self._source(), 0
        term = self._term(("input", source), (), many=len(group) > 1)
        for index in group:
            aval = variables[index].aval
            place = Place(source, start, aval.size)
            self._values[read.inputs[index]] = _Value(place, aval.shape, term)
            start += aval.size
        return source

    def _term(self, key: Hashable, below: Sequence[int], many: bool) -> int:
        """Return the number of an expression; equal ones have equal numbers.

        There may be many arrays that are the same expression, or but one.
        """
        term = self._terms.setdefault((key, tuple(below)), len(self._terms))
        if term == len(self._depths):
            self._depths.append(1 + max((self._depths[one] for one in below), default=0))
            self._many.append(many)
        return term

    def _value(self, operand: int | Constant) -> _Value:
        if not isinstance(operand, Constant):
            return self._values[operand]
        value = operand.value
        if id(value) not in self._constants:
            kind = str(value.dtype)
            if np.size(value) == 1 and isinstance(value, np.ndarray | np.generic):
                one = Constant(np.reshape(value, ()))
                term = self._term(("number", kind), (), many=False)
                self._constants[id(value)] = _Value(one, np.shape(value), term)
            else:
                source = self._source()
                self._arrays.append((source, value))
                alike = np.size(value) <= SMALL or source
                term = self._term(("constant", kind, alike), (), many=False)
                place = Place(source, 0, np.size(value))
                self._constants[id(value)] = _Value(place, np.shape(value), term)
        return self._constants[id(value)]

    def _read(self, instruction: Instruction) -> None:
        """Find out what an instruction computes, and with which others."""
        name, equation = instruction.name, instruction.equation
        operands = tuple(self._value(operand) for operand in instruction.operands)
        results = [variable.aval for variable in equation.outvars]
        if moved := _moved(name, equation.params, operands, results):
            if len(moved) > 1 or moved[0].wanted < operands[0].wanted:
                term = self._term("pieces", (operands[0].term,), many=True)
                moved = [one._replace(term=term) for one in moved]
            self._values.update(zip(instruction.results, moved, strict=True))
            return
        terms = [one.term for one in operands]
        key, alike = self._key(equation, operands)
        term = self._term(key, terms, many=alike and any(self._many[one] for one in terms))
        shape = results[0].shape if results else ()
        same = term, tuple(_identity(one.place) for one in operands), shape
        line = self._known.get(same)
        if line is None or len(results) != 1:
            line = _Line(equation, operands, tuple(self._source() for _ in results))
            self._lines.setdefault(term, []).append(line)
            self._known[same] = line
        for k, (result, aval) in enumerate(zip(instruction.results, results, strict=True)):
            own = term if len(results) == 1 else self._term(("result", k), (term,), many=False)
            place = Place(line.sources[k], 0, getattr(aval, "size", 1))
            self._values[result] = _Value(place, getattr(aval, "shape", ()), own)

    def _key(self, equation: Any, operands: Sequence[_Value]) -> tuple[Hashable, bool]:
        """Return what tells an expression from others of the same operands.

        And whether it is such that many of them may be computed as one.
        """
        name: str = equation.primitive.name
        out: Any = equation.outvars[0].aval if equation.outvars else None
        if name in ELEMENTWISE and out.size <= SMALL:
            params = tuple(sorted((key, str(one)) for key, one in equation.params.items()))
            return (name, params, str(out.dtype)), True
        if _is_reduction(name, operands, out):
            return ("reduction", name, str(out.dtype)), True
        return (name, id(equation)), False


def _compute_alone(stretches: Stretches, line: _Line) -> None:
    equation = line.equation
    if equation.primitive.name in ("concatenate", "stack") and equation.outvars[0].aval.ndim == 1:
        values = [_vector(stretches, line.operands)]
    else:
        values = evaluate(equation, [_array(stretches, one) for one in line.operands])
    for source, value in zip(line.sources, values, strict=True):
        stretches.define(source, value)


def _compute_together(stretches: Stretches, lines: Sequence[_Line]) -> None:
    equation, name = lines[0].equation, lines[0].equation.primitive.name
    columns = list(zip(*(line.operands for line in lines), strict=True))
    sources = [line.sources[0] for line in lines]
    if name in ELEMENTWISE:
        sizes = [line.equation.outvars[0].aval.size for line in lines]
        vectors = [_vector(stretches, column, sizes) for column in columns]
        stretches.define_parts(sources, sizes, evaluate(equation, vectors)[0])
        return
    # Those of one size are a table: a scatter by segments costs three times as much.
    for size in sorted({one.wanted for one in columns[0]}):
        mine = [k for k, one in enumerate(columns[0]) if one.wanted == size]
        vectors = [_vector(stretches, [column[k] for k in mine]) for column in columns]
        elements = vectors[0] if len(vectors) == 1 else lax.mul(*vectors)
        reduced = _REDUCTIONS[name](elements.reshape(len(mine), size))
        stretches.define_parts([sources[k] for k in mine], [1] * len(mine), reduced)


def _array(stretches: Stretches, value: _Value) -> Array:
    """Return a value by itself, in its own shape."""
    if isinstance(value.place, Constant):
        return jnp.broadcast_to(value.place.value, value.shape)
    return stretches.array(value.place, value.shape)


def _vector(
    stretches: Stretches, values: Sequence[_Value], sizes: Sequence[int] | None = None
) -> Array:
    """Return the elements of some values side by side, single ones repeated to their size."""
    return stretches.vector([one.place for one in values], sizes or [one.wanted for one in values])


def _identity(place: Place | Constant) -> Hashable:
    """Return what tells two operands apart."""
    if isinstance(place, Constant):
        return np.asarray(place.value).tobytes()
    return place


def _moved(
    name: str, params: Any, operands: Sequence[_Value], results: Sequence[Any]
) -> list[_Value]:
    """Return where the results are of what computes nothing; an empty list of anything else."""
    if len(operands) != 1:
        return []
    (whole,) = operands
    shape = results[0].shape
    if name in ("reshape", "squeeze", "expand_dims") and params.get("dimensions") is None:
        return [whole._replace(shape=shape)]
    if name == "squeeze":
        return [whole._replace(shape=shape)]
    if name == "broadcast_in_dim":
        alike = whole.size == 1 or whole.wanted == results[0].size
        return [whole._replace(shape=shape)] if alike else []
    if isinstance(whole.place, Constant) or len(whole.shape) != 1 or whole.size != whole.wanted:
        return []
    if name == "split":
        starts = np.cumsum([0, *(one.size for one in results[:-1])]).tolist()
    elif name == "slice" and params["strides"] in (None, (1,)):
        starts = list(params["start_indices"])
    else:
        return []
    source, first, _ = whole.place
    return [
        whole._replace(place=Place(source, first + start, one.size), shape=one.shape)
        for start, one in zip(starts, results, strict=True)
    ]


def _is_reduction(name: str, operands: Sequence[_Value], out: Any) -> bool:
    """Whether one number is made of all elements of a small array."""
    if name not in _REDUCTIONS or out.shape != () or not 1 < operands[0].wanted <= SMALL:
        return False
    if any(isinstance(one.place, Constant) for one in operands):
        return False
    # A product of an array by itself is a sum of squares; of two, one may be a matrix.
    return all(one.place == operands[0].place for one in operands)
