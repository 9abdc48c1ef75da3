"""The 27 problems of NIST's nonlinear regression collection, for tests and benchmarks.

The data and the certified answers are read from ``notebooks/data/nist`` (see its README); the
models are written here. ``problems["MGH09"].residuals(params, args)`` has named parameters
``b1``, ``b2``, …, and ``args`` is the pair ``(x, y)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

DATA = Path(__file__).parents[1] / "notebooks" / "data" / "nist"
FIRST_PARAMETER_LINE = 40
FIRST_DATA_LINE = 60
CERTIFIED_DIGITS = 11


@dataclass(frozen=True)
class Problem:
    """A model, its data, two starts and the certified least-squares answer."""

    name: str
    model: Callable  # (params, x) -> y
    args: tuple[np.ndarray, np.ndarray]  # x, y; for Nelson x is (points, 2) and y is log(y)
    starts: tuple[dict[str, float], dict[str, float]]  # the far one, the near one
    certified: dict[str, float]
    errors: dict[str, float]  # certified standard deviations, scaled by the residual variance
    rss: float  # certified residual sum of squares
    symmetries: tuple[dict[str, str], ...]  # renamings of the parameters that change no residual
    signless: tuple[str, ...]  # parameters whose sign changes no residual

    def residuals(self, params: dict, args: tuple) -> jnp.ndarray:
        """Model less data, with the signature that ``Fit`` and ``fisher_matrix`` expect."""
        x, y = args
        return self.model(params, x) - y

    @property
    def degrees_of_freedom(self) -> int:
        return len(self.args[1]) - len(self.certified)

    def digits(self, params: dict) -> float:
        """Correct digits of the worst parameter (NIST's log relative error), at most 11."""
        return max(self._digits(params, renamed) for renamed in self.symmetries)

    def _digits(self, params: dict, renamed: dict[str, str]) -> float:
        worst = float(CERTIFIED_DIGITS)
        for name, true in self.certified.items():
            value = float(params[renamed.get(name, name)])
            if not math.isfinite(value):
                return 0.0
            if name in self.signless:
                value = math.copysign(value, true)
            if value != true:
                worst = min(worst, -math.log10(abs(value - true) / abs(true)))
        return max(worst, 0.0)


def _bennett5(b, x):
    return b["b1"] * (b["b2"] + x) ** (-1 / b["b3"])


def _chwirut(b, x):
    return jnp.exp(-b["b1"] * x) / (b["b2"] + b["b3"] * x)


def _danwood(b, x):
    return b["b1"] * x ** b["b2"]


def _eckerle4(b, x):
    return b["b1"] / b["b2"] * jnp.exp(-0.5 * ((x - b["b3"]) / b["b2"]) ** 2)


def _enso(b, x):
    def wave(cosine, sine, period):
        phase = 2 * jnp.pi * x / period
        return cosine * jnp.cos(phase) + sine * jnp.sin(phase)

    return (
        b["b1"]
        + wave(b["b2"], b["b3"], 12)
        + wave(b["b5"], b["b6"], b["b4"])
        + wave(b["b8"], b["b9"], b["b7"])
    )


def _gauss(b, x):
    return (
        b["b1"] * jnp.exp(-b["b2"] * x)
        + b["b3"] * jnp.exp(-((x - b["b4"]) ** 2) / b["b5"] ** 2)
        + b["b6"] * jnp.exp(-((x - b["b7"]) ** 2) / b["b8"] ** 2)
    )


def _cubic_by_cubic(b, x):
    return (b["b1"] + b["b2"] * x + b["b3"] * x**2 + b["b4"] * x**3) / (
        1 + b["b5"] * x + b["b6"] * x**2 + b["b7"] * x**3
    )


def _kirby2(b, x):
    return (b["b1"] + b["b2"] * x + b["b3"] * x**2) / (1 + b["b4"] * x + b["b5"] * x**2)


def _lanczos(b, x):
    return (
        b["b1"] * jnp.exp(-b["b2"] * x)
        + b["b3"] * jnp.exp(-b["b4"] * x)
        + b["b5"] * jnp.exp(-b["b6"] * x)
    )


def _mgh09(b, x):
    return b["b1"] * (x**2 + x * b["b2"]) / (x**2 + x * b["b3"] + b["b4"])


def _mgh10(b, x):
    return b["b1"] * jnp.exp(b["b2"] / (x + b["b3"]))


def _mgh17(b, x):
    return b["b1"] + b["b2"] * jnp.exp(-x * b["b4"]) + b["b3"] * jnp.exp(-x * b["b5"])


def _misra1a(b, x):
    return b["b1"] * (1 - jnp.exp(-b["b2"] * x))


def _misra1b(b, x):
    return b["b1"] * (1 - (1 + b["b2"] * x / 2) ** -2)


def _misra1c(b, x):
    return b["b1"] * (1 - (1 + 2 * b["b2"] * x) ** -0.5)


def _misra1d(b, x):
    return b["b1"] * b["b2"] * x / (1 + b["b2"] * x)


def _nelson(b, x):
    return b["b1"] - b["b2"] * x[:, 0] * jnp.exp(-b["b3"] * x[:, 1])


def _rat42(b, x):
    return b["b1"] / (1 + jnp.exp(b["b2"] - b["b3"] * x))


def _rat43(b, x):
    return b["b1"] / (1 + jnp.exp(b["b2"] - b["b3"] * x)) ** (1 / b["b4"])


def _roszman1(b, x):
    return b["b1"] - b["b2"] * x - jnp.arctan(b["b3"] / (x - b["b4"])) / jnp.pi


MODELS: dict[str, Callable] = {
    # NIST's lower level of difficulty,
    "Misra1a": _misra1a,
    "Chwirut2": _chwirut,
    "Chwirut1": _chwirut,
    "Lanczos3": _lanczos,
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "DanWood": _danwood,
    "Misra1b": _misra1b,
    # average,
    "Kirby2": _kirby2,
    "Hahn1": _cubic_by_cubic,
    "Nelson": _nelson,
    "MGH17": _mgh17,
    "Lanczos1": _lanczos,
    "Lanczos2": _lanczos,
    "Gauss3": _gauss,
    "Misra1c": _misra1c,
    "Misra1d": _misra1d,
    "Roszman1": _roszman1,
    "ENSO": _enso,
    # higher.
    "MGH09": _mgh09,
    "Thurber": _cubic_by_cubic,
    "BoxBOD": _misra1a,
    "Rat42": _rat42,
    "MGH10": _mgh10,
    "Eckerle4": _eckerle4,
    "Rat43": _rat43,
    "Bennett5": _bennett5,
}

#: NIST's names for the most difficult.
HIGHER = ("MGH09", "Thurber", "BoxBOD", "Rat42", "MGH10", "Eckerle4", "Rat43", "Bennett5")

# Each string lists the parameters in the order b1, b2, …: identical terms exchanged.
_EXCHANGED_PEAKS = ("12345678", "12678345")
_EXCHANGED_TERMS = ("123456", "125634", "341256", "345612", "561234", "563412")
_SWAPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Gauss1", "Gauss2", "Gauss3"), _EXCHANGED_PEAKS),
    **dict.fromkeys(("Lanczos1", "Lanczos2", "Lanczos3"), _EXCHANGED_TERMS),
    "MGH17": ("12345", "13254"),
    "ENSO": ("123456789", "123789456"),
}
_SIGNLESS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Gauss1", "Gauss2", "Gauss3"), ("b5", "b8")),
}


