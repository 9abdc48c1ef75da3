"""The story behind a bad output: the walk back, put into a report."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from fitkit._input import shown_file
from fitkit._nonfinite.advice import advice
from fitkit._nonfinite.backtrack import Site, blame, origins
from fitkit._nonfinite.jax_checks import passes_custom_vjp
from fitkit._nonfinite.labels import Inputs, origin_names
from fitkit._nonfinite.operation import Operation, describe
from fitkit._nonfinite.report import NonFiniteReport
from fitkit._nonfinite.scope import Scope
from fitkit._nonfinite.source import (
    Frame,
    frames_of,
    library_function,
    line_text,
    shown_place,
    user_frames,
)
from fitkit._nonfinite.where_gradient import masking_select
from fitkit._paths import element_name

_WALKED = 24  # bad outputs: more roots than that add nothing
_RUN_AWAY = 1e6  # a parameter this large in a fit has left its problem behind


@dataclasses.dataclass(frozen=True)
class _Walk:
    site: Site
    path: list[Site]
    backward: bool

    @property
    def order(self) -> tuple[Any, ...]:
        """Where in the run the value was made."""
        born = self.path[-1] if self.path else self.site
        return _order(born)


def tell(
    scope: Scope,
    bad: list[int],
    inputs: Inputs,
    parameters: list[str],
    second_opinion: Callable[[], list[Frame]],
) -> NonFiniteReport:
    """Walk back from the bad outputs and report the earliest cause."""
    walks = []
    small_first = sorted(bad, key=lambda k: (len(scope.outputs[k].aval.shape), k))
    for k in small_first[:_WALKED]:
        mask = scope.mask(scope.outputs[k])
        assert mask is not None
        element = tuple(map(int, np.unravel_index(int(np.argmax(mask)), mask.shape)))
        site, path = blame(scope, scope.outputs[k], element)
        walks.append(_Walk(site, path, any(map(_is_backward, path))))
    # A bad loss makes bad gradients: the walk that stays in the model leads to the cause.
    ahead = [w for w in walks if not w.backward] or walks
    first = min(ahead, key=lambda w: w.order)
    report = tell_site(first.site, first.path, inputs, parameters)
    born = first.path[-1] if first.path else first.site
    if born.at is not None and passes_custom_vjp(born.scope, born.at):
        report = _at_frames(report, second_opinion())
    return report


def tell_site(
    site: Site, path: list[Site], inputs: Inputs, parameters: list[str], note: str = ""
) -> NonFiniteReport:
    """Report on the element that first went bad, and the path from the output to it."""
    born = path[-1] if path else site
    backward = any(map(_is_backward, path))
    if site.kind == "made":
        custom = site.at is not None and passes_custom_vjp(site.scope, site.at)
        operation = describe(site, not custom and (backward or _is_forward_derivative(site)))
        causes = origins(operation.site.scope, operation.guilty)
        full = origins(operation.site.scope, operation.guilty, explain=False)
    else:
        operation = _not_finite_before(site, inputs)
        causes = full = [site]
    by_size = operation.family == "overflow"
    names = origin_names(causes, inputs, by_size) or origin_names(full, inputs, by_size)
    from_parameters = any(is_parameter for _, is_parameter, _ in origin_names(full, inputs))
    phase, family = _phase(site, born, operation, backward, names, from_parameters)
    if phase == "optimiser":
        names = _through_state(names, operation, inputs)
    frames = _all_frames(born)
    own = user_frames(frames) or _nearest_before(born)
    library = library_function(frames)
    text = operation.text
    if library and library not in text and site.kind == "made":
        text = f"{text}, inside {library}"
    if family == "learning rate":
        text += ": the learning rate is too large"
    trap = masking_select(operation.site) if phase == "gradient" and site.kind == "made" else None
    if trap is not None:
        family = "where-trap"
        masked = user_frames(_all_frames(trap))
        note = note or (f"masked by where at {shown_place(masked[0])}" if masked else "")
    name, _, value = names[0] if names else (None, False, None)
    dtype = str(born.atom.aval.dtype)
    return NonFiniteReport(
        phase=phase,
        operation=text,
        file=shown_file(own[0].file) if own else None,
        line=own[0].line if own else None,
        source=line_text(own[0]) if own else "",
        called_from=_without_repeats([shown_place(f) for f in own[1:]]),
        values=operation.values,
        parameters=tuple(parameters),
        origin=name,
        origin_value=value,
        other_origins=tuple(other for other, _, _ in names[1:]),
        iteration=_iteration(born),
        lane=_lane(born),
        chain=_chain(path),
        advice=advice(family, dtype),
        family=family,
        dtype=dtype,
        note=note,
    )


def _phase(
    site: Site,
    born: Site,
    operation: Operation,
    backward: bool,
    names: list[tuple[str, bool, Any]],
    from_parameters: bool,
) -> tuple[str, str]:
    family = operation.family
    if site.kind != "made":
        return "data", family
    update = _after_gradient(born)
    if update:
        return "optimiser", "without effect" if family == "division by zero" else family
    if names and not from_parameters:
        return "data", "data" if family == "other" else family
    if backward or operation.derivative:
        return "gradient", family
    largest = [abs(v) for _, par, v in names if par and v is not None]
    if family == "overflow" and largest and max(largest) > _RUN_AWAY and _is_step(born):
        return "optimiser", "learning rate"
    return "forward", family


def _by_position(operation: Operation, inputs: Inputs) -> list[tuple[str, bool, Any]]:
    """Name the parameter that stands where the guilty element does, as in a Fisher matrix."""
    elements = [
        element_name(path, index)
        for path, array, argument in zip(inputs.paths, inputs.arrays, inputs.argument, strict=True)
        if argument == 0
        for index in np.ndindex(np.shape(array))
    ]
    for atom, chosen in operation.guilty:
        shape = tuple(atom.aval.shape)
        if chosen and shape and set(shape) == {len(elements)} and len(elements) > 1:
            return [(elements[chosen[0][-1]], True, None)]
    return []


def _through_state(
    names: list[tuple[str, bool, Any]], operation: Operation, inputs: Inputs
) -> list[tuple[str, bool, Any]]:
    """Name the parameter where the optimiser's memory of it had the value."""
    paths = [p for p, index in zip(inputs.paths, inputs.argument, strict=True) if index == 0]
    if not names:
        return _by_position(operation, inputs)
    if not names[0][1]:
        held = names[0][0]
        for path in sorted(paths, key=len, reverse=True):
            if re.search(rf"\.{re.escape(path)}(\[.*)?$", held):
                return [
                    (path + held.partition("[")[1] + held.partition("[")[2], True, None),
                    *names,
                ]
    return names


