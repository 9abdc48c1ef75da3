"""Which transformations an optimiser is made of, by the names of the functions that make them."""

from types import FunctionType
from typing import Any

import optax

# More closures than any chain has: what lies deeper is data.
_MOST = 2000


def links(optimiser: optax.GradientTransformation) -> frozenset[str]:
    """Name the transformations in an optimiser: ``{"chain", "clip", "scale_by_adam"}``.

    Optax's transformations are closures that keep no list of their parts, so this looks into what
    they have closed over. It may miss some: use it for advice, not to decide.
    """
    found: set[str] = set()
    seen: set[int] = set()
    todo: list[Any] = [optimiser]
    while todo and len(seen) < _MOST:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        value = getattr(value, "func", value)
        if isinstance(value, FunctionType):
            found.add(value.__qualname__.partition(".<locals>")[0])
            todo += [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, tuple | list):
            todo += value
    return frozenset(found)


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # A function that closes over a name which is not bound yet.
        return False
