"""What a notebook shows of a fit that stands at the end of a cell."""

from typing import Any

import numpy as np

from fitkit._fit.snapshots import Snapshot
from fitkit._format import html_table, number
from fitkit._paths import is_static, named_leaves

# Parameters that are shown: a screenful.
SHOWN = 20


def fit_as_html(now: Snapshot, message: str) -> str:
    """Write a table of the parameters of a fit, as they are at one moment."""
    leaves = {path: leaf for path, leaf in named_leaves(now.params).items() if not is_static(leaf)}
    count = len(leaves)
    facts = [f"the first {SHOWN} of {count} parameters are shown"] if count > SHOWN else []
    rows = [
        (path, _written(leaf), "frozen" if path in now.frozen else "")
        for path, leaf in list(leaves.items())[:SHOWN]
    ]
    plural = "s" if count > 1 else ""
    return html_table(
        f"Fit of {count:,} parameter{plural}: {message}", facts, ("parameter", "value", ""), rows
    )


def _written(leaf: Any) -> str:
    # Parts of a large array may lie on other machines, and looking at it must not wait for those.
    if np.size(leaf) == 1:
        return number(float(np.asarray(leaf).reshape(())), 6, typeset=True)
    return f"{leaf.dtype} of shape {np.shape(leaf)}"
