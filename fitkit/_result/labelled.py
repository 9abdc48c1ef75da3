"""A result as labelled objects of other libraries; `result` is a `Result`."""

from typing import Any

import numpy as np


def uncertain(result: Any) -> dict[str, Any]:
    """Build correlated numbers of uncertainties, by element."""
    try:
        import uncertainties
    except ImportError as error:
        raise ImportError(
            "to_uncertainties needs uncertainties, which is not installed: pip install "
            "uncertainties. Without it, Result.rows() and Result.covariance hold the same numbers."
        ) from error
    labels, covariance = result.fisher.labels, np.asarray(result.covariance)
    finite = np.isfinite(covariance).all(axis=0)
    free = [label for label, ok in zip(labels, finite, strict=True) if not ok]
    if free:
        raise ValueError(
            f"to_uncertainties: {', '.join(map(repr, free))} has an infinite error, which numbers "
            "of uncertainties cannot carry. Freeze it, or give it a prior."
        )
    values = {row.name: row.value for row in result.rows() if not row.derived}
    # Of symmetric bits: a matrix that rounding made unsymmetric is refused.
    symmetric = covariance / 2 + covariance.T / 2
    numbers = dict(
        zip(
            labels,
            uncertainties.correlated_values([values[label] for label in labels], symmetric),
            strict=True,
        )
        if labels
        else ()
    )
    return {name: numbers.get(name, value) for name, value in values.items()}


def dataset(result: Any) -> Any:
    """Build an ``xarray.Dataset`` of values, errors and the covariance, by element."""
    try:
        import xarray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "to_xarray needs xarray, which is not installed: pip install 'fitkit[xarray]'. "
            "Without it, Result.rows() and Result.covariance hold the same numbers."
        ) from error
    rows = {row.name: row for row in result.rows() if not row.derived}
    labels = list(result.fisher.labels)
    coordinates = {"parameter": labels, "other": labels}
    return xarray.Dataset(
        {
            "value": ("parameter", [rows[label].value for label in labels]),
            "error": ("parameter", [rows[label].error for label in labels]),
            "covariance": (("parameter", "other"), np.asarray(result.covariance)),
            "correlation": (("parameter", "other"), result.correlations),
        },
        coords=coordinates,
        attrs={"success": result.success, "message": result.message},
    )
