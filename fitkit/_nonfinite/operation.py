"""What happened: the operation, its family, and the operands that caused it."""

import dataclasses
from typing import Any

import numpy as np

from fitkit._format import number
from fitkit._nonfinite.backtrack import Site, guilty_operands
from fitkit._nonfinite.source import frames_of, without_machinery

_TRIVIAL = {
    *("mul", "add", "add_any", "sub", "neg", "convert_element_type", "broadcast_in_dim"),
    *("reshape", "squeeze", "transpose", "select_n", "copy", "stop_gradient", "reduce_sum"),
    *("jit", "pjit", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "iota", "slice"),
}
_SAID = {
    "div": "division", "mul": "multiplication", "add": "addition", "add_any": "addition",
    "sub": "subtraction", "integer_pow": "power", "pow": "power", "square": "square",
    "reduce_sum": "sum", "dot_general": "matrix product", "atan2": "arctan2", "acos": "arccos",
    "asin": "arcsin", "atanh": "arctanh", "acosh": "arccosh", "reduce_prod": "product",
    "custom_linear_solve": "solve", "triangular_solve": "solve", "lu": "LU decomposition",
    "scatter-add": "addition", "cumsum": "cumulative sum", "reduce_max": "maximum",
    "reduce_min": "minimum", "rsqrt": "1/sqrt", "lgamma": "log-gamma",
}  # fmt: skip
_OPERANDS = {
    "div": ("numerator", "denominator"), "pow": ("base", "exponent"), "atan2": ("y", "x"),
    "dot_general": ("left", "right"),
}  # fmt: skip
_GROWS = ("exp", "exp2", "expm1", "sinh", "cosh")
_EIGEN = ("eigh", "eig", "svd")
_FACTORS = ("cholesky", "lu", "triangular_solve", "custom_linear_solve", "qr", "lu_solve")


@dataclasses.dataclass(frozen=True)
class Operation:
    """A failed operation, as a report describes it."""

    text: str
    family: str
    values: tuple[tuple[str, Any], ...]
    guilty: tuple[tuple[Any, list[tuple[int, ...]]], ...]  # operands and their elements
    site: Site  # whose operands those are
    derivative: bool = False


def describe(site: Site, in_gradient: bool) -> Operation:
    """Describe the operation of a site; in a gradient, the operation that it differentiates."""
    primal = _differentiated(site) if in_gradient else None
    if primal is not None:
        return _derivative(primal)
    name = site.equation.primitive.name
    held = _held(site)
    text, family = _forward(name, [v for _, _, v in held], site)
    values = tuple(_labelled(name, held))
    return Operation(text, family, values, _pick(name, family, held, site), site)


def _forward(name: str, values: list[Any], site: Site) -> tuple[str, str]:
    said = _SAID.get(name, name)
    numbers = [v for v in values if np.ndim(v) == 0 and isinstance(v, int | float | complex)]
    x = numbers[0] if numbers and not isinstance(numbers[0], complex) else None
    if name == "div" and len(values) == 2:
        if values[1] == 0:
            return ("division 0/0" if values[0] == 0 else "division by zero"), "division by zero"
        return "overflow of division", "overflow"
    if name in ("log", "log1p") and x is not None:
        x = x + 1 if name == "log1p" else x
        if x <= 0:
            of = "0" if x == 0 else "a negative number"
            return (f"log of {of}" if name == "log" else f"log1p, the log of {of}"), "log"
    if name in ("sqrt", "rsqrt") and x is not None and x <= 0:
        if name == "rsqrt" and x == 0:
            return "1/sqrt of 0, a division by zero", "division by zero"
        return f"{said} of a negative number", "sqrt of a negative number"
    if name == "pow" and len(numbers) == 2:
        base = numbers[0]
        if _below(base, 0):
            return "power of a negative base (with a fractional exponent)", "power"
        if base == 0:
            return "power of 0 with a negative exponent", "division by zero"
    if name == "integer_pow" and x == 0:
        return "power of 0 with a negative exponent", "division by zero"
    if name in ("acos", "asin", "atanh", "acosh", "erf_inv") and x is not None:
        edge = name == "atanh" and abs(x) == 1
        return f"{said} at {x:g}" if edge else f"{said} outside its domain", "domain"
    if name in _EIGEN:
        return f"{name} that did not converge", "degenerate eigenvalues"
    if name == "cholesky":
        return "cholesky of a matrix that is not positive definite", "singular matrix"
    if name in _FACTORS:
        return f"{said} with a singular matrix (division by zero)", "singular matrix"
    if name == "gather":
        return "index out of bounds (filled with NaN)", "index"
    out = site.value
    if name in ("lgamma", "digamma", "polygamma", "igamma", "zeta"):
        return f"{said} at {x:g}" if x is not None else said, "domain"
    if out is None or np.isinf(out) or (name in ("integer_pow", "square", *_GROWS)):
        return f"overflow of {said}", "overflow"
    if any(np.ndim(v) == 0 and not np.isfinite(v) for v in values):
        return {"mul": "0 × inf", "sub": "inf − inf", "add": "inf − inf"}.get(
            name, f"{said} of infinities"
        ), "infinities"
    return f"{said} gave {'NaN' if np.isnan(out) else 'inf'}", "other"


