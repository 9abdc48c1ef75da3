"""Settings that every test shares."""

import os

# Before jax is imported: numerics are tested in float64, and float32 on purpose.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_sessionfinish(session):
    """In CI nothing may be missing, so a skipped test is a failed run; `-ra` has named it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = 1
