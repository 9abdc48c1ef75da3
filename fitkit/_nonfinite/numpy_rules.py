"""Evaluation of one equation on given values.

Common primitives run in NumPy: they need no compilation, of which a replay of thousands of
different equations would need thousands. All others run as JAX runs them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from fitkit._jaxprs import single
from fitkit._sharding import to_host as whole

Value = Any  # a NumPy array, or a JAX array where NumPy lacks the dtype (PRNG keys)
if TYPE_CHECKING:
    Mask: TypeAlias = Bool[np.ndarray, "..."]
else:
    # Comparisons of 0-d arrays return scalars.
    Mask = Bool[np.ndarray | np.generic, "..."]


def evaluate(equation: Any, values: list[Value]) -> list[Value]:
    """Evaluate one equation; its inner jaxprs, if any, run compiled."""
    rule = _RULES.get(equation.primitive.name)
    if rule is not None and all(_in_numpy(v) for v in values):
        try:
            with np.errstate(all="ignore"):
                outputs = rule(equation.params, *values)
        except Exception:  # a parameter that the rule does not know: JAX knows it
            outputs = None
        if outputs is not None:
            outputs = outputs if isinstance(outputs, list) else [outputs]
            return [
                _as_aval(out, var.aval) for out, var in zip(outputs, equation.outvars, strict=True)
            ]
    return evaluate_compiled(equation, values)


def evaluate_compiled(equation: Any, values: list[Value]) -> list[Value]:
    """Evaluate one equation as JAX does."""
    return [to_host(out) for out in single(equation)(*map(to_device, values))]


def to_host(value: Any) -> Value:
    """Bring a value into NumPy, unless NumPy lacks its dtype."""
    if isinstance(value, np.ndarray):
        return value
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    return whole(value)


def to_device(value: Value) -> Any:
    """Bring a value back for JAX, with its dtype as it is."""
    return jnp.asarray(value) if isinstance(value, np.ndarray | np.generic) else value


def nonfinite_mask(value: Value) -> Mask | None:
    """Mark the elements that are not finite; None where all are, or where none can be."""
    if not is_inexact(value):
        return None
    bad = ~np.isfinite(value)
    return bad if bad.any() else None


def is_inexact(value: Value) -> bool:
    """Whether a value has a floating-point or complex dtype."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, np.inexact))


def _in_numpy(value: Value) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fcbiu"


def _as_aval(value: Any, aval: Any) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype != aval.dtype:
        value = value.astype(aval.dtype)
    if value.shape != aval.shape:
        raise ValueError(f"replay of shape {value.shape}, expected {aval.shape}")
    # XLA's CPU code rounds subnormals to zero, so that 1e-42 in float32 divides like 0.
    if value.dtype.kind == "f" and jax.default_backend() == "cpu":
        tiny = np.finfo(value.dtype).tiny
        small = (np.abs(value) < tiny) & (value != 0)
        if small.any():
            value = np.where(small, np.zeros((), value.dtype), value)
    return value


def _floats(*values: Any) -> bool:
    return all(np.asarray(v).dtype.kind in "fc" for v in values)


def _only_floats(function: Callable) -> Callable:
    # Integers divide, round and overflow in JAX's own way.
    return lambda params, *v: function(*v) if _floats(*v) else None


def _plain(function: Callable) -> Callable:
    return lambda params, *v: function(*v)


def _reduction(function: Callable) -> Callable:
    return lambda params, x: function(x, axis=tuple(params["axes"]))


def _cumulative(function: Callable) -> Callable:
    def rule(params: dict, x: np.ndarray) -> np.ndarray:
        flip = [slice(None)] * x.ndim
        flip[params["axis"]] = slice(None, None, -1 if params["reverse"] else 1)
        return function(x[tuple(flip)], axis=params["axis"])[tuple(flip)]

    return rule


def _integer_pow(params: dict, x: np.ndarray) -> Any:
    if not _floats(x):
        return None
    power = np.ones_like(x)
    for _ in range(abs(params["y"])) if abs(params["y"]) < 5 else ():
        power = power * x
    if abs(params["y"]) >= 5:
        power = np.power(x, abs(params["y"]))
    return 1 / power if params["y"] < 0 else power


def _select_n(params: dict, which: np.ndarray, *cases: np.ndarray) -> Any:
    if which.dtype == bool:
        return np.where(which, cases[1], cases[0])
    return np.choose(which, cases)


def _convert(params: dict, x: np.ndarray) -> Any:
    target = np.dtype(params["new_dtype"])
    if x.dtype.kind in "fc" and target.kind not in ("f" if x.dtype.kind == "f" else "c") + "c":
        return None  # NaN to integer, complex to real: JAX decides
    return x.astype(target)


