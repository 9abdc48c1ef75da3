"""Data as they come: files and tables in, arrays that JAX computes with out."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from fitkit._paths import path_of


def converted(tree: PyTree, event: str, what: str) -> PyTree:
    """Turn every leaf that holds numbers in a foreign form into arrays that JAX takes.

    Big-endian numbers get the machine's order of bytes; columns (of pandas, say) become arrays,
    and tables, also NumPy's record arrays, dictionaries of their columns; numbers that Python
    objects hold become floats. Everything else is left as it is, also lists, which are trees.

    Parameters
    ----------
    tree
        What the user passed; JAX's own arrays, traced or not, pass through.
    event, what
        Who asks, and for what, to open an error with: ``"Fit"`` and ``"args"``.

    Raises
    ------
    TypeError
        If an array has a unit, which would be lost.
    ValueError
        If elements are masked, or numbers are too large for JAX's precision.
    """
    return jax.tree_util.tree_map_with_path(
        lambda key_path, leaf: _converted(leaf, event, _name(what, key_path)), tree
    )


def is_traceable(leaf: Any) -> bool:
    """Whether JAX may trace a leaf: an array of numbers.

    Plain numbers may be shapes or switches; and a mask that JAX traces could not be used as an
    index, so NumPy's booleans are none of them.
    """
    return isinstance(leaf, jax.Array) or (
        isinstance(leaf, np.ndarray | np.generic) and is_numeric(leaf.dtype)
    )


def foreign(value: Any) -> tuple[str, str] | None:
    """Say what is foreign to JAX about a value, and the cure; None if nothing is.

    The two are parts of a sentence: ``"big-endian (>f8), as FITS files are"`` and
    ``"pass y.astype(float)"``, in which ``{}`` stands for the name of the value.
    """
    if isinstance(value, jax.Array):
        return None
    if _columns(value) is not None:
        return "a table", "pass it through `args`, where it becomes a dictionary of its columns"
    if not _is_array(value):
        if isinstance(value, list | tuple) and value and all(map(_is_scalar, value)):
            return f"a {type(value).__name__} of numbers", "pass np.asarray({})"
        return None
    unit = unit_of(value)
    if unit is not None:
        return (
            f"in units of '{unit}', of which JAX knows nothing",
            f"pass plain numbers in a unit of your choice, such as {{}}.to_value('{unit}') "
            "(astropy) or {}.magnitude (pint)",
        )
    if isinstance(value, np.ma.MaskedArray):
        count = int(np.ma.count_masked(value))
        return (
            f"a masked array with {count:,} of {value.size:,} elements masked",
            "pass {}.filled(0) with good=~np.ma.getmaskarray({}) beside it, and let the function "
            "return jnp.where(good, residual, 0), or give those elements a weight of 0",
        )
    if not isinstance(value, np.ndarray | np.generic):
        kind = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
        return f"a {kind}", "pass np.asarray({}), or the object itself through `args`"
    dtype = value.dtype
    if dtype.kind in "mM":
        return (
            f"of dates or times ({dtype})",
            "pass numbers, such as ({} - {}[0]) / np.timedelta64(1, 's')",
        )
    if dtype.kind != "b" and not is_numeric(dtype):
        held = "text" if dtype.kind in "SUT" else "Python objects"
        cure = "pass numbers, such as {}.astype(float), or keep it out of what JAX computes"
        return f"an array of {held} ({dtype})", cure
    if not dtype.isnative:
        return f"big-endian ({dtype.str}), as FITS files are", "pass {}.astype(float)"
    if dtype.itemsize > (16 if dtype.kind == "c" else 8):
        return f"of dtype {dtype}, wider than JAX computes", "pass {}.astype(float)"
    return None


def foreign_leaves(tree: PyTree, what: str) -> list[tuple[str, str, str]]:
    """List what is foreign in a tree: the name of each leaf, what it is, and the cure."""
    found = []
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda node: isinstance(node, list | tuple) and bool(foreign(node))
    ):
        about = foreign(leaf)
        if about is not None:
            name = _name(what, key_path)
            found.append((name, about[0], about[1].replace("{}", name)))
    return found


def _converted(leaf: Any, event: str, name: str) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    names = _columns(leaf)
    if names is not None:
        # The units of a table's columns stand in its heading: nothing hidden is lost.
        columns = {str(one): leaf[one] for one in names}
        return {one: _array(column, event, f"{name}.{one}") for one, column in columns.items()}
    if not _is_array(leaf):
        return float(leaf) if _is_fraction(leaf) else leaf
    if unit_of(leaf) is not None:
        raise TypeError(_refusal(leaf, event, name))
    return _array(leaf, event, name)


def _array(leaf: Any, event: str, name: str) -> Any:
    """Turn an array of any library into one of NumPy, of a dtype that JAX has."""
    if np.ma.is_masked(leaf):
        raise ValueError(_refusal(leaf, event, name))
    if _columns(leaf) is not None:
        return _converted(leaf, event, name)
    array = leaf if type(leaf) is np.ndarray or isinstance(leaf, np.generic) else np.asarray(leaf)
    dtype = array.dtype
    if dtype.kind == "O" and array.size and all(map(_is_number, array.ravel())):
        return array.astype(float)
    if not is_numeric(dtype):
        # Masks, and the names and dates that a table has beside its numbers.
        return array
    if dtype.itemsize > (16 if dtype.kind == "c" else 8):
        return array.astype(complex if dtype.kind == "c" else float)
    native = array if dtype.isnative else array.astype(dtype.newbyteorder("="))
    refuse_overflow(native, event, name)
    return native


def refuse_overflow(array: Any, event: str, name: str) -> None:
    """Refuse numbers that JAX would turn into others without a word, where x64 is off."""
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow == array.dtype or not array.size:
        return
    with np.errstate(all="ignore"):
        after = array.astype(narrow)
        lost = after != array if array.dtype.kind in "iu" else np.isinf(after) & np.isfinite(array)
    if lost.any():
        value = np.ravel(array)[int(np.argmax(lost))]
        raise ValueError(
            f"{event}: {name} holds {value!s}, which is too large for {narrow}, the precision "
            "that JAX is set to. Subtract an offset, choose another unit, or call "
            "jax.config.update('jax_enable_x64', True) before anything else."
        )


def _refusal(leaf: Any, event: str, name: str) -> str:
    about = foreign(leaf)
    assert about is not None
    what, cure = about
    return f"{event}: {name} is {what}; {cure.replace('{}', name)}."


def _columns(leaf: Any) -> list[Any] | None:
    """List the names of the columns of a table; None for anything else."""
    if isinstance(leaf, np.ndarray | np.void):
        return list(leaf.dtype.names) if leaf.dtype.names else None
    if hasattr(leaf, "columns") and hasattr(leaf, "__array__") and hasattr(leaf, "__getitem__"):
        return list(leaf.columns)
    return None


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or a column of any library."""
    return isinstance(leaf, np.ndarray | np.generic) or (
        all(hasattr(leaf, name) for name in ("__array__", "dtype", "shape"))
        or (hasattr(leaf, "__array__") and unit_of(leaf) is not None)
    )


