"""The outputs of a cell that show a dashboard, and what a saved notebook keeps of them.

A notebook saves what it renders, and a saved widget without its kernel renders as a red error. So a
dashboard is three outputs: the widget, a style sheet that never changes, and a picture. The style
shows the picture exactly where no live widget stands before it: in a reopened notebook, and after
`leave_picture` has put plain text in the widget's place. Neither texts nor style ever change, so
that nbval, which compares everything but pictures and widget views, finds the same in any state.
"""

import base64
import os
import uuid
from typing import Any

from IPython.display import display, update_display

from fitkit._dashboard.render import SavedPicture

VIEW = "application/vnd.jupyter.widget-view+json"
LIVE_CLASS = "fitkit-live"
_CHILD = ".jp-OutputArea-child"
STYLE = (
    f"<style class='fitkit-style'>{_CHILD}:has(+ {_CHILD} .fitkit-style):not(:has(.{LIVE_CLASS})),"
    f"{_CHILD}:has(.{LIVE_CLASS}) + {_CHILD} + {_CHILD},{_CHILD}:has(.fitkit-style)"
    "{display: none}</style>"
)


def _is_jupyter() -> bool:
    """Return whether the outputs are styled as JupyterLab and Notebook 7 do."""
    return "JPY_SESSION_NAME" in os.environ and "VSCODE_PID" not in os.environ


class CellOutputs:
    """The outputs of one cell that show one dashboard."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ids = {part: uuid.uuid4().hex for part in ("view", "style", "picture")}
        self._hides_picture = _is_jupyter()

    def open(self, model_id: str | None, picture: SavedPicture) -> None:
        """Show the widget of this id, or without one the picture alone."""
        style, live = {"text/html": STYLE, "text/plain": ""}, model_id is not None
        self._put(display, "view", self._view(model_id, picture), picture)
        self._put(display, "style", style, picture)
        self._put(display, "picture", self._picture(picture, live), picture)

    def renew_picture(self, picture: SavedPicture, live: bool = True) -> None:
        """Put a newer picture into the notebook; the widget is left as it is."""
        self._put(update_display, "picture", self._picture(picture, live), picture)

    def leave_picture(self, picture: SavedPicture) -> None:
        """Leave the picture alone in the notebook."""
        self._put(update_display, "view", self._view(None, picture), picture)
        self.renew_picture(picture, live=False)

    def _view(self, model_id: str | None, picture: SavedPicture) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": self._text}
        if model_id is not None:
            bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": model_id}
            if not self._hides_picture:
                bundle["image/png"] = _base64(picture)
        return bundle

    def _picture(self, picture: SavedPicture, live: bool) -> dict[str, Any]:
        if live and not self._hides_picture:
            return {"text/plain": ""}
        return {"image/png": _base64(picture), "text/plain": ""}

    def _put(self, how: Any, part: str, bundle: dict[str, Any], picture: SavedPicture) -> None:
        metadata = {"image/png": {"width": picture.width}} if "image/png" in bundle else {}
        how(bundle, metadata=metadata, raw=True, display_id=self._ids[part])


def _base64(picture: SavedPicture) -> str:
    return base64.b64encode(picture.png).decode()
