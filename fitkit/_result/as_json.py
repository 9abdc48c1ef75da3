"""A result as text that people, other languages and later versions read: JSON, to the bit."""

import json
import math
from typing import Any

import numpy as np

from fitkit._fisher import FisherMatrix
from fitkit._result.assessment import Assessment, Kind

FORMAT = "fitkit.Result"
# To be raised when a reader of the one before would misread what is written.
VERSION = 1

BY_PATH = ("values", "errors", "derived", "derived_errors", "initial")
FISHER = ("matrix", "scale", "eigenvalues", "eigenvectors")
NUMBERS = ("loss", "chi_square", "degrees_of_freedom", "reduced_chi_square", "prior_chi_square")
PLAIN = ("absolute_sigma", "errors_from", "steps", "success", "message")


def written(result: Any) -> str:
    """Write a `Result`; numbers that JSON does not have are the strings "nan", "inf", "-inf"."""
    of, fisher = result.assessment, result.fisher
    record = {
        "format": FORMAT,
        "version": VERSION,
        **{name: getattr(result, name) for name in PLAIN},
        "warnings": list(result.warnings),
        **{name: _number(getattr(result, name)) for name in NUMBERS},
        **{
            name: {path: _array(leaf) for path, leaf in getattr(result, name).items()}
            for name in BY_PATH
        },
        "fixed": sorted(result.fixed),
        "labels": list(fisher.labels),
        "covariance": _array(result.covariance),
        "fisher": {
            **{name: _array(getattr(fisher, name)) for name in FISHER},
            "rtol": fisher.rtol,
            "squared": fisher.squared,
        },
        "assessment": {
            "kind": of.kind.value,
            "distance": _number(of.distance),
            "floor": _number(of.floor),
            "step": _array(of.step),
            "at_bound": list(of.at_bound),
            "flat": list(of.flat),
            "coarse": list(of.coarse),
            "left_out": of.left_out,
            "unit_known": of.unit_known,
        },
        "residuals": None if result.residuals is None else _array(result.residuals),
    }
    return json.dumps(record, allow_nan=False, ensure_ascii=False, indent=1)


def read(text: str) -> dict[str, Any]:
    """Read what `written` wrote, as the arguments of `Result`."""
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError(f"Result.from_json: the text is no JSON: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(
            f'Result.from_json: the JSON is no result: it has no "format": "{FORMAT}", which '
            "Result.to_json writes."
        )
    if record.get("version") != VERSION:
        raise ValueError(
            f"Result.from_json: the result is of version {record.get('version')!r}; this fitkit "
            f"reads version {VERSION}. Read it with the fitkit that wrote it."
        )
    try:
        return _arguments(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Result.from_json: the result is damaged ({error!r}). Write it again by to_json."
        ) from error


def _arguments(record: dict[str, Any]) -> dict[str, Any]:
    by_path: dict[str, Any] = {
        name: {path: _read_array(leaf) for path, leaf in record[name].items()} for name in BY_PATH
    }
    fisher, of = record["fisher"], record["assessment"]
    matrices: dict[str, Any] = {name: _read_array(fisher[name]) for name in FISHER}
    residuals = record["residuals"]
    return {
        "params": dict(by_path["values"]),
        **by_path,
        **{name: record[name] for name in PLAIN},
        **{name: _read_number(record[name]) for name in NUMBERS},
        "warnings": tuple(record["warnings"]),
        "fixed": frozenset(record["fixed"]),
        "covariance": _read_array(record["covariance"]),
        "residuals": None if residuals is None else _read_array(residuals),
        "fisher": FisherMatrix(
            labels=tuple(record["labels"]),
            **matrices,
            rtol=fisher["rtol"],
            squared=fisher["squared"],
        ),
        "assessment": Assessment(
            kind=Kind(of["kind"]),
            distance=float(of["distance"]),
            floor=float(of["floor"]),
            step=_read_array(of["step"]),
            at_bound=tuple(of["at_bound"]),
            flat=tuple(of["flat"]),
            coarse=tuple(of["coarse"]),
            left_out=of["left_out"],
            unit_known=of["unit_known"],
        ),
    }


def _number(value: Any) -> Any:
    """Write a number; Python writes floats with as many digits as give back the same bits."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read_number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _array(values: Any) -> dict[str, Any]:
    values = np.asarray(values)
    flat = [_number(float(value)) for value in values.ravel()]
    return {"dtype": str(values.dtype), "shape": list(values.shape), "data": flat}


def _read_array(record: dict[str, Any]) -> np.ndarray:
    flat = [float(value) for value in record["data"]]
    return np.array(flat, record["dtype"]).reshape(record["shape"])
