"""What every step did, in bounded memory: columns of bins that double in width when they fill."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from fitkit._fit.filling_bin import FillingBin, Summary, merge
from fitkit._fit.record import Columns, StepInfo
from fitkit._format import html_table, number

#: Memory that the bins of one history may take, in bytes: of a hundred scalars, 664 bins.
_BUDGET = 8_000_000

#: Parameters of which a notebook shows a line: a screenful.
_SHOWN = 20


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
    ninther (the median of three medians of three of its rows, evenly spread) and, of a merged bin
    or one of more than 128 rows, the mean of the medians of its parts. All of it is found element
    by element.

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
    _pending: FillingBin

    @classmethod
    def empty(cls, columns: Columns) -> "History":
        """Build the history of a fit before its first step."""
        per_bin = len(Summary._fields) * 8 * columns.count
        bins = int(np.clip(_BUDGET // per_bin, 128, 2048)) // 2 * 2
        data = np.zeros((len(Summary._fields), bins, columns.count))
        return cls(1, columns, data, 0, FillingBin.repeated(data[0, 0], 0))

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
        return self._full * self.width + len(self._pending)

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
            return self._columns.read(self._pending.last)
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
        bins = self._data[:, : self._full, where]
        if self._pending:
            bins = np.concatenate([bins, self._pending.summary(where)], axis=1)
        return Summary(*bins.reshape(*bins.shape[:2], *shape))

    def extended(self, rows: Float[np.ndarray, "steps columns"]) -> "History":
        """Add one row per step, as its columns say.

        Of several histories that go on from the same one, only the latest may be used.
        """
        rows = np.asarray(rows, dtype=float)
        history = self
        while len(rows):
            room = (history._bins - history._full) * history.width - len(history._pending)
            taken, rows = rows[:room], rows[room:]
            history = history._filled(taken)
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
            or a part of the bin that was being filled, its first row stands for those that are not.
        """
        if steps >= len(self):
            return self
        bins, rest = divmod(steps, self.width)
        if exact is None or not len(exact):
            exact = np.empty((0, self._data.shape[2]))
        cut = self._pending
        if bins < self._full:
            cut = FillingBin.repeated(self._data[0, bins], self.width)
        pending = cut.truncated(rest, np.asarray(exact, dtype=float), self.width)
        # A copy, because what is filled from here on is still seen by earlier histories.
        return dataclasses.replace(self, _data=self._data.copy(), _full=bins, _pending=pending)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the whole history as arrays, to be saved."""
        pending = self._pending
        return {
            "bins": self._data[:, : self._full],
            "parts": pending.parts,
            "pending": pending.rows,
            "counts": np.array([self.width, self._full, len(pending)]),
        }

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "History":
        """Return the history of the same parameters that `to_arrays` returned."""
        counts = np.asarray(arrays["counts"])
        if counts.shape != (3,) or counts.dtype.kind != "i":
            raise ValueError(f"a history with counts {counts}")
        width, full, count = (int(number) for number in counts)
        bins, parts, rows = (np.asarray(arrays[name]) for name in ("bins", "parts", "pending"))
        data = np.zeros_like(self._data)
        if bins.shape != (len(data), full, data.shape[2]) or full >= data.shape[1]:
            raise ValueError(f"a history with bins of shape {bins.shape}")
        # Widths are powers of two.
        if width < 1 or width & (width - 1) or not 0 <= count < width:
            raise ValueError(f"a history of width {width} with {count} pending rows")
        like = FillingBin.repeated(data[0, 0], count)
        if (parts.shape, rows.shape) != (like.parts.shape, like.rows.shape):
            raise ValueError(f"a history with pending rows of shape {parts.shape} and {rows.shape}")
        if not bins.dtype == parts.dtype == rows.dtype == data.dtype:
            raise ValueError(f"a history of {bins.dtype}, {parts.dtype} and {rows.dtype}")
        data[:, :full] = bins
        pending = FillingBin(count, parts, rows)
        return dataclasses.replace(self, width=width, _data=data, _full=full, _pending=pending)

    @property
    def _bins(self) -> int:
        return self._data.shape[1]

    def _filled(self, rows: Float[np.ndarray, "steps columns"]) -> "History":
        """Add rows that there is room for, and halve the bins when all are taken."""
        bins, pending = self._pending.filled(rows, self.width)
        data, width, full = self._data, self.width, self._full + bins.shape[1]
        data[:, self._full : full] = bins
        if full == self._bins:
            data, full, width = np.zeros_like(data), full // 2, 2 * width
            data[:, :full] = merge(self._data[:, 0::2], self._data[:, 1::2])
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
    where, median = history._columns.norms(quantity), Summary._fields.index("median")
    medians = history._data[median, : history._full, where]
    if not history._pending:
        return medians
    return np.concatenate([medians, history._pending.summary(where)[median]])
