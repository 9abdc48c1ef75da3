"""How far many fits were, second by second."""

import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fitkit._many.record import KINDS, Record
from fitkit._result import CONVERGED

# Rows at most: a plot has fewer columns. With more, every second one is dropped.
MOST_ROWS = 2000
# By the number of a kind; the last is that of what waits.
_CONVERGED = np.array([*(kind in CONVERGED for kind in KINDS), False])


class Completion(NamedTuple):
    """How many fits were made when: `Many.completion`.

    Attributes
    ----------
    seconds
        Time since the beginning, without pauses.
    made, converged
        How many fits were made by then, and how many of them are at a minimum, be it a flat one.
    """

    seconds: Float[np.ndarray, " rows"]
    made: Int[np.ndarray, " rows"]
    converged: Int[np.ndarray, " rows"]


class Clock:
    """Writes it down, one row after every portion of fits."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._began, self._stride, self._skipped = time.monotonic(), 1, 0
        self._rows = [self._row(0.0)]

    def start(self) -> None:
        """Go on from where the last row was written."""
        self._began = time.monotonic() - self._rows[-1][0]

    def note(self) -> None:
        """Write a row; it takes the place of the last while rows are dropped."""
        row = self._row(time.monotonic() - self._began)
        self._skipped += 1
        if self._skipped < self._stride and len(self._rows) > 1:
            # As one list, so that whoever reads sees either.
            self._rows = [*self._rows[:-1], row]
            return
        self._skipped = 0
        rows = [*self._rows, row]
        if len(rows) > MOST_ROWS:
            rows, self._stride = [*rows[:-1:2], row], 2 * self._stride
        self._rows = rows

    @property
    def completion(self) -> Completion:
        """All rows."""
        seconds, made, converged = zip(*self._rows, strict=True)
        return Completion(np.array(seconds), np.array(made), np.array(converged))

    def _row(self, seconds: float) -> tuple[float, int, int]:
        record = self._record
        return seconds, int(record.finished.sum()), int(_CONVERGED[record.kind].sum())
