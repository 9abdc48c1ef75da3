"""Limits on the step that an optimiser proposes, as optax transformations."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Real

from fitkit._input import converted
from fitkit._paths import common_dtype, path_of


class MaxStepSizeState(NamedTuple):
    """The state of `max_step_size`: which system each element belongs to."""

    systems: PyTree[Int[Array, "..."]] | None


def max_step_size(
    limit: Real[ArrayLike, "#systems"] | Real[ArrayLike, ""] | Sequence[float],
    systems: PyTree[Int[ArrayLike, "..."]] | None = None,
    num_systems: int | None = None,
) -> optax.GradientTransformation:
    """Limit how far one step moves any element, system by system.

    An element is a row of an array, and moves by the Euclidean norm over the last axis. In every
    system the largest move of all its elements, across all leaves, is found, and if it exceeds
    `limit` all updates of that system are scaled by ``limit / largest``. Directions are kept, and
    no system feels another: its numbers are the same to the last bit whether it is alone or one
    of a batch.

    Parameters
    ----------
    limit
        The largest move allowed in one step, in the unit of the parameters: a number, or one for
        each system. May be traced.
    systems
        The system of every element, as integers from 0 up: a tree prefix of the updates (as
        ``in_axes`` of `jax.vmap`) of arrays whose shape is that of the leaf without its last
        axis, or leaves off further axes at the end. An array of shape ``(n,)`` with ids of shape
        ``(n,)`` holds n elements of one number each. Elements whose id is negative or at least
        `num_systems` are padding: they count for nothing and their updates become zero. None
        makes everything one system, in which a vector or a number is one element.
    num_systems
        The number of systems, where `systems` is traced or does not mention the last of them.

    Returns
    -------
    optax.GradientTransformation
        Its state carries `systems`.

    Raises
    ------
    ValueError
        If `limit` is negative or NaN (a traced one makes NaN of the updates instead), or shapes
        or trees do not fit.
    TypeError
        If ids are no integers, or updates are no floats.

    Notes
    -----
    A system with a NaN or an infinity among its updates comes out as ``updates * (limit /
    largest)`` by the rules of floating-point numbers; the others are untouched. Norms are computed
    on updates scaled by a power of two, so that they neither overflow nor vanish, and there is no
    absolute tolerance. The transformation is that of ``max_step_size`` in kUPS
    (https://github.com/cusp-ai-oss/kups).

    To steer the limit of a running fit, wrap it:
    ``optax.inject_hyperparams(max_step_size, static_args=("systems", "num_systems"))(limit=0.1)``.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> optimiser = optax.chain(optax.sgd(1.0), max_step_size(1.0, jnp.array([0, 0, 1])))
    >>> grads = jnp.array([[3.0, 4.0], [0.0, 1.0], [0.6, 0.0]])
    >>> updates, _ = optimiser.update(grads, optimiser.init(grads))
    >>> print(-updates)
    [[0.6 0.8]
     [0.  0.2]
     [0.6 0. ]]
    """
    limit = converted(limit, "max_step_size", "limit") if hasattr(limit, "dtype") else limit
    systems = converted(systems, "max_step_size", "systems")
    captured, count = _captured(systems, num_systems)
    limit = jnp.asarray(limit) if isinstance(limit, list | tuple) else limit
    _check_limit(limit, count)

    def init(params: PyTree) -> MaxStepSizeState:
        _leaves_with_ids(params, captured)
        # A copy, so that donating the state leaves what was captured alone.
        return MaxStepSizeState(jax.tree.map(jnp.array, captured))

    def update(
        updates: PyTree, state: MaxStepSizeState, params: PyTree | None = None
    ) -> tuple[PyTree, MaxStepSizeState]:
        del params
        leaves, ids, structure = _leaves_with_ids(updates, state.systems)
        if not leaves:
            return updates, state
        return jax.tree.unflatten(structure, _limited(leaves, ids, limit, count)), state

    # A state may be any pytree for optax, but its types name a few.
    return optax.GradientTransformation(init, update)  # pyright: ignore


def _limited(
    leaves: list[Array], ids: list[Int[Array, "..."]], limit: Any, count: int
) -> list[Array]:
    """Scale every system down to its limit.

    The seals keep the compiler from contracting this arithmetic with that of its neighbours,
    which it would do differently for a batch and for a system alone.
    """
    leaves = [_sealed(leaf) for leaf in leaves]
    dtype = common_dtype(jnp.float32, *(jnp.finfo(leaf.dtype).dtype for leaf in leaves))
    info = jnp.finfo(dtype)
    # One system more than there are collects the padding.
    slots = [jnp.where((i >= 0) & (i < count), i, count) for i in ids]
    limits = jnp.append(jnp.broadcast_to(jnp.asarray(limit, dtype), count), 0)
    limits = jnp.where(limits >= 0, limits, jnp.nan)

    def kept(leaf: Array, slot: Int[Array, "..."]) -> Array:
        wide = leaf.astype(common_dtype(leaf.dtype, dtype))
        return jnp.where(_per_number(slot < count, leaf), wide, 0)

    moves = [kept(leaf, slot) for leaf, slot in zip(leaves, slots, strict=True)]
    elements = [_elements(move, slot) for move, slot in zip(moves, slots, strict=True)]
    # The power of two next to the largest number, where it and its inverse are normal numbers.
    peaks = [jnp.abs(rows).max(axis=-1, initial=0) for rows in jax.lax.stop_gradient(elements)]
    power = jax.lax.reduce_precision(_largest(peaks, slots, count), info.nexp, 0)
    inverse = 1 / jnp.clip(power, info.tiny, 1 / info.tiny)
    norms = [
        _ordered_norm(rows * _per_number(inverse[slot], rows))
        for rows, slot in zip(elements, slots, strict=True)
    ]
    largest = _largest(norms, slots, count)

    # Nothing fits a limit of zero: processors may take the smallest numbers for zero.
    fits = (largest <= limits * inverse) & (limits > 0)
    largest = jnp.where(fits | (largest == 0), 1, largest)
    limits = jnp.where(fits, 1, limits)
    scale = limits * inverse / largest
    # Where the scale itself would vanish the power of two goes to the updates first.
    direct = fits | (scale >= info.tiny)
    before = jnp.where(direct, 1, inverse)
    after = jnp.where(direct, jnp.where(fits, 1, scale), limits / largest)

    def limited(leaf: Array, move: Array, slot: Int[Array, "..."]) -> Array:
        scaled = move * _per_number(before[slot], leaf) * _per_number(after[slot], leaf)
        return jnp.where(_per_number(fits[slot], leaf), leaf, scaled.astype(leaf.dtype))

    return [_sealed(limited(*each)) for each in zip(leaves, moves, slots, strict=True)]


@jax.custom_jvp
def _sealed(values: Array) -> Array:
    """Return `values` so that no multiplication before is contracted with an addition behind.

    `jax.lax.optimization_barrier` ought to do this, but XLA drops it on CPUs before it fuses
    loops. No compiler contracts across integers, or knows that only a NaN is changed here, into
    another NaN.
    """
    if jnp.iscomplexobj(values):
        return jax.lax.complex(_sealed(values.real), _sealed(values.imag))
    integers = jnp.dtype(f"uint{jnp.finfo(values.dtype).bits}")
    bits = jax.lax.bitcast_convert_type(jax.lax.optimization_barrier(values), integers)
    bits |= jnp.isnan(values).astype(integers)
    return jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(bits, values.dtype))


@_sealed.defjvp
def _sealed_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _sealed(*primals), tangents[0]


def _per_number(values: Array, leaf: Array) -> Array:
    """Append axes to one value for each element so that it fits the numbers of `leaf`."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - values.ndim))


def _elements(leaf: Array, slot: Int[Array, "..."]) -> Float[Array, "... numbers"]:
    """Bring the real numbers of every element to the last axis."""
    rows = leaf[..., None] if slot.ndim == leaf.ndim else leaf
    return jnp.concatenate([rows.real, rows.imag], -1) if jnp.iscomplexobj(rows) else rows


def _ordered_norm(rows: Float[Array, "... numbers"]) -> Float[Array, "..."]:
    """Compute norms over the last axis, in an order that depends on nothing but its length.

    The shared norm leaves the order to the compiler, which would choose another for a batch.
    """
    squares = _sealed(rows * rows)
    width = squares.shape[-1]
    padding = (1 << max(width - 1, 0).bit_length()) - width
    squares = jnp.pad(squares, [(0, 0)] * (squares.ndim - 1) + [(0, padding)])
    while (half := squares.shape[-1] // 2) > 0:
        squares = squares[..., :half] + squares[..., half:]
    total = squares[..., 0]
    # The root has no slope at zero that is finite, so it is not taken there.
    zero = total == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, total)))


