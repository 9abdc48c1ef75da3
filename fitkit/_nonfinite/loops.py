"""Loops: run as a whole, and opened at the one iteration where the value was made."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import lax

from fitkit._nonfinite.numpy_rules import Value, nonfinite_mask, to_device, to_host
from fitkit._nonfinite.scope import Memory, Scope, count_equations, open_jaxpr

LOOPS = ("scan", "while")
_INTERPRETED = 3000  # equations: shorter loops are cheaper interpreted than compiled


class Loop:
    """One run of a ``scan`` or ``while`` equation.

    Iterations are counted in the order in which they run; `position` turns one into the index
    that users know, into the arrays that a scan runs over.
    """

    def __init__(
        self, scope: Scope, call: int, operands: list[Value], run: Callable[..., Scope]
    ) -> None:
        self.scope, self.call, self._replay = scope, call, run
        equation = scope.equations[call]
        self.is_scan = equation.primitive.name == "scan"
        self.reverse = bool(equation.params.get("reverse", False))
        self.body = equation.params["jaxpr" if self.is_scan else "body_jaxpr"]
        body_inputs, body_outputs = open_jaxpr(self.body)[1:3]
        if self.is_scan:
            self.offset = 0
            # A scan tells constants and carry from what it scans over by the extra axis alone:
            # JAX 0.12 no longer writes the counts into the equation.
            self.carried = sum(
                _rank(out) == _rank(inner)
                for out, inner in zip(equation.outvars, body_outputs, strict=True)
            )
            whole = sum(
                _rank(out) == _rank(inner)
                for out, inner in zip(equation.invars, body_inputs, strict=True)
            )
            self.shared = whole - self.carried
            self.length = int(equation.params["length"])
        else:
            self.condition = equation.params["cond_jaxpr"]
            self.offset = equation.params["cond_nconsts"]
            self.shared = equation.params["body_nconsts"]
            self.carried = len(body_outputs)
            self.length = -1
        start = self.offset + self.shared
        self.condition_constants = operands[: self.offset]
        self.constants = operands[self.offset : start]
        self.first = operands[start : start + self.carried]
        self.scanned = operands[start + self.carried :]
        self.history: list[list[Value]] | None = None
        self._opened: dict[int, Scope] = {}
        self._advance: Any = None

    def position(self, iteration: int) -> int:
        """Turn the order of running into the index into the arrays scanned over, and back."""
        return self.length - 1 - iteration if self.reverse else iteration

    def interpret(self) -> list[Value] | None:
        """Run a short loop equation by equation; None where it is too long for that."""
        cost = count_equations(self.body)
        if self.is_scan and cost * self.length > _INTERPRETED:
            return None
        carry, history, stacked = list(self.first), [], []
        while self._continues(carry, len(history)):
            if cost * len(history) > _INTERPRETED:
                return None
            history.append(carry)
            outputs = self._outputs(self._run(len(history) - 1, carry))
            carry = outputs[: self.carried]
            stacked.append(outputs[self.carried :])
        self.history, self.length = history, len(history)
        ordered = stacked[::-1] if self.reverse else stacked
        outvars = self.scope.equations[self.call].outvars[self.carried :]
        rest = [
            np.stack([row[k] for row in ordered])
            if ordered
            else np.zeros(var.aval.shape, var.aval.dtype)
            for k, var in enumerate(outvars)
        ]
        return carry + rest

    def open(self, iteration: int) -> Scope:
        """Replay one iteration equation by equation."""
        if iteration not in self._opened:
            self._opened[iteration] = self._run(iteration, self.before(iteration))
        return self._opened[iteration]

    def before(self, iteration: int) -> list[Value]:
        """Return the carry at the start of an iteration."""
        if self.history is not None:
            return self.history[iteration]
        return self.advance(iteration)[0]

    def bad_since(self, iteration: int, k: int, element: tuple[int, ...]) -> int:
        """Find the iteration at whose end element `element` of carry `k` went bad for good.

        That is the first of the unbroken run of iterations, up to `iteration`, that ended with
        this element not finite; 0 if it was so from the start.
        """
        if self.history is None:
            return max(0, int(self.advance(iteration + 1)[1][k][element]) - 1)
        since = iteration
        while since > 0 and _is_bad(self.history[since][k], element):
            since -= 1
        return since

    def count(self) -> int:
        """Count the iterations of a while loop, compiled."""
        if self.length < 0:
            condition, body = jex.jaxpr_as_fun(_closed(self.condition)), self._body()

            def step(state: Any) -> Any:
                return state[0] + 1, body(*map(to_device, self.constants), *state[1])

            counted, _ = lax.while_loop(
                lambda s: condition(*map(to_device, self.condition_constants), *s[1])[0],
                step,
                (jnp.int32(0), [to_device(v) for v in self.first]),
            )
            self.length = int(counted)
        return self.length

    def advance(self, iterations: int) -> tuple[list[Value], list[np.ndarray]]:
        """Run that many iterations, compiled.

        Returns the carry, and for each of its elements the number of iterations it had behind it
        when its present unbroken run of non-finite values began (one more than the iteration).
        """
        self.count()
        if self._advance is None:
            self._advance = jax.jit(self._advanced)
        carry, since = self._advance(
            *([to_device(v) for v in vs] for vs in (self.constants, self.first, self.scanned)),
            jnp.int32(iterations),
        )
        return [to_host(v) for v in carry], [np.asarray(s) for s in since]

    def _advanced(self, constants: Any, first: Any, scanned: Any, stop: Any) -> Any:
        body = self._body()

        def step(state: Any) -> Any:
            done, carry, since = state
            at = self.length - 1 - done if self.reverse else done
            slices = [lax.dynamic_index_in_dim(x, at, keepdims=False) for x in scanned]
            carry = body(*constants, *carry, *slices)[: self.carried]
            since = [
                jnp.where(_bad(c), jnp.where(s > 0, s, done + 1), 0)
                for c, s in zip(carry, since, strict=True)
            ]
            return done + 1, carry, since

        since = [jnp.zeros(jnp.shape(c), jnp.int32) for c in first]
        _, carry, since = lax.while_loop(
            lambda s: s[0] < stop, step, (jnp.int32(0), list(first), since)
        )
        return carry, since

    def _body(self) -> Any:
        return jex.jaxpr_as_fun(_closed(self.body))

    def _run(self, iteration: int, carry: list[Value]) -> Scope:
        at = self.position(iteration)
        slices = [to_host(x[at]) for x in self.scanned]
        return self._replay(
            self.body,
            [*self.constants, *carry, *slices],
            self.scope.memory,
            parent=self.scope,
            call=self.call,
            offset=self.offset,
            loop=self,
            iteration=iteration,
        )

    def _outputs(self, opened: Scope) -> list[Value]:
        outputs = [opened.read(atom) for atom in opened.outputs]
        if any(out is None for out in outputs):
            raise LookupError("an output of the loop's body was dropped")
        return outputs

    def _continues(self, carry: list[Value], done: int) -> bool:
        if self.is_scan:
            return done < self.length
        tested = self._replay(self.condition, [*self.condition_constants, *carry], Memory())
        return bool(tested.read(tested.outputs[0]))


def _closed(jaxpr: Any) -> Any:
    if hasattr(jaxpr, "consts"):
        return jaxpr
    return jex.ClosedJaxpr(jaxpr, ())  # pyright: ignore[reportPrivateImportUsage]


def _rank(atom: Any) -> int:
    return len(atom.aval.shape)


def _is_bad(value: Value, element: tuple[int, ...]) -> bool:
    mask = nonfinite_mask(value)
    return mask is not None and bool(mask[element])


def _bad(value: Any) -> Any:
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros(jnp.shape(value), bool)
    return ~jnp.isfinite(value)
