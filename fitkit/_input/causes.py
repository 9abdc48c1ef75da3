"""What leads to an error in the user's function: one function for every kind of cause.

Each takes the error, where it came from, and what the function was called with, and returns what
the function did and the cure; None where it knows nothing of it.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from fitkit._input.data import foreign, foreign_leaves
from fitkit._input.user_code import NUMERICS, Spot
from fitkit._paths import named_leaves, nearest

_TRACED = "Parameters are traced, so that JAX can differentiate and compile"
# What JAX says of an operand that it knows nothing of, and what Python says of one.
NO_ARRAY = re.compile(
    "Error interpreting argument|valid JAX (array )?type|JAX only supports|numpy masked arrays"
    "|as a JAX value|Cannot interpret value|requires ndarray or scalar"
)
_FOREIGN = re.compile("unsupported operand type|multiply sequence|not supported for the input type")


def _tracer(
    error: Exception, spot: Spot | None, params: PyTree, args: Any
) -> tuple[str, str] | None:
    """Explain what needs to know the value of something that JAX traces."""
    kinds = {type(one) for one in _chain(error)}
    errors, text = jax.errors, str(error)
    if errors.NonConcreteBooleanIndexError in kinds:
        return (
            "uses as an index a mask that JAX traces",
            "What it picks has no fixed shape. Keep the shape, as in jnp.where(mask, residual, 0); "
            "or, where the mask does not depend on the parameters, close over it or pass it in "
            "`args` as a NumPy array of booleans: np.asarray(mask).",
        )
    if spot is not None and any(map(is_of_jax, _chain(error))):
        by_index = _at_an_index(spot)
        if by_index is not None:
            return by_index
    if errors.TracerArrayConversionError in kinds or (
        errors.ConcretizationTypeError in kinds and spot is not None and _replacement(spot)
    ):
        return _by_other_library(spot)
    if errors.TracerBoolConversionError in kinds:
        return (
            "decides by a value that depends on the parameters",
            f"{_TRACED}: choose with jnp.where(condition, one, other), jnp.maximum or "
            "jax.lax.cond, in place of if, and, or, max or while.",
        )
    if (
        errors.TracerIntegerConversionError in kinds
        or "scalar index" in text
        or "Shapes must" in (text)
    ):
        return (
            "uses a traced value as an index, a count or a shape",
            f"{_TRACED}; what shapes an array must be a plain integer: pass it through `args` as "
            "a Python int, or close over it.",
        )
    if errors.ConcretizationTypeError in kinds and spot is not None and _is_jax_call(spot):
        return (
            f"calls {spot.called}, whose result would have a shape that depends on a traced value",
            f"{_TRACED}; shapes must be known before: pass plain integers, or size= where there is "
            "one, or keep all elements, as in jnp.where(mask, value, 0).",
        )
    if errors.ConcretizationTypeError in kinds:
        return (
            "makes a plain number of a traced value",
            f"{_TRACED}: leave out float(), int() or .item(), and compute with jax.numpy.",
        )
    if errors.UnexpectedTracerError in kinds:
        return (
            "uses a value that was kept from an earlier call",
            f"{_TRACED}, and what is traced must not outlive the call: return it, and store "
            "nothing in globals, attributes or caches.",
        )
    if "immutable" in text and "item assignment" in text:
        return (
            "assigns to an element of a JAX array, which never changes",
            "Write array = array.at[index].set(value).",
        )
    return None


def _by_other_library(spot: Spot | None) -> tuple[str, str]:
    what = "hands a value that depends on the parameters to "
    found = [] if spot is None else _foreign_in(spot)
    if found:
        name, kind, cure = found[0]
        return f"computes with `{name}`, {kind}, and a parameter", f"Instead, {cure}."
    who = "" if spot is None else spot.called
    replacement = "" if spot is None else _replacement(spot)
    library = "" if spot is None or spot.beyond in NUMERICS else spot.beyond
    cure = "compute with jax.numpy (jnp), not NumPy"
    if replacement:
        cure = f"write {replacement}"
    elif library or who:
        cure = "find it in jax.numpy or jax.scipy, or write it with them"
    return f"{what}{who or library or 'NumPy'}, which needs plain numbers", f"{_TRACED}: {cure}."


def _at_an_index(spot: Spot) -> tuple[str, str] | None:
    """Explain an element of a NumPy array that is set to, or looked up by, a traced value."""
    try:
        tree = ast.parse(spot.text, mode="eval").body
    except SyntaxError:
        return None
    if not (isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name)):
        return None
    name = tree.value.id
    if not isinstance(spot.names.get(name), np.ndarray):
        return None
    if spot.instruction == "STORE_SUBSCR":
        return (
            f"sets an element of the NumPy array `{name}` to a value that depends on the "
            "parameters",
            f"{_TRACED}: make `{name}` with jnp.zeros, say, and write "
            f"{name} = {name}.at[index].set(value).",
        )
    return (
        f"looks up elements of the NumPy array `{name}` by a traced value",
        f"{_TRACED}: write jnp.asarray({name})[index]; or, if it is a mask, keep the shape, as in "
        "jnp.where(mask, residual, 0).",
    )


_JAX_MODULES = ("jnp", "jax.scipy", "jax.scipy.special", "jax.scipy.linalg", "jax.scipy.stats")


def _replacement(spot: Spot) -> str:
    """Name what JAX has in place of a function of another library: ``"jnp.exp"``."""
    value = _called(spot)
    module = getattr(value, "__module__", None) or type(value).__module__
    path = spot.called.split(".")[1:] or [getattr(value, "__name__", "")]
    if not path[-1] or module.partition(".")[0] not in ("numpy", "scipy", "math", "cmath"):
        return ""
    for prefix in _JAX_MODULES:
        place = jnp if prefix == "jnp" else _follow(jax, prefix.split(".")[1:])
        found = _follow(place, path)
        if callable(found):
            return ".".join((prefix, *path))
    return ""


def _is_jax_call(spot: Spot) -> bool:
    return str(getattr(_called(spot), "__module__", "")).startswith("jax")


def _called(spot: Spot) -> Any:
    """Look up the function that an expression calls; None where it calls none by name."""
    root, *path = spot.called.split(".")
    return _follow(spot.names.get(root), path)


def _follow(value: Any, path: Sequence[str]) -> Any:
    for attribute in path:
        value = getattr(value, attribute, None)
    return value


def _lookup(
    error: Exception, spot: Spot | None, params: PyTree, args: Any
) -> tuple[str, str] | None:
    """Explain a key or an attribute that is not there."""
    if isinstance(error, AttributeError):
        if isinstance(error.obj, dict):
            return (
                f"looks for .{error.name}, an attribute of a dictionary",
                f'Tables and records arrive as dictionaries: write ["{error.name}"].',
            )
        if isinstance(error.obj, jax.Array):
            return (
                f"looks for .{error.name}, which JAX's arrays do not have",
                "Columns and data arrive as JAX arrays: leave it out, or use jax.numpy.",
            )
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        key, paths = error.args[0], list(named_leaves(params))
        if spot is None or spot.raised or spot.beyond or not paths:
            return None
        # A dictionary of the user's own is none of our business.
        held = [value for value in spot.names.values() if isinstance(value, dict)]
        if isinstance(params, dict) and any(one.keys() == params.keys() for one in held):
            return f"finds no '{key}'", nearest(key, paths)
    return None


def _missing_args(
    error: Exception, spot: Spot | None, params: PyTree, args: Any
) -> tuple[str, str] | None:
    if not (isinstance(error, TypeError) and "NoneType" in str(error)):
        return None
    holes = [
        path
        for path, leaf in _with_holes(params).items()
        if leaf is None  # JAX takes None for a tree without leaves
    ]
    if args is None and not holes:
        return "computes with None", "No `args` were given: pass the data as `args`."
    if holes:
        return (
            f"computes with None, which params hold at '{holes[0]}'",
            "Give it a number to start from.",
        )
    return None


def _with_holes(params: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda node: node is None)
    return {jax.tree_util.keystr(key, simple=True, separator="."): leaf for key, leaf in leaves}


def _foreign_operand(
    error: Exception, spot: Spot | None, params: PyTree, args: Any
) -> tuple[str, str] | None:
    """Explain an operand of another library, or of a dtype that JAX does not have."""
    texts = [str(one) for one in _chain(error)]
    strange = any(map(NO_ARRAY.search, texts))
    if not strange and not any(map(_FOREIGN.search, texts)):
        return None
    found = [*([] if spot is None else _foreign_in(spot)), *foreign_leaves(args, "args")]
    if not found and not strange:
        return None
    if not found:
        return (
            "computes with something that is no array of numbers in a form that JAX knows",
            "Text, dates, objects, masks and big-endian numbers (as in FITS files) are none: make "
            "plain arrays of them first, as in np.asarray(data, float).",
        )
    name, kind, cure = found[0]
    return f"computes with `{name}`, {kind}", f"Instead, {cure}."


def _foreign_in(spot: Spot) -> list[tuple[str, str, str]]:
    """List what is foreign to JAX among the variables of an expression, tracers left out."""
    found = []
    for name, value in spot.names.items():
        about = foreign(value)
        if about is not None:
            found.append((name, about[0], about[1].replace("{}", name)))
        elif isinstance(value, dict | tuple | list):
            found += foreign_leaves(value, name)
    return found


def _chain(error: BaseException) -> list[BaseException]:
    """List an exception and those that led to it."""
    chain: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in chain:
        chain.append(now)
        now = now.__cause__ or now.__context__
    return chain


def is_of_jax(error: BaseException) -> bool:
    return type(error).__module__.startswith("jax")


CAUSES = (_tracer, _lookup, _missing_args, _foreign_operand)
