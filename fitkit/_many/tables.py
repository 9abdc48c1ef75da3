"""Many fits as text and as tables of other libraries; `many` is a `Many`."""

from typing import Any

import numpy as np

from fitkit._format import number
from fitkit._paths import element_name


def progress_line(many: Any) -> str:
    """Say how far the fits are, in a line."""
    state = "finished" if many.finished else f"{100 * many.progress:.0f} %, "
    if not many.finished:
        rest = "stopped; start() goes on" if many.stopped else "paused; resume() goes on"
        state += "running" if many.running else rest
    return f"{_counted(len(many), 'system')}, {state}"


def text(many: Any) -> str:
    """Write a table of contents."""
    shape = f" ({' × '.join(map(str, many.shape))})" if len(many.shape) > 1 else ""
    lines = [f"Many{shape}: {progress_line(many)}"]
    counts = many.counts()
    width = max(map(len, counts))
    lines += [
        f"  {word:<{width}}  {count:>{len(str(len(many)))},}" for word, count in counts.items()
    ]
    reduced = many.reduced_chi_square[np.isfinite(many.reduced_chi_square)]
    if reduced.size:
        low, middle, high = np.percentile(reduced, [5, 50, 95])
        lines.append(
            f"reduced chi-square: median {number(middle, 3)}, nine of ten within "
            f"{number(low, 3)} to {number(high, 3)}"
        )
    if many.starts > 1:
        alone = int(np.count_nonzero((many.times_found == 1) & many.success))
        lines.append(
            f"best of {many.starts} starts: found by half of them or more in "
            f"{np.count_nonzero(2 * many.times_found >= many.starts):,}, by one alone in {alone:,}"
        )
    held = sum(int(array.sum()) for array in many.at_bound.values())
    lines += [f"{_counted(held, 'element')} held back by bounds"] if held else []
    paths = ", ".join(f"'{path}'" for path in many.values)
    lines += [
        f"  .values[path], .errors[path]  of {paths}",
        "  .status, .success, .chi_square, .degrees_of_freedom",
        "  [index] a Result; .worst(n) indices to look at; .refit(mask)",
        "  .to_dataframe(), .to_xarray(), .save(file)",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in many.notes)])


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def dataframe(many: Any) -> Any:
    """Build a pandas ``DataFrame``: a value and an error for every element, and what qualifies."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_dataframe needs pandas, which is not installed: pip install pandas. Without it, "
            "many.values and many.errors hold the same arrays."
        ) from error
    count, columns = len(many), {}
    values, errors = many.values, many.errors
    for path, array in values.items():
        shape = array.shape[len(many.shape) :]
        flat, spread = array.reshape(count, -1), errors[path].reshape(count, -1)
        for at, index in enumerate(np.ndindex(shape)):
            name = element_name(path, index)
            columns[name], columns[f"{name}_error"] = flat[:, at], spread[:, at]
    columns |= {
        "chi_square": many.chi_square.ravel(),
        "degrees_of_freedom": many.degrees_of_freedom.ravel(),
        "status": many.status.ravel(),
        "success": many.success.ravel(),
    }
    index = None
    if len(many.shape) > 1:
        names = [f"system_{axis}" for axis in range(len(many.shape))]
        index = pandas.MultiIndex.from_product([range(size) for size in many.shape], names=names)
    table = pandas.DataFrame(columns, index=index)
    return table if index is not None else table.rename_axis("system")


def dataset(many: Any) -> Any:
    """Build an ``xarray.Dataset``: a variable for every path and one for its errors."""
    try:
        import xarray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "to_xarray needs xarray, which is not installed: pip install 'fitkit[xarray]'. "
            "Without it, many.values and many.errors hold the same arrays."
        ) from error
    one = len(many.shape) == 1
    systems = ["system"] if one else [f"system_{axis}" for axis in range(len(many.shape))]
    variables: dict[str, Any] = {}
    errors = many.errors
    for path, array in many.values.items():
        own = [f"{path}_{axis}" for axis in range(array.ndim - len(systems))]
        variables[path] = [*systems, *own], array
        variables[f"{path}_error"] = [*systems, *own], errors[path]
    for name in ("chi_square", "degrees_of_freedom", "status", "success"):
        variables[name] = systems, getattr(many, name)
    return xarray.Dataset(variables)
