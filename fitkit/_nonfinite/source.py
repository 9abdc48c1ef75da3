"""Which line of the user's own code an equation of a jaxpr came from."""

import dataclasses
import itertools
import linecache
import os
from typing import Any

from fitkit._input import FITKIT, NUMERICS, is_user_file, package_of, place_text, shown_file

# Library functions that only call back the user's own.
_CONTROL = {"scan", "while_loop", "fori_loop", "cond", "switch", "map", "vmap", "jit", "select"}
_CONTROL |= {"checkpoint", "grad", "value_and_grad", "jvp", "vjp", "linearize", "apply_updates"}
_HERE = os.path.join(FITKIT, "_nonfinite") + os.sep
# Files of JAX that every bind goes through: what they add to a traceback tells two equations of
# one operation apart no better than their order does.
_MACHINERY = {
    *("source_info_util.py", "partial_eval.py", "core.py", "ad.py", "pjit.py", "batching.py"),
    *("traceback_util.py", "linear_util.py", "api.py", "api_util.py", "ufunc_api.py"),
    *("custom_derivatives.py", "array_methods.py", "ad_checkpoint.py"),
}


@dataclasses.dataclass(frozen=True)
class Frame:
    """One level of a traceback, known down to the instruction."""

    file: str
    line: int
    function: str
    instruction: int

    @property
    def is_user(self) -> bool:
        """Whether this is the user's own code, by where the file lies."""
        return is_user_file(self.file)


def frames_of(equation: Any) -> tuple[Frame, ...]:
    """List the frames of an equation, innermost first, down to the call of fitkit itself."""
    traceback = equation.source_info.traceback
    if traceback is None:
        return ()
    codes, instructions = traceback.raw_frames()
    frames = []
    for code, instruction in zip(codes, instructions, strict=True):
        if code.co_filename.startswith(_HERE):
            break
        line = traceback.code_addr2line(code, instruction)
        frames.append(Frame(code.co_filename, line, code.co_qualname, instruction))
    return tuple(frames)


def without_machinery(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Drop the innermost frames that only bind a primitive."""
    for k, frame in enumerate(frames):
        if os.path.basename(frame.file) not in _MACHINERY or frame.is_user:
            return frames[k:]
    return ()


def user_frames(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Keep the user's own frames, innermost first.

    Where there are none, as in a model that is itself installed as a package, the frames of any
    package above JAX; where there are none of those either, none.
    """
    own = tuple(frame for frame in frames if frame.is_user)
    return own or tuple(frame for frame in frames if package_of(frame.file) not in NUMERICS)


def library_function(frames: tuple[Frame, ...]) -> str:
    """Name the library function that the user called: ``"norm"`` in ``jnp.linalg.norm(x)``."""
    named = [f for f in frames if f.is_user or os.path.basename(f.file) not in _MACHINERY]
    for inner, outer in itertools.pairwise(named):
        if outer.is_user:
            package = package_of(inner.file)
            if package not in ("jax", "fitkit", ""):
                # In optax's chain it is the link that a user wants to hear of.
                inner = next(f for f in named if package_of(f.file) == package)
            # "scale_by_adam.<locals>.update_fn" is known to its users as scale_by_adam.
            name = inner.function.split(".<locals>.")[0]
            plain = name.isidentifier() and not name.startswith("_")
            return "" if inner.is_user or not plain or name in _CONTROL else name
    return ""


def shown_place(frame: Frame) -> str:
    """Write the place of a frame: ``"model.py, line 12 in image"``."""
    name = frame.function.split(".<locals>.")[-1]
    inside = "" if name.startswith("<") else f" in {name}"
    return place_text(shown_file(frame.file), frame.line) + inside


def line_text(frame: Frame) -> str:
    """Read the line's text, in a notebook too."""
    return linecache.getline(frame.file, frame.line).strip()
