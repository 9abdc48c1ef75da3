"""What an optimiser must be, and what comes in its place."""

import difflib
import inspect
from typing import Any, Protocol, runtime_checkable

import optax
from jaxtyping import PyTree

from fitkit._input.data import shortened


def check_optimiser(event: str, what: str, optimiser: Any) -> Any:
    """Return an optimiser, or raise a ``TypeError`` that names the slip.

    Parameters
    ----------
    event, what
        Who asks, and for what: ``"Fit"`` and ``"the optimiser"``.
    """
    if isinstance(optimiser, type) or not (
        hasattr(optimiser, "init") and hasattr(optimiser, "update")
    ):
        raise TypeError(
            f"{event}: {what} is {shortened(optimiser)}, must be an optax optimiser such as "
            f"optax.adam(1e-3). {_cure(optimiser)}".strip()
        )
    return optimiser


def _cure(optimiser: Any) -> str:
    if isinstance(optimiser, str):
        names = [name for name in dir(optax) if inspect.isfunction(getattr(optax, name))]
        plain = optimiser.lower().replace("-", "").replace("_", "")
        close = {"lm": "", "trf": "", "leastsq": "", "levenbergmarquardt": ""}
        if plain in close:
            return "Least squares by the name of a method: write fitkit.gauss_newton()."
        plain = {"lbfgsb": "lbfgs", "bfgs": "lbfgs"}.get(plain, plain)
        found = difflib.get_close_matches(plain, names, n=1, cutoff=0.7)
        meant = f"optax.{found[0]}({'' if found[0] == 'lbfgs' else '1e-2'})" if found else ""
        return f"A name is no optimiser: write {meant}." if meant else "A name is no optimiser."
    if callable(optimiser):
        name = getattr(optimiser, "__name__", "optimiser")
        module = (getattr(optimiser, "__module__", "") or "").partition(".")[0]
        if module in ("optax", "fitkit"):
            given = "" if name in ("gauss_newton", "lbfgs") else "1e-2"
            return f"It was not called: write {module}.{name}({given})."
        return "If it makes one, call it."
    if isinstance(optimiser, tuple) and len(optimiser) == 2 and hasattr(optimiser[0], "update"):
        return "map_optimisers returns the optimiser and its state: pass the first, or the mapping."
    if type(optimiser).__module__.startswith("optimistix."):
        return f"Write fitkit.from_optimistix({type(optimiser).__name__}(…))."
    if isinstance(optimiser, int | float):
        return f"A learning rate alone is no optimiser: write optax.adam({optimiser!r})."
    return ""


@runtime_checkable
class OptaxLike(Protocol):
    """An optimiser that optax did not make."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any = None, /) -> Any: ...


def as_optax(optimiser: Any) -> Any:
    """Make a transformation of optax of an optimiser that is like one; return all else as it is.

    Optax takes such an optimiser for one that wants no extra arguments. It may, by keyword, as
    the chains of kUPS do, and gets those that it takes.
    """
    if isinstance(optimiser, optax.GradientTransformation) or not isinstance(optimiser, OptaxLike):
        return optimiser
    parameters = inspect.signature(optimiser.update).parameters.values()
    every = any(one.kind is one.VAR_KEYWORD for one in parameters)
    names = {one.name for one in parameters}

    def init(params: PyTree) -> Any:
        return optimiser.init(params)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[Any, Any]:
        taken = {name: value for name, value in extra.items() if every or name in names}
        return optimiser.update(updates, state, params, **taken)

    return optax.GradientTransformationExtraArgs(init, update)