def _not_finite_before(site: Site, inputs: Inputs) -> Operation:
    value = site.value
    held = "NaN" if value is None or np.isnan(value) else "infinity"
    if site.kind == "literal":
        return Operation(f"{held} written in the code", "data", (), (), site)
    if site.kind == "input" and inputs.argument[site.scope.inputs.index(site.atom)] == 0:
        return Operation(f"{held} in the parameters given", "input", (), (), site)
    return Operation(f"{held} in the data", "data", (), (), site)


def _stack(site: Site) -> str:
    around = [str(s.equations[k].source_info.name_stack) for s, k in site.scope.ancestors()]
    return "/".join([*reversed(around), str(site.equation.source_info.name_stack)])


def _is_backward(site: Site) -> bool:
    return "transpose(" in _stack(site)


def _is_forward_derivative(site: Site) -> bool:
    return "jvp(" in _stack(site) and _last_backward(_top(site)) is None


def _top(site: Site) -> Scope:
    scope = site.scope
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _last_backward(scope: Scope) -> int | None:
    for k in range(len(scope.equations) - 1, -1, -1):
        if "transpose(" in str(scope.equations[k].source_info.name_stack):
            return k
    for k, child in scope.children.items():
        if len(scope.equations) < 4 and _last_backward(child) is not None:
            return k  # the whole of a jitted step
    return None


