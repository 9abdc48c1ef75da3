"""The JAX settings in force in a thread, so that another thread can work under the same."""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import Context, copy_context
from typing import Any

import jax

from fitkit._sharding import automatic_axes, users_mesh

#: What a ``with`` can set for one thread alone: the name in ``jax.config``, and the manager.
_MANAGERS: dict[str, Callable[[Any], contextlib.AbstractContextManager]] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_default_device": jax.default_device,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_disable_jit": jax.disable_jit,
    "jax_debug_nans": jax.debug_nans,
    "jax_debug_infs": jax.debug_infs,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_check_tracer_leaks": jax.check_tracer_leaks,
    "jax_log_compiles": jax.log_compiles,
    "jax_transfer_guard_host_to_device": jax.transfer_guard_host_to_device,
    "jax_transfer_guard_device_to_device": jax.transfer_guard_device_to_device,
    "jax_transfer_guard_device_to_host": jax.transfer_guard_device_to_host,
}


class JaxSettings:
    """The settings of the thread that makes it: JAX's, the mesh, and Python's context variables.

    JAX keeps what a ``with`` sets (``jax.enable_x64(True)``, ``jax.default_device(…)``) per thread,
    so a fit that runs in a thread of its own would not see it.
    """

    def __init__(self) -> None:
        self._values = _present()
        self._mesh = users_mesh()
        self._global = tuple(sorted(map(repr, jax.config.values.items())))
        self._context: Context = copy_context()

    @property
    def key(self) -> Hashable:
        """What tells them from others."""
        return (*self._values.values(), self._mesh, self._global)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put these settings in force in the present thread."""
        with contextlib.ExitStack() as stack:
            present = _present()
            for name, value in self._values.items():
                if present[name] != value:
                    stack.enter_context(_MANAGERS[name](value))
            if users_mesh() != self._mesh:
                stack.enter_context(jax.set_mesh(self._mesh))
            stack.enter_context(automatic_axes())
            yield

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the present thread under these settings, context variables too."""

        def under() -> Any:
            with self.applied():
                return function()

        return self._context.copy().run(under)


@contextlib.contextmanager
def no_debugging() -> Iterator[None]:
    """Let values that are not finite pass, which fitkit looks for itself."""
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def _present() -> dict[str, Any]:
    return {name: getattr(jax.config, name) for name in _MANAGERS}
