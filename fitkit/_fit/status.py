"""What a fit is doing, in one word."""

from enum import StrEnum


class Status(StrEnum):
    """What a fit is doing; every member equals its word, ``Status.RUNNING == "running"``.

    Attributes
    ----------
    READY
        No step was taken yet.
    COMPILING, RUNNING
        A run is under way; in the first, its program is being compiled.
    PAUSED
        The run was interrupted; `Fit.resume` goes on with it.
    FINISHED
        All steps of the run were taken, or its `until` was met.
    STOPPED
        The run was given up.
    CONVERGED, STALLED
        The run ended by itself, by its optimiser or by what the loss does: it is at a minimum, or
        cannot lower the loss any further.
    NON_FINITE
        A step was not finite; the last finite state is kept.
    FAILED
        The user's function raised an exception, or the optimiser met values that are not finite.

    Examples
    --------
    >>> import fitkit as fk
    >>> fk.Status.RUNNING, fk.Status("running").busy
    ('running', True)
    """

    READY = "ready"
    COMPILING = "compiling"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    CONVERGED = "converged"
    STALLED = "stalled"
    NON_FINITE = "non-finite"
    FAILED = "failed"

    def __repr__(self) -> str:
        # What a notebook shows of ``fit.status``: the word.
        return repr(self.value)

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self in (Status.COMPILING, Status.RUNNING)
