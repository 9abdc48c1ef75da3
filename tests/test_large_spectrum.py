"""Dashboards of fits with too many parameters for a Fisher matrix: the largest eigenvalues."""

import threading
import time

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from browser import wait_until
from controls import live
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import fitkit as fk
from fitkit._dashboard import background
from fitkit._fit import Status
from fitkit._plotting import PANELS, Frame, set_up

SIZE = 600
SENSITIVITY = 30.0 / np.arange(1.0, SIZE + 1)
SPECTRUM = PANELS["spectrum"]


def residuals(params, args):
    return jnp.asarray(SENSITIVITY) * params["image"] + params["sky"] - 1.0


def make_fit(function=residuals):
    start = {"image": jnp.zeros(SIZE), "sky": jnp.zeros(1)}
    fit = fk.Fit(residuals=function, params=start, optimiser=optax.sgd(1e-4))
    fit.freeze("sky")
    return fit


def drawn(snapshot, **more):
    """Return the view and the ordinates of the dots."""
    figure = Figure()
    FigureCanvasAgg(figure)
    axes, frame = figure.add_subplot(), Frame(snapshot, **more)
    view = SPECTRUM.view(frame)
    set_up(axes, view)
    lines = [mark for mark in SPECTRUM.marks(axes, frame) if isinstance(mark, Line2D)]
    return view, [np.asarray(line.get_ydata()) for line in lines[:1]]


def test_the_largest_are_searched_for_unasked_and_drawn_with_their_number(fit, dashboard):
    assert "spectrum" in dashboard.panels
    eigenvectors = live(dashboard).eigenvectors
    wait_until(lambda: fit.known_spectrum, "the spectrum of a fit at rest")
    view, (values,) = drawn(fit.snapshot)
    # Seen on an axis of decades; the search itself is to a hundredth.
    assert values == pytest.approx(SENSITIVITY[:20] ** 2, rel=0.01)
    assert view.xlabel == f"the 20 largest of {SIZE}"
    dashboard.refresh()
    assert f"the 20 largest of {SIZE} eigenvalues are 900 to" in eigenvectors.words.value
    eigenvectors.choice.value = 1
    dashboard.refresh()
    assert "eigenvalue 225, mostly image" in eigenvectors.words.value
    assert eigenvectors.basis.disabled and fit.known_fisher is None
    fit.run(3, progress=False)
    eigenvectors.renew.click()
    wait_until(lambda: fit.known_spectrum[0] == 3, "the spectrum asked for")


def test_a_picture_without_a_person_has_it_too(fit):
    dashboard = fk.Dashboard(fit)
    fit.run(2, progress=False)
    dashboard._after_cell()
    assert fit.known_spectrum[0] == 2
    assert any("largest of" in axes.get_xlabel() for axes in dashboard.figure.axes)


def test_a_search_takes_its_share_of_a_running_fit_and_ends_with_the_dashboard(fit, monkeypatch):
    products, begun = [], time.monotonic()

    def search(callback, **options):
        while len(products) < 60:
            callback()
            time.sleep(0.02)  # in place of a product
            products.append(time.monotonic())

    monkeypatch.setattr(background, "OFTEN", 0.0)
    monkeypatch.setattr(background, "GUESS", 0.0)
    fit.fisher_spectrum = search
    fit.start(10**9)
    wait_until(lambda: fit.status == "running", "the fit to run")
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    wait_until(lambda: len(products) >= 3, "three products")
    # The first is paid for later; for the second the fit has 19 times its time before the third,
    # or has had some of it before, where the thread was waked late.
    assert products[2] - products[0] > 20 * 0.02
    begun, threads = time.monotonic(), list(dashboard._threads)
    dashboard.close()
    assert not any(thread.is_alive() for thread in threads)
    # The whole search would take 20 seconds; on a busy machine the thread may take some to end.
    assert len(products) < 60 and time.monotonic() - begun < 15.0


@pytest.mark.parametrize("why", ["job", "rest", "end", "products"])
def test_a_search_gives_way(fit, why, monkeypatch):
    thread = background.BackgroundThread(fit, True, (), lambda error: None, lambda: None)
    thread._search = background.Search(running=why == "rest")
    raised: type[Exception] = background.Abandoned
    if why == "job":
        thread.ask("Saving…", lambda: None)
    elif why == "end":
        thread.end()
    elif why == "products":
        monkeypatch.setattr(background, "MOST_PRODUCTS", 0)
        raised = RuntimeError
    with pytest.raises(raised):
        thread._wait_for_turn()


def test_the_panel_says_why_there_is_no_spectrum(fit):
    now = fit.snapshot
    assert drawn(now)[0].note == "no spectrum yet"
    words = "the residuals are not finite here, and so on, in many more words than fit in"
    note = drawn(now, no_spectrum=words)[0].note
    assert note.startswith("no spectrum: the residuals are not")
    assert max(map(len, note.split("\n"))) <= 36
    large = fk.Fit(
        loss=lambda p, a: jnp.sum(p["x"] ** 2),
        params={"x": jnp.zeros(200_001)},
        optimiser=optax.sgd(0.1),
    )
    assert "200,001 parameter elements" in drawn(large.snapshot)[0].note.replace("\n", " ")
    thread = background.BackgroundThread(large, True, (), lambda error: None, lambda: None)
    assert not thread._spectra


def test_what_fails_is_said_in_the_panel():
    def broken(params, args):
        return jnp.sqrt(params["image"])  # infinite derivatives

    fit = make_fit(broken)
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    wait_until(lambda: live(dashboard).background.problem, "the search to fail")
    dashboard.refresh()
    assert "not finite" in live(dashboard)._panels.no_spectrum
    assert live(dashboard).header.notice.value == ""  # Nobody asked for it.
    dashboard.close()


def test_it_is_also_a_line_of_code(fit):
    called = threading.Event()
    found = fit.fisher_spectrum(3, probes=0, callback=called.set)
    direct = fk.fisher_spectrum(residuals, fit.params, k=3, probes=0, frozen="sky")
    assert found.eigenvalues == pytest.approx(direct.eigenvalues, rel=1e-9)  # rounding
    assert called.is_set() and fit.known_spectrum == (0, found)
    fit.restart()
    assert fit.known_spectrum is None
    assert fit.snapshot.status is Status.READY
