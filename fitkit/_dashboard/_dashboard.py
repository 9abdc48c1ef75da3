"""The dashboard: it watches a fit from a thread of its own and puts what it sees on widgets."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.core.getipython import get_ipython
from matplotlib.figure import Figure

from fitkit._dashboard._header import BUSY, Header, headline
from fitkit._dashboard._look import SHEET
from fitkit._dashboard._painter import Painter, Panel, blank, finished, still
from fitkit._dashboard._place import LIVE_CLASS, Place, cell_id, execute_request, has_person
from fitkit._dashboard._table import VISIBLE, Table
from fitkit._fit import Fit
from fitkit._plots import (
    Snapshot,
    figures,
    loss_marks,
    loss_view,
    spectrum_marks,
    spectrum_view,
    steps_marks,
    steps_view,
)

PANELS = ("loss", "steps", "spectrum")
INTERVAL = 0.5  # seconds between frames, and
SHARE = 0.05  # at most this share of a core spent on drawing them
SLOWEST = 2.0  # but a frame at least this often
STILL_EVERY = 30.0  # seconds between the pictures that a notebook saved during a run would keep

# One for all dashboards: matplotlib does not draw in two threads at a time.
_lock = threading.RLock()

# One dashboard per cell: running the cell again closes the one it showed before.
_shown: dict[Any, "Dashboard"] = {}


# Threads that must not be inside matplotlib while the interpreter goes down.
_watching: "weakref.WeakSet[_Watch]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    threads = list(_watching)
    for thread in threads:
        thread.end()
    for thread in threads:
        thread.join(1.0)


class Dashboard:
    """Show a fit and steer it: live plots, learning rates, run, pause, stop.

    As the value of a notebook cell it shows itself and follows the fit from then on, whether the
    fit runs in the background (`Fit.start`) or blocks a cell (`Fit.run`). Every control calls a
    public method of the fit, and shows what the fit uses: a change made in code moves the slider.
    Closing the dashboard leaves the fit alone and the picture in the notebook. Where nobody can
    touch a widget (nbconvert, nbval) it is that picture from the start.

    Parameters
    ----------
    fit
        The fit to show.
    panels
        Which plots, from left to right: ``"loss"``, ``"steps"`` (how far each step moved every
        parameter, as a running median), ``"spectrum"`` (the eigenvalues of the units-free Fisher
        matrix, where the optimiser computes them, as `gauss_newton` does). All there are, unless
        given.

    Raises
    ------
    ValueError
        If a panel is unknown, or the optimiser has no spectrum to show.

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

    def __init__(self, fit: Fit, panels: Sequence[str] | None = None):
        known = PANELS if fit.spectrum is not None else PANELS[:2]
        panels = known if panels is None else panels
        unknown = [name for name in panels if name not in known]
        if unknown or not panels:
            raise ValueError(
                f"Dashboard: no panel {', '.join(map(repr, unknown)) or 'was asked for'}. "
                f"For this fit there are {', '.join(map(repr, known))}."
            )
        self.fit = fit
        self.panels = tuple(panels)
        self._thread: _Watch | None = None
        self._box: widgets.Box | None = None
        self._place: Place | None = None
        self._place_live = False
        self._kept: tuple[int, float] = (-1, 0.0)
        self._leg = (-1, 0)
        self._trouble = ""

    def __repr__(self) -> str:
        count = len(self.fit.names)
        return f"Dashboard of {count} parameter{'s' if count > 1 else ''}"

    @property
    def figure(self) -> Figure:
        """The panels as they are now, as a matplotlib figure of its own to save in any format."""
        with _lock:
            return finished(self._draw())

    @property
    def widget(self) -> widgets.Box:
        """The live widget, to be placed into a layout of one's own."""
        with _lock:
            if self._box is None:
                self._build()
            assert self._box is not None
            return self._box

    def refresh(self) -> None:
        """Set every control from the fit and draw a frame."""
        _ = self.widget
        self._refresh_controls()
        self._refresh_figure()

    def _refresh_controls(self) -> None:
        with _lock:
            if self._box is None:
                return
            target, step = self.fit.target, self.fit.step
            if target != self._leg[0]:
                self._leg = (target, step)
            self._header.refresh(self._leg[1])
            self._header.say(self._trouble or trouble(self.fit))
            self._table.refresh()

    def _refresh_figure(self) -> None:
        with _lock:
            if self._box is not None:
                self._image.value = self._painter.frame(self._draw())

    def close(self) -> None:
        """Leave the picture alone in the notebook and free the widgets; the fit goes on."""
        if self._thread is not None:
            self._thread.end()
        with _lock:
            for key in [key for key, dashboard in _shown.items() if dashboard is self]:
                del _shown[key]
            shell = get_ipython()
            if self._place is not None:
                self._place.freeze(self._still())
                if shell is not None:
                    shell.events.unregister("post_run_cell", self._after_cell)
                self._place = None
            if self._box is not None:
                self._forget.detach()
                dispose(self._box)
                self._box = None

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
        model_id = None
        if live:
            model_id = self.widget.model_id
        with _lock:
            place.open(model_id, self._still())
            self._place, self._place_live = place, live
        _shown[key] = self
        shell.events.register("post_run_cell", self._after_cell)

    def _build(self) -> None:
        act = _weak_act(self)
        self._painter = Painter()
        self._header = Header(self.fit, act)
        self._header.close.on_click(_weak_close(self))
        self._table = Table(self.fit, act)
        self._image = widgets.Image(value=blank(), format="png")
        self._image.add_class("fitkit-figure")
        # An Image can carry no alternative text, and a tooltip breaks its view.
        words = widgets.HTML(f"Plots below: {', '.join(self.panels)}.")
        words.add_class("fitkit-unseen")
        self._box = widgets.VBox(
            [widgets.HTML(SHEET), *self._header.parts, words, self._image, self._table.box]
        )
        self._box.add_class(LIVE_CLASS)
        self._thread = _Watch(weakref.ref(self), self.fit)
        self._forget = weakref.finalize(self, _abandon, self._thread, self._box)
        self._forget.atexit = False
        self._refresh_controls()
        _watching.add(self._thread)
        self._thread.start()

    def _draw(self) -> list[Panel]:
        """Describe the panels of this moment."""
        fit, history = self.fit, Snapshot(self.fit.history)
        settled = fit.status not in BUSY and fit.status != "paused"
        end = fit.step if settled else max(fit.target, fit.step)
        if self._box is None:
            shown = {path: index for index, path in enumerate(fit.names[:VISIBLE])}
        else:
            shown = self._table.in_sight()
        others = [path for path in fit.names if path not in shown]
        events = [event.step for event in tuple(fit.events)]
        eigenvalues, rank = fit.spectrum or (np.empty(0), 0)
        built = {
            "spectrum": lambda: Panel(
                spectrum_view(eigenvalues, rank),
                lambda axes: spectrum_marks(axes, eigenvalues, rank),
                weight=0.75,
            ),
            "loss": lambda: Panel(
                loss_view(history, end, settled),
                lambda axes: loss_marks(axes, history, events),
            ),
            "steps": lambda: Panel(
                steps_view(
                    history, fit.names, end, settled, [(short(p), i) for p, i in shown.items()]
                ),
                lambda axes: steps_marks(axes, history, shown, others),
            ),
        }
        return [built[name]() for name in self.panels]

    def _still(self) -> bytes:
        """Draw the picture that a saved notebook holds; under the lock."""
        fit = self.fit
        words = (headline(fit.status), f"step {fit.step:,}", f"loss {figures(fit.loss)}")
        return still(self._draw(), "    ".join(words))

    def _keep(self) -> None:
        """Renew the picture that a saved notebook holds."""
        with _lock:
            if self._place is not None:
                self._kept = (self.fit.version, time.monotonic())
                self._place.keep(self._still(), self._place_live)

    def _after_cell(self, *_: Any) -> None:
        """End a cell that moved the fit with the picture of where it went."""
        if self.fit.version != self._kept[0] and self.fit.status not in BUSY:
            self._keep()

    def _do(self, action: Callable[[], Any]) -> None:
        """Do what a control asks, and say in words what went wrong."""
        self._trouble = ""
        try:
            action()
        except Exception as error:
            self._trouble = str(error) or type(error).__name__
        if self._thread is not None:
            self._thread.ask()

    def _tick(self, draw: bool) -> None:
        try:
            # The picture first: who reads "Finished" and saves has the end of the fit saved.
            if draw:
                self._refresh_figure()
                resting = self.fit.status not in BUSY
                if resting or time.monotonic() - self._kept[1] > STILL_EVERY:
                    self._keep()
            self._refresh_controls()
        except Exception as error:
            with _lock:
                if self._box is not None:
                    self._header.say(f"The dashboard could not draw: {error!r}")


