"""Batches: which data a step sees."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from fitkit._input import OnDisk, is_on_disk, read_whole, shortened, stand_ins
from fitkit._many import axes_of
from fitkit._paths import path_of
from fitkit._residuals import with_other_data, without_priors


@dataclasses.dataclass(frozen=True)
class Minibatch:
    """Which part of the data `Fit` takes, where ``minibatch=size`` does not say enough.

    Parameters
    ----------
    size
        How many data each step sees, or of ``microbatch`` each block has.
    axes
        Which axis of which array of `args` counts the data: a number, None for what all data
        share, or a tree of those with the keys of `args`, as `jax.vmap` takes it. Left out, it is
        the first axis of every array that has one.
    seed
        Of the random numbers. The same seed draws the same batches; blocks need none.

    Examples
    --------
    The pixels are data, in the second axis of `images`; all of them share `wavelengths`:

    >>> import numpy as np, jax.numpy as jnp, optax
    >>> import fitkit as fk
    >>> wavelengths = np.linspace(1.0, 2.0, 5)
    >>> args = {"images": np.outer(wavelengths, np.ones(1000)), "wavelengths": wavelengths}
    >>> def residuals(params, args):
    ...     return args["images"] - params["slope"] * args["wavelengths"][:, None]
    >>> fit = fk.Fit(
    ...     residuals=residuals,
    ...     params={"slope": 0.0},
    ...     args=args,
    ...     optimiser=optax.sgd(1e-5),
    ...     minibatch=fk.Minibatch(50, axes={"images": 1, "wavelengths": None}),
    ... )
    >>> fit.run(1000, progress=False)
    >>> round(float(fit.params["slope"]), 3)
    1.0
    """

    size: int
    axes: Any = None
    seed: int = 0


class Batches(NamedTuple):
    """The batches of a fit: how many of how many data, and where they are.

    Attributes
    ----------
    size, total
        Of a batch, and of all data.
    axes
        The axis that counts the data, of each array; None where all data share it.
    seed
        Of the random numbers.
    mean
        Whether the loss is a mean over the data, and not a sum.
    """

    size: int
    total: int
    axes: tuple[int | None, ...]
    seed: int
    mean: bool = False

    @property
    def weight(self) -> float:
        """By what the loss of a batch is multiplied to estimate that of all data."""
        return 1.0 if self.mean else self.total / self.size

    def indices(self, drawn: Int[Array, ""]) -> Int[Array, " size"]:
        """Draw the data of the batch that comes after `drawn` others.

        Independently, each datum as likely as any other: the cost does not depend on how many
        data there are, and gradients have the expectation of that of all data.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), drawn)
        return jax.random.randint(key, (self.size,), 0, self.total)

    def take(self, args: PyTree, indices: Int[Array | np.ndarray, " any"]) -> PyTree:
        """Take some of the data."""
        leaves, structure = jax.tree.flatten(without_priors(args), is_leaf=is_on_disk)
        taken = [
            read_whole(leaf) if axis is None else _take(leaf, indices, axis)
            for leaf, axis in zip(leaves, self.axes, strict=True)
        ]
        return with_other_data(args, jax.tree.unflatten(structure, taken))


def _take(leaf: Array | OnDisk, indices: Int[Array | np.ndarray, " any"], axis: int) -> Array:
    if isinstance(leaf, OnDisk):
        return leaf.take(indices, axis)
    return jnp.take(leaf, indices, axis, mode="clip")


def read_batches(minibatch: Any, args: PyTree) -> Batches:
    """Check what a user passed as `minibatch`; find the data in `args`.

    Raises
    ------
    TypeError
        If it is neither a whole number nor a `Minibatch`, or one of its parts is wrong.
    ValueError
        If no axis counts the data, several disagree, or a batch is not smaller than all.
    """
    given, axes = read_part("minibatch", minibatch, args)
    return Batches(int(given.size), _count(axes, args, int(given.size)), axes, int(given.seed))


def read_part(what: str, given: Any, args: PyTree) -> tuple[Minibatch, tuple[int | None, ...]]:
    """Check what a user passed as `minibatch` or `microbatch`; find the axes in `args`."""
    given = given if isinstance(given, Minibatch) else Minibatch(given)
    for name, value, least in (("size", given.size, 1), ("seed", given.seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise TypeError(
                f"Fit: {what} has the {name} {shortened(value)}; must be a whole number, "
                f"{least} or more. Pass {what}=64, or fitkit.Minibatch(64, axes=…)."
            )
    return given, _read_axes(given.axes, args)


def with_data(batches: Batches, args: PyTree, event: str) -> Batches:
    """Return the batches of other data of the same kind."""
    return batches._replace(total=_count(batches.axes, args, batches.size, event))


def _read_axes(axes: Any, args: PyTree) -> tuple[int | None, ...]:
    args = stand_ins(args)
    leaves = jax.tree.leaves(args)
    if axes is None:
        return tuple(0 if np.ndim(leaf) else None for leaf in leaves)
    opening, kind = "Fit: Minibatch.axes", ("the data", "all data share")
    return tuple(axes_of(axes, args, "args", opening, kind).values())


def _count(axes: tuple[int | None, ...], args: PyTree, size: int, event: str = "Fit") -> int:
    """Count the data, of which a batch is a part."""
    count = count_data("minibatch", axes, args, event)
    if size >= count:
        raise ValueError(
            f"{event}: a minibatch of {size:,} is not smaller than the {count:,} data. Leave "
            "`minibatch` out to use all of them in every step."
        )
    return count


def count_data(what: str, axes: tuple[int | None, ...], args: PyTree, event: str = "Fit") -> int:
    """Count the data, on which all arrays must agree."""
    args = stand_ins(args)
    if (came := len(jax.tree.leaves(args))) != len(axes):
        raise ValueError(
            f"{event}: `args` has {came} arrays, and had {len(axes)} when `{what}` was given. Make "
            "another Fit."
        )
    shapes = {
        f"args.{path_of(keys)}" if keys else "args": (np.shape(leaf), axis)
        for (keys, leaf), axis in zip(jax.tree_util.tree_leaves_with_path(args), axes, strict=True)
    }
    own = {path: (shape, axis) for path, (shape, axis) in shapes.items() if axis is not None}
    cure = (
        f"Say which axis of which array counts the data: {what}=fitkit.Minibatch(size, "
        'axes={"x": 0, "psf": None}), with None for what all data share.'
    )
    if not own:
        raise ValueError(
            f"{event}: {what} needs data in `args`, and no array there has an axis that counts "
            f"them. Pass the data as `args`, not as globals of the function. {cure}"
        )
    counts = {}
    for path, (shape, axis) in own.items():
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{event}: '{path}' has shape {shape}, and no axis {axis}. {cure}")
        counts[path] = shape[axis]
    if len(set(counts.values())) > 1:
        found = ", ".join(f"'{path}' {shape}" for path, (shape, _) in own.items())
        raise ValueError(
            f"{event}: {what} needs one length of the axis that counts the data; these arrays "
            f"differ in it: {found}. {cure}"
        )
    return int(next(iter(counts.values())))
