"""What JAX itself finds: compiled flags on every equation, and ``debug_nans``."""

import contextlib
import io
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from fitkit._input import is_user_file
from fitkit._jaxprs import single
from fitkit._nonfinite.numpy_rules import to_device
from fitkit._nonfinite.scope import Scope, open_jaxpr
from fitkit._nonfinite.source import Frame

_MOST_FLAGGED = 4000  # equations: compiling more takes minutes


def flagged_equation(closed: Any, arguments: list[Any]) -> int | None:
    """Find, compiled as a whole, the first equation that makes bad values from good ones.

    Returns its number among the outermost equations; None where the flags find nothing either.
    """
    equations, inputs, outputs, constant_vars, constants = open_jaxpr(closed)
    if len(equations) > _MOST_FLAGGED:
        return None

    def flags(arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        env = dict(zip(constant_vars, constants, strict=True))
        env.update(zip(inputs, arrays, strict=True))

        def read(atom: Any) -> Any:
            if isinstance(atom, jex.Literal):
                return jnp.asarray(atom.val, atom.aval.dtype)  # pyright: ignore
            return env[atom]

        marks = []
        for equation in equations:
            if equation.outvars:
                results = single(equation)(*map(read, equation.invars))
                env.update(zip(equation.outvars, results, strict=True))
                bad = any_nonfinite(results)
                marks.append(bad & ~any_nonfinite(list(map(read, equation.invars))))
            else:
                marks.append(jnp.asarray(False))
        return marks, [read(atom) for atom in outputs]

    marks, _ = jax.jit(flags)([to_device(a) for a in arguments])
    hits = np.flatnonzero(np.asarray(marks))
    return int(hits[0]) if len(hits) else None


def any_nonfinite(values: list[Any]) -> Any:
    """Compute, traced, whether any element of any inexact array is not finite."""
    bad = jnp.asarray(False)
    for value in values:
        if jnp.issubdtype(value.dtype, jnp.inexact):
            bad = bad | ~jnp.isfinite(value).all()
    return bad


def debug_nans_frames(function: Callable, arguments: list[Any]) -> list[Frame]:
    """Run jitted with ``debug_nans`` and ``debug_infs``: the user's frames of what it raises."""
    try:
        # JAX prints that it runs the function again: news for nobody here.
        with jax.debug_nans(True), jax.debug_infs(True), contextlib.redirect_stdout(io.StringIO()):
            jax.block_until_ready(jax.jit(lambda *arrays: function(*arrays))(*arguments))
    except FloatingPointError as error:
        frames = [
            Frame(entry.filename, entry.lineno or 0, entry.name, 0)
            for entry in traceback.extract_tb(error.__traceback__)
        ]
        return [frame for frame in reversed(frames) if is_user_file(frame.file)]
    except Exception:  # a second opinion may fail; the first stands
        return []
    return []


def passes_custom_vjp(scope: Scope, at: int) -> bool:
    """Whether an equation comes from a ``custom_vjp``'s backward rule, by its traceback."""
    found = scope.equations[at].source_info.traceback
    if found is None or "transpose(" not in str(scope.equations[at].source_info.name_stack):
        return False
    codes, _ = found.raw_frames()
    for code in codes:
        if is_user_file(code.co_filename):
            return False
        if code.co_qualname.startswith(("custom_vjp", "CustomVJP")):
            return True
    return False
