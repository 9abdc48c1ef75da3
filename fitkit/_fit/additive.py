"""Whether the loss of a part of the data tells that of all of them, and how."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from fitkit._fit.batches import Batches, count_data, read_batches, read_part, with_data
from fitkit._fit.blocks import Blocks
from fitkit._fit.problem import Params, Problem, leaves_by_shape
from fitkit._format import number
from fitkit._input import stand_ins
from fitkit._paths import named_leaves, ravel
from fitkit._residuals import without_priors
from fitkit._result import is_mean

# The loss is compared off the start: a penalty may be zero there, and so may be residuals, of which
# then only rounding would be compared.
_OFF = 0.1
# What rounding makes of sums, in another order, in units of its own rounding.
_ROUNDINGS = 1e3
# Residuals that differ by less than this power of their rounding are the same: a model that sees
# more data may compute them in another way.
_SAME = 1 / 3


def in_batches(problem: Problem, minibatch: Any, params: Params, args: PyTree) -> Problem:
    """Let every step of a problem see one batch, as a user passed it.

    Raises
    ------
    TypeError, ValueError
        What `read_batches` raises; and if the loss of a batch does not estimate that of all data.
    """
    data = without_priors(args)
    return _checked(problem, read_batches(minibatch, data), params, data, "Fit")


def in_blocks(problem: Problem, microbatch: Any, params: Params, args: PyTree) -> Problem:
    """Let the functions of a problem see their data in blocks, as a user passed it.

    Raises
    ------
    TypeError, ValueError
        If the data cannot be cut into blocks, or what the function returns cannot be put together
        from what it returns of them.
    """
    data = without_priors(args)
    given, axes = read_part("microbatch", microbatch, data)
    blocks, total = Blocks(int(given.size), axes), count_data("microbatch", axes, data)
    _refuse_mesh(problem, "microbatch", "Fit")
    if problem.has_aux:
        raise ValueError(
            "Fit: with microbatch the loss is evaluated in blocks of the data, and what it returns "
            "beside the loss would be that of a block. Return the loss alone."
        )
    if total < 2:
        return problem
    # Both together are one block.
    part = max(min(blocks.size, total) // 2, 1)
    halves, both = _parts(Batches(1, total, axes, 0), part, data)
    if problem.residuals_function is not None:
        blocks = blocks._replace(along=_residual_axes(problem, params, halves[0], both))
        _require_own(problem, params, halves, both)
    else:
        blocks = blocks._replace(mean=_is_mean(problem, params, halves, both, "Fit"))
    return dataclasses.replace(problem, blocks=blocks).checked(params, args)


def _residual_axes(problem: Problem, params: Params, half: PyTree, both: PyTree) -> tuple[int, ...]:
    """Find the axis along which residuals grow with the data, of each array of them."""
    shapes = [
        [leaf.shape for leaf in leaves_by_shape(problem.raw_residuals, params, one)]
        for one in (half, both)
    ]
    along = []
    for fewer, more in zip(*shapes, strict=True):
        longer = [k for k, (a, b) in enumerate(zip(fewer, more, strict=True)) if a != b]
        if len(longer) != 1 or more[longer[0]] != 2 * fewer[longer[0]]:
            raise ValueError(
                "Fit: microbatch needs residuals with one axis that counts the data; an array of "
                f"them has the shape {fewer} of some data and {more} of twice as many. {_CURE}"
            )
        along.append(longer[0])
    return tuple(along)


def _require_own(problem: Problem, params: Params, halves: list[PyTree], both: PyTree) -> None:
    """Raise unless some data have the same residuals whatever other data are beside them."""

    @jax.jit
    def evaluate(place: Params, data: PyTree) -> Array:
        return ravel(problem.data_residuals(place, data))[0]

    for place in (_off(params), params):
        *apart, together = (np.asarray(evaluate(place, one)) for one in (*halves, both))
        # Residuals of several axes may be in another order.
        ours, theirs = np.sort(np.concatenate(apart)), np.sort(together)
        if np.isfinite(ours).all() and np.isfinite(theirs).all():
            break
    else:
        return  # The start says where a value came from that is not finite.
    allowed = float(jnp.finfo(together.dtype).eps) ** _SAME * np.max(np.abs(together))
    if np.max(np.abs(ours - theirs)) > allowed:
        raise ValueError(
            "Fit: with microbatch a residual must depend on its own datum alone, and these also "
            "depend on what other data are beside it, as in a convolution, or in a sum or a mean "
            f"over the data. {_CURE}"
        )


def require_parts(problem: Problem, before: PyTree, args: PyTree, event: str) -> None:
    """Raise if other data cannot be taken in parts as those before them, if these are."""
    parts = {"microbatch": problem.blocks, "minibatch": problem.batches}
    old, new = (stand_ins(without_priors(one)) for one in (before, args))
    for what, part in parts.items():
        if part is None:
            continue
        count_data(what, part.axes, new, event)
        for path, had, has, axis in zip(
            named_leaves(new), *map(jax.tree.leaves, (old, new)), part.axes, strict=True
        ):
            if axis is None and np.ndim(has) != np.ndim(had):
                raise ValueError(
                    f"{event}: 'args.{path}' has the shape {np.shape(has)}, and had "
                    f"{np.shape(had)} when `{what}` was given, which all data share. Make another "
                    "Fit."
                )


def in_batches_of(problem: Problem, params: Params, args: PyTree, event: str) -> Problem:
    """Let it see batches of other data, if it sees batches."""
    if problem.batches is None:
        return problem
    data = without_priors(args)
    return _checked(problem, with_data(problem.batches, data, event), params, data, event)


def _checked(
    problem: Problem, batches: Batches, params: Params, data: PyTree, event: str
) -> Problem:
    _refuse_mesh(problem, "minibatch", event)
    whole, part = problem.whole, min(batches.size, batches.total // 2)
    halves, both = _parts(batches, part, data)
    whole.checked(params, batches.take(data, np.arange(batches.size)), f"{event} with a minibatch")
    if whole.residuals_function is not None:
        counts = [_count(whole, params, one) for one in (*halves, both)]
        if counts[0] + counts[1] != counts[2]:
            raise ValueError(
                f"{event}: minibatch needs as many residuals for each datum as for any other; "
                f"{part:,} data have {counts[0]:,} and {2 * part:,} have {counts[2]:,}. {_CURE}"
            )
        mean = False
    else:
        mean = _is_mean(whole, params, halves, both, event)
    return dataclasses.replace(problem, batches=batches._replace(mean=mean))


def _refuse_mesh(problem: Problem, what: str, event: str) -> None:
    if problem.mesh is not None:
        raise ValueError(
            f"{event}: {what} needs the data on one device, and these are spread over several, "
            f"which together take steps on all of them. Leave `{what}` out."
        )


def _parts(batches: Batches, part: int, data: PyTree) -> tuple[list[PyTree], PyTree]:
    """Take two parts of the data, and both together."""
    halves = [batches.take(data, np.arange(k * part, (k + 1) * part)) for k in (0, 1)]
    return halves, batches.take(data, np.arange(2 * part))


_CURE = (
    "What does not depend on the data, such as a penalty, belongs into `priors`; and what `args` "
    "holds for all data alike needs None in fitkit.Minibatch(size, axes=…)."
)


def _is_mean(
    problem: Problem, params: Params, halves: list[PyTree], both: PyTree, event: str
) -> bool:
    """Whether the loss is a mean over the data; False for a sum."""
    evaluate = jax.jit(jax.value_and_grad(problem.loss))
    for place in (_off(params), params):
        known = [jax.tree.leaves(evaluate(place, one)) for one in (*halves, both)]
        if all(np.isfinite(leaf).all() for one in known for leaf in one):
            break
    first, second, all_of_it = (float(leaves[0]) for leaves in known)
    if not np.isfinite([first, second, all_of_it]).all():
        return False  # The start says where a value came from that is not finite.
    sums, means = (
        all(_alike(share, *leaves) for leaves in zip(*known, strict=True)) for share in (1, 2)
    )
    if sums and means:
        return is_mean(problem.loss, params, both)
    if not (sums or means):
        raise ValueError(
            f"{event}: the loss of a part of the data does not tell that of all data: that of two "
            f"parts together is {number(all_of_it, 6)}, and those of each are {number(first, 6)} "
            f"and {number(second, 6)}, so that it is neither their sum nor their mean. {_CURE}"
        )
    return means


def _off(params: Params) -> Params:
    return jax.tree.map(lambda p: p + jnp.where(p == 0, 1, _OFF * jnp.abs(p)), params)


def _alike(share: int, first: Array, second: Array, both: Array) -> bool:
    """Whether that of two parts is that of each, added and divided by `share`."""
    scale = np.max(np.abs(first)) + np.max(np.abs(second))
    allowed = _ROUNDINGS * float(jnp.finfo(both.dtype).eps) * scale
    return bool(np.max(np.abs(both - (first + second) / share)) <= allowed)


def _count(problem: Problem, params: Params, data: PyTree) -> int:
    return sum(leaf.size for leaf in leaves_by_shape(problem.data_residuals, params, data))
