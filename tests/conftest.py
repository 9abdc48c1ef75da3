"""Settings that every test shares."""

import os

# Before jax is imported: numerics are tested in float64, and float32 on purpose.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