def _largest(
    values: list[Float[Array, "..."]], slots: list[Int[Array, "..."]], count: int
) -> Float[Array, "{count}+1"]:
    """Find the largest value of every system: a maximum, whose order does not matter."""
    largest = jnp.zeros(count + 1, jnp.result_type(*values))
    for value, slot in zip(values, slots, strict=True):
        largest = largest.at[slot].max(value.max(axis=range(slot.ndim, value.ndim), initial=0))
    return largest


def _leaves_with_ids(
    updates: PyTree, systems: PyTree | None
) -> tuple[list[Array], list[Int[Array, "..."]], Any]:
    """Pair every leaf with the ids of its elements, and check that they fit."""
    updates = converted(updates, "max_step_size", "the updates")
    named, structure = jax.tree_util.tree_flatten_with_path(updates)
    if systems is None:
        ids: list[Any] = [np.zeros((), np.int32)] * len(named)
    else:
        try:
            spread = jax.tree.map(
                lambda i, below: jax.tree.map(lambda _: i, below), systems, updates
            )
        except ValueError as error:
            raise ValueError(
                f"max_step_size: systems is no tree prefix of the updates. {error}"
            ) from error
        ids = jax.tree.leaves(spread)
    leaves = [jnp.asarray(leaf) for _, leaf in named]
    for (path, _), leaf, i in zip(named, leaves, ids, strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"max_step_size: the update of '{path_of(path)}' has dtype {leaf.dtype}, must be "
                "of floats."
            )
        of_numbers = leaf.ndim <= 1 and i.shape == leaf.shape
        of_rows = i.ndim < leaf.ndim and i.shape == leaf.shape[: i.ndim]
        if not (of_numbers or of_rows):
            allowed = leaf.shape if leaf.ndim <= 1 else leaf.shape[:-1]
            raise ValueError(
                f"max_step_size: '{path_of(path)}' of shape {leaf.shape} has system ids of shape "
                f"{i.shape}, must be {allowed}: one for each element."
            )
    return leaves, [jnp.asarray(i) for i in ids], structure


