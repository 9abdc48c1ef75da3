"""Whether a loss is a mean over data, which would make its errors those of a single datum."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import PyTree

# What leaves a mean a mean: one of the operands of a sum, or the same number otherwise written.
_PASSING = {"add", "sub", "add_any", "neg", "convert_element_type", "reshape", "squeeze", "copy"}


def is_mean(loss: Callable, params: PyTree, args: Any) -> bool:
    """Whether the loss, or a term of it, is a sum over several numbers divided by their count.

    Read off the traced function (what ``jnp.mean`` leaves there), so that no value matters and
    no other way of dividing is taken for one.
    """
    closed = jax.make_jaxpr(lambda p: loss(p, args))(params)
    consts = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    return _mean_of(closed.jaxpr, closed.jaxpr.outvars[0], consts)


def _mean_of(jaxpr: Any, variable: Any, known: dict) -> bool:
    equation = _maker(jaxpr, variable)
    if equation is None:
        return False
    name, operands = equation.primitive.name, equation.invars
    inner = _inner(equation)
    if inner is not None:
        outer = {
            there: known.get(here, here.val if isinstance(here, Literal) else None)
            for there, here in zip(inner.jaxpr.invars, operands, strict=False)
            if isinstance(here, Literal) or here in known
        }
        place = list(equation.outvars).index(variable)
        return _mean_of(inner.jaxpr, inner.jaxpr.outvars[place], outer)
    if name in ("div", "mul"):
        for term, factor in (operands, operands[::-1]) if name == "mul" else (operands,):
            value = _value(factor, known)
            count = _summed(jaxpr, term)
            if value is not None and count > 1:
                divisor = value if name == "div" else 1 / value if value else 0.0
                if np.isclose(divisor, count):
                    return True
        constant = [v for v in operands if _value(v, known) is None]
        return len(constant) == 1 and _mean_of(jaxpr, constant[0], known)
    if name in _PASSING:
        return any(_mean_of(jaxpr, v, known) for v in operands if not isinstance(v, Literal))
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
