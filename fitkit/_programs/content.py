"""What a function computes, as a key: made of what it reads, not of which object it is.

A notebook's cell that runs again makes new functions of the same content. They may share compiled
programs if nothing they read can differ, so everything that a function names is read when its key
is computed: bytecode and constants, defaults, closure cells, globals, and all of that of the
functions named and of the methods of classes. What can change where we do not look (objects of the
user's own that are no frozen dataclasses, large arrays, files, random numbers) is known by identity
alone, and then the key is not shareable.
"""

import builtins
import collections
import dataclasses
import enum
import functools
import os
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fitkit._input import is_user_file, package_of
from fitkit._programs.bytecode import digest_of, facts_of
from fitkit._programs.installed import digest_of_package, is_users, named

#: Bytes of arrays that are read for a key: at a gigabyte a second, ten milliseconds at most, where
#: compiling takes seconds.
MOST_BYTES = 10_000_000
#: Elements of one container: longer ones are data, and reading them would take as long.
MOST_ELEMENTS = 1000

_DICTS = (dict, types.MappingProxyType, collections.OrderedDict)
_PLAIN = (int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented), range)
_UNSEEN = frozenset({"eval", "exec", "globals", "locals", "vars", "open", "input", "__import__"})
_FILES = frozenset({"load", "loadtxt", "genfromtxt", "fromfile", "memmap"})


class Content(NamedTuple):
    """What some objects are made of.

    Attributes
    ----------
    digest
        Equal for equal content.
    shareable
        Whether nothing of it is known by identity alone.
    functions
        The user's functions in it, also jitted ones, each with the digest of what it may call: its
        own content and that of all classes.
    held
        What is known by identity, which is kept so that no other object gets that identity.
    """

    digest: bytes
    shareable: bool
    functions: tuple[tuple[Callable, bytes], ...]
    held: tuple[Any, ...]


def content_of(*values: Any) -> Content:
    """Read what some functions and other objects are made of, which takes about a millisecond."""
    reader = _Reader()
    digest = reader.read(values)
    held = tuple(reader.held)
    # A method is found by the object that a function is called with, whose class it does not name.
    classes = digest_of(*sorted(set(reader.classes)))
    functions = tuple((one, digest_of(of_one, classes)) for one, of_one in reader.functions)
    return Content(digest, reader.shareable, functions, held)


