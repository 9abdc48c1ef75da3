"""Intervals of all elements of a fit, from their profiles."""

import warnings

import numpy as np

from fitkit._paths import is_static, named_leaves
from fitkit._profile.landscape import Landscape
from fitkit._profile.minimum import Minimum
from fitkit._profile.profile import ends_of, state_warnings, two_sided
from fitkit._result import deviations


def make_intervals(
    minimum: Minimum, level: float, event: str = "intervals"
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compute the ends of the intervals of all parameters; see `Result.intervals`."""
    target = deviations(level, event) ** 2
    minimum.check(event)
    landscape = Landscape(minimum)
    elements = range(len(minimum.x))
    found = two_sided(landscape, elements, [target])
    for warning in state_warnings(minimum, landscape, landscape.lower()):
        warnings.warn(f"{event}: {warning}.", stacklevel=3)
    low, high = (minimum.by_path(side[None]) for side in ends_of(landscape, found, elements))
    leaves = named_leaves(minimum.params)
    return {
        path: (low[path][0], high[path][0]) if path in low else (np.asarray(leaf),) * 2
        for path, leaf in leaves.items()
        if not is_static(leaf)
    }
