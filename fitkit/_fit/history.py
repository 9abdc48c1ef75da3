"""What every step did, in bounded memory: columns of bins that double in width when they fill."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

#: Memory that the bins of one history may take, in bytes.
_BUDGET = 4_000_000

#: A median takes far longer than the extremes, so it is that of so many rows of a bin at most.
_MEDIAN_OF = 32


class Summary(NamedTuple):
    """What the steps of each bin were: the first, the last, and the extremes between them."""

    first: Float[np.ndarray, " bins"]
    last: Float[np.ndarray, " bins"]
    minimum: Float[np.ndarray, " bins"]
    maximum: Float[np.ndarray, " bins"]
    median: Float[np.ndarray, " bins"]


class History:
    """Loss, gradient norms and step norms of every step, in bounded memory.

    A row belongs to a step: the loss and the gradient norms at the parameters that the step
    started from, and how far it moved them. Rows are exact until the bins are full; then two
    neighbouring bins become one, again and again, so that ten million steps take no more memory
    than a thousand. First, last, minimum and maximum of a bin are exact; its median is that of a
    sample of its rows and, of a merged bin, the mean of the medians of the two.

    Parameters
    ----------
    names
        The paths of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from fitkit._fit.history import History
    >>> history = History(["flux"])
    >>> history.append(np.array([[3.0, 0.2, 0.1], [2.0, 0.1, 0.1]]))
    >>> len(history), history.loss, history.step_norms["flux"]
    (2, array([3., 2.]), array([0.1, 0.1]))
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.width = 1
        self._columns = 1 + 2 * len(self.names)
        per_bin = len(Summary._fields) * 8 * self._columns
        self._bins = int(np.clip(_BUDGET // per_bin, 128, 2048)) // 2 * 2
        self._data = np.zeros((len(Summary._fields), self._bins, self._columns))
        self._full = 0
        self._pending: list[np.ndarray] = []
        self._pending_rows = 0

    def __len__(self) -> int:
        """Count the steps recorded."""
        return self._full * self.width + self._pending_rows

    @property
    def steps(self) -> Int[np.ndarray, " bins"]:
        """The number of the last step in every bin; the first step is 0."""
        ends = np.arange(1, self._full + 1) * self.width
        return (np.append(ends, len(self)) if self._pending_rows else ends) - 1

    @property
    def loss(self) -> Float[np.ndarray, " bins"]:
        """The loss at the last step of every bin."""
        return self.summary("loss").last

    @property
    def step_norms(self) -> dict[str, Float[np.ndarray, " bins"]]:
        """How far the last step of every bin moved each parameter, in the parameter's unit."""
        return {name: self.summary("step_norms", name).last for name in self.names}

    @property
    def gradient_norms(self) -> dict[str, Float[np.ndarray, " bins"]]:
        """The norm of the gradient by each parameter at the last step of every bin."""
        return {name: self.summary("gradient_norms", name).last for name in self.names}

    def summary(self, quantity: str, name: str | None = None) -> Summary:
        """Summarise a quantity bin by bin.

        Parameters
        ----------
        quantity
            ``"loss"``, ``"gradient_norms"`` or ``"step_norms"``.
        name
            The path of the parameter, for the two norms.
        """
        offset = {"loss": 0, "gradient_norms": 1, "step_norms": 1 + len(self.names)}[quantity]
        column = offset if name is None else offset + self.names.index(name)
        # Another thread may be writing. It fills bins beyond `full` and replaces the array where
        # it merges, so that what was read here stays whole.
        data, full, pending = self._data, self._full, self._pending
        complete = data[:, :full, column]
        if not pending:
            return Summary(*complete)
        rest = _summarise(np.concatenate([rows[:, [column]] for rows in pending])[None])
        return Summary(*np.concatenate([complete, rest[:, :, 0]], axis=1))

    def append(self, rows: Float[np.ndarray, "steps columns"]) -> None:
        """Add one row per step: loss, gradient norms and step norms in the order of `names`."""
        rows = np.asarray(rows, dtype=float)
        while len(rows):
            room = self._room()
            taken, rows = rows[:room], rows[room:]
            self._pending = [*self._pending, taken]
            self._pending_rows += len(taken)
            self._flush()

    def truncate(self, steps: int) -> None:
        """Forget the rows of step `steps` and of all later ones.

        Of a bin with steps on both sides, its first row stands for all that are kept.
        """
        if steps >= len(self):
            return
        bins, rest = divmod(steps, self.width)
        kept = (
            np.repeat(self._data[0, bins : bins + 1], rest, axis=0)
            if bins < self._full
            else np.concatenate(self._pending)[:rest]
        )
        self._full, self._pending_rows = bins, rest
        self._pending = [kept] if rest else []

    def arrays(self) -> dict[str, np.ndarray]:
        """Give the whole history as arrays of a size that never changes, to be saved."""
        pending = np.concatenate(self._pending) if self._pending else np.empty((0, self._columns))
        rest = _summarise(pending[None])[:, 0] if len(pending) else np.zeros((5, self._columns))
        counts = np.array([self.width, self._full, self._pending_rows])
        return {"bins": self._data, "rest": rest, "counts": counts}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `arrays` gave; of rows that fill no bin yet, the last stands for all."""
        self._data = np.array(arrays["bins"])
        self.width, self._full, self._pending_rows = (int(n) for n in arrays["counts"])
        rest = np.repeat(arrays["rest"][1:2], self._pending_rows, axis=0)
        self._pending = [rest] if len(rest) else []

    def _room(self) -> int:
        return (self._bins - self._full) * self.width - self._pending_rows

    def _flush(self) -> None:
        """Turn pending rows into bins, and halve the bins when all are taken."""
        count = self._pending_rows // self.width
        if count:
            rows = np.concatenate(self._pending)
            binned = rows[: count * self.width].reshape(count, self.width, self._columns)
            self._data[:, self._full : self._full + count] = _summarise(binned)
            rest = rows[count * self.width :]
            self._pending_rows = len(rest)
            self._pending = [rest] if len(rest) else []
            self._full += count
        if self._full == self._bins:
            merged = np.zeros_like(self._data)
            merged[:, : self._bins // 2] = _merge(self._data[:, 0::2], self._data[:, 1::2])
            self._data, self._full = merged, self._bins // 2
            self.width *= 2


def _summarise(
    rows: Float[np.ndarray, "bins width columns"],
) -> Float[np.ndarray, "5 bins columns"]:
    if rows.shape[1] == 1:
        return np.broadcast_to(rows[:, 0], (len(Summary._fields), len(rows), rows.shape[2]))
    sample = rows[:, :: -(-rows.shape[1] // _MEDIAN_OF)]
    return np.stack(
        [rows[:, 0], rows[:, -1], rows.min(axis=1), rows.max(axis=1), np.median(sample, axis=1)]
    )


def _merge(
    left: Float[np.ndarray, "5 bins columns"], right: Float[np.ndarray, "5 bins columns"]
) -> Float[np.ndarray, "5 bins columns"]:
    return np.stack(
        [
            left[0],
            right[1],
            np.minimum(left[2], right[2]),
            np.maximum(left[3], right[3]),
            (left[4] + right[4]) / 2,
        ]
    )
