"""Which files, lines and expressions are the user's own, as the user knows them."""

import ast
import dataclasses
import dis
import linecache
import os
import sysconfig
import traceback
from types import FrameType, TracebackType
from typing import Any

# JAX and what is written on top of it: never the line a user wants to hear of first.
NUMERICS = (
    *("jax", "jaxlib", "equinox", "optax", "numpy", "jaxtyping", "beartype", "optimistix"),
    "fitkit",
)
_STDLIB = os.path.normcase(sysconfig.get_path("stdlib"))
FITKIT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_known: dict[str, bool] = {}


def is_user_file(file: str) -> bool:
    """Whether a file is the user's own, and not of a package or of Python, by where it lies."""
    if file not in _known:
        _known[file] = not (
            package_of(file)
            or os.path.normcase(file).startswith(_STDLIB + os.sep)
            or file.startswith("<frozen")
        )
    return _known[file]


def package_of(file: str) -> str:
    """Name the installed package that a file belongs to; empty for any other file."""
    if file.startswith(FITKIT + os.sep):
        return "fitkit"
    parts = file.replace("\\", "/").split("/")
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            return parts[parts.index(folder) + 1].removesuffix(".py")
    return ""


def place_text(file: str | None, line: int | None) -> str:
    """Write ``"model.py, line 12"``; the folder is dropped, as a reader knows it."""
    if file is None:
        return "an unknown line"
    name = file.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name}, line {line}"


def shown_file(file: str) -> str:
    """Name the file as its user knows it: a notebook's cell by its number."""
    shell = _notebook_shell()
    if shell is not None:
        label = shell.compile.format_code_name(file)
        if label is not None:
            return " ".join(label)
    return file


def _notebook_shell() -> Any:
    # IPython is there only where it runs: importing it would cost a second elsewhere.
    import sys

    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return shell if hasattr(getattr(shell, "compile", None), "format_code_name") else None


@dataclasses.dataclass(frozen=True)
class Spot:
    """The innermost expression of the user's own that an exception passed through.

    Attributes
    ----------
    frame
        Where it was evaluated.
    file, line
        Where it stands.
    text
        The expression, or its line where Python does not know more.
    instruction
        What Python was at: ``"RAISE_VARARGS"`` at a ``raise`` of the user's own.
    beyond
        The package that the exception came from, further in; empty if from none.
    """

    frame: FrameType
    file: str
    line: int
    text: str
    instruction: str
    beyond: str

    @property
    def place(self) -> str:
        """The file and line as one writes them."""
        return place_text(shown_file(self.file), self.line)

    @property
    def raised(self) -> bool:
        """Whether the user's own ``raise`` stands there."""
        return self.instruction == "RAISE_VARARGS"

    @property
    def called(self) -> str:
        """What is called there: ``"np.exp"``; empty where it is no call."""
        try:
            tree = ast.parse(self.text, mode="eval").body
        except SyntaxError:
            return ""
        return ast.unparse(tree.func) if isinstance(tree, ast.Call) else ""

    @property
    def names(self) -> dict[str, Any]:
        """The values of the variables in the expression, by name."""
        try:
            tree = ast.parse(self.text)
        except SyntaxError:
            return {}
        used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        known = {**self.frame.f_globals, **self.frame.f_locals}
        return {name: known[name] for name in dict.fromkeys(used) if name in known}


def spot_of(error: BaseException) -> Spot | None:
    """Find the innermost expression of the user's own in the traceback of an exception.

    Where there is none, as for a model that is itself installed as a package, that of any package
    above JAX.
    """
    levels = []
    trace = error.__traceback__
    while trace is not None:
        levels.append(trace)
        trace = trace.tb_next
    files = [one.tb_frame.f_code.co_filename for one in levels]
    own = [k for k, file in enumerate(files) if is_user_file(file)] or [
        k for k, file in enumerate(files) if package_of(file) not in ("", *NUMERICS)
    ]
    if not own:
        return None
    at, file = own[-1], files[own[-1]]
    line = levels[at].tb_lineno
    beyond = next((p for f in reversed(files[at + 1 :]) if (p := package_of(f))), "")
    return Spot(
        levels[at].tb_frame, file, line, _expression(levels[at]), _instruction(levels[at]), beyond
    )


def _expression(level: TracebackType) -> str:
    """Read the expression that was being evaluated, in a notebook too."""
    summary = next(iter(traceback.extract_tb(level, limit=1)))
    first, last = summary.lineno, summary.end_lineno
    start, end = summary.colno, summary.end_colno
    whole = (summary.line or "").strip()
    if first is None or last is None or start is None or end is None:
        return whole
    lines = [linecache.getline(summary.filename, k) for k in range(first, last + 1)]
    if not all(lines):
        return whole
    # The columns count bytes.
    encoded = [line.encode() for line in lines]
    encoded[-1] = encoded[-1][:end]
    encoded[0] = encoded[0][start:]
    return " ".join(b" ".join(encoded).decode(errors="replace").split())


def _instruction(level: TracebackType) -> str:
    return dis.opname[level.tb_frame.f_code.co_code[level.tb_lasti]]
