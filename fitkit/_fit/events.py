"""What happened to a fit, and the lines of Python that repeat what was done by hand."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fitkit._fit.steering import Steering

#: Elements of an array that are written out: more would not be read, and hardly be set by hand.
_WRITTEN = 1000


class RateChange(NamedTuple):
    """The learning rate of a parameter before and after a change; 0 where it is frozen."""

    path: str
    before: float
    after: float


class Event(NamedTuple):
    """Something that happened to a fit: at which step, what, and the code that repeats it."""

    step: int
    text: str
    code: str = ""
    #: The learning rates that it changed.
    rates: tuple[RateChange, ...] = ()


class Events(tuple[Event, ...]):
    """What happened to a fit, the latest last; equal to a tuple of the same events."""

    step: int

    def __new__(cls, events: Iterable[Event], step: int) -> "Events":
        """Hold the events of a fit that is at `step`."""
        made = super().__new__(cls, events)
        made.step = step
        return made

    def as_code(self, name: str = "fit") -> str:
        """Write what was done by hand as Python: run on a fresh fit, it does the same again.

        Learning rates, freezing, values, rewinding, the eigenbasis, and between them the steps. A
        change is written at the step at which it was made; one made while the fit ran took effect
        up to a tenth of a second later. An optimiser or new data cannot be written: they are names
        to be defined first, which the code says.

        Parameters
        ----------
        name
            What the fit is called.

        Returns
        -------
        str
            Lines of Python; empty if nothing was done.

        Examples
        --------
        >>> import optax
        >>> import fitkit as fk
        >>> fit = fk.Fit(
        ...     loss=lambda params, args: params["a"] ** 2 + params["b"] ** 2,
        ...     params={"a": 1.0, "b": 1.0},
        ...     optimiser=optax.sgd(0.1),
        ... )
        >>> fit.run(20, progress=False)
        >>> fit.freeze("b")
        >>> fit.run(10, progress=False)
        >>> print(fit.events.as_code())
        fit.run(20)
        fit.freeze('b')
        fit.run(10)
        """
        lines: list[str] = []
        at = 0
        for event in self:
            if not event.code:
                continue
            at = _run(lines, at, event.step)
            lines += event.code.splitlines()
            at = event.step
        _run(lines, at, self.step)
        return "\n".join(line.replace("fit.", f"{name}.", 1) for line in lines)


def steering_code(before: Steering, after: Steering, own: Mapping[str, float]) -> str:
    """Write what leads from one steering to another; `own` are the optimisers' own rates."""
    rates: dict[str, float] = {
        path: factor * own.get(path, 1.0)
        for path, factor in after.factors.items()
        if factor != before.factors[path]
    }
    lines = []
    if len(set(rates.values())) == 1:
        lines.append(f"fit.learning_rates[{_paths(rates)}] = {next(iter(rates.values()))!r}")
    elif rates:
        lines.append(f"fit.learning_rates.update({rates!r})")
    for verb, paths in (
        ("freeze", after.frozen - before.frozen),
        ("thaw", before.frozen - after.frozen),
    ):
        if paths:
            lines.append(f"fit.{verb}({_paths(p for p in after.names if p in paths)})")
    return "\n".join(lines)


def values_code(values: Mapping[str, Any]) -> str:
    """Write the values that were set by hand."""
    written = []
    for path, value in values.items():
        array = np.asarray(value)
        if array.size > _WRITTEN:
            size = " × ".join(map(str, array.shape))
            return f"fit.set_values(values)  # define it: {path!r} had {size} values here"
        written.append(f"{path!r}: {array.tolist()!r}")
    return f"fit.set_values({{{', '.join(written)}}})"


def _run(lines: list[str], at: int, step: int) -> int:
    if step > at:
        lines.append(f"fit.run({step - at})")
    return step


def _paths(paths: Iterable[str]) -> str:
    every = tuple(paths)
    return repr(every[0] if len(every) == 1 else every)
