"""The walk back: from a bad output, element by element, to where the value was born."""

import dataclasses
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import jax.extend.core as jex
import numpy as np

from fitkit._nonfinite.dependence import Element, sources
from fitkit._nonfinite.loops import Loop
from fitkit._nonfinite.numpy_rules import Mask
from fitkit._nonfinite.scope import Scope

_LONGEST = 100_000  # steps of a walk: more would be a circle
_SECONDS = 3.0  # for the origin of a guilty value, which a report can do without


@dataclasses.dataclass(frozen=True)
class Site:
    """One element of one output of one equation; or of an input or constant where `at` is None."""

    scope: Scope
    atom: Any
    element: Element
    at: int | None = None
    k: int = 0

    @property
    def equation(self) -> Any:
        """The equation that made the element."""
        return self.scope.equations[self.at]  # type: ignore[index]

    @property
    def kind(self) -> str:
        """``"made"``, ``"input"``, ``"constant"`` or ``"literal"``."""
        if self.at is not None:
            return "made"
        if isinstance(self.atom, jex.Literal):
            return "literal"
        return "constant" if self.atom in self.scope.constants else "input"

    @property
    def value(self) -> Any:
        """The element's value; None where it was dropped."""
        whole = self.scope.read(self.atom)
        return None if whole is None else np.asarray(whole)[self.element]


def locate(scope: Scope, atom: Any, element: Element, bad: bool) -> Site:
    """Find the equation that made an element, through calls and loops inwards and outwards.

    With `bad`, a value carried by a loop leads to the iteration in which it went bad; without,
    to the iteration before.
    """
    while True:
        if isinstance(atom, jex.Literal):
            return Site(scope, atom, ())
        if atom in scope.producers:
            at, k = scope.producers[atom]
            if at in scope.children:
                scope = scope.children[at]
                atom = scope.outputs[k]
                continue
            if at in scope.loops:
                inside = _into_loop(scope.loops[at], k, element, bad)
                if inside is not None:
                    scope, atom, element = inside
                    continue
            return Site(scope, atom, element, at, k)
        if atom in scope.constants or scope.parent is None:
            return Site(scope, atom, element)
        scope, atom, element = _outwards(scope, scope.inputs.index(atom), element, bad)


def blame(scope: Scope, atom: Any, element: Element) -> tuple[Site, list[Site]]:
    """Walk back from a bad element to the first bad one; give it and the path, outputs first."""
    path: list[Site] = []
    site = locate(scope, atom, element, bad=True)
    while site.kind == "made" and len(path) < _LONGEST:
        path.append(site)
        before = _bad_source(site)
        if before is None:
            break
        site = locate(site.scope, *before, bad=True)
    if site.kind in ("literal", "constant") or _is_fresh_infinity(site):
        site = _past_constant(site, path)
    while path and path[-1] != site and site.kind == "made":
        path.pop()
    return site, path


def guilty_operands(site: Site) -> list[tuple[int, list[Element]]]:
    """List the operand elements that a site was made from."""
    operands = [site.scope.read(atom) for atom in site.equation.invars]
    return [
        (j, [tuple(map(int, e)) for e in np.argwhere(mask)[:64]])
        for j, mask in sources(site.equation, operands, site.k, site.element)
        if not isinstance(site.equation.invars[j], jex.Literal)
    ]


def origins(
    scope: Scope, guilty: Iterable[tuple[Any, list[Element]]], explain: bool = True
) -> list[Site]:
    """Find the inputs and constants that values were made from, the nearest first.

    With `explain`, only through the operands that explain a value: a product is zero because one
    factor is.
    """
    deadline = time.monotonic() + _SECONDS
    found: list[Site] = []
    seen: set[Any] = set()
    todo = deque((scope, atom, element) for atom, elements in guilty for element in elements)
    while todo and time.monotonic() < deadline and len(seen) < 20_000:
        site = locate(*todo.popleft(), bad=False)
        key = (id(site.scope), id(site.atom), site.element)
        if key in seen:
            continue
        seen.add(key)
        if site.kind != "made":
            found.append(site)
            continue
        for j, starts in _contributing(site) if explain else guilty_operands(site):
            todo += [(site.scope, site.equation.invars[j], e) for e in starts]
    return found


