"""``find_nonfinite``: the report on a function whose outputs are not finite."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jex
from jaxtyping import PyTree

from fitkit._fisher import gradient_by_columns, has_reverse
from fitkit._input import explained, shown_file, split_aux
from fitkit._nonfinite.backtrack import Site
from fitkit._nonfinite.build_report import tell
from fitkit._nonfinite.jax_checks import debug_nans_frames, flagged_equation
from fitkit._nonfinite.labels import Inputs, name_inputs, name_outputs
from fitkit._nonfinite.numpy_rules import is_inexact, nonfinite_mask, to_host
from fitkit._nonfinite.replay import run
from fitkit._nonfinite.report import NonFiniteReport
from fitkit._nonfinite.scope import Memory, count_equations
from fitkit._nonfinite.source import line_text, shown_place
from fitkit._paths import path_of

# Beyond this many equations compiling costs minutes, and the replay alone gates.
_COMPILED_GATE = 3000


def find_nonfinite(
    function: Callable[..., PyTree], *args: PyTree, gradient: bool = False
) -> NonFiniteReport | None:
    """Find where a NaN or an infinity in a function's output came from.

    The compiled function runs once. Where all its outputs are finite there is nothing to report,
    whatever it did inside. Otherwise its jaxpr is replayed from the same inputs, equation by
    equation, and walked back from the bad outputs, element by element, to the operation that
    first made a bad value out of good ones, and from there to the input that caused it.

    Parameters
    ----------
    function
        Any function of pytrees that JAX can trace, jitted or not.
    *args
        What to call it with. The leaves of the first are the parameters, named by their paths.
    gradient
        Look at the value and the gradient with respect to the first argument, of a `function`
        that returns one number: ``find_nonfinite(loss, params, args, gradient=True)``. Of a pair
        ``(loss, aux)`` that is the loss.

    Returns
    -------
    NonFiniteReport or None
        ``None`` where all outputs are finite.

    Raises
    ------
    TypeError
        When called on traced values, inside ``jax.jit`` or ``jax.grad``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fitkit as fk
    >>> def loss(params, args):
    ...     return jnp.sum(jnp.sqrt(params["r2"]))
    >>> report = fk.find_nonfinite(loss, {"r2": jnp.array([1.0, 0.0])}, None, gradient=True)
    >>> report.operation, report.origin
    ('derivative of sqrt at 0', 'r2[1]')
    """
    inputs = name_inputs(function, args)
    if any(isinstance(a, jax.core.Tracer) for a in inputs.arrays):  # pyright: ignore
        raise TypeError(
            "find_nonfinite was called on traced values, inside jax.jit, jax.grad or jax.vmap. It "
            "needs numbers: call it outside, on the function itself."
        )
    target = value_and_gradient(function) if gradient else function
    with explained("find_nonfinite", "function", None):
        return find_from(target, inputs)


def value_and_gradient(function: Callable) -> Callable:
    """Make of a loss the function of its value and gradient, for parameters of any pytree."""

    def value_and_grad(params: Any, *rest: Any) -> Any:
        floating, other = eqx.partition(params, _is_differentiable)

        def of_floating(floating: Any) -> Any:
            return split_aux(function(eqx.combine(floating, other), *rest))[0]

        if not has_reverse("find_nonfinite", of_floating, floating):
            of_floating = gradient_by_columns(of_floating)
        return jax.value_and_grad(of_floating)(floating)

    return value_and_grad


def find_from(function: Callable, inputs: Inputs) -> NonFiniteReport | None:
    """Find the report for a function of named inputs."""
    seen: dict[str, Any] = {}

    def flat(*arrays: Any) -> list[Any]:
        outputs = eqx.filter(function(*inputs.rebuild(list(arrays))), eqx.is_array_like)
        seen["paths"] = [key_path for key_path, _ in jax.tree_util.tree_leaves_with_path(outputs)]
        return jax.tree.leaves(outputs)

    with _undisturbed():
        arguments = [_array(a) for a in inputs.arrays]
        closed = jax.make_jaxpr(flat)(*arguments)
        small = count_equations(closed) <= _COMPILED_GATE
        compiled = jax.jit(flat)(*arguments) if small else None
        if compiled is not None and not _bad(closed, compiled):
            return None
        try:
            scope = run(closed, [to_host(a) for a in arguments], Memory())
            replayed = [scope.read(atom) for atom in scope.outputs]
        except Exception:  # the replay failed as a whole
            scope, replayed = None, None
        if compiled is None and (replayed is None or not _bad(closed, replayed)):
            compiled = jax.jit(flat)(*arguments)
            if not _bad(closed, compiled):
                return None
        outputs = compiled if compiled is not None else replayed
        assert outputs is not None
        bad = _bad(closed, outputs)
        avals: list[Any] = list(closed.out_avals)
        shapes = [tuple(aval.shape) for aval in avals]
        named = name_outputs(inputs, seen["paths"], shapes)
        parameters = [named[k] for k in bad if named[k]]
        parameters = list(dict.fromkeys(parameters))
        if not any(named):
            parameters = [_output_name(seen["paths"][k]) for k in bad]
        if scope is not None and replayed is not None:
            walked = _bad(closed, replayed)
            with contextlib.suppress(Exception):
                if walked:
                    return tell(
                        scope,
                        walked,
                        inputs,
                        parameters,
                        lambda: debug_nans_frames(flat, arguments),
                    )
                at = flagged_equation(closed, arguments)
                if at is not None:
                    return _reordered(scope, at, inputs, parameters)
        return _by_debug_nans(flat, arguments, parameters)


def _reordered(scope: Any, at: int, inputs: Inputs, parameters: list[str]) -> NonFiniteReport:
    from fitkit._nonfinite.build_report import tell_site

    atom = scope.equations[at].outvars[0]
    site = Site(scope, atom, (0,) * len(atom.aval.shape), at, 0)
    return tell_site(
        site,
        [site],
        inputs,
        parameters,
        note=(
            "evaluated one operation at a time all values are finite: the compiler has reordered "
            "or fused operations here. The line is the first at which the compiled values go bad."
        ),
    )


def _by_debug_nans(flat: Callable, arguments: list[Any], parameters: list[str]) -> NonFiniteReport:
    frames = debug_nans_frames(flat, arguments)
    note = "the replay failed here: the line is the one that jax_debug_nans finds."
    if not frames:
        return NonFiniteReport(
            "forward",
            "a non-finite value",
            parameters=tuple(parameters),
            note="neither the replay nor jax_debug_nans could find its line.",
        )
    return NonFiniteReport(
        phase="forward",
        operation="a non-finite value",
        file=shown_file(frames[0].file),
        line=frames[0].line,
        source=line_text(frames[0]),
        called_from=tuple(map(shown_place, frames[1:])),
        parameters=tuple(parameters),
        note=note,
    )


def _bad(closed: Any, outputs: Any) -> list[int]:
    """List the numbers of the bad outputs, except inputs passed through unchanged."""
    given = set(closed.jaxpr.invars)
    return [
        k
        for k, (value, atom) in enumerate(zip(outputs, closed.jaxpr.outvars, strict=True))
        if (isinstance(atom, jex.Literal) or atom not in given)
        and nonfinite_mask(to_host(value)) is not None
    ]


def _is_differentiable(leaf: Any) -> bool:
    return isinstance(leaf, float | complex) or is_inexact(leaf)


def _array(value: Any) -> Any:
    """Make an array of a leaf as jit would, without touching the user's own."""
    return jax.numpy.asarray(value)


def _output_name(key_path: tuple[Any, ...]) -> str:
    return path_of(key_path) if key_path else "the output"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the user's debugging switches from stopping the replay."""
    with jax.debug_nans(False), jax.debug_infs(False), jax.disable_jit(False):
        yield
