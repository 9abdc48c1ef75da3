"""The replay: a jaxpr run equation by equation, remembering what a walk back will ask for."""

import contextlib
from typing import Any

import jax.extend.core as jex

from fitkit._nonfinite.loops import LOOPS, Loop
from fitkit._nonfinite.numpy_rules import Value, evaluate, to_host
from fitkit._nonfinite.scope import Memory, Scope, inner_jaxpr, open_jaxpr


def run(closed: Any, arguments: list[Value], memory: Memory, **link: Any) -> Scope:
    """Run a jaxpr equation by equation, calls inline."""
    equations, inputs, outputs, constant_vars, constants = open_jaxpr(closed)
    scope = Scope(equations, inputs, outputs, memory, **link)
    for var, value in zip(constant_vars, constants, strict=True):
        scope.write(var, to_host(value))
        scope.constants[var] = scope.values[var]
    for var, value in zip(inputs, arguments, strict=True):
        scope.write(var, value)
    last_use = _last_uses(equations, outputs)
    for k, equation in enumerate(equations):
        if not equation.outvars:
            continue  # an effect, such as a debug print: not to be repeated
        operands = [scope.read(atom) for atom in equation.invars]
        for j, (var, value) in enumerate(
            zip(equation.outvars, _outputs(scope, k, operands), strict=True)
        ):
            if not isinstance(var, jex.DropVar):
                scope.write(var, value)
                scope.producers[var] = (k, j)
        _drop(scope, k, last_use)
    return scope


def _outputs(scope: Scope, k: int, operands: list[Value]) -> list[Value]:
    equation = scope.equations[k]
    inner = inner_jaxpr(equation, operands)
    if inner is not None:
        # Any trouble inside makes the call a leaf: less detail, but never no report.
        with contextlib.suppress(Exception):
            closed, offset = inner
            child = run(
                closed, operands[offset:], scope.memory, parent=scope, call=k, offset=offset
            )
            scope.children[k] = child
            return [_required(child.read(atom)) for atom in child.outputs]
    if equation.primitive.name in LOOPS:
        with contextlib.suppress(Exception):
            scope.loops[k] = Loop(scope, k, operands, run)
            outputs = scope.loops[k].interpret()
            if outputs is not None:
                return outputs
    return evaluate(equation, operands)


def _required(value: Value | None) -> Value:
    if value is None:
        raise LookupError("an output was dropped")
    return value


def _last_uses(equations: list[Any], outputs: list[Any]) -> dict[int, list[Any]]:
    last: dict[Any, int] = {}
    for k, equation in enumerate(equations):
        for atom in equation.invars:
            if not isinstance(atom, jex.Literal):
                last[atom] = k
    for atom in outputs:
        if not isinstance(atom, jex.Literal):
            last.pop(atom, None)
    dying: dict[int, list[Any]] = {}
    for var, k in last.items():
        dying.setdefault(k, []).append(var)
    return dying


def _drop(scope: Scope, k: int, last_use: dict[int, list[Any]]) -> None:
    """Let go of large dead values once the budget is spent; where bad elements are, is kept."""
    equation = scope.equations[k]
    born = any(v in scope.masks for v in equation.outvars) and not any(
        scope.mask(atom) is not None for atom in equation.invars
    )
    for var in last_use.get(k, ()):
        if not born and var in scope.producers and not scope.memory.take(scope.values[var]):
            scope.values.pop(var, None)
