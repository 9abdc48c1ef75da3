"""What an optimiser may know beyond the next step: whether it is done, and a spectrum."""

import enum
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree


class Verdict(enum.IntEnum):
    """What an optimiser says of its own run; in a `Diagnostics` it is an array of the number.

    >>> import fitkit as fk
    >>> [verdict.name for verdict in fk.Verdict]
    ['RUNNING', 'CONVERGED', 'STALLED', 'FAILED']
    """

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    FAILED = 3


class Diagnostics(NamedTuple):
    """What an optimiser knows about the fit, for `Fit` to read.

    An optimiser puts one anywhere into its state and updates it with every step. `Fit` ends a run
    when the verdict is no longer running, and begins the next one with a fresh state; a dashboard
    shows the spectrum. Fields of other classes count for nothing, whatever their names.

    Attributes
    ----------
    verdict
        A `Verdict` as a number: 0 running, 1 converged, 2 stalled, 3 failed.
    eigenvalues
        Of the units-free Fisher matrix of the n parameter elements, descending; None if the
        optimiser does not compute them.
    rank
        Number of those that are not rounding error; None without eigenvalues.

    Examples
    --------
    Gradient descent that has converged once the gradient is a millionth of the first one:

    >>> import fitkit as fk
    >>> import jax, jax.numpy as jnp, optax
    >>> def descent(learning_rate):
    ...     def init(params):
    ...         return {"first": jnp.array(0.0), "knows": fk.Diagnostics(jnp.int32(0))}
    ...
    ...     def update(grads, state, params=None):
    ...         size = optax.tree.norm(grads)
    ...         first = jnp.where(state["first"] == 0, size, state["first"])
    ...         done = (size <= 1e-6 * first) * jnp.int32(fk.Verdict.CONVERGED)
    ...         updates = jax.tree.map(lambda g: -learning_rate * g, grads)
    ...         return updates, {"first": first, "knows": fk.Diagnostics(done)}
    ...
    ...     return optax.GradientTransformation(init, update)
    >>> optimiser = descent(0.3)
    >>> x = jnp.array(8.0)
    >>> state = optimiser.init(x)
    >>> while state["knows"].verdict == fk.Verdict.RUNNING:
    ...     updates, state = optimiser.update(2 * (x - 3.0), state)
    ...     x = optax.apply_updates(x, updates)
    >>> round(float(x), 4)
    3.0
    """

    verdict: Int[Array, ""]
    eigenvalues: Float[Array, " n"] | None = None
    rank: Int[Array, ""] | None = None


def verdict_of(state: optax.OptState) -> Int[Array, ""]:
    """Read the verdict from an optimiser's state; running if it never gives one.

    With several optimisers side by side, as `map_optimisers` and `optax.partition` make them, the
    fit goes on while any of them does, or if one of them never knows. Otherwise the worst counts.
    """
    if not knows_verdict(state):
        return jnp.int32(Verdict.RUNNING)
    found = [one.verdict for group in _side_by_side(state) for one in _diagnostics(group)]
    verdicts = jnp.stack([verdict.astype(jnp.int32) for verdict in found])
    return jnp.where(jnp.any(verdicts == Verdict.RUNNING), Verdict.RUNNING, jnp.max(verdicts))


def knows_verdict(state: optax.OptState) -> bool:
    """Whether every optimiser in a state that moves parameters says when it is done."""
    groups = list(_side_by_side(state))
    return bool(groups) and all(_diagnostics(group) for group in groups)


def spectrum_of(state: optax.OptState) -> tuple[Float[np.ndarray, " n"], int] | None:
    """Read eigenvalues and rank from an optimiser that computes them; None if none does."""
    for one in _diagnostics(state):
        if one.eigenvalues is not None and one.rank is not None:
            eigenvalues = np.asarray(one.eigenvalues)
            return None if np.isnan(eigenvalues).any() else (eigenvalues, int(one.rank))
    return None


def restart_judged(
    state: optax.OptState, optimiser: optax.GradientTransformation, params: PyTree
) -> optax.OptState:
    """Begin the state of every optimiser anew that has given a verdict, at `params`.

    For when a run begins again after a verdict, which may hold no longer: parameters may have
    been frozen, thawed or moved. Optimisers beside it that gave none keep their memory.
    """
    return _renewed(state, optimiser.init(params))


def _renewed(old: Any, new: Any) -> Any:
    if not _partitions(old):
        judged = any(int(one.verdict) != Verdict.RUNNING for one in _diagnostics(old))
        return new if judged else old

    def renewed(before: Any, after: Any) -> Any:
        if not isinstance(before, optax.transforms.PartitionState):
            return before
        fresh = after.inner_states
        states = {group: _renewed(own, fresh[group]) for group, own in before.inner_states.items()}
        return before._replace(inner_states=states)

    return jax.tree.map(renewed, old, new, is_leaf=_is(optax.transforms.PartitionState))


def _side_by_side(state: Any) -> Iterator[Any]:
    """Yield the states of the optimisers that each move parameters of their own."""
    partitions = _partitions(state)
    for partition in partitions:
        for group in partition.inner_states.values():
            yield from _side_by_side(getattr(group, "inner_state", group))
    # Parameters that nothing moves have `optax.set_to_zero`, whose state is empty.
    if not partitions and not isinstance(state, optax.EmptyState):
        yield state


def _partitions(state: Any) -> list[Any]:
    return _nodes(state, optax.transforms.PartitionState)


def _diagnostics(state: Any) -> list[Diagnostics]:
    return _nodes(state, Diagnostics)


def _nodes(state: Any, kind: type) -> list[Any]:
    return [n for n in jax.tree.leaves(state, is_leaf=_is(kind)) if isinstance(n, kind)]


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda node: isinstance(node, kind)
