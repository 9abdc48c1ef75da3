"""Parameter path → optax optimiser: which optimiser moves which parameter."""

import functools
import inspect
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from fitkit._input import as_optax, check_optimiser, converted
from fitkit._paths import Paths, UnknownPathError, match_paths, named_leaves

# The optimiser of every path, or None for a parameter that no optimiser moves.
Assignment = dict[str, optax.GradientTransformation | None]
# A pattern, the paths it matches, and the optimiser it wants for them.
Claim = tuple[str, frozenset[str], optax.GradientTransformation]


def map_optimisers(
    params: PyTree[ArrayLike],
    optimisers: Mapping[Any, optax.GradientTransformation],
    strict: bool = False,
) -> tuple[optax.GradientTransformationExtraArgs, optax.OptState]:
    """Move every parameter by its own optimiser.

    A drop-in for zodiax's function of this name. Here the parameters may be any pytree, and a key
    may stand for many of them.

    Parameters
    ----------
    params
        The parameters: a flat dictionary of zodiax paths, or any other pytree of numbers and
        arrays. Integers and Python numbers count as floats.
    optimisers
        Maps a path (``"flux"``, ``"mirrors.0.tilt"``), the path of a subtree (``"mirrors"``), a
        glob (``"*.tilt"``) or a tuple of those to an optax optimiser. Where several keys claim a
        parameter the most specific one wins: its own path before a subtree, a subtree before a
        glob, few parameters before many.
    strict
        False: a parameter without an optimiser does not move, and a key that matches no parameter
        is passed over with a warning. True: both are errors.

    Returns
    -------
    optimiser : optax.GradientTransformationExtraArgs
        To be used as any optax optimiser, on trees built like `params`.
    state : optax.OptState
        Its initial state, ``optimiser.init(params)``.

    Raises
    ------
    ValueError
        If two equally specific keys claim a parameter for different optimisers, or `strict` is
        violated. A key that matches nothing raises `UnknownPathError`, which is a ``ValueError``
        and a ``KeyError``, and lists the nearest paths.
    TypeError
        If a value of `optimisers` is no optax optimiser, or a parameter is no number or array.

    Notes
    -----
    Parameters that share one optimiser object go to it together: a clipped norm or the curvature
    of L-BFGS then spans them all. Make an object for each to keep them apart.

    Optimisers that evaluate the loss themselves (`optax.lbfgs`) do so by moving their own
    parameters with all others frozen, so pass the whole loss as `value_fn`, and `value` and `grad`
    of all parameters from `jax.value_and_grad`. The same holds for every extra argument that is
    a function of the parameters.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> params = {"flux": jnp.array(2.0), "wfe": [jnp.ones(3), jnp.ones(3)]}
    >>> optimiser, state = map_optimisers(
    ...     params, {"flux": optax.sgd(0.5), "wfe.*": optax.adam(1e-2)}
    ... )
    >>> updates, state = optimiser.update(params, state, params)
    >>> float(updates["flux"])
    -1.0
    """
    if isinstance(params, dict):
        params = _unpack(params)
    params = converted(params, "map_optimisers", "params")
    params = jax.tree.unflatten(
        jax.tree.structure(params),
        [_as_float(path, leaf) for path, leaf in named_leaves(params).items()],
    )
    paths = tuple(named_leaves(params))
    assignment = assign(paths, optimisers, strict, "map_optimisers")
    unmapped = [path for path, optimiser in assignment.items() if optimiser is None]
    if strict and unmapped:
        raise ValueError(
            f"map_optimisers: no optimiser for {', '.join(map(repr, unmapped))}. Add a key for "
            "each, or pass strict=False to freeze them."
        )
    optimiser = _mapped(params, assignment)
    return optimiser, optimiser.init(params)


def delay(lr: float, start: int, length: int = 1) -> optax.Schedule:
    """Keep the learning rate at zero for `start` steps, then raise it linearly over `length`.

    A drop-in for zodiax's function of this name.

    Parameters
    ----------
    lr
        The learning rate from step ``start + length`` on.
    start
        The last step at which the learning rate is zero.
    length
        The number of steps of the ramp.

    Raises
    ------
    ValueError
        If `start` is negative or `length` is below 1.

    Examples
    --------
    >>> schedule = delay(0.1, start=10, length=4)
    >>> [round(float(schedule(step)), 3) for step in (0, 10, 12, 14, 100)]
    [0.0, 0.0, 0.05, 0.1, 0.1]
    """
    if start < 0:
        raise ValueError(f"delay: start is {start}, must be 0 or more.")
    if length < 1:
        raise ValueError(f"delay: length is {length}, must be 1 or more (1 is a sudden start).")
    return optax.linear_schedule(0.0, lr, length, start)


