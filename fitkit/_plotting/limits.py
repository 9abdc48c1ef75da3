"""Limits of axes, snapped to round numbers so that a frame rarely changes them."""

from typing import Any

import numpy as np
from jaxtyping import Float

HUGE = 1e200  # a tick or two further, matplotlib overflows
DEPTH = 12  # decades of step sizes and eigenvalues at most


def finite(values: Any) -> Float[np.ndarray, " n"]:
    """Drop what no axis can show: NaN, infinity, and what overflows with a decade of room."""
    values = np.asarray(values, dtype=float)
    return values[np.abs(np.nan_to_num(values, nan=np.inf)) < HUGE]


def limits(values: Float[np.ndarray, " n"], log: bool) -> tuple[float, float]:
    """Compute limits that hold `values` with room, snapped to 1, 2, 5 in each decade."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if log:
        low, high = max(low, 1 / HUGE) / 1.15, high * 1.15
        down = 10.0 ** np.floor(np.log10(low))
        up = 10.0 ** np.floor(np.log10(high))
        low = max(down * k for k in (1, 2, 5) if down * k <= low)
        return float(low), float(min(up * k for k in (1, 2, 5, 10) if up * k >= high))
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    grain = 2.0 ** np.floor(np.log2(room))
    return float(np.floor((low - room) / grain) * grain), float(
        np.ceil((high + room) / grain) * grain
    )


def decades(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Compute limits of whole decades that hold the largest of `values`, twelve at most."""
    if values.size == 0:
        return 0.1, 1.0
    low, high = (
        np.floor(np.log10(max(values.min(), 1 / HUGE) / 1.2)),
        np.ceil(np.log10(values.max() * 1.2)),
    )
    # Further down lies rounding, or a parameter that has arrived: it would flatten the rest.
    low = max(low, high - DEPTH)
    return float(10.0**low), float(10.0 ** max(high, low + 1))


def step_limits(last: int, end: int | None, settled: bool) -> tuple[float, float]:
    """Compute the limits of a step axis.

    Parameters
    ----------
    last
        The last step that is drawn.
    end
        The step at which the run ends; None for a run without an end.
    settled
        Whether nothing more will come: the axis then ends where the steps do. Before, it grows by
        round numbers only.
    """
    if settled and last > 0:
        return 0.0, float(max(last, end or 0))
    grown = _round_up(max(last, 10))
    return 0.0, grown if end is None else min(float(max(end, last)), grown) if end else 10.0


def _round_up(value: float) -> float:
    scale = 10.0 ** np.floor(np.log10(value))
    return float(next(scale * k for k in (1, 2, 5, 10, 20) if scale * k >= value))
