"""The record of many fits: one row of numbers for each."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fitkit._result import Kind

# Kinds as numbers, in the order of their definition; fits that were not made have the last.
KINDS = tuple(Kind)
WAITING = len(KINDS)


@dataclass
class Record:
    """What is known of all fits, one row each: those of the first system, then of the second.

    Attributes
    ----------
    values, errors : Float[np.ndarray, "fits n"]
        Of the elements that are fitted.
    chi_square, data, rank : np.ndarray
        Sum of squares, number of residuals that are data and of constrained eigenvectors.
    kind : Int[np.ndarray, " fits"]
        Index into `KINDS`; `WAITING` of a fit that was not made.
    held : Bool[np.ndarray, "fits n"]
        Which elements are on a limit.
    rounds : Int[np.ndarray, " fits"]
        Evaluations of the residuals and their derivatives by normal equations.
    success : Bool[np.ndarray, " fits"]
        Whether a fit is at a minimum at which all is constrained.
    """

    values: Float[np.ndarray, "fits n"]
    errors: Float[np.ndarray, "fits n"]
    chi_square: Float[np.ndarray, " fits"]
    data: Int[np.ndarray, " fits"]
    rank: Int[np.ndarray, " fits"]
    kind: Int[np.ndarray, " fits"]
    held: Bool[np.ndarray, "fits n"]
    rounds: Int[np.ndarray, " fits"]
    success: Bool[np.ndarray, " fits"]

    @classmethod
    def empty(cls, fits: int, n: int, dtype: Any) -> "Record":
        """Build the record before any fit was made."""
        return cls(
            values=np.full((fits, n), np.nan, dtype),
            errors=np.full((fits, n), np.nan, dtype),
            chi_square=np.full(fits, np.nan),
            data=np.zeros(fits, np.int32),
            rank=np.zeros(fits, np.int32),
            kind=np.full(fits, WAITING, np.int8),
            held=np.zeros((fits, n), bool),
            rounds=np.zeros(fits, np.int32),
            success=np.zeros(fits, bool),
        )

    @property
    def finished(self) -> Bool[np.ndarray, " fits"]:
        """Which fits were made."""
        return self.kind != WAITING

    def improved(
        self, rows: Int[np.ndarray, " k"], other: "Record", others: Int[np.ndarray, " k"]
    ) -> int:
        """Take over those rows of another record that are better; return how many."""
        lower = other.chi_square[others] < self.chi_square[rows]
        lower |= ~np.isfinite(self.chi_square[rows])
        gained = other.success[others] & ~self.success[rows]
        better = other.finished[others] & (
            gained | (lower & (other.success[others] >= self.success[rows]))
        )
        for field in dataclasses.fields(self):
            getattr(self, field.name)[rows[better]] = getattr(other, field.name)[others[better]]
        return int(np.count_nonzero(better))
