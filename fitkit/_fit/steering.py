"""What steers a fit, by parameter path: learning rates and freezing, data of the running step."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, SupportsFloat

from fitkit._fit.step import Controls
from fitkit._format import number
from fitkit._paths import Paths, match_paths

#: Changes of the same kind less than this apart, in seconds, are one: a slider on its way.
GESTURE = 1.0

#: How many changes can be undone: more than a person remembers, and little memory.
_MEMORY = 100


class Change(NamedTuple):
    """What was in force before a change, and which change that was."""

    words: str
    kind: tuple[str, ...]
    latest: float
    factors: Mapping[str, float]
    frozen: frozenset[str]
    #: The whole fit, where the change was a leap to other parameters.
    before: Any = None
    #: The values of parameters before they were set by hand.
    values: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, eq=False)
class Steering:
    """The factor that multiplies each parameter's step, and which parameters are frozen.

    It never changes: every method returns another one. `controls` is data to the compiled step,
    always of the same type, so that nothing compiles again.

    Attributes
    ----------
    factors
        By path; all of them.
    unmapped
        The parameters that no optimiser moves: they stay frozen.
    frozen
        Those and the ones that the user froze.
    past
        What `undone` can take back, the latest last.
    """

    factors: Mapping[str, float]
    unmapped: frozenset[str]
    frozen: frozenset[str]
    past: tuple[Change, ...] = ()

    @classmethod
    def of(cls, names: tuple[str, ...], unmapped: frozenset[str]) -> "Steering":
        """Build the one of a fit that nobody has steered yet."""
        return cls(dict.fromkeys(names, 1.0), unmapped, unmapped)

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the parameters."""
        return tuple(self.factors)

    @functools.cached_property
    def controls(self) -> Controls:
        """The factors as the compiled step takes them."""
        return Controls.of(0.0 if n in self.frozen else f for n, f in self.factors.items())

    @property
    def undoable(self) -> str:
        """The change that `undone` takes back; empty if there is none."""
        return self.past[-1].words if self.past else ""

    def continues(self, before: "Steering") -> bool:
        """Return whether the latest change is that of `before`, carried on."""
        if not len(self.past) == len(before.past) > 0:
            return False
        # With the memory full, a new change leaves their number as it was.
        return len(self.past) == 1 or self.past[-2] is before.past[-2]

    def undone(self) -> "Steering":
        """Take the latest change back."""
        if not self.past:
            raise RuntimeError(
                "undo: nothing was changed since the fit was made, or all is undone."
            )
        change = self.past[-1]
        return dataclasses.replace(
            self, factors=change.factors, frozen=change.frozen, past=self.past[:-1]
        )

    def with_factors(
        self, factors: Mapping[str, float], words: str, now: float, kind: str = "set"
    ) -> "Steering":
        """Multiply the steps of some parameters by new factors."""
        return self._changed(words, (kind, *factors), now, factors={**self.factors, **factors})

    def leapt(self, words: str, before: Any) -> "Steering":
        """Remember the fit before a leap to other parameters; what steers it stays."""
        change = Change(words, ("leap",), 0.0, self.factors, self.frozen, before)
        return dataclasses.replace(self, past=(*self.past[1 - _MEMORY :], change))

    def freeze(self, pattern: Paths, now: float) -> "Steering":
        """Freeze parameters."""
        paths = match_paths(pattern, self.names, "freeze")
        words = f"froze {', '.join(paths)}"
        return self._changed(words, ("freeze", *paths), now, frozen=self.frozen.union(paths))

    def thaw(self, pattern: Paths, now: float) -> "Steering":
        """Let parameters move again."""
        paths = match_paths(pattern, self.names, "thaw")
        stuck = [path for path in paths if path in self.unmapped]
        if stuck and len(stuck) == len(paths):
            raise ValueError(
                f"thaw: no optimiser moves {', '.join(map(repr, stuck))}. Name one for it in "
                "`optimiser` when the fit is made."
            )
        words = f"thawed {', '.join(path for path in paths if path not in stuck)}"
        frozen = self.frozen.difference(paths) | self.unmapped
        return self._changed(words, ("thaw", *paths), now, frozen=frozen)

    def with_values(self, old: Mapping[str, Any], words: str, now: float) -> "Steering":
        """Remember the values that parameters had before they were set by hand."""
        return self._changed(words, ("values", *old), now, values=old)

    def for_optimiser(
        self, unmapped: frozenset[str], factors: Mapping[str, float] | None = None
    ) -> "Steering":
        """Start with another optimiser: factors of 1 unless given, frozen what the user froze."""
        frozen = (self.frozen - self.unmapped) | unmapped
        return Steering(factors or dict.fromkeys(self.names, 1.0), unmapped, frozen)

    def _changed(
        self,
        words: str,
        kind: tuple[str, ...],
        now: float,
        factors: Mapping[str, float] | None = None,
        frozen: frozenset[str] | None = None,
        values: Mapping[str, Any] = MappingProxyType({}),
    ) -> "Steering":
        """Put other factors or another frozen set in force, and remember those before."""
        last = self.past[-1] if self.past else None
        if last is not None and last.kind == kind and now - last.latest < GESTURE:
            past = (*self.past[:-1], last._replace(words=words, latest=now))
        else:
            change = Change(words, kind, now, self.factors, self.frozen, values=values)
            past = (*self.past[1 - _MEMORY :], change)
        return dataclasses.replace(
            self,
            factors=self.factors if factors is None else factors,
            frozen=self.frozen if frozen is None else frozen,
            past=past,
        )


