"""The where-trap: a bad value that ``where`` hides going forward, and lets through going back."""

from typing import Any

import jax.extend.core as jex
import numpy as np

from fitkit._nonfinite.backtrack import Element, Site
from fitkit._nonfinite.scope import Scope

_FOLLOWED = 200  # equations: a mask stands close behind what it masks


def masking_select(site: Site) -> Site | None:
    """Find the ``where`` further on that does not choose this element, if there is one."""
    scope, carriers, start = site.scope, {site.atom}, (site.at or 0) + 1
    while True:
        found = _follow(scope, carriers, site.element, start)
        if found is not None or scope.parent is None or scope.loop is not None:
            return found
        # Out of a call, into what was done with its results.
        results = scope.parent.equations[scope.call].outvars
        carriers = {
            var for var, atom in zip(results, scope.outputs, strict=True) if _in(atom, carriers)
        }
        if not carriers:
            return None
        scope, start = scope.parent, scope.call + 1


def _follow(scope: Scope, carriers: set[Any], element: Element, start: int) -> Site | None:
    shape = _shape(next(iter(carriers)))
    end = min(len(scope.equations), start + _FOLLOWED)
    for k in range(start, end):
        equation = scope.equations[k]
        if "transpose(" in str(equation.source_info.name_stack):
            return None  # the model ends here
        hit = [j for j, atom in enumerate(equation.invars) if _in(atom, carriers)]
        if not hit:
            continue
        if equation.primitive.name == "select_n":
            if _unchosen(scope, equation, hit, element):
                return Site(scope, equation.outvars[0], element, k, 0)
        elif k in scope.children:
            child = scope.children[k]
            inner = {child.inputs[j - child.offset] for j in hit if j >= child.offset}
            found = _follow(child, inner, element, 0) if inner else None
            if found is not None:
                return found
        carriers.update(v for v in equation.outvars if _shape(v) == shape)
    return None


def _unchosen(scope: Scope, equation: Any, hit: list[int], element: Element) -> bool:
    which = scope.read(equation.invars[0])
    if which is None or (np.ndim(which) and len(element) != np.ndim(which)):
        return False
    chosen = 1 + int(np.asarray(which)[element] if np.ndim(which) else which)
    return all(j not in (0, chosen) for j in hit)


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _in(atom: Any, carriers: set[Any]) -> bool:
    return not isinstance(atom, jex.Literal) and atom in carriers