def _below(x: Any, limit: float) -> bool:
    return not isinstance(x, complex) and x < limit


def _derivative(primal: Site) -> Operation:
    name = primal.equation.primitive.name
    said = _SAID.get(name, name)
    held = _held(primal)
    values = [v for _, _, v in held]
    family = {"sqrt": "sqrt at 0", "rsqrt": "sqrt at 0", "log": "log", "log1p": "log"}.get(name)
    family = family or {"div": "division by zero", "acos": "domain", "asin": "domain"}.get(name)
    where = ""
    if name in _EIGEN:
        family, where = "degenerate eigenvalues", " with equal eigenvalues"
        if name == "svd":
            where = " with equal singular values"
    elif name in _FACTORS:
        family, where = "singular matrix", " of a singular matrix"
    elif name == "atan2":
        family, where = "arctan2 at the origin", " at the origin, a division by zero"
    elif name in ("pow", "integer_pow"):
        family = "power at 0"
    if not where and values and isinstance(values[0], int | float):
        at = values[1] if name == "div" and len(values) > 1 else values[0]
        where = f" at {at:g}" if np.ndim(at) == 0 else ""
    labels = tuple(_labelled(name, held))
    guilty = _pick(name, family or "", held, primal)
    return Operation(
        f"derivative of {said}{where}", family or "derivative", labels, guilty, primal, True
    )


def _differentiated(site: Site) -> Site | None:
    """Find the operation whose derivative the equation computes.

    JAX's rule for a derivative runs where the operation itself ran, so the operation's traceback
    is the tail of the rule's; and the two share an operand, or one feeds the other.
    """
    assert site.at is not None
    mine = frames_of(site.equation)
    if not mine:
        return None
    best: tuple[int, int, int] | None = None
    related = _upstream(site)
    for k, equation in enumerate(site.scope.equations[: site.at]):
        if equation.primitive.name in _TRIVIAL or k not in related:
            continue
        theirs = without_machinery(frames_of(equation))
        if theirs and mine[-len(theirs) :] == theirs:
            rank = (len(theirs), _telling(equation.primitive.name), -k)
            best = max(best, rank) if best else rank
    if best is None:
        return None
    at = -best[-1]
    var = site.scope.equations[at].outvars[0]
    shape = tuple(var.aval.shape)
    element = site.element if len(site.element) == len(shape) else ()
    if (element == () and shape) or any(e >= n for e, n in zip(element, shape, strict=True)):
        element = tuple(0 for _ in shape)
    return Site(site.scope, var, element, at, 0)


def _telling(name: str) -> int:
    """Rank operations by how much they explain: eigh, which also divides, is no division."""
    return 2 if name in (*_EIGEN, *_FACTORS) else 0 if name in ("div", "integer_pow") else 1


