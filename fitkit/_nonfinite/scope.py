"""What a replay remembers: one scope for every run of a jaxpr."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.extend.core as jex
import numpy as np

from fitkit._nonfinite.numpy_rules import Mask, Value, nonfinite_mask

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "core_closed")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin")
_SMALL = 1 << 16  # bytes: smaller values are always kept


class Memory:
    """How many bytes of values the replay may still keep."""

    def __init__(self, budget: int = 1 << 29) -> None:
        self.left = budget

    def take(self, value: Value) -> bool:
        """Ask to keep a value; no, once the budget is spent."""
        size = getattr(value, "nbytes", 0)
        if size <= _SMALL:
            return True
        self.left -= size
        return self.left > 0


@dataclasses.dataclass(eq=False)
class Scope:
    """One run of one jaxpr: its values, its children, and what it was called by."""

    equations: list[Any]
    inputs: list[Any]
    outputs: list[Any]
    memory: Memory
    parent: "Scope | None" = None
    call: int = 0  # the parent's equation that this is the run of
    offset: int = 0  # of that equation's operands before those that are this jaxpr's inputs
    loop: Any = None  # the Loop that this is an iteration of
    iteration: int = 0
    constants: dict[Any, Value] = dataclasses.field(default_factory=dict)
    values: dict[Any, Value] = dataclasses.field(default_factory=dict)
    masks: dict[Any, Mask] = dataclasses.field(default_factory=dict)
    producers: dict[Any, tuple[int, int]] = dataclasses.field(default_factory=dict)
    children: dict[int, "Scope"] = dataclasses.field(default_factory=dict)
    loops: dict[int, Any] = dataclasses.field(default_factory=dict)

    def read(self, atom: Any) -> Value | None:
        """Give the value of a variable or literal; None where it was dropped."""
        if isinstance(atom, jex.Literal):
            return np.asarray(atom.val, atom.aval.dtype)  # pyright: ignore
        return self.values.get(atom)

    def mask(self, atom: Any) -> Mask | None:
        """Mark the non-finite elements of a variable or literal; None where there are none."""
        if isinstance(atom, jex.Literal):
            return nonfinite_mask(self.read(atom))
        return self.masks.get(atom)

    def write(self, var: Any, value: Value) -> None:
        """Set a variable, and note which of its elements are not finite."""
        self.values[var] = value
        mask = nonfinite_mask(value)
        if mask is not None:
            self.masks[var] = mask

    def ancestors(self) -> Iterator[tuple["Scope", int]]:
        """List the equations around this scope, innermost first."""
        scope = self
        while scope.parent is not None:
            yield scope.parent, scope.call
            scope = scope.parent


def open_jaxpr(closed: Any) -> tuple[list[Any], list[Any], list[Any], list[Any], list[Any]]:
    """Give equations, inputs, outputs, constant variables and constants of any kind of jaxpr."""
    jaxpr = getattr(closed, "jaxpr", closed)
    constants = list(getattr(closed, "consts", ()))
    return jaxpr.eqns, list(jaxpr.invars), list(jaxpr.outvars), list(jaxpr.constvars), constants


def inner_jaxpr(equation: Any, operands: list[Value]) -> tuple[Any, int] | None:
    """Find the jaxpr that an equation calls on its operands, and how many of them come before."""
    name = equation.primitive.name
    if name == "cond":
        index = operands[0]
        if index is None or np.ndim(index):
            return None
        branches = equation.params["branches"]
        return branches[max(0, min(int(index), len(branches) - 1))], 1
    if name in _CALLS or name in _CUSTOM:
        for key in _INNER:
            closed = equation.params.get(key)
            if closed is not None and len(open_jaxpr(closed)[1]) == len(operands):
                return closed, 0
    return None


def count_equations(closed: Any) -> int:
    """Count the equations of a jaxpr with those inside it, inner loops by their length."""
    total = 0
    for equation in open_jaxpr(closed)[0]:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        total += 1 + int(equation.params.get("length") or 1) * sum(map(count_equations, inner))
        total += sum(map(count_equations, equation.params.get("branches", ())))
    return total
