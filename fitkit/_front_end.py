"""Who looks at a running cell: a person, or a program that runs notebooks."""

import os
import sys
from typing import Any


def execute_request() -> dict[str, Any] | None:
    """Return the message that asked for the running cell; None outside a Jupyter kernel."""
    # Whoever is in a kernel has imported IPython.
    interactive = sys.modules.get("IPython.core.getipython")
    shell = interactive.get_ipython() if interactive is not None else None
    parent = getattr(shell, "get_parent", lambda: None)()
    return parent or None


def cell_id() -> str | None:
    """Return what identifies the running cell, where the front end sends that."""
    return ((execute_request() or {}).get("metadata") or {}).get("cellId")


def has_person() -> bool:
    """Return whether somebody looks: nbconvert, nbclient, papermill and nbval allow no input.

    They would save the state of every widget into the notebook, so they get pictures and text
    alone. Voila runs on nbclient, and shows widgets.
    """
    content = (execute_request() or {}).get("content") or {}
    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return voila or bool(content.get("allow_stdin"))