def _upstream(site: Site, reach: int = 24) -> set[int]:
    """List the numbers of the equations whose values an equation uses, or that use the same."""
    scope = site.scope
    used = {atom for atom in site.equation.invars if not _literal(atom)}
    found: set[int] = set()
    for _ in range(reach):
        makers = {scope.producers[atom][0] for atom in used if atom in scope.producers} - found
        if not makers:
            break
        found |= makers
        used |= {a for k in makers for a in scope.equations[k].invars if not _literal(a)}
    assert site.at is not None
    for k, equation in enumerate(scope.equations[: site.at]):
        if any(not _literal(atom) and atom in used for atom in equation.invars):
            found.add(k)
    return found


def _literal(atom: Any) -> bool:
    return hasattr(atom, "val")


def _held(site: Site) -> list[tuple[int, list[tuple[int, ...]], Any]]:
    """List, per operand, the elements that matter and their value, or a word on many of them."""
    held = []
    found = dict(guilty_operands(site))
    for j, atom in enumerate(site.equation.invars):
        whole = site.scope.read(atom)
        if _literal(atom):
            if whole is not None and whole.dtype.kind in "fc":
                held.append((j, [], whole.item()))
            continue
        elements = found.get(j)
        if not elements:
            continue
        if whole is None:
            held.append((j, elements, "(not kept)"))
        elif len(elements) == 1:
            held.append((j, elements, np.asarray(whole)[elements[0]].item()))
        else:
            held.append((j, elements, _summary(site, np.asarray(whole), elements)))
    return held


def _summary(site: Site, whole: np.ndarray, elements: list[tuple[int, ...]]) -> str:
    name = site.equation.primitive.name
    if name in (*_EIGEN, *_FACTORS) and whole.ndim >= 2 and whole.shape[-1] == whole.shape[-2]:
        matrix = whole[site.element[: whole.ndim - 2]]
        size = f"{matrix.shape[0]}×{matrix.shape[1]}"
        if name in ("eigh", "cholesky") and np.isfinite(matrix).all():
            spectrum = np.linalg.eigvalsh(matrix)
            shown = ", ".join(number(float(v)) for v in spectrum[:4])
            return f"{size} with eigenvalues {shown}{', …' if len(spectrum) > 4 else ''}"
        if np.isfinite(matrix).all():
            singular = np.linalg.svd(matrix, compute_uv=False)
            shown = ", ".join(number(float(v)) for v in singular[-4:])
            return f"{size} with singular values {'…, ' if len(singular) > 4 else ''}{shown}"
    picked = np.array([whole[e] for e in elements])
    return f"{len(picked)} elements from {number(picked.min())} to {number(picked.max())}"


def _labelled(name: str, held: list[tuple[int, Any, Any]]) -> list[tuple[str, Any]]:
    labels = ("matrix",) if name in (*_EIGEN, *_FACTORS) else _OPERANDS.get(name)
    single = len(held) == 1
    out = []
    for j, _, value in held[:1] if labels == ("matrix",) else held:
        label = labels[j] if labels and j < len(labels) else "x" if single else f"operand {j + 1}"
        out.append((label, value))
    return out


def _pick(
    name: str, family: str, held: list[tuple[int, Any, Any]], site: Site
) -> tuple[tuple[Any, list[tuple[int, ...]]], ...]:
    """Choose the guilty operand: the zero denominator, not the numerator."""
    atoms = site.equation.invars
    chosen = [(j, e) for j, e, _ in held if e]
    if name == "div" and family == "division by zero":
        chosen = [(j, e) for j, e in chosen if j == 1] or chosen
    elif name == "pow" or name in _FACTORS:
        chosen = [(j, e) for j, e in chosen if j == 0] or chosen
    elif family == "overflow" and len(chosen) > 1:
        size = {j: _magnitude(v) for j, _, v in held}
        small = name == "div"
        chosen.sort(key=lambda c: size[c[0]] if c[0] == 1 and small else -size[c[0]])
    return tuple((atoms[j], e) for j, e in chosen)


def _magnitude(value: Any) -> float:
    return abs(value) if isinstance(value, int | float | complex) else 0.0