def _contributing(site: Site) -> list[tuple[int, list[Element]]]:
    """Keep of a site's operands those that explain its value: a zero comes from the zero factor."""
    operands = guilty_operands(site)
    name = site.equation.primitive.name
    value = site.value
    if name in ("mul", "div", "dot_general") and value is not None and value == 0:
        zeros = []
        for j, elements in operands:
            whole = site.scope.read(site.equation.invars[j])
            if whole is None or (name == "div" and j == 1):
                continue
            kept = [e for e in elements if np.asarray(whole)[e] == 0]
            if kept:
                zeros.append((j, kept))
        return zeros or operands
    return operands


def _bad_source(site: Site) -> tuple[Any, Element] | None:
    equation, scope = site.equation, site.scope
    operands = [scope.read(atom) for atom in equation.invars]
    candidates: list[tuple[Any, np.ndarray]] = []
    for j, mask in sources(equation, operands, site.k, site.element):
        bad = scope.mask(equation.invars[j])
        if bad is not None and (bad & mask).any():
            candidates.append((equation.invars[j], bad & mask))
    # A NaN comes from a NaN where there is one; an infinity elsewhere may be harmless.
    value = site.value
    if value is not None and np.isnan(value):
        for atom, mask in candidates:
            whole = scope.read(atom)
            if whole is not None and (np.isnan(whole) & mask).any():
                return atom, _first(np.isnan(whole) & mask)
    elif value is not None:
        for atom, mask in candidates:
            whole = scope.read(atom)
            if whole is not None and (np.isinf(whole) & mask).any():
                return atom, _first(np.isinf(whole) & mask)
    return (candidates[0][0], _first(candidates[0][1])) if candidates else None


def _first(mask: Mask) -> Element:
    return tuple(map(int, np.unravel_index(int(np.argmax(mask)), mask.shape)))


def _is_fresh_infinity(site: Site) -> bool:
    """Whether an equation made its infinity out of nothing: a mask of ``-inf``, on purpose."""
    return site.kind == "made" and not site.equation.invars and site.value is not None


def _past_constant(site: Site, path: list[Site]) -> Site:
    """Blame, instead of an infinity written on purpose, what made a NaN of it."""
    if not path:
        return site
    held = site.value
    if held is not None and np.isnan(held):
        return site if site.kind == "constant" else path[-1]
    for maker in reversed(path):
        if maker.value is not None and np.isnan(maker.value):
            return maker
    return site if site.kind == "constant" else path[-1]


def _into_loop(loop: Loop, k: int, element: Element, bad: bool) -> tuple[Any, Any, Element] | None:
    try:
        if k < loop.carried:
            last = (loop.length if loop.is_scan else loop.count()) - 1
            if last < 0:
                return (
                    loop.scope,
                    loop.scope.equations[loop.call].invars[loop.offset + loop.shared + k],
                    element,
                )
            if bad:
                last = loop.bad_since(last, k, element)
            opened = loop.open(last)
        else:
            opened = loop.open(loop.position(element[0]))
            element = element[1:]
    except Exception:  # the loop stays a leaf
        return None
    return opened, opened.outputs[k], element


def _outwards(scope: Scope, j: int, element: Element, bad: bool) -> tuple[Scope, Any, Element]:
    parent, loop = scope.parent, scope.loop
    assert parent is not None
    operands = parent.equations[scope.call].invars
    if loop is None or j < loop.shared:
        return parent, operands[scope.offset + j], element
    if j >= loop.shared + loop.carried:
        return parent, operands[scope.offset + j], (loop.position(scope.iteration), *element)
    if scope.iteration == 0:
        return parent, operands[scope.offset + j], element
    k, before = j - loop.shared, scope.iteration - 1
    if bad:
        before = loop.bad_since(before, k, element)
    opened = loop.open(before)
    return opened, opened.outputs[k], element
