"""Any optimiser with ``init`` and ``update`` as one of optax."""

import inspect
from typing import Any, Protocol, runtime_checkable

import optax
from jaxtyping import PyTree


@runtime_checkable
class OptaxLike(Protocol):
    """An optimiser that optax did not make."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any = None, /) -> Any: ...


def as_optax(optimiser: Any) -> Any:
    """Make a transformation of optax of an optimiser that is like one; return all else as it is.

    Optax takes such an optimiser for one that wants no extra arguments. It may, by keyword, as
    the chains of kUPS do, and gets those that it takes.
    """
    if isinstance(optimiser, optax.GradientTransformation) or not isinstance(optimiser, OptaxLike):
        return optimiser
    parameters = inspect.signature(optimiser.update).parameters.values()
    every = any(one.kind is one.VAR_KEYWORD for one in parameters)
    names = {one.name for one in parameters}

    def init(params: PyTree) -> Any:
        return optimiser.init(params)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[Any, Any]:
        taken = {name: value for name, value in extra.items() if every or name in names}
        return optimiser.update(updates, state, params, **taken)

    return optax.GradientTransformationExtraArgs(init, update)
