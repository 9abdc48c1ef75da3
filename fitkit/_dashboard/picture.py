"""The panels as one image, as wide as its cell."""

from collections.abc import Callable, Sequence

import ipywidgets as widgets

from fitkit._dashboard.layout import Cell, Page
from fitkit._dashboard.render import FrameRenderer, blank

LEAST, MOST = 320, 4000  # CSS pixels of a picture; beyond, the page stretches it
SHARPEST = 2.0  # device pixels per CSS pixel that are drawn; more cannot be told apart

# No widget of the core tells the kernel how wide it is. So an element that has loaded writes the
# width of the picture, and the density of the screen, into a text field that is not shown, now and
# whenever they change. For some seconds it looks again, because the kernel's echo of the width
# before may overwrite the field. Where a front end runs no such code the picture is stretched.
_MEASURE = """<img class="fitkit-none" alt=""
src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
onload="(function find(image, turns) {
  const board = image.closest('.fitkit-live');
  const figure = board && board.querySelector('.fitkit-figure');
  const field = board && board.querySelector('.fitkit-room input');
  if (!figure || !field) { if (turns) setTimeout(find, 100, image, turns - 1); return; }
  let timer;
  const tell = () => {
    const words = Math.floor(figure.clientWidth) + ' ' + window.devicePixelRatio;
    if (!figure.clientWidth || field.value === words) return;
    field.value = words;
    field.dispatchEvent(new Event('change', {bubbles: true}));
  };
  const check = turns => { tell(); timer = turns && setTimeout(check, 1000, turns - 1); };
  const soon = () => { clearTimeout(timer); timer = setTimeout(check, 150, 5); };
  new ResizeObserver(soon).observe(figure);
  tell();
})(this, 100)">"""


class Picture:
    """An image of the panels, drawn for the width of its cell and the density of the screen.

    Parameters
    ----------
    panels
        Their names.
    cells
        What it shows first.
    refresh_soon
        Asks for a frame, because the width changed.

    Attributes
    ----------
    image
        The image.
    parts
        All widgets, in their order.
    """

    def __init__(
        self, panels: Sequence[str], cells: Sequence[Cell], refresh_soon: Callable[[], None]
    ) -> None:
        self.renderer = FrameRenderer()
        # An Image can carry no alternative text, and a tooltip breaks its view.
        words = widgets.HTML(f"Plots below: {', '.join(panels)}.")
        words.add_class("fitkit-unseen")
        self.image = widgets.Image(value=blank(cells), format="png")
        self.image.add_class("fitkit-figure")
        self.room = widgets.Text(continuous_update=False)
        self.room.add_class("fitkit-room")
        self.room.add_class("fitkit-none")
        self.room.observe(lambda _: refresh_soon(), "value")
        self.parts = (words, widgets.HTML(_MEASURE), self.room, self.image)

    @property
    def page(self) -> Page:
        """What the front end last told, or the default."""
        try:
            width, sharpness = map(float, self.room.value.split())
        except ValueError:
            return Page()
        width = min(max(width, LEAST), MOST)
        return Page(round(width), min(max(sharpness, 1.0), SHARPEST))

    def draw(self, cells: Sequence[Cell]) -> None:
        """Draw a frame; under the lock for drawing."""
        self.image.value = self.renderer.frame(cells, self.page)
