"""Pytrees of arrays as flat dictionaries of NumPy arrays, and their structure as plain lists.

Both are keyed by path, never by position, and are the same in every process and with every version
of JAX.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

# How many entries an error lists; a structure of another kind differs in all of them.
_SHOWN = 3


def flatten(tree: PyTree, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the leaves of `tree` as NumPy arrays, by path.

    Parameters
    ----------
    tree
        Its leaves are arrays, PRNG keys or numbers.
    prefix
        What the names begin with: ``"state"`` makes ``"state.mu.flux"``.

    Raises
    ------
    TypeError
        If a leaf is anything else.
    """
    return {name: _to_numpy(leaf, name) for name, leaf in _named(tree, prefix).items()}


def restore(arrays: Mapping[str, np.ndarray], like: PyTree, prefix: str = "") -> PyTree:
    """Rebuild a pytree from what `flatten` returned.

    Parameters
    ----------
    arrays
        The arrays; other names than those under `prefix` may be among them.
    like
        A pytree of the same structure, shapes and dtypes. Leaves of JAX come back with its weak
        types and on its devices, numbers as numbers.
    prefix
        As it was passed to `flatten`.

    Raises
    ------
    ValueError
        If an array is missing, or is of another shape or dtype than in `like`.
    """
    leaves = []
    for name, leaf in _named(like, prefix).items():
        if name not in arrays:
            raise ValueError(f"load: the checkpoint holds no array '{name}'.")
        leaves.append(_from_numpy(arrays[name], leaf, name))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def fingerprint(tree: PyTree) -> list[list[str]]:
    """Describe the structure of `tree`: pairs of a path and of what is there.

    Leaves are described by shape and dtype, nodes by the name of their class, which tells states
    of equal shapes apart: ``["0", "ScaleByAdamState"], ["0.mu.flux", "(3,) float64"]``. Lists,
    tuples, dictionaries and None go without, because the paths below them say enough. JSON keeps
    it as it is.
    """
    return [[path, words] for path, words in _describe(tree, ())]


def difference(saved: Any, present: list[list[str]]) -> str | None:
    """Compare two fingerprints.

    Parameters
    ----------
    saved
        The fingerprint in a checkpoint, which may hold anything.
    present
        The fingerprint of the tree to load into.

    Returns
    -------
    str or None
        None if they agree, else the end of a sentence about the first differences: ``"saved with
        0.mu.flux (3,) float64, and the fit has 0.trace.flux (3,) float64"``.
    """
    try:
        was = dict.fromkeys((str(path), str(words)) for path, words in saved)
    except (TypeError, ValueError):
        return "saved with a structure that this fitkit cannot read"
    now = dict.fromkeys((path, words) for path, words in present)
    gone = _listed([entry for entry in was if entry not in now])
    new = _listed([entry for entry in now if entry not in was])
    if gone == new == "":
        return None
    return f"saved with {gone or 'nothing more'}, and the fit has {new or 'nothing in its place'}"


def _path(key_path: tuple[Any, ...]) -> str:
    """Join the keys by dots; a dot inside a key is escaped, so that no two paths are equal."""
    keys = (jax.tree_util.keystr((key,), simple=True) for key in key_path)
    return ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in keys)


def _named(tree: PyTree, prefix: str) -> dict[str, Any]:
    named = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = ".".join(part for part in (prefix, _path(key_path)) if part)
        if name in named:
            raise ValueError(f"save: two leaves share the path '{name}'. Rename a key.")
        named[name] = leaf
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_number(leaf: Any) -> bool:
    """Whether `leaf` is a number of Python; NumPy's float64 is a float, too."""
    return isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic)


def _to_numpy(leaf: Any, name: str) -> np.ndarray:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not (isinstance(leaf, jax.Array | np.ndarray | np.generic) or _is_number(leaf)):
        raise TypeError(
            f"save: '{name}' is of type {type(leaf).__name__}. Only arrays and numbers can be "
            "saved: keep anything else out of the parameters and of the optimiser's state."
        )
    return np.asarray(leaf)


def _from_numpy(array: np.ndarray, like: Any, name: str) -> Any:
    wanted = _to_numpy(like, name)
    # A number of Python is an array once a step was compiled: its precision is not its own.
    number = _is_number(like)
    if array.shape != wanted.shape or (array.dtype != wanted.dtype and not number):
        raise ValueError(
            f"load: '{name}' is {array.shape} {array.dtype} in the checkpoint, and the fit has "
            f"{wanted.shape} {wanted.dtype}."
        )
    if number:
        return type(like)(array.item())
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(like))
    if not isinstance(like, jax.Array):
        return array.copy() if isinstance(like, np.ndarray) else array[()]
    if like.weak_type:  # No constructor makes a weakly typed array; writing into one keeps it.
        return like.at[...].set(array)
    return jax.device_put(array.copy(), like.sharding) if like.committed else jnp.array(array)


def _describe(tree: PyTree, key_path: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    """Yield path and description of `tree` itself and of all below it."""
    children = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if children and children[0][0] == ():
        kind = getattr(tree, "dtype", type(tree).__name__)
        if _is_number(tree):  # As a compiled step returns it.
            kind = jax.dtypes.result_type(tree)
        yield _path(key_path), f"{np.shape(tree)} {kind}"
        return
    if type(tree).__module__ != "builtins":
        yield _path(key_path), type(tree).__name__
    for keys, child in children:
        yield from _describe(child, key_path + keys)


def _listed(entries: list[tuple[str, str]]) -> str:
    shown = [
        f"{path} {words}".strip() if words.startswith("(") else f"{words} at {path or 'the root'}"
        for path, words in entries[:_SHOWN]
    ]
    more = len(entries) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
