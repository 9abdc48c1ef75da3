"""What was found of many fits, in a file; the data are not in it, but known again."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from fitkit._checkpoint import CheckpointError, read, write
from fitkit._many.record import Record
from fitkit._many.systems import Systems


def save(path: str | os.PathLike, systems: Systems, record: Record) -> None:
    """Write the record of all fits, and by what its systems are known again."""
    arrays = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    # Taken once, so that fits which end meanwhile are wholly in the file or not at all.
    arrays["kind"] = arrays["kind"].copy()
    write(path, {"many": _described(systems), "data": _digest(systems)}, arrays)


def load(path: str | os.PathLike, systems: Systems) -> Record:
    """Read the record of the same systems back.

    Raises
    ------
    CheckpointError
        If the file is damaged or of something else.
    ValueError
        If the systems are not those that were saved.
    """
    header, arrays = read(path)
    if "many" not in header:
        raise CheckpointError(f"load: {os.fspath(path)!r} is no file of fit_many.")
    for name, now in _described(systems).items():
        was = header["many"].get(name)
        if was != now:
            raise ValueError(
                f"load: the file was saved with {name} {was}, and here they are {now}."
            )
    if header["data"] != _digest(systems):
        raise ValueError(
            "load: the data, weights, starts or bounds are not those that the file was saved with: "
            "its fits would be fits of something else. Call fit_many for the new ones."
        )
    return Record(**{field.name: arrays[field.name] for field in dataclasses.fields(Record)})


def _described(systems: Systems) -> dict[str, Any]:
    return {
        "systems": list(systems.shape),
        "starts": systems.starts_each,
        "parameters": list(systems.labels),
        "residuals": systems.residual_count,
        "dtype": systems.recipe.dtype,
    }


def _digest(systems: Systems) -> str:
    """Hash all numbers that decide what the fits find."""
    digest = hashlib.sha256()
    limits = systems.limits or ()
    for array in (*systems.own, *systems.shared, systems.starts, *limits):
        array = np.asarray(array)
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        # A part at a time: broadcast weights would be copied as a whole.
        for row in array if array.ndim > 1 else [array]:
            digest.update(np.ascontiguousarray(row).view(np.uint8).data if row.size else b"")
    return digest.hexdigest()