class _Reader:
    """Reads a graph of objects once; equal parts have equal digests."""

    def __init__(self) -> None:
        self.shareable = True
        self.functions: list[tuple[Callable, bytes]] = []
        self.classes: list[bytes] = []
        self.held: list[Any] = []
        # By identity, each with the object, so that the identity stays its own.
        self._known: dict[int, tuple[bytes, Any, bool]] = {}
        self._bytes = 0

    def read(self, value: Any, may_change: bool = False) -> bytes:
        """Return the digest of a value; `may_change` says that a function may write to it."""
        if type(value) in _PLAIN:
            return digest_of(type(value).__name__, repr(value))
        if may_change and isinstance(value, list | dict | set | np.ndarray):
            return self._by_identity(value)
        if id(value) not in self._known:
            # What contains itself is met again while it is read.
            self._known[id(value)] = digest_of("again", str(len(self._known))), value, True
            before, self.shareable = self.shareable, True
            try:
                digest = self._read(value)
            except Exception:  # An object of anybody's may raise where it is looked at.
                digest = self._by_identity(value)
            self._known[id(value)] = digest, value, self.shareable
            self.shareable = before
        digest, _, shareable = self._known[id(value)]
        self.shareable &= shareable
        return digest

    def _read(self, value: Any) -> bytes:
        kind = type(value)
        if kind in (tuple, list) and len(value) <= MOST_ELEMENTS:
            return self._parts(kind.__name__, value)
        if kind in _DICTS and len(value) <= MOST_ELEMENTS:
            return self._parts(kind.__name__, [*value.keys(), *value.values()])
        if kind in (set, frozenset) and len(value) <= MOST_ELEMENTS:
            return digest_of(kind.__name__, *sorted(map(self.read, value)))
        if kind is slice:
            return self._parts("slice", (value.start, value.stop, value.step))
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return self._array(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.ModuleType):
            return self._by_identity(value) if is_users(value) else digest_of_package(value)
        if isinstance(value, type):
            return named(value) or self._class(value)
        if kind in (classmethod, staticmethod):
            return self._parts(kind.__name__, (value.__func__,))
        if kind is property:
            return self._parts("property", (value.fget, value.fset, value.fdel))
        if isinstance(value, types.MethodType):
            return self._parts("method", (value.__func__, value.__self__))
        if kind is functools.partial:
            return self._parts("partial", (value.func, value.args, value.keywords))
        if isinstance(value, jax.tree_util.PyTreeDef):
            return self._parts("tree", (jax.tree.unflatten(value, [0] * value.num_leaves),))
        if isinstance(value, np.dtype):
            return digest_of("dtype", repr(value))
        return self._instance(value, kind)

    def _instance(self, value: Any, kind: type) -> bytes:
        """Read an object that is no more than its fields, of a class that does not change."""
        itself = named(value)
        if itself is not None:
            return itself
        if kind.__name__ == "PjitFunction":
            return self._jitted(value)
        name = self.read(kind)
        if isinstance(value, enum.Enum):
            return digest_of("enum", name, value.name)
        if kind.__name__ == "_JitWrapper" and hasattr(value, "_cached"):
            # Equinox's jit: beside the function it holds what JAX keeps the traces of.
            digest = self.read(value.__wrapped__)
            self.functions.append((value._cached, digest if self.shareable else os.urandom(16)))
            return self._parts(name, (value.__wrapped__,))
        if isinstance(value, jax.custom_jvp | jax.custom_vjp):
            return self._parts(name, [*vars(value).items()])
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._parts(name, tuple(value))
        # What a class of Python's own holds, such as the elements of a list, is no field.
        bare = not any(one.__module__ == "builtins" for one in kind.__mro__[:-1])
        if dataclasses.is_dataclass(value) and _is_frozen(value) and bare:
            fields = [field.name for field in dataclasses.fields(value)]
            # Nor is what `object.__setattr__` wrote beside the fields.
            names = [*fields, *sorted({*getattr(value, "__dict__", ())} - {*fields})]
            return self._parts(name, [(one, getattr(value, one, None)) for one in names])
        return self._by_identity(value)

    def _class(self, value: type) -> bytes:
        """Read a class of the user's: itself, for it may be asked for, and all that it can do."""
        if named(type(value)) is None:
            return self._by_identity(value)
        self.held.append(value)
        if value.__module__ == "builtins":  # One that has no name there, such as that of None.
            return digest_of("class", str(id(value)))
        skipped, fields = _BOOKKEEPING, []
        if dataclasses.is_dataclass(value):
            if _is_generated(vars(value).get("__init__")):
                skipped = skipped | {"__init__"}
            factories = [(f.default_factory, f.metadata) for f in dataclasses.fields(value)]
            fields = [(one is dataclasses.MISSING or one, more) for one, more in factories]
        members = {name: one for name, one in vars(value).items() if name not in skipped}
        digest = self._parts(f"class {id(value)}", (value.__bases__, members, fields))
        self.classes.append(digest)
        return digest

    def _jitted(self, value: Any) -> bytes:
        info = getattr(value, "_jit_info", None)
        static = [getattr(info, f"static_{kind}", None) for kind in ("argnums", "argnames")]
        return self._parts("jit", (value.__wrapped__, *static))

    def _array(self, value: Any) -> bytes:
        if type(value) is not np.ndarray and not isinstance(value, np.generic | jax.Array):
            return self._by_identity(value)  # A subclass, which may hold anything.
        where = ""
        if isinstance(value, jax.Array):
            if isinstance(value, Tracer) or value.is_deleted():
                return self._by_identity(value)
            where = f"{value.sharding} {value.weak_type} {value.dtype}"
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.random.key_data(value)
        self._bytes += value.nbytes
        if value.dtype.hasobject or self._bytes > MOST_BYTES:
            return self._by_identity(value)
        array = np.asarray(value)
        kind = type(value).__name__
        return digest_of(kind, where, repr(array.dtype), str(array.shape), array.tobytes())

    def _function(self, function: types.FunctionType) -> bytes:
        name = named(function)
        if name is not None:
            return name
        code, users = function.__code__, is_user_file(function.__code__.co_filename)
        if package_of(code.co_filename) == "jaxtyping" or code.co_filename.startswith("<@beartype"):
            # A check of types around a function changes nothing about it.
            return self._parts("checked", (function.__wrapped__,))  # pyright: ignore
        facts = facts_of(code)
        if code.co_filename.endswith("ad_checkpoint.py"):
            # JAX keeps what it traced of a function under jax.checkpoint, whatever that reads now.
            self.shareable = False
        changes = users and facts.changes
        read = functools.partial(self.read, may_change=changes)
        parts = [facts.digest, read(function.__defaults__), read(function.__kwdefaults__)]
        extra = {k: one for k, one in vars(function).items() if k != "__wrapped__"}
        parts.append(self.read(extra) if users else b"")
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            value = _inside(cell)
            parts.append(self._written(value, users) if name in facts.written else read(value))
        if users:
            for chain in facts.chains:
                parts.append(self._global(function.__globals__, chain, changes))
        if users and (facts.written or facts.unseen):
            self.shareable = False
        digest = digest_of("function", *parts)
        if users:
            # What reads anything that can change unseen is another function every time.
            self.functions.append((function, digest if self.shareable else os.urandom(16)))
        return digest

    def _written(self, value: Any, users: bool) -> bytes:
        """Read a variable that a function writes to while it is traced."""
        if not users and type(value) in (int, float):
            return self.read(float(value))  # Schedules of optax turn their integers into floats.
        self.shareable = False
        return b""

    def _global(self, scope: dict[str, Any], chain: Sequence[str], may_change: bool) -> bytes:
        """Read a global, or an attribute of a module: ``("np", "fft", "fft2")``."""
        first, *rest = chain
        if chain[-1] in _FILES or (first in _UNSEEN and first not in scope):
            self.shareable = False
        value = scope.get(first, getattr(builtins, first, _MISSING))
        above = None
        for name in rest:
            if not isinstance(value, types.ModuleType):
                break
            above, value = value, vars(value).get(name, _MISSING)
        if above is None or is_users(above):
            return self.read(value, may_change)
        if callable(value) and not isinstance(value, types.FunctionType):
            # Of a package, which holds it for good: another in its place has another identity.
            return digest_of(above.__name__, *chain, str(id(value)))
        return self.read(value, may_change)

    def _by_identity(self, value: Any) -> bytes:
        self.shareable = False
        self.held.append(value)
        return digest_of("object", str(id(value)))

    def _parts(self, kind: str | bytes, parts: Any) -> bytes:
        return digest_of(kind, *map(self.read, parts))


_MISSING = "<missing>"
# What Python, dataclasses and Equinox note about a class when it is made.
_BOOKKEEPING = frozenset(
    {"__module__", "__qualname__", "__dict__", "__weakref__", "__slots__"}
    | {"__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"}
    | {"__firstlineno__", "__static_attributes__", "__match_args__", "__orig_bases__"}
    | {"__parameters__", "__abstractmethods__", "_abc_impl", "__abstractvars__"}
    | {"__abstractclassvars__", "__dataclass_params__", "__dataclass_fields__"}
)


def _inside(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _is_generated(init: Any) -> bool:
    """Whether dataclasses wrote an `__init__`, of the fields and nothing else."""
    names = getattr(getattr(init, "__code__", None), "co_freevars", ())
    # Python 3.11 has a name of its own for the second.
    return any(one.startswith(("__dataclass_", "_HAS_DEFAULT_FACTORY")) for one in names)


def _is_frozen(value: Any) -> bool:
    return isinstance(value, eqx.Module) or value.__dataclass_params__.frozen
