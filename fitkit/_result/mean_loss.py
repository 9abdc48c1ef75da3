"""Whether a loss is a mean over data, which would make its errors those of a single datum."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal  # pyright: ignore[reportPrivateImportUsage]
from jaxtyping import PyTree

from fitkit._paths import is_static

# What leaves a mean a mean: one of the operands of a sum, or the same number otherwise written.
_PASSING = {"add", "sub", "add_any", "neg", "convert_element_type", "reshape", "squeeze", "copy"}

# Of so many numbers the mean is half the sum, which every sum of squares is.
HALVED = 2


def is_mean(loss: Callable, params: PyTree, args: Any) -> bool:
    """Whether the loss, or a term of it, is a sum over many numbers divided by their count.

    Read off the traced function (what ``jnp.mean`` leaves there), so that no value matters and
    no other way of dividing is taken for one. Half a sum over two numbers is no mean, and what is
    summed over no more numbers than there are parameters may be a Gaussian prior of theirs: its
    variance may be half their count.
    """
    closed = jax.make_jaxpr(lambda p: loss(p, args))(params)
    consts = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(params) if not is_static(leaf))
    return _mean_of(closed.jaxpr, closed.jaxpr.outvars[0], consts, max(numbers, HALVED))


def _mean_of(jaxpr: Any, variable: Any, known: dict, few: int) -> bool:
    equation = _maker(jaxpr, variable)
    if equation is None:
        return False
    name, operands = equation.primitive.name, equation.invars
    inner = _inner(equation)
    if inner is not None:
        outer = {
            there: here.val if isinstance(here, Literal) else known[here]
            for there, here in zip(inner.jaxpr.invars, operands, strict=False)
            if isinstance(here, Literal) or here in known
        }
        place = list(equation.outvars).index(variable)
        return _mean_of(inner.jaxpr, inner.jaxpr.outvars[place], outer, few)
    if name in ("div", "mul"):
        for term, factor in (operands, operands[::-1]) if name == "mul" else (operands,):
            value = _value(factor, known)
            count = _summed(jaxpr, term)
            if value is not None and count > few:
                divisor = value if name == "div" else 1 / value if value else 0.0
                if np.isclose(divisor, count):
                    return True
        constant = [v for v in operands if _value(v, known) is None]
        return len(constant) == 1 and _mean_of(jaxpr, constant[0], known, few)
    if name in _PASSING:
        return any(_mean_of(jaxpr, v, known, few) for v in operands if not isinstance(v, Literal))
    return False


def _maker(jaxpr: Any, variable: Any) -> Any:
    return next((e for e in jaxpr.eqns if variable in e.outvars), None)


def _inner(equation: Any) -> ClosedJaxpr | None:
    found = (equation.params.get(key) for key in ("jaxpr", "call_jaxpr"))
    return next((jaxpr for jaxpr in found if isinstance(jaxpr, ClosedJaxpr)), None)


def _value(variable: Any, known: dict) -> float | None:
    value = variable.val if isinstance(variable, Literal) else known.get(variable)
    return float(value) if value is not None and np.size(value) == 1 else None


def _summed(jaxpr: Any, variable: Any) -> float:
    """Count how many numbers were summed to make `variable`."""
    if isinstance(variable, Literal):
        return 0
    equation = _maker(jaxpr, variable)
    if equation is None or equation.primitive.name != "reduce_sum":
        return 0
    return equation.invars[0].aval.size / max(variable.aval.size, 1)
