"""Arguments under the names that other libraries give them."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fitkit._paths import nearest

P = ParamSpec("P")
R = TypeVar("R")

_STEPS = "the number of steps goes to run or start, as in fit.run(1000)"
_RATE = "the learning rate belongs to the optimiser, as in optimiser=optax.adam(1e-2)"
_FROZEN = 'freeze parameters once the fit is made, as in fit.freeze("flux")'
_SIGMA = "divide by it in the function: residuals return (model - data) / sigma"

# What people write who come from other libraries, and what it is called here.
_ELSEWHERE = {
    **dict.fromkeys(("optimizer", "method", "solver", "algorithm", "opt"), "optimiser"),
    **dict.fromkeys(("parameters", "x0", "p0", "init", "init_params", "start", "guess"), "params"),
    **dict.fromkeys(("initial_params", "theta", "initial", "y0", "model", "param"), "params"),
    **dict.fromkeys(("limits", "limit", "constraints", "bound"), "bounds"),
    **dict.fromkeys(("data", "arguments", "kwargs", "model_args", "fcn_args", "arg"), "args"),
    **dict.fromkeys(("fun", "func", "cost", "objective", "loss_fn", "loss_function"), "loss"),
    **dict.fromkeys(("residual", "residual_fn", "residuals_fn", "fcn", "f"), "residuals"),
    **dict.fromkeys(("steps", "n_steps", "num_steps", "maxiter", "max_steps", "epochs"), _STEPS),
    **dict.fromkeys(("iterations", "n_iter", "niter", "max_nfev", "nsteps"), _STEPS),
    **dict.fromkeys(("lr", "learning_rate", "learning_rates", "step_size"), _RATE),
    **dict.fromkeys(("frozen", "fixed", "freeze", "fix", "vary"), _FROZEN),
    **dict.fromkeys(("sigma", "errors", "yerr", "weights", "err", "error"), _SIGMA),
}


def named_arguments(event: str, **others: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse arguments that a function does not have, with the name that was meant.

    Parameters
    ----------
    event
        The name that its users know it by.
    **others
        What this function calls something that others call so, besides what all of them do.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        known = [name for name in signature.parameters if name != "self"]

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise TypeError(_refusal(event, name, known, {**_ELSEWHERE, **others}))
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(_mismatch(event, signature, str(error))) from None
            return function(*args, **kwargs)

        return called

    return decorate


def _refusal(event: str, name: str, known: list[str], elsewhere: dict[str, str]) -> str:
    opening = f"{event}: there is no argument `{name}`"
    meant = elsewhere.get(name, "")
    if meant in known:
        return f"{opening}; here it is called `{meant}`: {event}({meant}=…)."
    if " " in meant:
        return f"{opening}; {meant}."
    return f"{opening}. {nearest(name, known).replace('parameters', 'arguments')}"


def _mismatch(event: str, signature: inspect.Signature, error: str) -> str:
    kinds = inspect.Parameter
    named = [
        f"{one.name}=…"
        for one in signature.parameters.values()
        if one.kind is kinds.KEYWORD_ONLY
        and (one.default is kinds.empty or one.name in ("residuals", "optimiser"))
    ]
    cure = f"Name every argument: {event}({', '.join(named)})." if named else ""
    return f"{event}: {error}. {cure}".strip()