def _broadcast(params: dict, x: np.ndarray, *dynamic: Any) -> Any:
    if dynamic:
        return None
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _slice(params: dict, x: np.ndarray) -> np.ndarray:
    strides = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[tuple(slice(*b) for b in bounds)]


def _window(x: np.ndarray, sizes: tuple[int, ...], starts: tuple[Any, ...]) -> tuple[slice, ...]:
    clamped = (
        max(0, min(int(s), n - size)) for s, n, size in zip(starts, x.shape, sizes, strict=True)
    )
    return tuple(slice(s, s + size) for s, size in zip(clamped, sizes, strict=True))


def _dynamic_slice(params: dict, x: np.ndarray, *starts: Any) -> np.ndarray:
    return x[_window(x, params["slice_sizes"], starts)]


def _dynamic_update_slice(params: dict, x: np.ndarray, update: np.ndarray, *starts: Any) -> Any:
    result = np.array(x)
    result[_window(x, update.shape, starts)] = update
    return result


def _dot_general(params: dict, left: np.ndarray, right: np.ndarray) -> Any:
    if left.dtype.kind not in "fc" or left.dtype.itemsize < 4:
        return None
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    if not left_batch:
        return np.tensordot(left, right, (left_sum, right_sum))
    free_left = [d for d in range(left.ndim) if d not in (*left_sum, *left_batch)]
    free_right = [d for d in range(right.ndim) if d not in (*right_sum, *right_batch)]
    batch = [left.shape[d] for d in left_batch]
    inner = int(np.prod([left.shape[d] for d in left_sum]))
    a = left.transpose(*left_batch, *free_left, *left_sum).reshape(*batch, -1, inner)
    b = right.transpose(*right_batch, *right_sum, *free_right).reshape(*batch, inner, -1)
    shape = [left.shape[d] for d in free_left] + [right.shape[d] for d in free_right]
    return np.matmul(a, b).reshape(*batch, *shape)


def _split(params: dict, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], axis=params["axis"])


def _iota(params: dict, *dynamic: Any) -> Any:
    if dynamic:
        return None
    axis, shape = params["dimension"], params["shape"]
    line = np.arange(shape[axis], dtype=params["dtype"])
    return np.broadcast_to(line.reshape([-1 if d == axis else 1 for d in range(len(shape))]), shape)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


_UNARY = {
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: getattr(np, name) for name in ("exp", "exp2", "log", "log1p", "expm1", "sqrt")},
    **{name: getattr(np, name) for name in ("floor", "ceil", "square", "conj", "cbrt")},
    **{"a" + name: getattr(np, "arc" + name) for name in ("sin", "cos", "tan")},
    **{"a" + name: getattr(np, "arc" + name) for name in ("sinh", "cosh", "tanh")},
    "logistic": _logistic,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}
_BINARY = {"div": np.divide, "pow": np.power, "atan2": np.arctan2, "rem": np.fmod}
_PLAIN = {
    "neg": np.negative,
    "abs": np.abs,
    "is_finite": np.isfinite,
    "real": np.real,
    "imag": np.imag,
    "copy": np.array,
    "copy_p": np.array,
    "stop_gradient": np.asarray,
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "complex": lambda re, im: re + 1j * im if re.dtype == np.float64 else _complex64(re, im),
}


def _complex64(re: np.ndarray, im: np.ndarray) -> np.ndarray:
    out = np.empty(re.shape, np.complex64)
    out.real, out.imag = re, im
    return out


_RULES: dict[str, Callable] = {
    **{name: _only_floats(function) for name, function in (_UNARY | _BINARY).items()},
    **{name: _plain(function) for name, function in _PLAIN.items()},
    "reduce_sum": _reduction(np.sum),
    "reduce_prod": _reduction(np.prod),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_and": _reduction(np.all),
    "reduce_or": _reduction(np.any),
    "cumsum": _cumulative(np.cumsum),
    "cumprod": _cumulative(np.cumprod),
    "integer_pow": _integer_pow,
    "select_n": _select_n,
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "iota": _iota,
    "split": _split,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "reshape": lambda p, x, *d: None if d or p["dimensions"] else x.reshape(p["new_sizes"]),
    "squeeze": lambda p, x: x.reshape([n for d, n in enumerate(x.shape) if d not in _axes(p, x)]),
    "expand_dims": lambda p, x: np.expand_dims(x, tuple(p["dimensions"])),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
    "rev": lambda p, x: np.flip(x, tuple(p["dimensions"])),
    "concatenate": lambda p, *x: np.concatenate(x, axis=p["dimension"]),
    "dot_general": _dot_general,
}


def _axes(params: dict, x: np.ndarray) -> set[int]:
    return {d % x.ndim for d in params["dimensions"]}
