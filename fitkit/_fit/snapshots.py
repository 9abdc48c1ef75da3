"""Earlier states of a fit: a few are kept, those between are run again."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from fitkit._fit.step import Controls, FitState

#: Memory that kept states may take, in bytes, and how many are kept at most.
_BUDGET = 64_000_000
_MOST = 128


class Mark(NamedTuple):
    """A state that is kept, and what steered the fit from there on."""

    step: int
    state: FitState
    controls: Controls


class Timeline:
    """States of a fit by step number, in bounded memory.

    A step is a pure function of state, controls and data, so a state between two marks is
    found by running on from the earlier one. On a CPU that gives the very same bits.

    Parameters
    ----------
    advance
        ``advance(state, controls, steps)`` runs good steps again.
    start
        The state at step 0.
    """

    def __init__(
        self,
        advance: Callable[[FitState, Controls, int], FitState],
        start: FitState,
        controls: Controls,
    ) -> None:
        self._advance = advance
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(start) if hasattr(leaf, "nbytes"))
        self._most = max(8, min(_MOST, _BUDGET // max(size, 1)))
        self._marks = [Mark(0, start, controls)]
        self._changes = [(0, controls)]
        self.first = 0

    def record(self, step: int, state: FitState, controls: Controls) -> None:
        """Keep the state at `step`, from which `controls` steer; thin out the older ones."""
        if controls is not self._changes[-1][1]:
            self._changes = [*self._changes, (step, controls)]
        marks = [mark for mark in self._marks if mark.step < step]
        marks.append(Mark(step, state, controls))
        if len(marks) > self._most:
            # The latest two stay: a step that fails is undone from the one before it.
            marks = [*marks[:-2:2], *marks[-2:]]
        self._marks = marks

    def at(self, step: int) -> FitState:
        """Give the state at `step`, running on from the nearest mark before it."""
        marks, changes = self._marks, self._changes
        now, state, controls = max((m for m in marks if m.step <= step), key=lambda m: m.step)
        turns = [(turn, then) for turn, then in changes if now < turn < step]
        for turn, then in [*turns, (step, controls)]:
            if turn > now:
                state, now = self._advance(state, controls, turn - now), turn
            controls = then
        return state

    def restart(self, step: int, state: FitState, other: int, other_state: FitState) -> None:
        """Start anew at `step`, with one other state that is known."""
        controls = self._changes[-1][1]
        known = {other: other_state, step: state}
        self._marks = [Mark(at, known[at], controls) for at in sorted(known)]
        self.first = step

    def truncate(self, step: int) -> None:
        """Forget what came after `step`."""
        self.first = min(self.first, step)
        self._marks = [mark for mark in self._marks if mark.step <= step]
        self._changes = [change for change in self._changes if change[0] <= step] or [
            self._changes[0]
        ]
