"""Where the controls of a dashboard are."""

from typing import Any


def live(dashboard) -> Any:
    """Return the widgets of a dashboard that is shown."""
    assert dashboard._live is not None
    return dashboard._live


def row(dashboard, path):
    """Find the row of one parameter."""
    return next(row for row in live(dashboard).table.rows if row.paths == (path,))