def assign(
    paths: Iterable[str],
    optimisers: Mapping[Any, optax.GradientTransformation] | optax.GradientTransformation,
    strict: bool = True,
    event: str = "Fit",
) -> Assignment:
    """Decide which optimiser moves each parameter; None where none does.

    Parameters
    ----------
    paths
        The paths of all parameters.
    optimisers
        A mapping as `map_optimisers` takes it, or one optimiser for all.
    strict
        Whether a key that matches no parameter is an error, or only worth a warning.
    event
        What the user was doing, to open an error with.

    Raises
    ------
    UnknownPathError
        If a key matches no parameter and `strict`.
    ValueError
        If two equally specific keys claim a parameter for different optimisers.
    TypeError
        If a value is no optax optimiser.
    """
    paths = tuple(paths)
    if not isinstance(optimisers, Mapping):
        return dict.fromkeys(paths, check_optimiser(event, "the optimiser", optimisers))
    claims: list[Claim] = []
    for key, optimiser in optimisers.items():
        check_optimiser(event, f"the optimiser of {key!r}", optimiser)
        for pattern in _flat(key):
            try:
                hits = match_paths(pattern, paths, "optimisers")
            except UnknownPathError as error:
                if strict:
                    raise
                # Attributed to the caller of map_optimisers.
                warnings.warn(f"{error} Its optimiser moves nothing.", stacklevel=3)
            else:
                claims.append((pattern, frozenset(hits), optimiser))
    return {path: _winner(path, claims) for path in paths}


def injected_learning_rates(
    state: optax.OptState, assignment: Assignment
) -> dict[str, Float[Array | np.ndarray, ""]]:
    """Look up the learning rates that `optax.inject_hyperparams` shows in an optimiser state.

    Parameters
    ----------
    state
        The state of one optimiser for all parameters, or of a mapped one, after any number of
        updates.
    assignment
        What `assign` returned for the optimiser that `state` belongs to.

    Returns
    -------
    dict
        The learning rate of the latest update (the first one's before it), by path. Parameters
        whose optimiser shows none, or several, are absent.
    """
    groups = _groups(assignment)
    states: dict[Any, Any] = dict.fromkeys(groups.values(), state)
    if isinstance(state, optax.transforms.PartitionState) and state.inner_states.keys() == set(
        groups.values()
    ):
        states = dict(state.inner_states)
    shown = {group: _shown_learning_rates(inner) for group, inner in states.items()}
    return {path: shown[group][0] for path, group in groups.items() if len(shown[group]) == 1}


def tolerant(function: Callable[..., Any], keywords: Iterable[str]) -> Callable[..., Any]:
    """Let `function` be called with `keywords` that it does not take; it never sees them.

    optax's line searches pass their `value_fn` every extra argument that they do not use
    themselves, and refuse to run if it does not take one of them. With several optimisers side by
    side an extra argument that is meant for another is no error.
    """
    signature = inspect.signature(function)
    own = dict(signature.parameters)
    variadic = [p for p in own.values() if p.kind is p.VAR_KEYWORD]
    ignored = [name for name in keywords if name not in own]
    if variadic or not ignored:
        return function

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{k: v for k, v in kwargs.items() if k not in ignored})

    wrapped.__signature__ = signature.replace(  # pyright: ignore[reportAttributeAccessIssue]
        parameters=[
            *own.values(),
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ignored),
        ]
    )
    return wrapped


def _mapped(params: PyTree, assignment: Assignment) -> optax.GradientTransformationExtraArgs:
    """Build the optimiser that runs one optimiser on every group of parameters."""
    structure = jax.tree.structure(params)
    groups = _groups(assignment)
    transformations: dict[Hashable, Any] = {
        group: as_optax(assignment[group] or optax.set_to_zero()) for group in groups.values()
    }
    labels = jax.tree.unflatten(structure, list(groups.values()))
    # As a function, because optax calls labels that can be called, as some modules can.
    inner = optax.partition(transformations, lambda _: labels, mask_compatible_extra_args=True)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        _check_structure("gradients", updates, structure)
        if params is not None:
            _check_structure("parameters", params, structure)
            extra_args = {
                name: tolerant(_with_others_frozen(value, params), extra_args)
                if callable(value) and not _is_like(value, structure)
                else value
                for name, value in extra_args.items()
            }
        return inner.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _is_like(value: Any, structure: Any) -> bool:
    """Whether this is a tree of parameters, and no function: some modules can be called."""
    return not jax.tree_util.all_leaves([value]) and jax.tree.structure(value) == structure


