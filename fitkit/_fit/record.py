"""What is recorded of a step, and where each quantity is in the row of numbers that holds it."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitkit._fit.merge import SMALL
from fitkit._fit.problem import Params
from fitkit._paths import named_leaves
from fitkit._per_leaf import shaped, typed

#: Elements whose values are recorded, at most: with the norms of as many scalars a row of 24 kB.
_MOST_VALUES = 1000


def recorded(params: Params) -> dict[str, Any]:
    """Return the parameters whose values are recorded at every step, by path.

    Those of up to 64 elements each, the smallest first and among equals in their order, up to
    1,000 elements together; in the order of the leaves.
    """
    leaves = named_leaves(params)
    small = sorted((leaf.size, k) for k, leaf in enumerate(leaves.values()) if leaf.size <= SMALL)
    totals = itertools.accumulate(size for size, _ in small)
    chosen = {k for (_, k), total in zip(small, totals, strict=True) if total <= _MOST_VALUES}
    return {path: leaf for k, (path, leaf) in enumerate(leaves.items()) if k in chosen}


class StepInfo(eqx.Module):
    """What is recorded of a step: looked at, never carried.

    The loss and the norms of its gradient by each parameter (0 for a frozen one) are those at the
    parameters that the step started from, as are the values of the small parameters, by path (see
    `History`); the step norms say how far it moved each parameter, in the parameter's unit.
    """

    loss: Float[Array | np.ndarray, ""]
    gradient_norms: Float[Array | np.ndarray, " leaves"]
    step_norms: Float[Array | np.ndarray, " leaves"]
    values: Mapping[str, Float[Array | np.ndarray, "..."]]

    def row(self) -> Float[Array, " columns"]:
        """Lay the numbers out as `Columns` says."""
        dtype = self.loss.dtype
        values = [typed(shaped(one, (one.size,)), dtype) for one in self.values.values()]
        return jnp.concatenate([self.loss[None], self.gradient_norms, self.step_norms, *values])


class Columns:
    """Where each quantity is in a row: the loss, the norms of all parameters, values of some.

    Parameters
    ----------
    names
        The paths of the parameters.
    shapes
        The shapes of those whose values are recorded, by path.
    """

    def __init__(self, names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.names, self.shapes = tuple(names), dict(shapes)
        many = len(self.names)
        first = {"loss": 0, "gradient_norms": 1, "step_norms": 1 + many}
        self._places: dict[tuple[str, str | None], tuple[int, tuple[int, ...]]] = {
            ("loss", None): (0, ())
        }
        for quantity in ("gradient_norms", "step_norms"):
            for k, name in enumerate(self.names):
                self._places[quantity, name] = first[quantity] + k, ()
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        starts = itertools.accumulate(sizes, initial=1 + 2 * many)
        for (name, shape), start in zip(self.shapes.items(), starts, strict=False):
            self._places["values", name] = start, shape
        #: How many numbers a row has.
        self.count = 1 + 2 * many + sum(sizes)

    @classmethod
    def of(cls, params: Params) -> "Columns":
        """Build those of a fit, whose parameters may be abstract."""
        return cls(named_leaves(params), {n: leaf.shape for n, leaf in recorded(params).items()})

    def place(self, quantity: str, name: str | None) -> tuple[slice, tuple[int, ...]]:
        """Return where a quantity is, and its shape.

        Raises
        ------
        KeyError
            If it is not recorded.
        """
        if (quantity, name) not in self._places:
            raise KeyError(
                f"History: {quantity!r} of {name!r} is not recorded. Recorded are the loss, the "
                "gradient_norms and step_norms of every parameter, and the values of parameters of "
                f"up to {SMALL} elements, {_MOST_VALUES:,} in all; a function passed to "
                "add_callback can record others."
            )
        start, shape = self._places[quantity, name]
        return slice(start, start + math.prod(shape)), shape

    def norms(self, quantity: str) -> slice:
        """Return where the ``"gradient_norms"`` or the ``"step_norms"`` of all parameters are."""
        start, _ = self.place(quantity, self.names[0])
        return slice(start.start, start.start + len(self.names))

    def read(self, row: Float[np.ndarray, " columns"]) -> StepInfo:
        """Read a row, as numpy numbers and arrays."""

        def one(quantity: str, name: str | None = None) -> np.ndarray:
            where, shape = self.place(quantity, name)
            return row[where].reshape(shape)

        gradient_norms, step_norms = np.split(row[1 : 1 + 2 * len(self.names)], 2)
        values = {name: one("values", name) for name in self.shapes}
        return StepInfo(one("loss"), gradient_norms, step_norms, values)
