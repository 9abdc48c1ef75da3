"""When the functions that a user adds to a fit are called."""

import math
import re
from collections.abc import Callable
from typing import Any

_UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


class Callback:
    """A function of the fit, and when it is to be called.

    Parameters
    ----------
    function
        Called with the fit.
    every
        A number of steps, a time such as ``"10s"``, or None for after every chunk.

    Raises
    ------
    TypeError
        If `function` cannot be called.
    ValueError
        If `every` is none of these.
    """

    def __init__(self, function: Callable[[Any], object], every: int | str | None) -> None:
        if not callable(function):
            raise TypeError(f"add_callback: {function!r} is no function of the fit.")
        self.function = function
        self._steps, self._seconds = _parsed(every)
        self._step, self._time = 0, 0.0
        self._called_at = -1

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def begin(self, step: int, now: float) -> None:
        """Count steps and time from here, where a run begins."""
        self._step, self._time, self._called_at = step, now, step

    def next_step(self, step: int) -> int | None:
        """Return the step at which it is due next; None if that does not hang on steps."""
        if self._steps is None:
            return None
        return (step // self._steps + 1) * self._steps

    def due(self, step: int, now: float) -> bool:
        """Return whether it should be called now."""
        if step == self._called_at:
            return False
        if self._steps is not None:
            return step // self._steps > self._step // self._steps
        return now - self._time >= self._seconds

    def due_at_end(self, step: int) -> bool:
        """Return whether it should be called where a run ends: unless it just was."""
        return step != self._called_at

    def called(self, step: int, now: float) -> None:
        """Note that it was called."""
        self._step, self._time, self._called_at = step, now, step


def _parsed(every: int | str | None) -> tuple[int | None, float]:
    """Read ``every`` as a number of steps or of seconds."""
    if every is None:
        return None, 0.0
    if isinstance(every, int) and not isinstance(every, bool) and every >= 1:
        return every, math.inf
    if isinstance(every, str):
        found = re.fullmatch(r"\s*([0-9.]+(?:e-?\d+)?)\s*(ms|s|min|h)\s*", every)
        if found and _is_positive(found[1]):
            return None, float(found[1]) * _UNITS[found[2]]
    raise ValueError(
        f"add_callback: every={every!r}; must be a number of steps such as 100, or a time such as "
        "'500ms', '10s', '5min' or '1h'."
    )


def _is_positive(number: str) -> bool:
    try:
        return math.isfinite(float(number)) and float(number) > 0
    except ValueError:
        return False
