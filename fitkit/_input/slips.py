"""What went wrong in the user's function, in our words: what it did, where, and the cure."""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from fitkit._input.causes import CAUSES, NO_ARRAY, is_of_jax
from fitkit._input.data import is_traceable
from fitkit._input.user_code import NUMERICS, Spot, spot_of
from fitkit._paths import UnknownPathError

# Whether a function has the derivative that is asked for is another question.
_DERIVATIVES = re.compile(r"differentia|custom_[jv]", re.IGNORECASE)


@contextlib.contextmanager
def explained(
    event: str, kind: str, function: Any, params: PyTree = None, args: Any = None
) -> Iterator[None]:
    """Put our own sentence in front of what is raised because of a slip in the user's function.

    Parameters
    ----------
    event, kind
        Who calls the function, and what it is: ``"Fit"`` and ``"residuals"``.
    function
        The user's function of (params, args).
    params, args
        What it is called with.
    """
    try:
        yield
    except Exception as error:
        said = _in_words(error, event, kind, function, params, args)
        if said is None:
            raise
        raise said from error


def outcome(event: str, kind: str, function: Callable, params: PyTree, args: Any) -> PyTree:
    """Find what the user's function returns, by shape and dtype: nothing compiles."""
    with explained(event, kind, function, params, args):
        return _shapes(function, params, args)


def _shapes(function: Callable, *arguments: PyTree) -> PyTree:
    data, static = eqx.partition(arguments, is_traceable)
    structures = []

    def leaves_of(data: PyTree) -> list[Any]:
        leaves, structure = jax.tree.flatten(function(*eqx.combine(data, static)))
        structures.append(structure)
        return leaves

    leaves = eqx.filter_eval_shape(leaves_of, data)
    try:
        return jax.tree.unflatten(structures[-1], leaves)
    except Exception:
        # A user's node may refuse to be built of shapes.
        return leaves


def _in_words(
    error: Exception, event: str, kind: str, function: Any, params: PyTree, args: Any
) -> Exception | None:
    """Return our own error for one that a slip led to; None where there is nothing to add."""
    spot = spot_of(error)
    opening = f"{event}: `{kind}`"
    if isinstance(error, TypeError) and (said := _arity(function)):
        return TypeError(f"{opening} {said}")
    if spot is not None and spot.raised and not isinstance(error, KeyError):
        return None
    if _DERIVATIVES.search(str(error)):
        return None
    if spot is None and not (is_of_jax(error) or NO_ARRAY.search(str(error))):
        return None
    if isinstance(error, AttributeError | KeyError | TypeError | IndexError) and _swapped(
        function, params, args
    ):
        return TypeError(
            f"{opening} takes its arguments the other way round: it must be a function of "
            "(params, args), parameters first."
        )
    where = "" if spot is None else f", at {spot.place}: `{spot.text}`"
    for cause in CAUSES:
        said = cause(error, spot, params, args)
        if said is not None:
            kept = UnknownPathError if isinstance(error, KeyError) else TypeError
            return kept(f"{opening} {said[0]}{where}. {said[1]}")
    if type(error) in (TypeError, ValueError) and spot is not None and _is_of_numerics(spot):
        # JAX adds a word on its own traceback below.
        words = str(error).partition("\n---")[0]
        return type(error)(f"{opening} fails{where}. {words}")
    return None


def _arity(function: Any) -> str | None:
    """Say what is wrong with a signature that (params, args) do not fit."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    if _binds(signature, 2):
        return None
    cure = f"It must be a function of (params, args), not of {signature}"
    if _binds(signature, 1):
        (first, *_) = signature.parameters
        return (
            f"takes one argument only. {cure}: write def residuals({first}, args), also where "
            "`args` is not used."
        )
    return (
        f"cannot be called with two arguments. {cure}: all parameters arrive as one tree, and all "
        "data as `args`, to be taken apart inside: x, y = args."
    )


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _swapped(function: Any, params: PyTree, args: Any) -> bool:
    """Whether the function works with data first and parameters second."""
    if args is None or not callable(function):
        return False
    with contextlib.suppress(Exception):
        out = _shapes(function, args, params)
        return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(out))
    return False


def _is_of_numerics(spot: Spot) -> bool:
    """Whether Python, NumPy or JAX raised, and neither the user nor another package."""
    return not spot.raised and spot.beyond in ("", *NUMERICS) and spot.beyond != "fitkit"
