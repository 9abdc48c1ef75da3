"""Pictures: pure functions, no widgets.

Only the methods of `Result`, `Many`, `Profile` and `Contour` are imported with fitkit. Everything
else here is when it is first asked for, because matplotlib takes longer to import than all of
fitkit.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from fitkit._plotting.figures import Result as Result
from fitkit._plotting.many_figures import Many as Many
from fitkit._plotting.profiles import Contour as Contour
from fitkit._plotting.profiles import Profile as Profile

if _TYPE_CHECKING:
    from fitkit._plotting.axes import GREEN as GREEN
    from fitkit._plotting.axes import INK as INK
    from fitkit._plotting.axes import ORANGE as ORANGE
    from fitkit._plotting.axes import PALETTE as PALETTE
    from fitkit._plotting.axes import View as View
    from fitkit._plotting.axes import colour as colour
    from fitkit._plotting.axes import dash as dash
    from fitkit._plotting.axes import recolour as recolour
    from fitkit._plotting.axes import set_limits as set_limits
    from fitkit._plotting.axes import set_up as set_up
    from fitkit._plotting.many_map import MapFrame as MapFrame
    from fitkit._plotting.many_map import draw_map as draw_map
    from fitkit._plotting.many_panels import MANY_PANELS as MANY_PANELS
    from fitkit._plotting.many_panels import ManyFrame as ManyFrame
    from fitkit._plotting.panel import Entry as Entry
    from fitkit._plotting.panel import Errors as Errors
    from fitkit._plotting.panel import Frame as Frame
    from fitkit._plotting.panel import LossLook as LossLook
    from fitkit._plotting.panel import Panel as Panel
    from fitkit._plotting.panel import error_bars as error_bars
    from fitkit._plotting.panels import PANELS as PANELS
    from fitkit._plotting.scatter import Scatter as Scatter
    from fitkit._plotting.spectrum import MOST_ELEMENTS as MOST_ELEMENTS
    from fitkit._plotting.spectrum import affordable as affordable
    from fitkit._plotting.spectrum import is_large as is_large
    from fitkit._plotting.spectrum import latest_spectrum as latest_spectrum

_LAZY = ("axes", "panel", "panels", "scatter", "spectrum", "many_panels", "many_map")


def __getattr__(name: str) -> object:
    for module in _LAZY:
        found = _import_module(f"fitkit._plotting.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module 'fitkit._plotting' has no attribute {name!r}")