def _captured(systems: PyTree | None, num_systems: int | None) -> tuple[PyTree | None, int]:
    """Copy the ids as int32, and count the systems."""
    if num_systems is not None and (num_systems := operator.index(num_systems)) < 1:
        raise ValueError(f"max_step_size: num_systems is {num_systems}, must be 1 or more.")
    if systems is None:
        if num_systems not in (None, 1):
            raise ValueError(
                f"max_step_size: num_systems is {num_systems} without systems, which makes "
                "everything one system. Pass the system of every element as systems."
            )
        return None, 1

    for path, ids in jax.tree_util.tree_leaves_with_path(systems):
        if not jnp.issubdtype(jnp.result_type(ids), jnp.integer):
            raise TypeError(
                f"max_step_size: the ids at '{path_of(path)}' of systems have dtype "
                f"{jnp.result_type(ids)}, must be integers."
            )
    if num_systems is None:
        try:
            highest = [np.max(i, initial=0) for i in map(np.asarray, jax.tree.leaves(systems))]
        except jax.errors.TracerArrayConversionError as error:
            raise ValueError(
                "max_step_size: cannot count the systems of traced ids. Pass num_systems."
            ) from error
        num_systems = 1 + max(map(int, highest), default=0)

    def narrow(ids: Any) -> Array | np.ndarray:
        xp = jnp if isinstance(ids, jax.Array) else np
        ids = xp.asarray(ids)
        wide = ids.astype(xp.promote_types(ids.dtype, xp.int32))
        return xp.where((wide >= 0) & (wide < num_systems), wide, -1).astype(xp.int32)

    return jax.tree.map(narrow, systems), num_systems


def _check_limit(limit: Any, count: int) -> None:
    if (shape := jnp.shape(limit)) not in ((), (count,)):
        raise ValueError(
            f"max_step_size: limit has shape {shape}, must be a number or one for each of the "
            f"{count} systems."
        )
    try:
        values = np.asarray(limit, float)
    except jax.errors.TracerArrayConversionError:
        return
    if not (values >= 0).all():
        raise ValueError(f"max_step_size: limit is {limit}, must be 0 or more.")
