"""Names for the leaves that go into a function and come out of it."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from fitkit._input import converted, is_traceable
from fitkit._nonfinite.backtrack import Site
from fitkit._paths import element_name, path_of


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The leaves of a function's arguments: arrays to trace, the rest as it is."""

    arrays: list[Any]
    paths: list[str]
    keys: list[tuple[Any, ...]]  # the key path within its own argument
    argument: list[int]
    rebuild: Callable[[list[Any]], tuple[Any, ...]]
    #: Where arrays begin that are parts of larger ones, by number: elements are named in the whole.
    begins: dict[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def name_inputs(function: Callable, args: tuple[Any, ...]) -> Inputs:
    """Name every array leaf of the arguments.

    Those of the first argument are parameters, and named by their path alone; those of another
    argument begin with that argument's name in the function's signature.
    """
    named = _argument_names(function, len(args))
    whats = ("params", *(name or "args" for name in named[1:]))
    args = tuple(
        converted(one, "find_nonfinite", what) for one, what in zip(args, whats, strict=True)
    )
    dynamic, static = eqx.partition(args, _is_traced)
    leaves, structure = jax.tree.flatten(dynamic)
    paths, keys, argument = [], [], []
    for key_path, _ in jax.tree_util.tree_leaves_with_path(dynamic):
        index, rest = key_path[0].idx, key_path[1:]
        inner = path_of(rest) if rest else ""
        paths.append(
            (inner or named[index] or "params")
            if index == 0
            else ".".join(filter(None, (named[index], inner)))
        )
        keys.append(rest)
        argument.append(index)

    def rebuild(arrays: list[Any]) -> tuple[Any, ...]:
        return eqx.combine(jax.tree.unflatten(structure, arrays), static)

    return Inputs(leaves, paths, keys, argument, rebuild)


def _is_traced(leaf: Any) -> bool:
    """Whether a leaf is traced: an array of numbers, or a number of Python's."""
    held = isinstance(leaf, np.ndarray | np.generic)
    return is_traceable(leaf) if held else eqx.is_array_like(leaf)


def name_outputs(inputs: Inputs, outputs: list[tuple[Any, ...]], shapes: list[Any]) -> list[str]:
    """Name the parameter that every output belongs to, by the tail of its key path.

    Gradients, updates and new parameters have the structure of the first argument, wherever in
    the output they stand. Empty for other outputs.
    """
    parameters = {
        (str(keys), np.shape(array)): path
        for keys, path, array, index in zip(
            inputs.keys, inputs.paths, inputs.arrays, inputs.argument, strict=True
        )
        if index == 0
    }
    named = []
    for key_path, shape in zip(outputs, shapes, strict=True):
        tails = [(str(key_path[start:]), tuple(shape)) for start in range(len(key_path) + 1)]
        named.append(next((parameters[tail] for tail in tails if tail in parameters), ""))
    # Parameters of one bare array have an empty path, which is the tail of any: then only
    # outputs inside a tuple, as of value_and_grad, and behind its first number count.
    if ("()", ()) in parameters and len(named) > 1:
        named[0] = ""
    return named


def origin_names(
    sites: list[Site], inputs: Inputs, by_size: bool = False
) -> list[tuple[str, bool, Any]]:
    """Name the inputs that sites stand for, likeliest first: name, whether a parameter, value.

    Parameters come before data, one element of an array before a number that all share, then
    what was met first on the way back, or, for an overflow, what is largest.
    """
    leaves: dict[int, list[Site]] = {}
    captured: dict[Any, list[Site]] = {}
    for site in sites:
        if site.kind == "input":
            leaves.setdefault(site.scope.inputs.index(site.atom), []).append(site)
        elif site.kind == "constant":
            captured.setdefault(site.atom, []).append(site)
    ranked = []
    for met, (at, members) in enumerate(leaves.items()):
        shape = np.shape(inputs.arrays[at])
        chosen = [m.element for m in members]
        name = _several(inputs.paths[at], shape, chosen, inputs.begins.get(at))
        is_parameter = inputs.argument[at] == 0
        value = _numbers([m.value for m in members])
        specific = 0 if "[" in name else 1 if not shape else 2
        size = -max((abs(m.value) for m in members if m.value is not None), default=0.0)
        order = (not is_parameter, size, met) if by_size else (not is_parameter, specific, met)
        ranked.append((order, name, is_parameter, value))
    for met, (atom, members) in enumerate(captured.items()):
        shape = tuple(atom.aval.shape)
        if not shape and not np.isnan(np.asarray(members[0].value, complex)):
            continue  # a number in the code, not data
        name = _several(
            f"a captured array of shape {shape}, element ", shape, [m.element for m in members]
        )
        value = _numbers([m.value for m in members])
        ranked.append(((True, 3, met), name, False, value))
    return [(name, par, value) for _, name, par, value in sorted(ranked, key=lambda r: r[0])]


def _several(
    path: str,
    shape: tuple[int, ...],
    elements: list[tuple[int, ...]],
    begin: tuple[int, ...] | None = None,
) -> str:
    """Name the elements together: all, one, or a whole row."""
    begin = begin or (0,) * len(shape)
    unique = sorted(set(elements))
    if len(unique) == int(np.prod(shape)) and len(unique) > 1:
        return path.removesuffix(", element ")
    for depth in range(len(shape), 0, -1):
        heads = {e[:depth] for e in unique}
        if len(heads) == 1:
            (head,) = heads
            return element_name(path, tuple(i + k for i, k in zip(head, begin, strict=False)))
    return element_name(path, unique[0]) if len(shape) == 0 else path.removesuffix(", element ")


def _numbers(values: list[Any]) -> Any:
    known = {complex(v) for v in values if v is not None}
    if len(known) != 1 and not all(np.isnan(v) for v in known):
        return None
    value = known.pop() if known else None
    return value.real if value is not None and value.imag == 0 else value


def _argument_names(function: Callable, count: int) -> list[str]:
    fallback = ["args"] if count == 2 else [f"args.{k}" for k in range(count - 1)]
    try:
        signature = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        signature = []
    return signature[:count] if len(signature) >= count else ["", *fallback][:count]
