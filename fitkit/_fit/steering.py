"""What steers a fit, by parameter path: learning rates and freezing, data of the running step."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from fitkit._fit.step import Controls
from fitkit._paths import Paths, match_paths

#: Changes of the same kind less than this apart, in seconds, are one: a slider on its way.
_GESTURE = 1.0

#: How many changes can be undone.
_MEMORY = 100


class Change(NamedTuple):
    """What was in force before a change, and which change that was."""

    words: str
    kind: tuple[str, ...]
    latest: float
    factors: Mapping[str, float]
    frozen: frozenset[str]


class Steering:
    """The factor by which each parameter's step is multiplied, and which parameters are frozen.

    Changes come from any thread, and take effect with the next chunk of steps: `controls` is
    data to the compiled step, always of the same type, so that nothing compiles again.

    Parameters
    ----------
    names
        The paths of the parameters.
    unmapped
        Those that no optimiser moves: they are frozen for good.
    changed
        Called with a line in words after every change.
    """

    def __init__(
        self, names: tuple[str, ...], unmapped: tuple[str, ...], changed: Callable[[str], None]
    ) -> None:
        self.names = names
        self._unmapped = frozenset(unmapped)
        self._changed = changed
        self.factors: Mapping[str, float] = dict.fromkeys(names, 1.0)
        self.frozen = self._unmapped
        self.controls = self._as_controls()
        self._past: list[Change] = []
        self.elsewhere: Mapping[str, float] = self.factors

    @property
    def undoable(self) -> str:
        """The change that `undo` would take back, in words; empty if there is none."""
        return self._past[-1].words if self._past else ""

    def undo(self) -> None:
        """Take the latest change back."""
        if not self._past:
            raise RuntimeError(
                "undo: nothing was changed since the fit was made, or all is undone."
            )
        change = self._past.pop()
        self.factors, self.frozen = change.factors, change.frozen
        self._publish(f"undid: {change.words}")

    def set_factors(self, factors: Mapping[str, float], words: str, kind: str = "set") -> None:
        """Multiply the steps of some parameters by new factors."""
        self._change(words, (kind, *factors), {**self.factors, **factors}, self.frozen)

    def swap_factors(self) -> None:
        """Put the factors aside for another set, all one at first, and the other way round.

        Those that suit an optimiser mean nothing to one that works in other coordinates.
        """
        self.factors, self.elsewhere = self.elsewhere, self.factors
        self._past.clear()
        self.publish()

    def freeze(self, pattern: Paths) -> None:
        """Hold parameters where they are."""
        paths = match_paths(pattern, self.names, "freeze")
        frozen = self.frozen.union(paths)
        self._change(f"froze {', '.join(paths)}", ("freeze", *paths), self.factors, frozen)

    def thaw(self, pattern: Paths) -> None:
        """Let parameters move again."""
        paths = match_paths(pattern, self.names, "thaw")
        stuck = [path for path in paths if path in self._unmapped]
        if stuck and len(stuck) == len(paths):
            raise ValueError(
                f"thaw: no optimiser moves {', '.join(map(repr, stuck))}. Name one for it in "
                "`optimiser` when the fit is made."
            )
        words = f"thawed {', '.join(path for path in paths if path not in stuck)}"
        frozen = self.frozen.difference(paths) | self._unmapped
        self._change(words, ("thaw", *paths), self.factors, frozen)

    def publish(self) -> None:
        """Hand the present factors to the next chunk."""
        self.controls = self._as_controls()

    def _change(
        self,
        words: str,
        kind: tuple[str, ...],
        factors: Mapping[str, float],
        frozen: frozenset[str],
    ) -> None:
        """Let new factors and another frozen set be in force, and remember those before."""
        now, last = time.monotonic(), self._past[-1] if self._past else None
        if last is not None and last.kind == kind and now - last.latest < _GESTURE:
            self._past[-1] = last._replace(words=words, latest=now)
        else:
            self._past = [
                *self._past[1 - _MEMORY :],
                Change(words, kind, now, self.factors, self.frozen),
            ]
        self.factors, self.frozen = factors, frozen
        self._publish(words)

    def _publish(self, words: str) -> None:
        self.publish()
        self._changed(words)

    def _as_controls(self) -> Controls:
        return Controls.of(0.0 if n in self.frozen else self.factors[n] for n in self.names)


class LearningRates(Mapping[str, float]):
    """The learning rate of every parameter, by path; assign to steer the running fit.

    Where the optimiser of a parameter was wrapped in ``optax.inject_hyperparams`` the number is
    its own learning rate. Other optimisers keep theirs to themselves: there the number multiplies
    it, and 1 is the optimiser as it was written; `relative` tells which.

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

    def __init__(self, steering: Steering, own: Callable[[], Mapping[str, float]]) -> None:
        self._steering = steering
        self._own = own

    def __getitem__(self, path: str) -> float:
        path = self._one(path)
        return self._steering.factors[path] * self._own().get(path, 1.0)

    def __setitem__(self, pattern: Paths, learning_rate: float) -> None:
        factors = self._factors(pattern, learning_rate)
        words = f"learning rate of {', '.join(factors)}: {float(learning_rate):.3g}"
        self._steering.set_factors(factors, words)

    def update(self, rates: Mapping[Paths, float]) -> None:
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
        self._steering.set_factors(factors, f"learning rates of {', '.join(factors)}")

    def _factors(self, pattern: Paths, learning_rate: float) -> dict[str, float]:
        """Work out by what to multiply the steps for this learning rate."""
        paths = match_paths(pattern, self._steering.names, "learning_rates")
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
        paths = match_paths(pattern, self._steering.names, "learning_rates")
        words = f"learning rate of {', '.join(paths)}: as the fit was made"
        self._steering.set_factors(dict.fromkeys(paths, 1.0), words, kind="reset")

    def snapshot(self) -> dict[str, float]:
        """Read all of them at once, which for hundreds is quicker than one by one."""
        own = self._own()
        return {path: f * own.get(path, 1.0) for path, f in self._steering.factors.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._steering.names)

    def __len__(self) -> int:
        return len(self._steering.names)

    def __repr__(self) -> str:
        own = self._own()
        rates = (f"{path!r}: {'' if path in own else '×'}{r:.4g}" for path, r in self.items())
        return f"LearningRates({', '.join(rates)})"

    def relative(self, path: str) -> bool:
        """Tell whether the number multiplies a learning rate that the optimiser does not show."""
        return self._one(path) not in self._own()

    def _one(self, path: str) -> str:
        one, *more = match_paths(path, self._steering.names, "learning_rates")
        if more:
            raise KeyError(f"learning_rates: '{path}' is {1 + len(more)} parameters; name one.")
        return one
