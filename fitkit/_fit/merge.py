"""Many small arrays treated alike become one vector: the arithmetic of a step, merged.

A model of a hundred scalars makes an optimiser of hundreds of kernels, each with the cost of a
call and next to no work. Here a traced function is rewritten: instructions that do the same to
different arrays become one on their elements side by side, and what differs between them (a
learning rate, a bias correction) becomes a vector. What is not elementwise stays as it was traced,
so that no rule has to know which optimisers mix parameters, and every element is computed by the
same operations as before.
"""

import itertools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array

from fitkit._nonfinite import single

#: Arrays of more elements stay alone: from here on the work of a kernel exceeds the cost of its
#: call, and norms of segments lose against dot products.
SMALL = 64

#: Up to so many stretches are cut out and joined; beyond, one gather is cheaper.
_FEW = 8

#: What does the same to every element. Operands are of the result's shape, or scalars.
_ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "cos",
        "cosh",
        "div",
        "eq",
        "erf",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "pow",
        "real",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)
#: What makes one number of all elements.
_REDUCTIONS = {
    "reduce_sum": jax.ops.segment_sum,
    "reduce_max": jax.ops.segment_max,
    "reduce_min": jax.ops.segment_min,
}
#: What only calls another function.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}


class _Place(NamedTuple):
    """Where the elements of an array are: a stretch of a vector."""

    source: int
    start: int
    size: int


class _Operand(NamedTuple):
    """An operand of an instruction: the array of a place, or a constant."""

    place: _Place | None
    value: Any
    shape: tuple[int, ...]
    term: int

    @property
    def size(self) -> int:
        return 1 if self.place is None else self.place.size


class _Instruction(NamedTuple):
    equation: Any
    operands: tuple[_Operand, ...]
    sources: tuple[int, ...]


