"""Whether an optimiser keeps systems apart that lie side by side in one array."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from fitkit._input import as_optax, check_optimiser, checked_params
from fitkit._optimisers import tolerant
from fitkit._paths import named_leaves

# Steps after which memory of the others, if there is any, has had its effect.
STEPS = 6
_EXTRA = ("value", "grad", "value_fn", "residuals")


@dataclass(frozen=True)
class Independence:
    """Whether systems are kept apart; true where they are.

    Attributes
    ----------
    apart : bool
        Whether what one system does is the same to the bit, whatever the others do.
    message : str
        The same in words.
    """

    apart: bool
    message: str

    def __bool__(self) -> bool:
        return self.apart

    def __repr__(self) -> str:
        return self.message


def check_independent(
    optimiser: optax.GradientTransformation, params: PyTree, systems: int
) -> Independence:
    """Find out whether an optimiser keeps systems apart that are stacked in the same arrays.

    Takes some steps on a sum of simple losses, one for each system, and again with other losses,
    and with NaN, for all systems but one: the steps of that one must stay the same to the bit. Adam
    and most of optax keep systems apart; what looks at all parameters at once does not, such as
    ``optax.clip_by_global_norm``, ``optax.lbfgs`` or ``optax.lamb``: there one bad system slows
    down or spoils the others. `fit_many` gives every system an optimiser of its own, so that
    any will do there.

    Parameters
    ----------
    optimiser
        Of optax.
    params
        Parameters of all systems, with the systems along the first axis of every array.
    systems
        Their number, two at least.

    Returns
    -------
    Independence
        True or false in an ``if``; printed, it says what was seen.

    Raises
    ------
    ValueError
        If there are fewer than two systems, or a parameter does not have them along its first
        axis.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp, optax
    >>> params = {"flux": jnp.ones(5), "centre": jnp.ones((5, 2))}
    >>> bool(fk.check_independent(optax.adam(0.1), params, 5))
    True
    >>> clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    >>> fk.check_independent(clipped, params, 5)
    couples systems: other losses of the others change what system 0 does
    """
    optimiser = as_optax(check_optimiser("check_independent", "the optimiser", optimiser))
    params, _ = checked_params(params, "check_independent")
    if systems < 2:
        raise ValueError(f"check_independent: systems={systems}; must be 2 or more.")
    for path, leaf in named_leaves(params).items():
        if leaf.ndim == 0 or leaf.shape[0] != systems:
            raise ValueError(
                f"check_independent: '{path}' has shape {leaf.shape}; its first axis must "
                f"count the {systems} systems."
            )
    walk = jax.jit(lambda targets: _walk(optimiser, params, targets))
    draw = np.random.default_rng(0)

    def targets() -> PyTree:
        return jax.tree.map(
            lambda leaf: jnp.asarray(leaf + draw.normal(size=leaf.shape), leaf.dtype), params
        )

    same = targets()
    before = walk(same)
    for words, others in (
        ("other losses of the others change", jax.tree.map(lambda leaf: 1e3 * leaf, targets())),
        ("NaN in the others changes", jax.tree.map(lambda leaf: leaf * jnp.nan, same)),
    ):
        for system in dict.fromkeys((0, systems // 2, systems - 1)):
            mixed = jax.tree.map(lambda a, b, i=system: b.at[i].set(a[i]), same, others)
            if not _equal(before, walk(mixed), system):
                return Independence(False, f"couples systems: {words} what system {system} does")
    return Independence(True, f"keeps systems apart: the others change no bit of {systems}")


def _walk(optimiser: Any, params: PyTree, targets: PyTree) -> PyTree:
    update = tolerant(optax.with_extra_args_support(optimiser).update, _EXTRA)

    def loss(params: PyTree) -> Any:
        # Not a parabola, so that second-order methods have something to do.
        parts = jax.tree.map(
            lambda p, t: jnp.sum(jnp.cosh(jnp.clip(p - t, -9, 9))), params, targets
        )
        return sum(jax.tree.leaves(parts))

    def step(carry: tuple, _: Any) -> tuple:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = update(
            gradient, state, params, value=value, grad=gradient, value_fn=tolerant(loss, _EXTRA)
        )
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, optimiser.init(params)), None, length=STEPS)[1]


def _equal(before: PyTree, after: PyTree, system: int) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return all(np.array_equal(np.asarray(a)[:, system], np.asarray(b)[:, system]) for a, b in pairs)
