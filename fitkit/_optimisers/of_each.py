"""A function of step counts, computed for every parameter with the counts of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Num, PyTree

from fitkit._jaxprs import Constant, Instruction, evaluate, listing


class Each(NamedTuple):
    """What depends on counts alone: for every parameter, and for the one with most steps."""

    own: Num[Array, "n ..."]
    latest: Num[Array, "..."]


def of_each(
    function: Callable[..., PyTree],
    counts: Sequence[Int[Array, " n"]],
    owners: Sequence[int | None],
    *trees: PyTree,
) -> PyTree:
    """Compute a function that takes one set of counts with those of every parameter.

    The function is traced once. What its counts make of numbers (a bias correction, a learning
    rate by schedule) is computed for every parameter; an instruction on arrays of one parameter
    alone takes that parameter's numbers, any other those of the highest counts.

    Parameters
    ----------
    function
        Of (counts, *trees), the counts scalars.
    counts
        One vector for each of its counts, over the n parameters.
    owners
        Which parameter each leaf of `trees` belongs to; None for those of no parameter.

    Returns
    -------
    PyTree
        What the function returns, an `Each` where it depends on counts alone.
    """
    leaves, structure = jax.tree.flatten(trees)
    latest = [own.max() for own in counts]
    if not counts or counts[0].size == 1:
        out = function(latest, *trees)
        return jax.tree.map(lambda leaf: Each(leaf[None], leaf) if leaf.ndim == 0 else leaf, out)
    results: list[Any] = []

    def of_leaves(*given: Array) -> list[Array]:
        at, rest = given[: len(counts)], given[len(counts) :]
        out = function(list(at), *jax.tree.unflatten(structure, rest))
        results.append(jax.tree.structure(out))
        return jax.tree.leaves(out)

    read = listing(jax.make_jaxpr(of_leaves)(*latest, *leaves))
    first = read.inputs[: len(counts)]
    belongs = dict.fromkeys(first, frozenset()) | {
        number: frozenset() if who is None else frozenset({who})
        for number, who in zip(read.inputs[len(counts) :], owners, strict=True)
    }
    chain, counted = _of_counts(read.instructions, set(first), belongs)
    returned = {number for number in read.outputs if isinstance(number, int)}
    wanted = sorted(counted & returned.union(_taken_by_one(read.instructions, belongs)))
    values: dict[int, Any] = dict(zip(read.inputs, [*latest, *leaves], strict=True))
    _carry_out([one for one in read.instructions if not _owner_of(one, belongs)], values)

    def numbers(*at: Array) -> list[Array]:
        own = values | dict(zip(first, at, strict=True))
        _carry_out(chain, own)
        return [own[number] for number in wanted]

    n = counts[0].size
    # All the same but after a thaw: powers for every parameter would take longer than the rest.
    own = lax.cond(
        jnp.all(jnp.stack([jnp.all(one == one[0]) for one in counts])),
        lambda: [jnp.broadcast_to(one, (n, *one.shape)) for one in numbers(*latest)],
        lambda: jax.vmap(numbers)(*counts),
    )
    each = dict(zip(wanted, own, strict=True))
    parts = {
        number: [lax.squeeze(part, (0,)) for part in lax.split(vector, [1] * n)]
        for number, vector in each.items()
    }
    for one in read.instructions:
        who = _owner_of(one, belongs)
        if len(who) == 1:
            (k,) = who
            mine = {o: parts[o][k] for o in one.operands if isinstance(o, int) and o in parts}
            _carry_out([one], values, mine)
        elif who:
            _carry_out([one], values)
    out = [
        Each(each[o], values[o]) if isinstance(o, int) and o in each else _value(o, values)
        for o in read.outputs
    ]
    return jax.tree.unflatten(results[-1], out)


def _owner_of(instruction: Instruction, belongs: Mapping[int, frozenset[int]]) -> frozenset[int]:
    """Return the parameters that an instruction depends on."""
    numbers = [one for one in instruction.operands if isinstance(one, int)]
    return frozenset().union(*(belongs[number] for number in numbers))


def _of_counts(
    instructions: Sequence[Instruction], counted: set[int], belongs: dict[int, frozenset[int]]
) -> tuple[list[Instruction], set[int]]:
    """Find what depends on counts and on no parameter; note what the rest depends on."""
    chain = []
    for one in instructions:
        who = _owner_of(one, belongs)
        belongs |= dict.fromkeys(one.results, who)
        numbers = [number for number in one.operands if isinstance(number, int)]
        if not who and not counted.isdisjoint(numbers):
            counted |= set(one.results)
            chain.append(one)
    return chain, counted


def _taken_by_one(
    instructions: Sequence[Instruction], belongs: Mapping[int, frozenset[int]]
) -> Iterator[int]:
    """List the operands of instructions on arrays of one parameter alone."""
    for one in instructions:
        if len(_owner_of(one, belongs)) == 1:
            yield from (number for number in one.operands if isinstance(number, int))


def _carry_out(
    instructions: Sequence[Instruction],
    values: dict[int, Any],
    mine: Mapping[Any, Any] = MappingProxyType({}),
) -> None:
    for one in instructions:
        operands = [
            mine[o] if isinstance(o, int) and o in mine else _value(o, values) for o in one.operands
        ]
        values.update(zip(one.results, evaluate(one.equation, operands), strict=True))


def _value(operand: int | Constant, values: Mapping[int, Any]) -> Any:
    return jnp.asarray(operand.value) if isinstance(operand, Constant) else values[operand]
