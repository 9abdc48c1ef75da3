"""Parameter paths: the names of the leaves of a pytree, for users, errors and plots.

A path is written as zodiax writes it: attributes, dictionary keys and list positions joined by
dots, ``"star.flux"`` or ``"mirrors.0.tilt"``. One element of an array leaf adds its index in
brackets, ``"star.r2[1]"`` or ``"tilt[0, 2]"``.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree, Shaped

# Tuples and lists nest to any depth. A recursive alias says so, but beartype resolves none.
Paths: TypeAlias = str | tuple[Any, ...] | list[Any]


class UnknownPathError(KeyError, ValueError):
    """A path that names no parameter.

    It is a ``KeyError`` because paths index mappings, and a ``ValueError`` because that is what
    zodiax raises for a mismatch.
    """

    def __str__(self) -> str:
        # KeyError would show the repr of its message, with the line ends escaped.
        return str(self.args[0])


def path_of(key_path: tuple[Any, ...]) -> str:
    """Write JAX's key path of a leaf with dots; the root of a bare array is ``"params"``."""
    return jax.tree_util.keystr(key_path, simple=True, separator=".") or "params"


def is_static(leaf: Any) -> bool:
    """Whether a leaf of a tree of parameters is none: a function, or what stands for a tied layer.

    `equinox.nn.Shared` puts a placeholder where a layer is another's, and ties the two when it is
    called; so what is shared is one parameter.
    """
    # By name, because Equinox does not show the class.
    return callable(leaf) or type(leaf).__name__ == "SharedNode"


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Map the path of every leaf of `tree` to the leaf, in the order of ``jax.tree.leaves``.

    Raises
    ------
    ValueError
        If two leaves would share a path, as in ``{"a.b": 1.0, "a": {"b": 2.0}}``.
    """
    leaves: dict[str, Any] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = path_of(key_path)
        if path in leaves:
            raise ValueError(
                f"Two parameters share the path '{path}'. A key that contains a dot means the "
                "same as nesting: rename one of the two."
            )
        leaves[path] = leaf
    return leaves


def paths_as_given(tree: PyTree) -> tuple[str, ...]:
    """List the paths of all leaves in the order in which the user wrote them.

    JAX sorts the keys of dictionaries.

    >>> paths_as_given({"slope": 1.0, "offset": [0.0, 0.0]})
    ('slope', 'offset.0', 'offset.1')
    """
    return tuple(map(path_of, _key_paths(tree)))


def _key_paths(tree: PyTree) -> list[tuple[Any, ...]]:
    level = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is not tree)
    children = {key_path[-1:]: child for key_path, child in level}
    if () in children:  # It is a leaf.
        return [()]
    if isinstance(tree, dict):
        given = {key: place for place, key in enumerate(tree)}
        children = dict(sorted(children.items(), key=lambda item: given[item[0][0].key]))
    return [key + below for key, child in children.items() for below in _key_paths(child)]


def named_elements(tree: PyTree) -> tuple[str, ...]:
    """Name every element of every leaf, in the order of ``jax.flatten_util.ravel_pytree``."""
    return tuple(
        element_name(path, index)
        for path, leaf in named_leaves(tree).items()
        for index in np.ndindex(np.shape(leaf))
    )


def element_name(path: str, index: tuple[int, ...]) -> str:
    """Write the path of one element: ``"r2[1]"``; the path itself for a 0-d leaf."""
    return f"{path}[{', '.join(map(str, index))}]" if index else path


def path_of_element(name: str) -> str:
    """Return the path of the leaf that an element named by `element_name` is of."""
    return name.rpartition("[")[0] if name.endswith("]") else name


def ravel(tree: PyTree) -> tuple[Shaped[Array, " n"], Callable[[Array], PyTree]]:
    """Flatten a tree into one vector of the common dtype, as ``ravel_pytree`` does.

    Also under ``jax_numpy_dtype_promotion="strict"``: leaves that lie side by side in a vector
    are not mixed by it, and a user may well have a float32 image beside a float64 position.
    """
    with jax.numpy_dtype_promotion("standard"):
        return ravel_pytree(tree)


def spread(values: PyTree, params: PyTree) -> Shaped[Array, " n"]:
    """Spread one value for each leaf of `params` over its elements, in the order of `ravel`."""
    wide = jax.tree.map(lambda one, leaf: jnp.broadcast_to(one, jnp.shape(leaf)), values, params)
    return ravel(wide)[0]


def common_dtype(*arrays: Any) -> np.dtype:
    """Return the dtype that holds all of `arrays` (or dtypes), whatever JAX's promotion setting."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays)


def match_paths(pattern: Paths, paths: Iterable[str], event: str) -> tuple[str, ...]:
    """Expand what a user wrote into the full paths of leaves, in the order of `paths`.

    Parameters
    ----------
    pattern
        A path, the path of a subtree (``"wfe"`` stands for all of ``"wfe.*"``), a glob
        (``"wfe.*"``, ``"*.flux"``), or a tuple or list of those.
    paths
        The paths there are.
    event
        What the user was doing, to open the error with: ``"freeze"``, ``"learning_rates"``.

    Raises
    ------
    UnknownPathError
        If some pattern matches nothing. The message lists the nearest paths.
    """
    paths = tuple(paths)
    patterns = pattern if isinstance(pattern, tuple | list) else (pattern,)
    matched: set[str] = set()
    for one in patterns:
        if isinstance(one, tuple | list):
            matched.update(match_paths(one, paths, event))
            continue
        hits = _hits(str(one), paths)
        if not hits:
            raise UnknownPathError(f"{event}: no parameter '{one}'. {nearest(str(one), paths)}")
        matched.update(hits)
    return tuple(path for path in paths if path in matched)


def nearest(name: str, paths: Iterable[str]) -> str:
    """Name the paths that look most like `name`, or, where none does, those there are."""
    paths = tuple(paths)
    close = difflib.get_close_matches(name, paths, n=3, cutoff=0.5)
    if close:
        return f"Nearest: {', '.join(map(repr, close))}."
    shown = ", ".join(map(repr, paths[:10])) + (", …" if len(paths) > 10 else "")
    return f"The parameters are {shown or 'none'}."


def _hits(pattern: str, paths: tuple[str, ...]) -> list[str]:
    """Match exactly, else as a subtree, else as a glob: a literal path beats a wildcard."""
    if pattern in paths:
        return [pattern]
    below = [path for path in paths if path.startswith(pattern + ".")]
    return below or fnmatch.filter(paths, pattern)