def _after_gradient(site: Site) -> bool:
    """Whether an equation stands behind the gradient, neither in it nor in the model."""
    if site.at is None or "jvp(" in _stack(site):
        return False
    chain = [(site.scope, site.at), *site.scope.ancestors()]
    for scope, at in chain:
        last = _last_backward(scope)
        if last is not None:
            return at > last
    return False


def _is_step(site: Site) -> bool:
    """Whether the function goes on behind its gradient, as the step of a fit does."""
    for scope, _ in [(site.scope, site.at), *site.scope.ancestors()]:
        last = _last_backward(scope)
        if last is not None:
            return any(
                "jvp(" not in str(e.source_info.name_stack) for e in scope.equations[last + 1 :]
            )
    return False


def _all_frames(site: Site) -> tuple[Frame, ...]:
    """List the frames of an equation and of the calls around it, innermost first."""
    if site.at is None:
        return ()
    frames = frames_of(site.equation)
    for scope, at in site.scope.ancestors():
        outer = frames_of(scope.equations[at])
        users = [(f.file, f.line) for f in frames if f.is_user]
        last = [(f.file, f.line) for f in outer if f.is_user]
        # The traceback of an inner equation may already reach out to the call.
        if last and last == users[-len(last) :]:
            continue
        frames += outer
    return frames


def _nearest_before(site: Site) -> tuple[Frame, ...]:
    """Find the user's line that last touched the operands, where the equation itself has none.

    The sum of squared residuals, for one, is no line of the user's.
    """
    scope, todo = site.scope, [] if site.at is None else [site.at]
    for at in todo:
        for atom in scope.equations[at].invars:
            made = None if hasattr(atom, "val") else scope.producers.get(atom)
            if made is None or made[0] in todo:
                continue
            found = user_frames(_all_frames(Site(scope, atom, (), *made)))
            if found:
                return found
            todo.append(made[0])
        if len(todo) > 50:
            break
    return ()


def _order(site: Site) -> tuple[Any, ...]:
    inner: list[Any] = [site.at if site.at is not None else -1]
    scope = site.scope
    while scope.parent is not None:
        inner = [scope.call, scope.iteration, *inner]
        scope = scope.parent
    return tuple(inner)


def _iteration(site: Site) -> int | None:
    scope = site.scope
    while scope is not None:
        if scope.loop is not None:
            return scope.loop.position(scope.iteration)
        scope = scope.parent
    return None


def _lane(site: Site) -> int | tuple[int, ...] | None:
    depth = _stack(site).count("vmap(") if site.at is not None else 0
    # A reverse pass repeats the name of the forward one.
    lanes = site.element[: min(depth, len(site.element))]
    if not lanes:
        return None
    return lanes[0] if len(lanes) == 1 else lanes


def _chain(path: list[Site]) -> tuple[str, ...]:
    """List the user's lines from the birth to the output, each once."""
    lines: list[str] = []
    for site in reversed(path):
        own = user_frames(_all_frames(site))
        if own:
            place = shown_place(own[0])
            if place not in lines:
                lines.append(place)
        if len(lines) == 8:
            break
    return tuple(lines)


def _without_repeats(places: list[str]) -> tuple[str, ...]:
    return tuple(p for k, p in enumerate(places) if k == 0 or p != places[k - 1])


def _at_frames(report: NonFiniteReport, frames: list[Frame]) -> NonFiniteReport:
    """Move a report to the line that ``debug_nans`` finds, where it finds another."""
    if not frames or (frames[0].line == report.line):
        return report
    return dataclasses.replace(
        report,
        file=shown_file(frames[0].file),
        line=frames[0].line,
        source=line_text(frames[0]),
        called_from=(report.place, *report.called_from),
        note=report.note
        or "this line of a custom_vjp's backward rule is the one that jax_debug_nans finds.",
    )
