"""The bin of a history that is being filled, and how rows become bins: in bounded memory."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

#: Rows that are kept as they are, at most: of no history do they take more than a fifth of what its
#: bins do, of which there are 128 or more, of five numbers for each one of a row. A power of two,
#: as widths are.
GROUP = 128

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


@dataclasses.dataclass(frozen=True, eq=False)
class FillingBin:
    """Rows that do not fill a bin yet, summarised like the digits of a binary number.

    Every `GROUP` rows become a part, and two parts of equally many rows one part. So the parts have
    as many rows as the binary digits of their number say, the earliest part the most, and there are
    few: eleven where a bin has a quarter of a million rows. It never changes.

    Attributes
    ----------
    count
        How many rows there are.
    parts
        The summaries of all but the latest rows, in the order of time.
    rows
        The latest rows, fewer than `GROUP`.
    """

    count: int
    parts: Float[np.ndarray, "5 parts columns"]
    rows: Float[np.ndarray, "rows columns"]

    @classmethod
    def repeated(cls, row: Float[np.ndarray, " columns"], count: int) -> "FillingBin":
        """Build the one of so many equal rows."""
        parts = np.tile(row, (len(Summary._fields), len(_sizes(count)), 1))
        return cls(count, parts, np.tile(row, (count % GROUP, 1)))

    def __len__(self) -> int:
        return self.count

    @property
    def last(self) -> Float[np.ndarray, " columns"]:
        """The latest row."""
        return self.rows[-1] if len(self.rows) else self.parts[Summary._fields.index("last"), -1]

    def summary(self, where: slice) -> Float[np.ndarray, "5 bins columns"]:
        """Summarise some columns of all rows, as one bin."""
        parts = [self.parts[:, k : k + 1, where] for k in range(self.parts.shape[1])]
        sizes = _sizes(self.count)
        if len(self.rows):
            parts.append(summarise(self.rows[None, :, where]))
            sizes.append(len(self.rows))
        bins, count = parts[0], sizes[0]
        for part, size in zip(parts[1:], sizes[1:], strict=True):
            count += size
            bins = merge(bins, part, size / count)
        return bins

    def filled(
        self, rows: Float[np.ndarray, "steps columns"], width: int
    ) -> tuple[Float[np.ndarray, "5 bins columns"], "FillingBin"]:
        """Add rows.

        Returns the bins of `width` rows that are full then, and what is left for the next one.
        """
        count, size = self.count + len(rows), min(GROUP, width)
        missing = size - len(self.rows)
        # All rows that are kept are copied: those that come may be few of a large array.
        first = np.concatenate([self.rows, rows[:missing]])
        if len(rows) < missing:
            return self.parts[:, :0], FillingBin(count, self.parts, first)
        rows = rows[missing:]
        whole = len(rows) // size
        rest = rows[whole * size :].copy()
        full = [first[None], rows[: whole * size].reshape(whole, size, rows.shape[1])]
        full = np.concatenate([summarise(one) for one in full], axis=1)
        parts, sizes, odd = self.parts, _sizes(self.count), []
        # Binary addition: at each size, the part that waits is carried along, and an odd one stays.
        while size < width and full.shape[1]:
            if sizes and sizes[-1] == size:
                full = np.concatenate([parts[:, -1:], full], axis=1)
                parts, sizes = parts[:, :-1], sizes[:-1]
            if full.shape[1] % 2:
                odd.insert(0, full[:, -1:])
                full = full[:, :-1]
            full = merge(full[:, 0::2], full[:, 1::2])
            size *= 2
        parts = np.concatenate([parts, *odd], axis=1)
        return full, FillingBin(count - full.shape[1] * width, parts, rest)

    def truncated(
        self, count: int, exact: Float[np.ndarray, "known columns"], width: int
    ) -> "FillingBin":
        """Keep the first rows of a bin of `width`, of which the last ones may be known exactly.

        Of a part that is cut, its first row stands for those that are not known.
        """
        ends = np.cumsum([0, *_sizes(self.count)])
        whole = int(np.searchsorted(ends, count, side="right")) - 1
        rest = count - int(ends[whole])
        known = exact[max(len(exact) - rest, 0) :]
        rest -= len(known)
        if whole < self.parts.shape[1]:
            cut = FillingBin.repeated(self.parts[0, whole], rest)
        else:
            cut = FillingBin(rest, self.parts[:, :0], self.rows[:rest])
        parts = np.concatenate([self.parts[:, :whole], cut.parts], axis=1)
        return FillingBin(int(ends[whole]) + rest, parts, cut.rows).filled(known, width)[1]


def _sizes(count: int) -> list[int]:
    """Return how many rows each part of a bin has: the binary digits of the number of groups."""
    groups = count // GROUP
    return [GROUP << k for k in reversed(range(groups.bit_length())) if groups >> k & 1]


def summarise(
    rows: Float[np.ndarray, "bins width columns"],
) -> Float[np.ndarray, "5 bins columns"]:
    """Summarise the rows of each bin."""
    if rows.shape[1] == 1:
        return np.broadcast_to(rows[:, 0], (len(Summary._fields), len(rows), rows.shape[2]))
    extremes = rows.min(axis=1), rows.max(axis=1)
    return np.stack([rows[:, 0], rows[:, -1], *extremes, _middle(rows)])


def merge(
    left: Float[np.ndarray, "5 bins columns"],
    right: Float[np.ndarray, "5 bins columns"],
    share: float = 0.5,
) -> Float[np.ndarray, "5 bins columns"]:
    """Make one bin of each two, of whose rows the right one has a share."""
    return np.stack(
        [
            left[0],
            right[1],
            np.minimum(left[2], right[2]),
            np.maximum(left[3], right[3]),
            (1 - share) * left[4] + share * right[4],
        ]
    )


def _middle(
    rows: Float[np.ndarray, "bins width columns"],
) -> Float[np.ndarray, "bins columns"]:
    """Estimate the median of bins: exact for up to three rows, else the ninther.

    J. W. Tukey, "The ninther, a technique for low-effort robust (resistant) location in large
    samples", in Contributions to Survey Sampling and Applied Statistics (1978).
    """
    bins, width, columns = rows.shape
    if width == 2:
        return (rows[:, 0] + rows[:, 1]) / 2
    if width < _NINE:
        return np.median(rows, axis=1)
    # Evenly spread, from the first row to the last.
    picked = [k * (width - 1) // (_NINE - 1) for k in range(_NINE)]
    thirds = rows[:, picked].reshape(bins, 3, 3, columns)
    medians = _median_of_three(thirds[:, :, 0], thirds[:, :, 1], thirds[:, :, 2])
    return _median_of_three(medians[:, 0], medians[:, 1], medians[:, 2])


def _median_of_three(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
