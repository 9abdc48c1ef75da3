"""What a loss function returns beside the loss: ``(loss, aux)``."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from fitkit._input.data import shortened
from fitkit._paths import path_of

LossFunction: TypeAlias = Callable[
    [PyTree, Any], Float[ArrayLike, ""] | tuple[Float[ArrayLike, ""], PyTree]
]


def split_aux(out: Any) -> tuple[Any, PyTree]:
    """Take apart what a loss function returned: the loss, and what is beside it or None.

    Only a plain tuple of two is a pair, as for ``jax.value_and_grad(has_aux=True)``.
    """
    return out if type(out) is tuple and len(out) == 2 else (out, None)


def check_aux(aux: PyTree, event: str) -> None:
    """Raise unless all that is beside the loss can come out of a compiled function.

    Parameters
    ----------
    aux
        By shape and dtype.
    event
        Who asks, to open the error with.

    Raises
    ------
    TypeError
        If a leaf is neither an array nor a number.
    """
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(aux):
        if not (isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array_like(leaf)):
            what = shortened(leaf)
            raise TypeError(
                f"{event}: `loss` returned a pair, whose second part, `aux`, "
                f"{f'holds {what} at {path_of(key_path)!r}' if key_path else f'is {what}'}. "
                "It may be any tree of arrays and numbers: leave out what is neither."
            )
