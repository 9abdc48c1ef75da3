"""Compiled programs that fits share: kept by what they were made of, the latest used ones.

What is kept is a function of the user's that has been traced, or will be. So whenever it is handed
out it is read again: if what it reads has changed since, it is forgotten.
"""

import collections
import dataclasses
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import jax

from fitkit._programs import Content, content_of, leave_room

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Shared(Generic[T]):
    """Something compiled, or to be.

    Attributes
    ----------
    value
        What is shared.
    parts
        The functions and other objects that it was made of.
    content
        Theirs, when it was made.
    kind
        What else tells it from others: shapes and settings.
    """

    value: T
    parts: tuple[Any, ...]
    content: Content
    kind: Hashable

    def serves(self, parts: tuple[Any, ...], content: Content, kind: Hashable) -> bool:
        """Return whether it may be used for these parts, of this content."""
        if kind != self.kind or content.digest != self.content.digest:
            return False
        if all(map(lambda one, other: one is other, parts, self.parts)):
            return True
        return content_of(*self.parts).digest == self.content.digest


class Programs(Generic[T]):
    """Keeps what was compiled, by content.

    Parameters
    ----------
    most
        How many are kept; the one that was not used for longest goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[Hashable, Shared[T]] = collections.OrderedDict()

    def find(
        self,
        parts: tuple[Any, ...],
        kind: Hashable,
        make: Callable[[], T],
        own: Shared[T] | None = None,
    ) -> Shared[T]:
        """Find what was made of parts of the same content, or make it.

        Parameters
        ----------
        parts, kind
            As for `Shared`.
        make
            Makes it; it must not trace anything yet.
        own
            What the same fit used before, which may serve it although it is not for others.
        """
        content = content_of(*parts)
        if own is not None and own.serves(parts, content, kind):
            return own
        key = content.digest, kind
        with self._lock:
            known = self._kept.pop(key, None) if content.shareable else None
            if known is None or not known.serves(parts, content, kind):
                leave_room()
                _forget_traces(content)
                known = Shared(make(), parts, content, kind)
            if content.shareable:
                self._kept[key] = known
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return known

    def forget_changed(self, one: Shared[T]) -> None:
        """Keep something no longer if what it was made of has changed while it was traced."""
        if content_of(*one.parts).digest == one.content.digest:
            return
        with self._lock:
            for key in [key for key, known in self._kept.items() if known is one]:
                del self._kept[key]


# Of which content JAX can know a function, at most: that with which we let it forget the rest.
_FRESH: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


def _forget_traces(content: Content) -> None:
    """Let JAX forget functions that may read something else than when it traced them.

    It keeps what it traced of a function that is jitted, or the body of a loop, by the function
    object and the shapes alone.
    """
    for function, digest in content.functions:
        if _FRESH.get(function) != digest:
            jitted: Any = function if hasattr(function, "clear_cache") else jax.jit(function)
            jitted.clear_cache()
            _FRESH[function] = digest
