"""What was computed of a fit's present state, so that asking again costs nothing."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from fitkit._fit.snapshots import Snapshot

T = TypeVar("T")


class Remembered:
    """Remembers answers for one state; forgets them when parameters, data or freezing change."""

    def __init__(self) -> None:
        # Whoever asks for what is being computed waits for it.
        self._lock = threading.RLock()
        self._state: tuple[Any, ...] = ()
        self._answers: dict[str, Any] = {}

    def of(self, now: Snapshot, question: str, compute: Callable[[], T]) -> T:
        """Return the answer to a question of the state of a snapshot, computed once."""
        # Nothing compares equal to a place but itself.
        state = now.place, now.frozen, now.start_loss
        with self._lock:
            if self._state != state:
                self._state, self._answers = state, {}
            if question not in self._answers:
                self._answers[question] = compute()
            return self._answers[question]
