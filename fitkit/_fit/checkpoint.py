"""A fit as a file: a line of JSON for what has names, then the arrays."""

import json
import os
import pathlib
import tempfile
from typing import Any

import equinox as eqx
from jaxtyping import PyTree

_MAGIC = "fitkit checkpoint 1"


def write(path: str | os.PathLike, header: dict[str, Any], arrays: PyTree) -> None:
    """Write a checkpoint; a file of that name is replaced only once all is written."""
    target = pathlib.Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as file:
        try:
            file.write(json.dumps({"format": _MAGIC, **header}).encode() + b"\n")
            eqx.tree_serialise_leaves(file, arrays)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise
    os.replace(file.name, target)


def read(path: str | os.PathLike, names: tuple[str, ...], like: PyTree) -> tuple[dict, PyTree]:
    """Read a checkpoint back, given arrays of the same shapes.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or is one of a fit with other parameters, shapes or another
        optimiser.
    """
    with open(path, "rb") as file:
        try:
            header = json.loads(file.readline())
        except ValueError:
            header = None
        if not isinstance(header, dict) or header.get("format") != _MAGIC:
            raise ValueError(f"load: {os.fspath(path)!r} is not a file that `Fit.save` wrote.")
        if tuple(header["names"]) != names:
            raise ValueError(
                f"load: {os.fspath(path)!r} holds the parameters {', '.join(header['names'])}; "
                f"the fit to load it into has {', '.join(names)}."
            )
        try:
            return header, eqx.tree_deserialise_leaves(file, like)
        except (RuntimeError, ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"load: the arrays in {os.fspath(path)!r} do not fit these parameters and this "
                "optimiser. Pass the same `params` and `optimiser` as when it was saved."
            ) from error