class LearningRates(Mapping[str, float]):
    """The learning rate of every parameter, by path; assign to steer the running fit.

    Where the optimiser of a parameter was wrapped in ``optax.inject_hyperparams`` the number is
    its own learning rate. Other optimisers do not show theirs: there the number multiplies it, and
    1 is the optimiser as it was written; `relative` returns which of the two it is. `gauss_newton`
    has no learning rate: below 1 the number damps its steps, and above it counts as 1. A parameter
    whose number was 0 goes on with the moments that it had, as a thawed one does.

    A key to assign to may be a path, the path of a subtree, a glob, or a tuple of those.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> fit = fk.Fit(
    ...     loss=lambda params, args: jnp.sum(params["flux"] ** 2),
    ...     params={"flux": 3.0},
    ...     optimiser=optax.inject_hyperparams(optax.sgd)(learning_rate=0.5),
    ... )
    >>> fit.learning_rates["flux"]
    0.5
    >>> fit.learning_rates["flux"] = 0.25
    """

    def __init__(
        self,
        steering: Callable[[], Steering],
        own: Callable[[], Mapping[str, float]],
        steer: Callable[[Mapping[str, float], str, str], None],
    ) -> None:
        self._steering = steering
        self._own = own
        self._steer = steer

    def __getitem__(self, path: str) -> float:
        path = self._one(path)
        return self._steering().factors[path] * self._own().get(path, 1.0)

    def __setitem__(self, pattern: Paths, learning_rate: SupportsFloat) -> None:
        factors = self._factors(pattern, learning_rate)
        words = f"learning rate of {', '.join(factors)}: {number(float(learning_rate), 3)}"
        self._steer(factors, words, "set")

    def update(self, rates: Mapping[Paths, SupportsFloat]) -> None:
        """Set several at once: one change, which `Fit.undo` takes back as one.

        Parameters
        ----------
        rates
            Learning rates by path, path of a subtree, glob, or tuple of those.

        Raises
        ------
        UnknownPathError, ValueError
            As an assignment would; then nothing is changed.
        """
        factors: dict[str, float] = {}
        for pattern, learning_rate in rates.items():
            factors |= self._factors(pattern, learning_rate)
        self._steer(factors, f"learning rates of {', '.join(factors)}", "set")

    def reset(self, pattern: Paths) -> None:
        """Go back to the learning rates that the fit was made with.

        Parameters
        ----------
        pattern
            A path, the path of a subtree, a glob, or a tuple of those.

        Raises
        ------
        UnknownPathError
            If it matches no parameter; the message lists the nearest.
        """
        paths = match_paths(pattern, self._names, "learning_rates")
        words = f"learning rate of {', '.join(paths)}: as the fit was made"
        self._steer(dict.fromkeys(paths, 1.0), words, "reset")

    def snapshot(self) -> dict[str, float]:
        """Return all of them at once, which for hundreds is quicker than one by one."""
        own = self._own()
        return {path: f * own.get(path, 1.0) for path, f in self._steering().factors.items()}

    def relative(self, path: str) -> bool:
        """Return whether the number multiplies a learning rate that the optimiser does not show."""
        return self._one(path) not in self._own()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        own = self._own()
        rates = (f"{path!r}: {'' if path in own else '×'}{number(r)}" for path, r in self.items())
        return f"LearningRates({', '.join(rates)})"

    @property
    def _names(self) -> tuple[str, ...]:
        return self._steering().names

    def _factors(self, pattern: Paths, learning_rate: SupportsFloat) -> dict[str, float]:
        """Compute by what to multiply the steps for this learning rate."""
        paths = match_paths(pattern, self._names, "learning_rates")
        value = float(learning_rate)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"learning_rates: {value} for {', '.join(map(repr, paths))}; a learning rate is "
                "finite and not negative. To stop a parameter, freeze it."
            )
        own = self._own()
        zero = [path for path in paths if own.get(path, 1.0) == 0 != value]
        if zero:
            raise ValueError(
                f"learning_rates: the optimiser of {', '.join(map(repr, zero))} has a learning "
                "rate of 0 at present, and fitkit multiplies it. Give it a positive one when the "
                "fit is made, and freeze the parameter until it should move."
            )
        return {path: value / (own.get(path, 1.0) or 1.0) for path in paths}

    def _one(self, path: str) -> str:
        one, *more = match_paths(path, self._names, "learning_rates")
        if more:
            raise KeyError(f"learning_rates: '{path}' is {1 + len(more)} parameters; name one.")
        return one
