"""Any optimiser with ``init`` and ``update`` as one of optax."""

import inspect
from typing import Any

import optax
from jaxtyping import PyTree


def as_optax(optimiser: Any) -> optax.GradientTransformationExtraArgs:
    """Let an optimiser be called with every extra argument; it gets those that it takes.

    Optax does this for its own optimisers, and takes any other for one that wants no extra
    arguments. Others may, by keyword: the chains of kUPS do.
    """
    if isinstance(optimiser, optax.GradientTransformation):
        return optax.with_extra_args_support(optimiser)
    parameters = inspect.signature(optimiser.update).parameters.values()
    every = any(one.kind is one.VAR_KEYWORD for one in parameters)
    names = {one.name for one in parameters}

    def init(params: PyTree) -> Any:
        return optimiser.init(params)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[Any, Any]:
        taken = {name: value for name, value in extra.items() if every or name in names}
        return optimiser.update(updates, state, params, **taken)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