def read(name: str) -> Problem:
    """Read one problem from its ``.dat`` file."""
    lines = (DATA / f"{name}.dat").read_text().splitlines()
    rows = {}
    for line in lines[FIRST_PARAMETER_LINE:]:
        label, _, numbers = line.partition("=")
        if not numbers:
            break
        rows[label.strip()] = [float(number) for number in numbers.split()]
    rss = next(line for line in lines if line.startswith("Residual Sum of Squares"))
    data = np.loadtxt(lines[FIRST_DATA_LINE:])
    y, x = data[:, 0], data[:, 1:].squeeze()
    if name == "Nelson":
        y = np.log(y)
    swaps = _SWAPS.get(name, ("",))
    return Problem(
        name=name,
        model=MODELS[name],
        args=(x, y),
        starts=({b: row[0] for b, row in rows.items()}, {b: row[1] for b, row in rows.items()}),
        certified={b: row[2] for b, row in rows.items()},
        errors={b: row[3] for b, row in rows.items()},
        rss=float(rss.split(":")[1]),
        symmetries=tuple({f"b{i}": f"b{n}" for i, n in enumerate(s, start=1)} for s in swaps),
        signless=_SIGNLESS.get(name, ()),
    )


problems: dict[str, Problem] = {name: read(name) for name in MODELS}
