"""What the code of a function says by itself: its digest, and what it reads and writes."""

import dis
import functools
import hashlib
import types
from typing import Any, NamedTuple

#: Methods by which a list, a dictionary, a set or an array changes.
_CHANGES = frozenset(
    {"append", "extend", "insert", "add", "update", "pop", "popitem", "clear", "remove"}
    | {"setdefault", "discard", "fill", "put", "sort", "reverse", "appendleft", "setattr"}
)


class Facts(NamedTuple):
    """What the code of a function says, which never changes.

    Attributes
    ----------
    digest
        Of its instructions and constants, whatever the lines they stand on.
    chains
        The globals it reads, with the attributes that follow.
    written
        Globals and cells that it writes to.
    changes
        Whether it may change a list, an array or the like.
    unseen
        Whether it imports something.
    """

    digest: bytes
    chains: tuple[tuple[str, ...], ...]
    written: frozenset[str]
    changes: bool
    unseen: bool


@functools.lru_cache(maxsize=1024)
def facts_of(code: types.CodeType) -> Facts:
    """Read the code of a function, and of those that it makes."""
    chains: dict[tuple[str, ...], None] = {}
    written: set[str] = set()
    changes = bool(_CHANGES & {*code.co_names})
    unseen, chain = False, ()
    for one in dis.get_instructions(code):
        name = one.opname
        if name in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain = (*chain, str(one.argval))
            continue
        if chain:
            chains[chain] = None
            chain = ()
        if name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            chain = (str(one.argval),)
        elif name in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"):
            # A cell of its own, which functions within it read, is no one else's.
            written |= {one.argval} - {*code.co_cellvars}
        elif name in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_ATTR", "STORE_SLICE"):
            changes = True
        elif name == "IMPORT_NAME":
            unseen = True
    within = [facts_of(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    for one in within:
        chains |= dict.fromkeys(one.chains)
        written |= one.written - {*code.co_cellvars}
        changes, unseen = changes or one.changes, unseen or one.unseen
    written_globals = written - {*code.co_freevars}
    digest = digest_of(
        code.co_code,
        code.co_exceptiontable,
        repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)),
        repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)),
        *(_constant(one) for one in code.co_consts),
        *(one.digest for one in within),
    )
    kept = tuple(chain for chain in chains if chain[0] not in written_globals)
    return Facts(digest, kept, frozenset(written), changes, unseen)


def _constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return b"code"
    if isinstance(value, tuple):
        return digest_of("tuple", *map(_constant, value))
    if isinstance(value, frozenset):
        return digest_of("frozenset", *sorted(map(_constant, value)))
    return digest_of(type(value).__name__, repr(value))


def digest_of(*parts: str | bytes) -> bytes:
    """Compute the digest of some parts, in their order."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # With its length, so that parts cannot run into each other.
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.digest()