def unit_of(leaf: Any) -> str | None:
    """Return the unit of a quantity (astropy calls it ``unit``, pint ``units``)."""
    if isinstance(leaf, np.generic) or type(leaf) is np.ndarray or not hasattr(leaf, "__array__"):
        return None
    # Dates of pandas have a unit, too: the length of their tick.
    if getattr(getattr(leaf, "dtype", None), "kind", "f") in "mM":
        return None
    unit = getattr(leaf, "unit", None)
    unit = getattr(leaf, "units", None) if unit is None else unit
    return None if unit is None or callable(unit) else str(unit)


def is_numeric(dtype: np.dtype) -> bool:
    # Of JAX's narrow floats NumPy knows only how many bytes they take.
    return dtype.kind in "iufc" or jnp.issubdtype(dtype, jnp.floating)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)


def _is_scalar(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, jax.Array) and value.ndim == 0)


def _is_fraction(value: Any) -> bool:
    """Whether a number is one of Python's that are neither int nor float."""
    return _is_number(value) and not isinstance(value, int | float)


def shortened(value: Any) -> str:
    """Write what came, on one line and not at length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:79] + "…"


def _name(what: str, key_path: tuple[Any, ...]) -> str:
    return f"{what}.{path_of(key_path)}" if key_path else what


def to_jax(array: Any) -> jax.Array:
    """Return a converted array as JAX's own, of its own width as far as JAX is set to it."""
    return jnp.asarray(array, dtype=jax.dtypes.canonicalize_dtype(array.dtype))
