"""What users compute from the parameters, with its errors by linear propagation."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from fitkit._fisher import transposed_jacobian
from fitkit._input import outcome, shortened
from fitkit._paths import named_leaves, paths_as_given, ravel
from fitkit._sharding import to_host

#: ``derived(params)``: a dictionary, or another tree, of real numbers and arrays.
DerivedFunction = Callable[[PyTree], PyTree]


class Derived(NamedTuple):
    """Quantities by path, in the order in which the user's function writes them.

    Attributes
    ----------
    values, errors
        At the parameters of the fit.
    initial
        Where the fit started; empty where that is not known.
    """

    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    initial: dict[str, np.ndarray]


def check_derived(derived: DerivedFunction, params: PyTree) -> None:
    """Check by shapes what a function makes of the parameters; nothing compiles.

    Raises
    ------
    TypeError
        If it is no function, or does not return real floating-point numbers under names.
    ValueError
        If a quantity has the path of a parameter.
    """
    wanted = "must be a function of the parameters that returns a dictionary of real numbers"
    if not callable(derived):
        raise TypeError(f"Fit: `derived` is {shortened(derived)}; {wanted}.")
    out = outcome("Fit", "derived", lambda params, _: derived(params), params, None)
    leaves = named_leaves(out)
    if not leaves or jax.tree.structure(out).num_nodes == 1:
        raise TypeError(f"Fit: `derived` returned {shortened(out)}; {wanted}, by their names.")
    for path, leaf in leaves.items():
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"Fit: `derived` returned '{path}' of dtype {dtype}; {wanted}.")
    if taken := sorted(leaves.keys() & named_leaves(params).keys()):
        raise ValueError(
            f"Fit: `derived` returned '{taken[0]}', which is a parameter. Give it another name."
        )


def derive(
    derived: DerivedFunction,
    params: PyTree,
    free: PyTree,
    errors_of: Callable[[Float[np.ndarray, "k n"]], Float[np.ndarray, " k"]],
    initial: PyTree = None,
) -> Derived:
    """Compute the quantities and their errors.

    Parameters
    ----------
    derived
        As the user gave it. It is not compiled, so that what it reads is read anew.
    params, free
        The parameters, and those of them that are estimated, with None in place of the others.
    errors_of
        Standard errors of functions of the elements of `free`, from their derivatives.
    initial
        Where the fit started.
    """
    tree = derived(params)
    flat, build = ravel(free)

    def vector(x: Float[Array, " n"]) -> Float[Array, " k"]:
        return ravel(derived(eqx.combine(build(x), params)))[0]

    found = _host(tree)
    count = sum(value.size for value in found.values())
    if flat.size:
        jacobian = to_host(transposed_jacobian(vector, flat, "derived")[1]).T
        together = errors_of(jacobian.astype(np.float64))
    else:
        together = np.zeros(count)
    ends = np.cumsum([value.size for value in found.values()])
    errors = {
        path: part.reshape(found[path].shape)
        for path, part in zip(found, np.split(together, ends[:-1]), strict=True)
    }
    began = {} if initial is None else _host(derived(initial))
    order = [path for path in paths_as_given(tree) if path in found]
    return Derived(*({path: one[path] for path in order if one} for one in (found, errors, began)))


def _host(tree: PyTree) -> dict[str, np.ndarray]:
    """Map the path of every quantity to its value, in the order of ``jax.tree.leaves``."""
    return {path: np.asarray(to_host(leaf)) for path, leaf in named_leaves(tree).items()}