class Merged:
    """A traced function whose elementwise instructions on small arrays are merged.

    Parameters
    ----------
    closed
        The function, as `jax.make_jaxpr` traces it.
    groups
        Which of its inputs come side by side in one vector, by their numbers; an input alone is a
        group of one, and comes as it is.
    """

    def __init__(self, closed: ClosedJaxpr, groups: Sequence[Sequence[int]]) -> None:
        self._groups = groups
        self._terms: dict[Hashable, int] = {}
        self._depths: list[int] = []
        self._many: list[bool] = []
        self._places: dict[Any, _Operand] = {}
        self._count = itertools.count()
        self._classes: dict[int, list[_Instruction]] = {}
        self._known: dict[Hashable, _Instruction] = {}
        self._constants: list[tuple[int, Any]] = []
        jaxpr = closed.jaxpr
        self._inputs = [next(self._count) for _ in groups]
        for source, group in zip(self._inputs, groups, strict=True):
            start = 0
            # Whatever is packed together is expected to be treated alike.
            term = self._term(("input", source), ())
            self._many[term] = len(group) > 1
            for index in group:
                variable = jaxpr.invars[index]
                size = variable.aval.size
                place = _Place(source, start, size)
                self._places[variable] = _Operand(place, None, variable.aval.shape, term)
                start += size
        self._read(jaxpr, closed.consts)
        self._outputs = [self._operand(variable) for variable in jaxpr.outvars]

    # Reading.

    def _term(self, key: Hashable, below: Sequence[int]) -> int:
        """Number an expression; equal ones have equal numbers, and none is part of itself."""
        term = self._terms.setdefault((key, tuple(below)), len(self._terms))
        if term == len(self._depths):
            self._depths.append(1 + max((self._depths[one] for one in below), default=0))
            self._many.append(any(self._many[one] for one in below))
        return term

    def _operand(self, variable: Any) -> _Operand:
        if isinstance(variable, Literal):
            dtype = variable.aval.dtype
            term = self._term(("literal", str(dtype)), ())
            return _Operand(None, np.asarray(variable.val, dtype), (), term)
        return self._places[variable]

    def _read(self, jaxpr: Any, constants: Sequence[Any]) -> None:
        for variable, value in zip(jaxpr.constvars, constants, strict=True):
            if np.size(value) == 1 and isinstance(value, np.ndarray | np.generic):
                term = self._term(("literal", str(value.dtype)), ())
                operand = _Operand(None, np.reshape(value, ()), np.shape(value), term)
            else:
                source = next(self._count)
                self._constants.append((source, value))
                small = np.size(value) <= SMALL
                key = ("constant", str(value.dtype), None if small else source)
                place = _Place(source, 0, np.size(value))
                operand = _Operand(place, None, np.shape(value), self._term(key, ()))
            self._places[variable] = operand
        for equation in jaxpr.eqns:
            self._read_equation(equation)

    def _read_equation(self, equation: Any) -> None:
        name, params = equation.primitive.name, equation.params
        operands = tuple(self._operand(one) for one in equation.invars)
        if (inner := _called(name, params)) is not None:
            for variable, operand in zip(inner.jaxpr.invars, operands, strict=True):
                self._places[variable] = operand
            self._read(inner.jaxpr, inner.consts)
            for outer, within in zip(equation.outvars, inner.jaxpr.outvars, strict=True):
                self._places[outer] = self._operand(within)
            return
        out = equation.outvars[0].aval
        if len(operands) == 1 and (pieces := _pieces(name, params, operands[0], equation.outvars)):
            term = self._term(("pieces",), (operands[0].term,))
            self._many[term] = True
            for variable, piece in zip(equation.outvars, pieces, strict=True):
                self._places[variable] = piece._replace(term=term)
            return
        if len(operands) == 1 and (same := _same_elements(name, params, operands[0], out)):
            self._places[equation.outvars[0]] = same
            return
        terms = [one.term for one in operands]
        # What is the same for all (a count of steps, its bias correction) stays as it was traced.
        many = any(self._many[one] for one in terms)
        key: Hashable
        if many and name in _ELEMENTWISE and out.size <= SMALL:
            key = (name, _frozen(params), str(out.dtype))
        elif many and (reduced := _reduction(name, params, operands, out)) is not None:
            key = (reduced, str(out.dtype))
        else:
            key = (name, id(equation))
        term = self._term(key, terms)
        where = tuple(
            (one.place, None if one.value is None else str(one.value)) for one in operands
        )
        instruction = self._known.get((term, where, out.shape))
        if instruction is None or len(equation.outvars) > 1:
            sources = tuple(next(self._count) for _ in equation.outvars)
            instruction = _Instruction(equation, operands, sources)
            self._classes.setdefault(term, []).append(instruction)
            self._known[term, where, out.shape] = instruction
        for position, (variable, source) in enumerate(
            zip(equation.outvars, instruction.sources, strict=True)
        ):
            if type(variable).__name__ == "DropVar":
                continue
            aval = variable.aval
            own = term if len(equation.outvars) == 1 else self._term(("part", position), (term,))
            place = _Place(source, 0, aval.size)
            self._places[variable] = _Operand(place, None, aval.shape, own)

    # Computing.

    def __call__(self, inputs: Sequence[Any], groups: Sequence[Sequence[int]]) -> list[Array]:
        """Compute the outputs.

        Parameters
        ----------
        inputs
            One array for every group of inputs.
        groups
            Which outputs to return side by side in one vector, as for the inputs.
        """
        env = _Environment()
        for source, value in zip(self._inputs, inputs, strict=True):
            env.define(source, jnp.asarray(value))
        for source, value in self._constants:
            env.define(source, jnp.asarray(value))
        for term in sorted(self._classes, key=self._depths.__getitem__):
            members = self._classes[term]
            if len(members) == 1 or not _is_merged(members[0].equation, members[0].operands):
                for one in members:
                    _compute_alone(env, one)
            else:
                _compute_together(env, members)
        outputs = []
        for group in groups:
            operands = [self._outputs[index] for index in group]
            if len(group) == 1:
                outputs.append(env.array(operands[0]))
            else:
                outputs.append(env.vector(operands, [_size(one) for one in operands]))
        return outputs


