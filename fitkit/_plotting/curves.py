"""Curves over the steps, thinned to what a plot can show."""

from typing import Any

import numpy as np
from jaxtyping import Float

FEW = 30  # as many steps are shown as points too
COLUMNS = 300  # a panel has about as many pixels for them; more points are merged


def merge_columns(steps: Any, *series: Any, columns: int = COLUMNS) -> tuple[np.ndarray, ...]:
    """Merge neighbouring bins until at most `columns` are left; extremes are kept.

    A series is an array, of whose rows the last of each group stays, or an array and the ufunc that
    merges a group.
    """
    pairs = [one if isinstance(one, tuple) else (one, None) for one in (steps, *series)]
    length = len(steps)
    stride = max(1, -(-length // columns))
    ends = np.arange(length - 1, -1, -stride)[::-1]
    starts = np.concatenate(([0], ends[:-1] + 1)) if length else ends
    merged = []
    for values, merge in pairs:
        values = np.asarray(values, dtype=float)
        if length and merge is not None:
            merged.append(merge.reduceat(values, starts))
        else:
            merged.append(values[ends])
    return tuple(merged)


def running_median(values: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "... n"]:
    """Compute the median over a window of a thirtieth of the points, shrinking at both ends."""
    half = values.shape[-1] // 60
    if half == 0:
        return values
    ends = np.full((*values.shape[:-1], half), np.nan)
    padded = np.concatenate([ends, values, ends], axis=-1)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=-1))
    # NaNs sort last, so the median of the rest is found by counting; nanmedian warns and is slow.
    count = np.sum(np.isfinite(windows), axis=-1)
    middle = np.maximum(count - 1, 0) // 2
    medians = np.take_along_axis(windows, middle[..., None], axis=-1)[..., 0]
    return np.where(count > 0, medians, np.nan)
