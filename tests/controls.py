"""Where the controls of a dashboard are."""


def row(dashboard, path):
    """Find the row of one parameter."""
    return next(row for row in dashboard._live.table.rows if row.paths == (path,))