class _Environment:
    """The values of all places so far."""

    def __init__(self) -> None:
        self._sources: dict[int, Array] = {}
        self._moved: dict[int, tuple[int, int]] = {}
        self._pieces: dict[int, dict[tuple[int, int], Array]] = {}
        self._cuts: dict[int, list[int]] = {}

    def define(self, source: int, value: Array) -> None:
        self._sources[source] = value

    def define_parts(self, sources: Sequence[int], sizes: Sequence[int], vector: Array) -> None:
        """Say that some sources are stretches of one vector."""
        whole = sources[0]
        self._sources[whole] = vector
        starts = np.cumsum([0, *sizes])
        self._cuts[whole] = [int(size) for size in sizes]
        for source, start in zip(sources, starts, strict=False):
            self._moved[source] = (whole, int(start))

    def _find(self, place: _Place) -> _Place:
        source, start = self._moved.get(place.source, (place.source, 0))
        return _Place(source, start + place.start, place.size)

    def array(self, operand: _Operand) -> Array:
        """Return an operand by itself, in its own shape."""
        if operand.place is None:
            return jnp.broadcast_to(operand.value, operand.shape)
        place = self._find(operand.place)
        flat = self._cut(place)
        if flat.shape == operand.shape:
            return flat
        if place.size == 1:
            return lax.broadcast(lax.reshape(flat, ()), operand.shape)
        return lax.reshape(flat, operand.shape)

    def _cut(self, place: _Place) -> Array:
        whole = self._sources[place.source]
        if whole.size == place.size:
            return whole
        sizes = self._cuts.get(place.source)
        if sizes is not None:
            pieces = self._pieces.get(place.source)
            if pieces is None:
                starts = np.cumsum([0, *sizes]).tolist()
                parts = lax.split(whole, sizes)
                pieces = {(s, n): part for s, n, part in zip(starts, sizes, parts, strict=False)}
                self._pieces[place.source] = pieces
            if (place.start, place.size) in pieces:
                return pieces[place.start, place.size]
        return lax.slice(whole.ravel(), (place.start,), (place.start + place.size,))

    def vector(self, operands: Sequence[_Operand], sizes: Sequence[int]) -> Array:
        """Return the elements of operands side by side, single ones repeated to their size."""
        first = operands[0]
        if all(one.place is None for one in operands):
            values = [one.value for one in operands]
            if all(value == values[0] or value is values[0] for value in values):
                return lax.broadcast(first.value, (sum(sizes),))
            return jnp.asarray(np.repeat(np.stack(values), sizes))
        if all(one.place is not None for one in operands):
            places = [self._find(one.place) for one in operands if one.place is not None]
            if len({place.source for place in places}) == 1:
                return self._gathered(places, sizes)
        parts = []
        for alike, run in itertools.groupby(
            zip(operands, sizes, strict=True),
            key=lambda pair: None if pair[0].place is None else self._find(pair[0].place).source,
        ):
            some = list(run)
            if len(some) == len(operands):
                alike = None
            if alike is None or len(some) == 1:
                parts += [_spread(self.array(one), size) for one, size in some]
            else:
                parts.append(self.vector([one for one, _ in some], [size for _, size in some]))
        return lax.concatenate(parts, 0)

    def _gathered(self, places: Sequence[_Place], sizes: Sequence[int]) -> Array:
        """Return stretches of one vector."""
        whole = self._sources[places[0].source].ravel()
        if len(set(places)) == 1 and places[0].size == 1:
            return lax.broadcast(lax.reshape(self._cut(places[0]), ()), (sum(sizes),))
        indices = np.concatenate(
            [
                np.arange(place.start, place.start + place.size)
                if place.size == size
                else np.full(size, place.start)
                for place, size in zip(places, sizes, strict=True)
            ]
        )
        if np.array_equal(indices, np.arange(whole.size)):
            return whole
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        if len(breaks) < _FEW:
            runs = np.split(indices, breaks)
            parts = [lax.slice(whole, (int(r[0]),), (int(r[-1]) + 1,)) for r in runs]
            return parts[0] if len(parts) == 1 else lax.concatenate(parts, 0)
        return whole.at[indices].get(mode="promise_in_bounds", unique_indices=False)


