"""The residuals of a fit at one moment."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fit.agree import require_all
from fitkit._fit.snapshots import Snapshot
from fitkit._sharding import to_host


def residuals_at(now: Snapshot) -> tuple[Float[np.ndarray, "..."], ...]:
    """Evaluate the residuals of the data, leaf by leaf as the user's function returns them.

    A complex leaf is two, its real and its imaginary part. The fit may run on meanwhile.

    Raises
    ------
    ValueError
        If the fit was given a loss, which has no residuals.
    RuntimeError
        If several processes fit together, of which one cannot compute alone.
    """
    program, state = now.place.program, now.place.state
    require_all(program.problem.mesh, "The residuals")
    with program.applied():
        # Of the program itself, which is traced once: the model may take long to trace.
        residuals = _values(program.traced.value.problem.data_residuals, state.params, program.args)
        return tuple(map(to_host, jax.tree.leaves(residuals)))


@eqx.filter_jit
def _values(function: Callable, params: PyTree, args: Any) -> PyTree:
    return function(params, args)