def trouble(fit: Fit) -> str:
    """Say what stopped the fit, where something did."""
    if fit.error is not None:
        return f"{type(fit.error).__name__}: {fit.error}"
    if fit.status != "non-finite":
        return ""
    report = fit.report  # From now on the message names operation and line, too.
    return f"{fit.message}. Try: {report.advice}" if report else fit.message


def short(path: str, length: int = 17) -> str:
    """Shorten a path to its telling end."""
    return path if len(path) <= length else "…" + path[1 - length :]


def dispose(widget: widgets.Widget) -> None:
    """Close a widget with its children, layout and style."""
    for child in getattr(widget, "children", ()):
        dispose(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, widgets.Widget):
            part.close()
    widget.close()


class _Watch(threading.Thread):
    """Refreshes a dashboard whenever its fit changed, until it is closed or forgotten."""

    def __init__(self, dashboard: "weakref.ref[Dashboard]", fit: Fit):
        super().__init__(name="fitkit dashboard", daemon=True)
        self._dashboard, self._fit = dashboard, fit
        self._stop_asked, self._wake = threading.Event(), threading.Event()

    def end(self) -> None:
        """Let the thread finish what it draws, and no more."""
        self._stop_asked.set()
        self._wake.set()

    def ask(self) -> None:
        """Let the thread refresh soon, though the fit did not change."""
        self._wake.set()

    def run(self) -> None:
        seen = drawn = -1
        due, rested, asked = 0.0, False, False
        while not self._stop_asked.is_set():
            patience = 1.0 if seen == drawn and not asked else max(0.0, due - time.monotonic())
            version = self._fit.wait_for_change(seen, timeout=patience)
            asked = asked or self._wake.is_set()
            self._wake.clear()
            now, resting = time.monotonic(), self._fit.status not in BUSY
            # The frame in which a fit comes to rest is drawn at once, and so is the last of all.
            draw = (version != drawn or asked) and (now >= due or (resting and not rested))
            if version == seen and not draw and not asked:
                continue
            begun = time.thread_time()
            with _lock:
                dashboard = self._dashboard()
                if dashboard is None or self._stop_asked.is_set():
                    return
                dashboard._tick(draw)
                del dashboard
            seen = version
            if draw:
                drawn, rested, asked = version, resting, False
                spent = time.thread_time() - begun
                due = now + min(max(INTERVAL, spent / SHARE), SLOWEST)
            self._wake.wait(INTERVAL / 4)


def _weak_act(dashboard: Dashboard) -> Callable[[Callable[[], Any]], None]:
    """Let widgets, which live until they are closed, act without keeping the dashboard alive."""
    reference = weakref.ref(dashboard)

    def act(action: Callable[[], Any]) -> None:
        one = reference()
        if one is not None:
            one._do(action)

    return act


def _weak_close(dashboard: Dashboard) -> Callable[[Any], None]:
    reference = weakref.ref(dashboard)

    def close(_: Any) -> None:
        one = reference()
        if one is not None:
            # Not here: a widget's message must not wait for a drawing.
            threading.Thread(target=one.close, daemon=True).start()

    return close


def _abandon(thread: _Watch, box: widgets.Box) -> None:
    thread.end()
    dispose(box)
