"""Settings that every test shares."""

import gc
import itertools
import os

# Before jax is imported: numerics are tested in float64, and float32 on purpose.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest

# A silent broadcast between arrays of different rank is a mistake until it is written out. Not
# through the environment: subprocesses and notebooks run as a user's would.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Before fitkit is imported: every call in the tests checks shapes and types as annotated.
jaxtyping.install_import_hook("fitkit", "typechecker.checked")


def pytest_collection_finish():
    """Let the garbage collector leave alone what has been imported: all of it stays."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    """In CI nothing but a GPU may be missing: any other skipped test fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", [])
    # A module that is skipped as a whole has no keywords.
    missing = [report for report in skipped if "gpu" not in getattr(report, "keywords", ())]
    if os.environ.get("CI") and missing and not session.exitstatus:
        session.exitstatus = 1


_TESTS = itertools.count()


@pytest.fixture(autouse=True)
def room():
    """Let JAX forget what it compiled for tests that are over, while there is room for more."""
    yield
    if next(_TESTS) % 20 == 0:
        from fitkit._programs import leave_room

        leave_room()


@pytest.fixture
def unchecked():
    """Call fitkit as users do, whose calls no one checks: what it says of bad input is its own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def fit(request):
    """The fit that `make_fit` of the test's own module makes; it is stopped in the end."""
    fit = request.module.make_fit()
    yield fit
    fit.stop()


@pytest.fixture
def dashboard(fit):
    """A live dashboard of `fit`."""
    from fitkit import Dashboard

    dashboard = Dashboard(fit)
    _ = dashboard.widget
    yield dashboard
    dashboard.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A running JupyterLab."""
    import browser

    with browser.lab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def server(lab):
    """The JupyterLab, without kernels once the module's tests are over."""
    yield lab
    lab.shut_kernels()


@pytest.fixture
def page(tmp_path):
    """A page of a fresh Chromium."""
    import browser

    with browser.chromium(tmp_path) as page:
        yield page
