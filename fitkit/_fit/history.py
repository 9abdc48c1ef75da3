"""What every step did, in bounded memory: columns of bins that double in width when they fill."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fitkit._fit.record import Columns, StepInfo
from fitkit._format import html_table, number

#: Memory that the bins of one history may take, in bytes: of a hundred scalars, 664 bins.
_BUDGET = 8_000_000

#: Parameters of which a notebook shows a line: a screenful.
_SHOWN = 20

#: Rows of a bin that its median is taken of: more take far longer than the extremes do.
_NINE = 9


class Summary(NamedTuple):
    """What the steps of each bin were: the first, the last, and the extremes between them.

    Of values every array has the shape of the parameter after the axis of bins, and each of its
    elements is summarised by itself.
    """

    first: Float[np.ndarray, "bins ..."]
    last: Float[np.ndarray, "bins ..."]
    minimum: Float[np.ndarray, "bins ..."]
    maximum: Float[np.ndarray, "bins ..."]
    median: Float[np.ndarray, "bins ..."]


class _Values(dict):
    """Arrays by path, which say why one is missing."""

    def __init__(self, columns: Columns, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self._columns = columns

    def __missing__(self, name: str) -> np.ndarray:
        self._columns.place("values", name)
        raise KeyError(name)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class History:
    """Loss, gradient norms, step norms and values of every step, in bounded memory.

    A row belongs to a step: the loss, the gradient norms and the values of the parameters that the
    step started from, and how far it moved them. Values are those of parameters of up to 64
    elements, the smallest ones up to 1,000 elements together; of others the norms alone are
    recorded.

    Rows are exact until the bins are full, of which there are 2,048 for a few parameters, 664 for a
    hundred scalars and never fewer than 128; then two
    neighbouring bins become one, again and again, so that ten million steps take no more memory
    than a thousand. First, last, minimum and maximum of a bin are exact; its median is Tukey's
    ninther (the median of three medians of three of its rows, evenly spread) and, of a merged bin,
    the mean of the medians of the two. All of it is found element by element.

    A history never changes: `Fit.history` of a running fit is that of one moment.

    Attributes
    ----------
    width : int
        How many steps a bin holds.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> fit = fk.Fit(
    ...     loss=lambda params, args: params["flux"] ** 2,
    ...     params={"flux": 1.0},
    ...     optimiser=optax.sgd(0.25),
    ... )
    >>> fit.run(3, progress=False)
    >>> len(fit.history)
    3
    >>> fit.history.loss.round(4).tolist()
    [1.0, 0.25, 0.0625]
    >>> fit.history.step_norms["flux"].round(4).tolist()
    [0.5, 0.25, 0.125]
    >>> fit.history.values["flux"].round(4).tolist()
    [1.0, 0.5, 0.25]
    """

    width: int
    _columns: Columns
    # Shape (5, bins, columns). Those who extend a history fill bins beyond `_full` in place, which
    # earlier histories do not look at; everything else makes a new array.
    _data: np.ndarray
    _full: int
    _pending: tuple[np.ndarray, ...]

    @classmethod
    def empty(cls, columns: Columns) -> "History":
        """Build the history of a fit before its first step."""
        per_bin = len(Summary._fields) * 8 * columns.count
        bins = int(np.clip(_BUDGET // per_bin, 128, 2048)) // 2 * 2
        data = np.zeros((len(Summary._fields), bins, columns.count))
        return cls(1, columns, data, 0, ())

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the parameters."""
        return self._columns.names

    @property
    def row_length(self) -> int:
        """How many numbers are recorded of a step."""
        return self._columns.count

    def __len__(self) -> int:
        """Count the steps recorded."""
        return self._full * self.width + self._pending_rows

    def __repr__(self) -> str:
        return f"<History of {len(self):,} steps of {len(self.names)} parameters>"

    def _repr_html_(self) -> str:
        headline = f"History of {len(self):,} steps of {len(self.names)} parameters"
        if not len(self):
            return html_table(headline, (), (), ())
        single = [name for name, shape in self._columns.shapes.items() if shape == ()]
        rows = [("loss", self.summary("loss"))]
        rows += [(name, self.summary("values", name)) for name in single[:_SHOWN]]
        ends = (
            (one.first[0], one.minimum.min(), one.maximum.max(), one.last[-1]) for _, one in rows
        )
        cells = [
            (name, *(number(float(value), 6, typeset=True) for value in values))
            for (name, _), values in zip(rows, ends, strict=True)
        ]
        return html_table(headline, (), ("", "first", "lowest", "highest", "last"), cells)

    @property
    def steps(self) -> Int[np.ndarray, " bins"]:
        """The number of the last step in every bin; the first step is 0."""
        ends = np.arange(1, self._full + 1) * self.width
        return (np.append(ends, len(self)) if self._pending else ends) - 1

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

    @property
    def values(self) -> dict[str, Float[np.ndarray, "bins ..."]]:
        """The values of each small parameter at the last step of every bin, by path.

        They are those from which that step started, so that the first is where the fit began.
        """
        shapes = self._columns.shapes
        last = {name: self.summary("values", name).last for name in shapes}
        return _Values(self._columns, last)

    @property
    def latest(self) -> StepInfo | None:
        """What was recorded of the latest step; None before the first."""
        if not len(self):
            return None
        if self._pending:
            return self._columns.read(self._pending[-1][-1])
        return self._columns.read(self._data[Summary._fields.index("last"), self._full - 1])

    def summary(self, quantity: str, name: str | None = None) -> Summary:
        """Summarise a quantity bin by bin.

        Parameters
        ----------
        quantity
            ``"loss"``, ``"gradient_norms"``, ``"step_norms"`` or ``"values"``.
        name
            The path of the parameter, for all but the loss.

        Raises
        ------
        KeyError
            If it is not recorded.
        """
        where, shape = self._columns.place(quantity, name)
        parts = [self._data[:, : self._full, where]]
        if self._pending:
            rest = np.concatenate([rows[:, where] for rows in self._pending])
            parts.append(_summarise(rest[None]))
        bins = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return Summary(*bins.reshape(*bins.shape[:2], *shape))

    def extended(self, rows: Float[np.ndarray, "steps columns"]) -> "History":
        """Add one row per step, as its columns say.

        Of several histories that go on from the same one, only the latest may be used.
        """
        rows = np.asarray(rows, dtype=float)
        history = self
        while len(rows):
            room = (history._bins - history._full) * history.width - history._pending_rows
            taken, rows = rows[:room], rows[room:]
            history = dataclasses.replace(history, _pending=(*history._pending, taken))._binned()
        return history

    def truncated(
        self, steps: int, exact: Float[np.ndarray, "known columns"] | None = None
    ) -> "History":
        """Forget the rows of step `steps` and of all later ones.

        Parameters
        ----------
        steps
            How many rows stay.
        exact
            The rows of the last steps that stay, as far as they are known. Of a bin that is cut,
            its first row stands for those that are not.
        """
        if steps >= len(self):
            return self
        bins, rest = divmod(steps, self.width)
        kept = np.empty((0, self._data.shape[2]))
        if rest:
            kept = (
                np.repeat(self._data[0, bins : bins + 1], rest, axis=0)
                if bins < self._full
                else np.concatenate(self._pending)[:rest]
            )
        if exact is not None and len(exact) and rest:
            known = np.asarray(exact, dtype=float)[-rest:]
            kept = np.concatenate([kept[: rest - len(known)], known])
        pending = (kept,) if rest else ()
        # A copy, because what is filled from here on is still seen by earlier histories.
        return dataclasses.replace(self, _data=self._data.copy(), _full=bins, _pending=pending)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the whole history as arrays, to be saved."""
        columns = self._data.shape[2]
        pending = np.concatenate(self._pending) if self._pending else np.empty((0, columns))
        counts = np.array([self.width, self._full])
        return {"bins": self._data[:, : self._full], "pending": pending, "counts": counts}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "History":
        """Return the history of the same parameters that `to_arrays` returned."""
        counts = np.asarray(arrays["counts"])
        if counts.shape != (2,) or counts.dtype.kind != "i":
            raise ValueError(f"a history with counts {counts}")
        width, full = (int(count) for count in counts)
        bins, pending = np.asarray(arrays["bins"]), np.asarray(arrays["pending"])
        data = np.zeros_like(self._data)
        if bins.shape != (len(data), full, data.shape[2]) or full >= data.shape[1] or width < 1:
            raise ValueError(f"a history with bins of shape {bins.shape} and width {width}")
        if pending.ndim != 2 or pending.shape[1] != data.shape[2] or len(pending) >= width:
            raise ValueError(f"a history with pending rows of shape {pending.shape}")
        if not bins.dtype == pending.dtype == data.dtype:
            raise ValueError(f"a history of {bins.dtype} and {pending.dtype}")
        data[:, :full] = bins
        rows = (pending,) if len(pending) else ()
        return dataclasses.replace(self, width=width, _data=data, _full=full, _pending=rows)

    @property
    def _bins(self) -> int:
        return self._data.shape[1]

    @property
    def _pending_rows(self) -> int:
        return sum(len(rows) for rows in self._pending)

    def _binned(self) -> "History":
        """Turn pending rows into bins, and halve the bins when all are taken."""
        count = self._pending_rows // self.width
        if not count:
            return self
        data, width, full = self._data, self.width, self._full + count
        rows = np.concatenate(self._pending)
        binned = rows[: count * width].reshape(count, width, data.shape[2])
        data[:, self._full : full] = _summarise(binned)
        rest = rows[count * width :]
        if full == self._bins:
            data, full, width = np.zeros_like(data), full // 2, 2 * width
            data[:, :full] = _merge(self._data[:, 0::2], self._data[:, 1::2])
        pending = (rest,) if len(rest) else ()
        return History(width, self._columns, data, full, pending)


def norm_medians(history: History, quantity: str) -> Float[np.ndarray, "bins parameters"]:
    """Look up the medians of a norm, as `History.summary` has them, of all parameters in one go.

    Parameters
    ----------
    history
        The history.
    quantity
        ``"gradient_norms"`` or ``"step_norms"``.
    """
    where, pending = history._columns.norms(quantity), history._pending
    medians = history._data[Summary._fields.index("median"), : history._full, where]
    if not pending:
        return medians
    # The rows of a bin, of which a long run has thousands, are not looked at but for these.
    picked = _picked(history._pending_rows)
    ends = np.cumsum([len(rows) for rows in pending])
    chunks = np.searchsorted(ends, picked, side="right")
    rows = [pending[k][row - ends[k], where] for k, row in zip(chunks, picked, strict=True)]
    return np.concatenate([medians, _middle(np.array(rows)[None])])


def _summarise(
    rows: Float[np.ndarray, "bins width columns"],
) -> Float[np.ndarray, "5 bins columns"]:
    if rows.shape[1] == 1:
        return np.broadcast_to(rows[:, 0], (len(Summary._fields), len(rows), rows.shape[2]))
    extremes = rows.min(axis=1), rows.max(axis=1)
    return np.stack([rows[:, 0], rows[:, -1], *extremes, _middle(rows)])


def _middle(
    rows: Float[np.ndarray, "bins width columns"],
) -> Float[np.ndarray, "bins columns"]:
    """Estimate the median of bins: exact for up to three rows, else the ninther.

    J. W. Tukey, "The ninther, a technique for low-effort robust (resistant) location in large
    samples", in Contributions to Survey Sampling and Applied Statistics (1978).
    """
    width = rows.shape[1]
    if width == 2:
        return (rows[:, 0] + rows[:, 1]) / 2
    picked = _picked(width)
    if width < _NINE:
        return np.median(rows[:, picked], axis=1)
    thirds = [_median_of_three(*(rows[:, k] for k in picked[i : i + 3])) for i in (0, 3, 6)]
    return _median_of_three(*thirds)


def _picked(width: int) -> Int[np.ndarray, " picked"]:
    """Choose the rows of a bin that its median is taken of, evenly spread."""
    return np.linspace(0, width - 1, min(width, _NINE)).astype(int)


def _median_of_three(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


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
