"""Which of the starts of a system won, and how many came to the same place."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from fitkit._many.record import Record

# Two fits of the same data that differ by this share of chi-square are at the same minimum: far
# above rounding, and far below what a step of a thousandth of a standard error changes of a
# hundred data.
SAME = 1e-6


class Best(NamedTuple):
    """Of every system, the fit that won.

    Attributes
    ----------
    rows
        Its row in the record.
    times
        How many of the starts came to the same chi-square, and where it is a success to one.
    """

    rows: Int[np.ndarray, " systems"]
    times: Int[np.ndarray, " systems"]


def best_of(record: Record, starts: int) -> Best:
    """Find the lowest chi-square of every system: among its minima, if there are any."""
    count = len(record.kind) // starts
    if starts == 1:
        return Best(np.arange(count), record.finished.astype(int))
    success = record.success.reshape(count, starts)
    done = record.finished.reshape(count, starts)
    squares = np.where(done, record.chi_square.reshape(count, starts), np.nan)
    among = np.where(success.any(axis=1)[:, None], success, done)
    squares = np.where(among & np.isfinite(squares), squares, np.inf)
    winner = np.argmin(squares, axis=1)
    lowest = squares[np.arange(count), winner]
    # Where all are zero, or none is finite, the difference is none or no number.
    with np.errstate(invalid="ignore"):
        same = among & (squares - lowest[:, None] <= SAME * lowest[:, None])
    return Best(np.arange(count) * starts + winner, same.sum(axis=1))
