"""The dashboard: what a person sees of a fit, kept up to date and put into a notebook."""

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.core.getipython import get_ipython
from jaxtyping import PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fitkit._dashboard.header import BUSY, headline
from fitkit._dashboard.output import Place, cell_id, execute_request, has_person
from fitkit._dashboard.panels import Panels, known_panels
from fitkit._dashboard.refresh import LOCK, Watch, end_at_exit
from fitkit._dashboard.render import Panel, Sketch, finished, still
from fitkit._dashboard.table import VISIBLE, Entry
from fitkit._dashboard.widgets import Live
from fitkit._fit import Fit
from fitkit._plotting import figures

PANELS = ("loss", "steps", "spectrum", "model")
STILL_EVERY = 30.0  # seconds between the pictures that a notebook saved during a run would keep

# One dashboard per cell: running the cell again closes the one it showed before.
_shown: dict[Any, "Dashboard"] = {}


class Dashboard:
    """Show a fit and steer it: live plots, learning rates, run, pause, stop.

    As the value of a notebook cell it shows itself and follows the fit from then on, whether the
    fit runs in the background (`Fit.start`) or blocks a cell (`Fit.run`). Every control calls a
    public method of the fit, and shows what the fit uses: a change made in code moves the slider.
    Closing the dashboard leaves the fit alone and the picture in the notebook. Where nobody can
    touch a widget (nbconvert, nbval) it is that picture from the start.

    With the spectrum it makes Fisher matrices in the background: one whenever a twentieth of the
    time that the fit has run pays for it, and one where the fit comes to rest. They are kept as
    `Fit.known_fisher`, and give the values their errors and the step sizes their unit.

    Parameters
    ----------
    fit
        The fit to show.
    panels
        Which plots, from left to right: ``"loss"``, ``"steps"`` (how far each step moved every
        parameter, as a running median, in error bars where those are known), ``"spectrum"`` (the
        eigenvalues of the units-free Fisher matrix) and, below them, ``"model"``. All of them
        unless given, but for a spectrum of more than 500 parameter elements.
    draw
        ``draw(axes, params)`` draws data and model on matplotlib axes, for the panel ``"model"``.
        It is called for every frame, from another thread, and must not use pyplot. Choose colours
        that read on a light and a dark page.

    Raises
    ------
    ValueError
        If a panel is unknown, or the model's has no `draw`.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> def loss(params, args):
    ...     return jnp.sum((params["flux"] - 3.0) ** 2)
    >>> fit = fk.Fit(loss=loss, params={"flux": jnp.array(1.0)}, optimiser=optax.adam(0.1))
    >>> fk.Dashboard(fit)
    Dashboard of 1 parameter
    """

    def __init__(
        self,
        fit: Fit,
        panels: Sequence[str] | None = None,
        draw: Callable[[Axes, PyTree], object] | None = None,
    ):
        panels = known_panels(fit, draw) if panels is None else panels
        unknown = [name for name in panels if name not in PANELS]
        if unknown or not panels:
            raise ValueError(
                f"Dashboard: no panel {', '.join(map(repr, unknown)) or 'was asked for'}. "
                f"There are {', '.join(map(repr, PANELS))}."
            )
        if ("model" in panels) != (draw is not None):
            raise ValueError(
                "Dashboard: the panel 'model' and a function draw(axes, params) belong together; "
                f"{'draw' if draw is None else 'the panel'} is missing."
            )
        self.fit = fit
        self.panels = tuple(panels)
        self._panels = Panels(fit, panels)
        self._sketch = None if draw is None else Sketch(lambda axes: draw(axes, fit.params))
        self._live: Live | None = None
        self._place: Place | None = None
        self._place_live = False
        self._kept: tuple[int, float] = (-1, 0.0)

    def __repr__(self) -> str:
        count = len(self.fit.names)
        return f"Dashboard of {count} parameter{'s' if count > 1 else ''}"

    @property
    def figure(self) -> Figure:
        """The panels as they are now, as a matplotlib figure of its own to save in any format."""
        with LOCK:
            return finished(self._draw(), self._sketch)

    @property
    def widget(self) -> widgets.Box:
        """The live widget, to be placed into a layout of one's own."""
        with LOCK:
            if self._live is None:
                self._live = self._build()
            return self._live.box

    def refresh(self) -> None:
        """Set every control from the fit and draw a frame."""
        _ = self.widget
        with LOCK:
            if self._live is not None:
                self._live.refresh_controls()
                self._live.refresh_figure()

    def close(self) -> None:
        """Leave the picture alone in the notebook and free the widgets; the fit goes on."""
        with LOCK:
            for key in [key for key, dashboard in _shown.items() if dashboard is self]:
                del _shown[key]
            shell = get_ipython()
            if self._place is not None:
                self._place.freeze(self._still())
                if shell is not None:
                    shell.events.unregister("post_run_cell", self._after_cell)
                self._place = None
            if self._live is not None:
                self._forget()
                self._live = None

    def tick(self, draw: bool) -> None:
        """Set the controls from the fit, and draw a frame or not; under the lock."""
        if self._live is None:
            return
        try:
            # The picture first: who reads "Finished" and saves has the end of the fit saved.
            if draw:
                self._live.refresh_figure()
                resting = self.fit.status not in BUSY
                if resting or time.monotonic() - self._kept[1] > STILL_EVERY:
                    self._keep()
            self._live.refresh_controls()
        except Exception as error:
            self._live.header.say(f"The dashboard could not draw: {error!r}")

    def _ipython_display_(self) -> None:
        if execute_request() is None:
            print(self)
            return
        key = cell_id() or id(self.fit)
        for old in {_shown.pop(key, None), self if self._place is not None else None} - {None}:
            old.close()  # type: ignore[union-attr]
        shell = get_ipython()
        assert shell is not None
        place, live = Place(repr(self)), has_person()
        model_id = self.widget.model_id if live else None
        with LOCK:
            place.open(model_id, self._still())
            self._place, self._place_live = place, live
        _shown[key] = self
        shell.events.register("post_run_cell", self._after_cell)

    def _build(self) -> Live:
        watch = Watch(weakref.ref(self), self.fit)
        live = Live(self.fit, self._panels, self._sketch, watch.ask)
        live.header.close.on_click(_weak_close(self))
        # The widgets live until they are closed, and must not keep the dashboard alive.
        self._forget = weakref.finalize(self, _end, watch, live)
        self._forget.atexit = False
        live.refresh_controls()
        for thread in (watch, live.survey):
            end_at_exit(thread)
            thread.start()
        return live

    def _draw(self) -> list[Panel]:
        """Describe the panels of this moment."""
        if self._live is None:
            names = self.fit.names[:VISIBLE]
            entries = [Entry(path, (path,), number) for number, path in enumerate(names)]
        else:
            entries = self._live.table.in_sight()
        return self._panels.now(entries)

    def _still(self) -> bytes:
        """Draw the picture that a saved notebook holds; under the lock."""
        fit = self.fit
        words = (headline(fit.status), f"step {fit.step:,}", f"loss {figures(fit.loss)}")
        return still(self._draw(), "    ".join(words), self._sketch)

    def _keep(self) -> None:
        """Renew the picture that a saved notebook holds; under the lock."""
        if self._place is not None:
            self._kept = (self.fit.version, time.monotonic())
            self._place.keep(self._still(), self._place_live)

    def _after_cell(self, *_: Any) -> None:
        """End a cell that moved the fit with the picture of where it went."""
        if self.fit.version != self._kept[0] and self.fit.status not in BUSY:
            if self._live is None and "spectrum" in self.panels and self.fit.spectrum is None:
                # What the background makes of a fit at rest, where there is a background.
                with contextlib.suppress(Exception):
                    self.fit.fisher()
            with LOCK:
                self._keep()


def _weak_close(dashboard: Dashboard) -> Callable[[Any], None]:
    reference = weakref.ref(dashboard)

    def close(_: Any) -> None:
        one = reference()
        if one is not None:
            # Not here: a widget's message must not wait for a drawing.
            threading.Thread(target=one.close, daemon=True).start()

    return close


def _end(watch: Watch, live: Live) -> None:
    watch.end()
    live.close()
