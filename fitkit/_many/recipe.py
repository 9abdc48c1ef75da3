"""How to evaluate the residuals of one system: all of a problem that is no number.

Two recipes are equal where the same program serves both, so that a second call compiles nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import jax
from jaxtyping import Array, Float

from fitkit._paths import ravel


class Source(Enum):
    """Where a leaf of the parameters or args comes from."""

    FREE = "a vector that is fitted"
    OWN = "what a system has for itself"
    SHARED = "what all systems share"


@dataclass(frozen=True, eq=False)
class Constant:
    """A leaf that JAX does not trace; the key of a recipe knows what it is."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant)

    def __hash__(self) -> int:
        return hash(Constant)


@dataclass(frozen=True)
class Recipe:
    """How to evaluate the residuals of one system.

    Attributes
    ----------
    key : bytes
        What tells the residuals and all constants from others: their content, so that a function
        which reads a global that has changed is another one. Random where that cannot be known.
    residuals : Callable
        As the user gave it.
    trees : tuple
        The structures of parameters and args.
    params, args : tuple[Source | Constant, ...]
        Where each of their leaves comes from.
    free : tuple[tuple[tuple[int, ...], str], ...]
        Shapes and dtypes of the leaves that are fitted.
    dtype : str
        What the fit is computed in.
    weighted : bool
        Whether the last of what a system has for itself are weights of the residuals.
    eps : float
        Unit of rounding of the residuals.
    """

    key: bytes
    residuals: Callable = field(compare=False)
    trees: tuple[Any, Any]
    params: tuple[Source | Constant, ...]
    args: tuple[Source | Constant, ...]
    free: tuple[tuple[tuple[int, ...], str], ...]
    dtype: str
    weighted: bool
    eps: float

    @property
    def size(self) -> int:
        """Number of elements that are fitted."""
        return sum(math.prod(shape) for shape, _ in self.free)

    def unravel(self, values: Any) -> list:
        """Split a vector into the leaves that are fitted."""
        leaves, at = [], 0
        for shape, dtype in self.free:
            size = math.prod(shape)
            leaves.append(values[at : at + size].reshape(shape).astype(dtype))
            at += size
        return leaves

    def inputs(self, leaves: list, own: Any, shared: Any) -> tuple[Any, Any]:
        """Put together parameters and args."""
        given = {Source.FREE: iter(leaves), Source.OWN: iter(own), Source.SHARED: iter(shared)}

        def filled(sources: tuple[Source | Constant, ...]) -> list:
            return [one.value if isinstance(one, Constant) else next(given[one]) for one in sources]

        return (
            jax.tree.unflatten(self.trees[0], filled(self.params)),
            jax.tree.unflatten(self.trees[1], filled(self.args)),
        )

    def function(self, leaves: list, own: Any, shared: Any) -> Float[Array, " m"]:
        """Compute the flat residuals of one system."""
        return ravel(self.residuals(*self.inputs(leaves, own, shared)))[0]
