"""The dashboard: what a person sees of a fit, kept up to date and put into a notebook."""

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.core.getipython import get_ipython
from jaxtyping import PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fitkit._dashboard.of_fit import OfFit
from fitkit._dashboard.of_many import OfMany
from fitkit._dashboard.output import CellOutputs
from fitkit._dashboard.refresh import DRAWING_LOCK, RefreshThread
from fitkit._dashboard.render import FREE, SavedPicture, finished, saved_picture
from fitkit._dashboard.subject import Live, Moment, Subject
from fitkit._dashboard.threads import EndingThread, join
from fitkit._fit import Fit, Snapshot
from fitkit._front_end import cell_id, execute_request, has_person
from fitkit._plotting import Many

# Seconds between the pictures that a notebook saved during a run would keep: at least so many, and
# as many more as keep drawing them to this share of a core.
SAVED_EVERY, SAVED_SHARE = 3.0, 0.02

# For how long `close` waits for its threads, in seconds. They need a moment, or as long as a Fisher
# matrix takes; but a button's job may wait for the very thread that closes, a callback of the fit.
PATIENCE = 30.0

# One dashboard per cell: running the cell again closes the one it showed before.
_shown: dict[Any, "Dashboard"] = {}


class Dashboard:
    """Show a fit or many and steer them: live plots, learning rates, run, pause, stop.

    As the value of a notebook cell it shows itself and follows the fit from then on, whether the
    fit runs in the background (`Fit.start`) or blocks a cell (`Fit.run`). Every control calls a
    public method of the fit, and shows what the fit uses: a change made in code moves the slider.
    Closing the dashboard leaves the fit alone and the picture in the notebook. Where nobody can
    touch a widget (nbconvert, nbval) it is that picture from the start. The live plots are drawn
    for the width of their cell and stand in as many lines as that asks for.

    With the spectrum it computes Fisher matrices in the background: one whenever a twentieth of the
    time that the fit has run pays for it, and one where the fit comes to rest. They are kept as
    `Fit.known_fisher`; from them come the standard errors of values, the unit of step sizes. Of
    more than 500 parameter elements it searches for the largest eigenvalues alone, within the same
    share of time (`Fit.fisher_spectrum`), and of more than 200,000 only when asked to. Residuals
    are evaluated there as well, twice a second at most, and never hold up the fit.

    Parameters
    ----------
    fit
        The fit to show; or many systems, see below.
    panels
        Which plots, in their order: ``"loss"`` (with two toggles: on a linear axis, and of the
        last tenth of the steps alone), ``"steps"`` (how far each step moved every
        parameter, as a running median, in standard errors where those are known), ``"spectrum"``
        (the eigenvalues of the units-free Fisher matrix, or the largest of many), ``"residuals"``
        (in units of σ: their histogram beside a unit normal, and by their number or, of a
        two-dimensional leaf, as an image; those that are exactly zero, as what is masked, are left
        out; as wide as the model is, unless that is shown), ``"values"``
        (those of small parameters, or their distances from now in standard errors where those are
        known), ``"gradients"`` (the norm of the gradient by every parameter, as a running median),
        ``"rates"`` (the learning rate of every parameter, as it was steered) and, last and wide,
        ``"model"``. A function ``panel(axes, snapshot)`` is a panel of your own. Unless given, the
        first three, and with `draw` the model, or else the residuals of a fit that has any.
    draw
        ``draw(axes, params)`` draws data and model on matplotlib axes, for the panel ``"model"``.
    compare
        Another fit, whose loss is a faint line behind this one's, as far as its steps reach. Unless
        given, it is that of the same fit before the latest `Fit.restart`.

    Notes
    -----
    Functions that draw are called for every frame, from another thread, and must not use pyplot.
    Choose colours that read on a light and a dark page. What one raises is shown in its place.

    Of the `Many` that `fit_many(…, block=False)` returns, the panels are ``"progress"`` (the share
    that has converged, over time), ``"chi_square"`` (the histogram of the reduced chi-squares, and
    what is expected by chance), ``"worst"`` and, of systems along one axis or two, ``"map"`` (one
    element over the systems, and in an image its standard error and chi-square). A panel of your
    own is a function ``panel(axes, many)``; there is no `draw`. Buttons pause, resume and stop, and
    the result of any system is shown: type its index, or pick it among the worst.

    Raises
    ------
    ValueError
        If a panel is unknown, or the model's has no `draw`.
    TypeError
        If `compare` is no `Fit`.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> def loss(params, args):
    ...     return jnp.sum((params["flux"] - 3.0) ** 2)
    >>> fit = fk.Fit(loss=loss, params={"flux": jnp.array(1.0)}, optimiser=optax.adam(0.1))
    >>> fk.Dashboard(fit)
    Dashboard of 1 parameter

    A panel of one's own beside the loss:

    >>> def gradient(axes, snapshot):
    ...     history = snapshot.history
    ...     axes.semilogy(history.steps, history.gradient_norms["flux"])
    ...     axes.set_title("Gradient", loc="left")
    >>> dashboard = fk.Dashboard(fit, panels=["loss", gradient])
    >>> fit.run(20, progress=False)
    >>> len(dashboard.figure.axes)
    2
    """

    def __init__(
        self,
        fit: Fit | Many,
        panels: Sequence[str | Callable[[Axes, Snapshot], object]] | None = None,
        draw: Callable[[Axes, PyTree], object] | None = None,
        compare: Fit | None = None,
    ) -> None:
        if not isinstance(compare, Fit | None):
            raise TypeError(
                f"Dashboard: compare is a {type(compare).__name__}; must be another Fit, whose "
                "loss is drawn behind this one's."
            )
        self.fit = fit
        self._subject: Subject = (
            OfMany(fit, panels, draw, compare)
            if isinstance(fit, Many)
            else OfFit(fit, panels, draw, compare)
        )
        self.panels = self._subject.panels
        self._live: Live | None = None
        self._outputs: CellOutputs | None = None
        self._outputs_live = False
        self._kept: tuple[int, float] = (-1, 0.0)  # a version, and when the next is due

    def __repr__(self) -> str:
        return repr(self._subject)

    @property
    def figure(self) -> Figure:
        """The panels as they are now, as a matplotlib figure of its own to save in any format."""
        self._subject.evaluate()
        with DRAWING_LOCK:
            return finished(self._subject.cells(self._subject.now(), self._live))

    @property
    def widget(self) -> widgets.Box:
        """The live widget, to be placed into a layout of one's own."""
        with DRAWING_LOCK:
            if self._live is None:
                self._live = self._build()
                # Not before: the first frame is drawn into these widgets.
                for thread in self._threads:
                    thread.start()
            return self._live.box

    def refresh(self) -> None:
        """Set every control from the fit and draw a frame."""
        _ = self.widget
        now = self._subject.now()
        with DRAWING_LOCK:
            live = self._live
            if live is not None:
                live.refresh_figure(now)
        if live is not None:
            live.refresh_controls(now)

    def close(self) -> None:
        """Leave the picture alone in the notebook, free the widgets and end the threads.

        The fit goes on.
        """
        join(self.release(), PATIENCE)

    def release(self) -> list[EndingThread]:
        """Do what `close` does, but wait for none of the threads; return those that are to end."""
        with DRAWING_LOCK:
            for key in [key for key, dashboard in _shown.items() if dashboard is self]:
                del _shown[key]
            shell = get_ipython()
            if self._outputs is not None:
                if shell is not None:
                    shell.events.unregister("post_run_cell", self._after_cell)
                outputs, self._outputs = self._outputs, None
                outputs.leave_picture(self._picture(self._subject.now()))
            if self._live is None:
                return []
            # They hold the widgets, and a notebook keeps every dashboard that a cell returned.
            threads, self._threads = self._threads, []
            self._live = None
            self._free()
            return threads

    def update(self, draw: bool, ending: Callable[[], bool] = lambda: False) -> None:
        """Set the controls from one moment of the fit, and draw a frame of it or not.

        What goes wrong is shown. Called by the thread that keeps the dashboard up to date.
        """
        live, now = self._live, self._subject.now()
        if live is None:
            return
        try:
            # The picture first: who reads "Finished" and saves has the end of the fit saved.
            if draw:
                with DRAWING_LOCK:
                    if self._live is None:
                        return
                    live.refresh_figure(now)
                    if not now.status.busy or time.monotonic() > self._kept[1]:
                        self._keep_picture(now)
            live.refresh_controls(now, ending)
        except Exception as error:
            live.show_failure(error)

    def _ipython_display_(self) -> None:
        if not self._subject.leads:
            return
        if execute_request() is None:
            print(self)
            return
        key = cell_id() or id(self.fit)
        for old in {_shown.pop(key, None), self if self._outputs is not None else None} - {None}:
            old.release()  # type: ignore[union-attr]
        shell = get_ipython()
        assert shell is not None
        outputs, live = CellOutputs(repr(self)), has_person()
        model_id = self.widget.model_id if live else None
        with DRAWING_LOCK:
            outputs.open(model_id, self._picture(self._subject.now()))
            self._outputs, self._outputs_live = outputs, live
        _shown[key] = self
        shell.events.register("post_run_cell", self._after_cell)

    def _repr_png_(self) -> bytes:
        """Draw the picture, for front ends that know neither ipywidgets nor IPython: marimo."""
        self._subject.complete(self._live)
        with DRAWING_LOCK:
            return self._picture(self._subject.now()).png

    def _build(self) -> Live:
        refresh = RefreshThread(weakref.ref(self), self._subject.watched)
        live = self._subject.widgets(refresh.refresh_soon, refresh.close_soon)
        self._threads: list[EndingThread] = [refresh, *live.threads]
        # The widgets live until they are closed, and must not keep the dashboard alive.
        self._free = weakref.finalize(self, _end, self._threads, live)
        self._free.atexit = False  # Threads end there by themselves, and widgets with the kernel.
        live.refresh_controls(self._subject.now())
        return live

    def _picture(self, now: Moment) -> SavedPicture:
        """Draw the picture that a saved notebook holds; under the lock for drawing."""
        cells, words = self._subject.cells(now, self._live), self._subject.words(now)
        return saved_picture(cells, words, FREE if self._live is None else self._live.page)

    def _keep_picture(self, now: Moment) -> None:
        """Renew the picture that a saved notebook holds; under the lock for drawing."""
        if self._outputs is not None:
            begun = time.thread_time()
            self._outputs.renew_picture(self._picture(now), self._outputs_live)
            pause = max(SAVED_EVERY, (time.thread_time() - begun) / SAVED_SHARE)
            self._kept = now.version, time.monotonic() + pause

    def _after_cell(self, *_: Any) -> None:
        """End a cell that moved the fit with the picture of where it went."""
        now = self._subject.now()
        if now.version != self._kept[0] and not now.status.busy:
            self._subject.complete(self._live)
            with DRAWING_LOCK:
                self._keep_picture(self._subject.now())


def _end(threads: Sequence[EndingThread], live: Live) -> None:
    for thread in threads:
        thread.end()
    live.close()
