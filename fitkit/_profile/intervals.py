"""Intervals of all elements of a fit, from their profiles."""

import numpy as np

from fitkit._paths import is_static, named_leaves
from fitkit._profile.landscape import Landscape
from fitkit._profile.minimum import Minimum
from fitkit._profile.profile import ends_of, state_warnings, two_sided
from fitkit._result import deviations


def make_intervals(
    minimum: Minimum, level: float, event: str = "intervals"
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Compute the ends of the intervals of all parameters, as `Result.intervals`, and warnings."""
    target = deviations(level, event) ** 2
    minimum.check(event)
    landscape = Landscape(minimum)
    elements = range(len(minimum.x))
    found = two_sided(landscape, elements, [target])
    warnings = state_warnings(minimum, landscape, landscape.lower())
    low, high = (minimum.by_path(side[None]) for side in ends_of(landscape, found, elements))
    leaves = named_leaves(minimum.params)
    ends = {
        path: (np.asarray(low[path][0]), np.asarray(high[path][0]))
        if path in low
        else (np.asarray(leaf), np.asarray(leaf))
        for path, leaf in leaves.items()
        if not is_static(leaf)
    }
    return ends, tuple(warnings)