def _compute_alone(env: _Environment, one: _Instruction) -> None:
    equation = one.equation
    if equation.primitive.name in ("concatenate", "stack") and equation.outvars[0].aval.ndim == 1:
        sizes = [_size(operand) for operand in one.operands]
        env.define(one.sources[0], env.vector(one.operands, sizes))
        return
    values = single(equation)(*(env.array(operand) for operand in one.operands))
    for source, value in zip(one.sources, values, strict=True):
        env.define(source, value)


def _compute_together(env: _Environment, members: Sequence[_Instruction]) -> None:
    equation = members[0].equation
    primitive, params = equation.primitive, equation.params
    sources = [one.sources[0] for one in members]
    if primitive.name in _ELEMENTWISE:
        sizes = [one.equation.outvars[0].aval.size for one in members]
        columns = zip(*(one.operands for one in members), strict=True)
        out = primitive.bind(*(env.vector(column, sizes) for column in columns), **params)
        env.define_parts(sources, sizes, out)
        return
    # A reduction: of every member's own elements.
    sizes = [_size(one.operands[0]) for one in members]
    values = [env.vector(column, sizes) for column in zip(*(m.operands for m in members))]
    elements = values[0] if len(values) == 1 else lax.mul(*values)
    if max(sizes) > 1:
        reduce = _REDUCTIONS.get(primitive.name, jax.ops.segment_sum)
        numbers = np.repeat(np.arange(len(sizes)), sizes)
        elements = reduce(elements, numbers, len(sizes), indices_are_sorted=True)
    env.define_parts(sources, [1] * len(sizes), elements)


def _is_merged(equation: Any, operands: Sequence[_Operand]) -> bool:
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name in _ELEMENTWISE:
        return out.size <= SMALL
    return _reduction(name, equation.params, operands, out) is not None


def _same_elements(name: str, params: Any, operand: _Operand, out: Any) -> _Operand | None:
    """Return the operand where an instruction only gives its elements another shape."""
    if name == "convert_element_type":
        return None
    if name in ("reshape", "squeeze", "expand_dims", "copy"):
        if params.get("dimensions") is not None and name == "reshape":
            return None
        return operand._replace(shape=out.shape)
    if name == "broadcast_in_dim":
        alike = operand.size == 1 or _size(operand) == out.size
        return operand._replace(shape=out.shape) if alike else None
    return None


def _pieces(name: str, params: Any, whole: _Operand, outs: Sequence[Any]) -> list[_Operand]:
    """Return where the elements are of what is cut out of a vector; nothing of anything else."""
    place = whole.place
    if place is None or len(whole.shape) != 1 or whole.size != whole.shape[0]:
        return []
    sizes = [variable.aval.size for variable in outs]
    if name == "split":
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
    elif name == "slice" and params["strides"] in (None, (1,)):
        starts = list(params["start_indices"])
    else:
        return []
    return [
        whole._replace(
            place=_Place(place.source, place.start + start, size), shape=variable.aval.shape
        )
        for start, size, variable in zip(starts, sizes, outs, strict=True)
    ]


def _reduction(name: str, params: Any, operands: Sequence[_Operand], out: Any) -> str | None:
    """Name what makes one number of a small array's elements; None of anything else."""
    if out.shape != () or any(one.place is None for one in operands):
        return None
    shapes = {one.shape for one in operands}
    if len(shapes) != 1 or not 1 < _size(operands[0]) <= SMALL:
        return None
    if name in _REDUCTIONS:
        return name
    if name == "dot_general" and len(operands) == 2 and operands[0].term == operands[1].term:
        return name
    return None


def _called(name: str, params: Any) -> Any:
    """Return the function that an instruction does nothing but call, or None."""
    if name not in _CALLS:
        return None
    return params[_CALLS[name]]


def _size(operand: _Operand) -> int:
    return int(np.prod(operand.shape))


def _spread(array: Array, size: int) -> Array:
    if array.size == size:
        return lax.reshape(array, (size,))
    return lax.broadcast(lax.reshape(array, ()), (size,))


def _frozen(params: Any) -> Hashable:
    return tuple(sorted((name, str(value)) for name, value in params.items()))
