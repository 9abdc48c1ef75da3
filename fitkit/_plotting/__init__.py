"""Pictures: pure functions, no widgets."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from fitkit._plotting.figures import Result as Result

if _TYPE_CHECKING:
    from fitkit._plotting.axes import INK as INK
    from fitkit._plotting.axes import PALETTE as PALETTE
    from fitkit._plotting.axes import View as View
    from fitkit._plotting.axes import colour as colour
    from fitkit._plotting.axes import dash as dash
    from fitkit._plotting.axes import dress as dress
    from fitkit._plotting.axes import figures as figures
    from fitkit._plotting.axes import tint as tint
    from fitkit._plotting.panels import Snapshot as Snapshot
    from fitkit._plotting.panels import loss_marks as loss_marks
    from fitkit._plotting.panels import loss_view as loss_view
    from fitkit._plotting.panels import spectrum_marks as spectrum_marks
    from fitkit._plotting.panels import spectrum_view as spectrum_view
    from fitkit._plotting.panels import steps_marks as steps_marks
    from fitkit._plotting.panels import steps_view as steps_view


def __getattr__(name: str) -> object:
    # Matplotlib's artists take longer to import than all of fitkit.
    for module in ("axes", "panels"):
        found = _import_module(f"fitkit._plotting.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module 'fitkit._plotting' has no attribute {name!r}")
