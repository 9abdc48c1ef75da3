"""What installed packages have under their own names, which does not change while Python runs."""

import sys
import types
from typing import Any

from fitkit._input import is_user_file
from fitkit._programs.bytecode import digest_of

# Answers of the world outside, which differ from one time to the next.
_OUTSIDE = frozenset(
    {"random", "numpy.random", "time", "datetime", "os", "posix", "nt", "io", "pathlib", "secrets"}
)


def is_users(module: types.ModuleType) -> bool:
    """Whether a module is the user's own, or answers differently from one time to the next."""
    if module.__name__ in _OUTSIDE:
        return True
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return module.__name__ not in sys.builtin_module_names
    return is_user_file(file)


def digest_of_package(module: types.ModuleType) -> bytes:
    """Return the digest of the package that a module is of, by its version."""
    root = sys.modules.get(module.__name__.partition(".")[0])
    return digest_of("module", module.__name__, str(getattr(root, "__version__", "")))


def named(value: Any) -> bytes | None:
    """Return the digest of what an installed module has under its own name; None of all else."""
    home, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(value, types.BuiltinFunctionType):
        home = getattr(value.__self__, "__name__", None)
    name = name or getattr(value, "__name__", None)
    module = sys.modules.get(home or "")
    if module is None or not isinstance(name, str) or is_users(module):
        return None
    found: Any = module
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return digest_of("named", digest_of_package(module), name) if found is value else None