def _with_others_frozen(function: Callable[..., Any], params: PyTree) -> Callable[..., Any]:
    """Evaluate a function of all parameters where a group's optimiser moves only its own."""

    def is_hole(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    @functools.wraps(function)
    def of_group(group: PyTree, *args: Any, **kwargs: Any) -> Any:
        merged = jax.tree.map(
            lambda moved, whole: whole if is_hole(moved) else moved, group, params, is_leaf=is_hole
        )
        return function(merged, *args, **kwargs)

    return of_group


def _groups(assignment: Assignment) -> dict[str, str]:
    """Group the paths that share an optimiser; a group is called by its first path."""
    first: dict[int, str] = {}
    return {path: first.setdefault(id(optimiser), path) for path, optimiser in assignment.items()}


def _flat(key: Paths) -> Iterator[str]:
    if isinstance(key, tuple | list):
        for one in key:
            yield from _flat(one)
    else:
        yield str(key)


def _winner(path: str, claims: list[Claim]) -> optax.GradientTransformation | None:
    """Choose the most specific of the claims on one parameter."""
    rivals = [claim for claim in claims if path in claim[1]]
    for claim in rivals:
        others = [other for other in rivals if other[2] is not claim[2]]
        if all(_beats(path, claim, other) for other in others):
            return claim[2]
    if rivals:
        raise ValueError(
            f"optimisers: {' and '.join(repr(claim[0]) for claim in rivals)} claim the parameter "
            f"'{path}' for different optimisers, and none is the more specific. Add the key "
            f"'{path}', or narrow one of them."
        )
    return None


def _beats(path: str, one: Claim, other: Claim) -> bool:
    """Whether the claim `one` on `path` is more specific than `other`."""
    (pattern, hits, _), (rival, rival_hits, _) = one, other
    if path in (pattern, rival):
        return pattern == path != rival
    if hits < rival_hits or rival_hits < hits:
        return hits < rival_hits
    # Of two equal or merely overlapping claims a path that is written out beats a wildcard.
    return path.startswith(pattern + ".") and not path.startswith(rival + ".")


def _unpack(params: dict[Any, Any]) -> dict[Any, Any]:
    """Make an entry for every name in a tuple key, as zodiax does."""
    unpacked = {}
    for key, value in params.items():
        for name in key if isinstance(key, tuple) else (key,):
            unpacked[name] = value
    return unpacked


def _as_float(path: str, leaf: Any) -> Array:
    try:
        array = jnp.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, jnp.inexact) else jnp.asarray(leaf, float)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"map_optimisers: the parameter '{path}' is {leaf!r}, must be a number or an array. "
            "Keep only the arrays of a module with eqx.filter(model, eqx.is_inexact_array)."
        ) from error


def _check_structure(what: str, tree: PyTree, structure: Any) -> None:
    if (came := jax.tree.structure(tree)) == structure:
        return
    expected = set(named_leaves(jax.tree.unflatten(structure, [0] * structure.num_leaves)))
    paths = set(named_leaves(tree))
    differences = [
        f"{label} {', '.join(map(repr, sorted(names)))}"
        for label, names in (("missing", expected - paths), ("unknown", paths - expected))
        if names
    ] or [f"{came} instead of {structure}"]
    raise ValueError(
        f"map_optimisers: the {what} passed to update are not built like the parameters that were "
        f"mapped: {'; '.join(differences)}. Pass the same tree, or map again."
    )


def _shown_learning_rates(state: optax.OptState) -> list[Float[Array | np.ndarray, ""]]:
    def shows(node: Any) -> bool:
        return "learning_rate" in getattr(node, "hyperparams", {})

    return [
        node.hyperparams["learning_rate"]
        for node in jax.tree.leaves(state, is_leaf=shows)
        if shows(node) and jnp.ndim(node.hyperparams["learning_rate"]) == 0
    ]
