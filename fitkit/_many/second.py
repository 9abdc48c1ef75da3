"""Slower means for fits that normal equations leave in doubt: singular values, and an assessment.

`gauss_newton` goes on where a lane ended, for some fits side by side, and what it arrives at is
assessed as `Fit.result` assesses a fit, one by one.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitkit._fisher import fisher_matrix, transposed_jacobian
from fitkit._many.outcome import Limits
from fitkit._many.recipe import Recipe
from fitkit._many.systems import Systems
from fitkit._optimisers import Verdict, blocked, gauss_newton
from fitkit._result import Assessment, Kind, assess
from fitkit._sharding import to_host

# Side by side: enough that a call costs little beside them, and few that are padding.
SIDE_BY_SIDE = 8
# Steps of `gauss_newton` from where a lane ended.
MOST_STEPS = 200


class Judged(NamedTuple):
    """What is found of one fit.

    Attributes
    ----------
    values, errors
        Of the elements that are fitted.
    chi_square, data, rank
        Sum of squares, number of residuals that are data, and number of constrained eigenvectors.
    kind, at_bound
        Where it stands, and which elements a limit holds back.
    success
        Whether it is at a minimum and every element is constrained or held by a limit.
    """

    values: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    chi_square: float
    data: int
    rank: int
    kind: Kind
    at_bound: tuple[str, ...]
    success: bool


@functools.partial(jax.jit, static_argnums=0)
def refined(recipe: Recipe, starts: Array, own: Any, shared: Any, limits: Limits | None) -> Array:
    """Go on by `gauss_newton` from a row of `starts` for each fit."""
    optimiser: Any = gauss_newton()

    def one(start: Array, own: Any) -> Array:
        def residuals(x: Array) -> Array:
            values = recipe.function(recipe.unravel(x), own, shared)
            if not recipe.weighted:
                return values
            return jnp.where(own[-1] > 0, values * jnp.sqrt(own[-1]).astype(values.dtype), 0)

        def step(carry: tuple) -> tuple:
            x, state, count = carry
            held, still = _inside(residuals, x, limits)
            update, state = optimiser.update(
                None, state, x, residuals=lambda there: residuals(still(there)), frozen=held
            )
            return still(x + update), state, count + 1

        def goes_on(carry: tuple) -> Any:
            return (carry[1].verdict == Verdict.RUNNING) & (carry[2] < MOST_STEPS)

        return jax.lax.while_loop(goes_on, step, (start, optimiser.init(start), 0))[0]

    return jax.vmap(one)(starts, own)


def _inside(
    residuals: Callable, x: Float[Array, " n"], limits: Limits | None
) -> tuple[Array, Callable[[Array], Array]]:
    """Mark the elements that their limits hold back, and build what keeps points inside."""
    if limits is None:
        return jnp.zeros(x.shape, bool), lambda there: there
    values, rows = transposed_jacobian(residuals, x, "fit_many")
    held: Any = blocked(x, rows @ values, *limits)
    return held, lambda there: jnp.where(held, x, jnp.clip(there, *limits))


@dataclass(frozen=True)
class Weighted:
    """Residuals of ``(params, (args, weights))``; equal to another of the same, so compiled once.

    Attributes
    ----------
    key : bytes
        Of the recipe.
    residuals : Callable
        As the user gave it.
    """

    key: bytes
    residuals: Callable = field(compare=False)

    def __call__(self, params: Any, given: Any) -> Any:
        """Compute the residuals, times the roots of their weights; zero where there is no datum."""
        args, weights = given
        values = self.residuals(params, args)
        if weights is None:
            return values
        flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(values)])
        return jnp.where(weights > 0, flat * jnp.sqrt(weights).astype(flat.dtype), 0)


class SecondTier:
    """Judges fits in doubt, of some systems."""

    def __init__(self, systems: Systems) -> None:
        self._systems = systems
        self.residuals = Weighted(systems.recipe.key, systems.recipe.residuals)

    def refine(
        self, of_systems: list[int], starts: Float[np.ndarray, "k n"]
    ) -> Float[np.ndarray, "k n"]:
        """Go on from where lanes ended, as many as there are."""
        systems, found = self._systems, []
        limits = None if systems.limits is None else Limits(*map(jnp.asarray, systems.limits))
        for at in range(0, len(starts), SIDE_BY_SIDE):
            some = (of_systems[at : at + SIDE_BY_SIDE] * SIDE_BY_SIDE)[:SIDE_BY_SIDE]
            rows = np.resize(starts[at : at + SIDE_BY_SIDE], (SIDE_BY_SIDE, starts.shape[1]))
            own = [jnp.asarray(part[some]) for part in systems.own]
            found.append(refined(systems.recipe, jnp.asarray(rows), own, systems.shared, limits))
        return np.concatenate([to_host(rows) for rows in found])[: len(starts)]

    def inputs(self, system: int, values: Float[np.ndarray, " n"]) -> tuple[Any, Any]:
        """Put together what `residuals` takes of one system."""
        params, args = self._systems.inputs(system, values)
        return params, (args, self._systems.weights(system))

    def judge(self, system: int, values: Float[np.ndarray, " n"]) -> Judged:
        """Assess a point as the result of a fit of one system."""
        systems = self._systems
        params, given = self.inputs(system, values)
        assessment = self._assessed(params, given)
        residuals = to_host(_flat(self.residuals, params, given)).astype(np.float64)
        chi_square, data = float(residuals @ residuals), residuals.size - assessment.left_out
        errors, rank = np.full(len(values), np.nan), 0
        if assessment.kind is not Kind.NONFINITE:
            fisher = fisher_matrix(self.residuals, params, given, frozen=systems.frozen)
            held = np.isin(fisher.labels, assessment.at_bound)
            errors, rank = np.asarray(fisher.errors), fisher.rank
            if held.any() and not held.all() and rank < len(errors):
                errors = np.full(len(held), np.inf)
                errors[~held] = fisher.given(held).errors
        known = np.isfinite(errors) | np.isin(systems.labels, assessment.at_bound)
        return Judged(
            values=values,
            errors=errors,
            chi_square=chi_square,
            data=data,
            rank=rank,
            kind=assessment.kind,
            at_bound=assessment.at_bound,
            success=assessment.success and bool(known.all()),
        )

    def _assessed(self, params: Any, given: Any) -> Assessment:
        return assess(
            self.residuals,
            params,
            given,
            frozen=self._systems.frozen,
            bounds=self._systems.bounds,
            follow=False,
        )


def _flat(function: Callable, params: Any, given: Any) -> Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(function(params, given))])
