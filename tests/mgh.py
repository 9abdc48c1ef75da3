"""The 35 problems of Moré, Garbow and Hillstrom (1981) in least squares, for tests and benchmarks.

J. J. Moré, B. S. Garbow, K. E. Hillstrom, "Testing unconstrained optimization software", ACM
Trans. Math. Softw. 7, 17; numbers are the paper's. Three of them come in more than one size.
``problems["rosenbrock"].residuals(params, args)`` is a function of a flat array.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

# To the standard start and these multiples of it, as in the paper. A start of 0 stays.
FACTORS = (1, 10, 100)


@dataclass(frozen=True)
class Problem:
    """Residuals of a flat array, the standard start, and the minima of the sum of squares."""

    name: str
    residuals: Callable  # (params, args) -> flat array
    start: np.ndarray
    minima: tuple[float, ...]  # known, the global one first
    # What an infimum at infinity tends to: no minimum, and nothing to be called converged.
    infinite: tuple[float, ...] = ()

    def starts(self) -> list[np.ndarray]:
        """Return the standard start times 1, 10 and 100, without repetition."""
        return [factor * self.start for factor in (FACTORS if np.any(self.start) else (1,))]

    def at_minimum(self, squares: float) -> bool:
        """Whether a sum of squares is that of a known minimum, all of them given to six digits."""
        return any(_close(squares, value) for value in self.minima)

    def at_infinity(self, squares: float) -> bool:
        """Whether it is that of a minimum at infinity, which is approached from above."""
        return any(_close(squares, value, 1e-2) for value in self.infinite)


def _close(squares: float, value: float, rtol: float = 1e-5) -> bool:
    # Zero is reached to rounding of residuals, of order 1 or far more along the way.
    return squares <= 1e-16 if value == 0 else abs(squares - value) <= rtol * value


problems: dict[str, Problem] = {}


def _problem(
    name: str, start: object, minima: list[float], infinite: tuple[float, ...] = ()
) -> Callable:
    def add(function: Callable) -> Callable:
        problems[name] = Problem(
            name,
            lambda params, args: jnp.concatenate([jnp.ravel(r) for r in function(params)]),
            np.asarray(start, float),
            tuple(minima),
            infinite,
        )
        return function

    return add


def _up_to(m: int) -> np.ndarray:
    return np.arange(1.0, m + 1)


@_problem("rosenbrock", [-1.2, 1], [0])
def _rosenbrock(x):
    return 10 * (x[1] - x[0] ** 2), 1 - x[0]


@_problem("freudenstein_roth", [0.5, -2], [0, 48.9842])
def _freudenstein_roth(x):
    return (
        -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1],
        -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1],
    )


@_problem("powell_badly_scaled", [0, 1], [0])
def _powell_badly_scaled(x):
    return 1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001


@_problem("brown_badly_scaled", [1, 1], [0])
def _brown_badly_scaled(x):
    return x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2


@_problem("beale", [1, 1], [0])
def _beale(x):
    return tuple(y - x[0] * (1 - x[1] ** i) for i, y in enumerate((1.5, 2.25, 2.625), start=1))


@_problem("jennrich_sampson", [0.3, 0.4], [124.362], infinite=(259.58,))
def _jennrich_sampson(x):
    i = _up_to(10)
    return (2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1])),)


@_problem("helical_valley", [-1, 0, 0], [0])
def _helical_valley(x):
    turn = jnp.arctan(x[1] / x[0]) / (2 * jnp.pi) + jnp.where(x[0] > 0, 0, 0.5)
    return 10 * (x[2] - 10 * turn), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]


_BARD = "0.14 0.18 0.22 0.25 0.29 0.32 0.35 0.39 0.37 0.58 0.73 0.96 1.34 2.10 4.39"


@_problem("bard", [1, 1, 1], [8.21487e-3], infinite=(17.4286,))
def _bard(x):
    u = _up_to(15)
    v = 16 - u
    return (np.fromstring(_BARD, sep=" ") - (x[0] + u / (v * x[1] + np.minimum(u, v) * x[2])),)


_GAUSSIAN = ".0009 .0044 .0175 .0540 .1295 .2420 .3521 .3989"


@_problem("gaussian", [0.4, 1, 0], [1.12793e-8])
def _gaussian(x):
    half = np.fromstring(_GAUSSIAN, sep=" ")
    t = (8 - _up_to(15)) / 2
    y = np.concatenate([half, half[-2::-1]])
    return (x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - y,)


_MEYER = "34780 28610 23650 19630 16370 13720 11540 9744 8261 7030 6005 5147 4427 3820 3307 2872"


@_problem("meyer", [0.02, 4000, 250], [87.9458])
def _meyer(x):
    t = 45 + 5 * _up_to(16)
    return (x[0] * jnp.exp(x[1] / (t + x[2])) - np.fromstring(_MEYER, sep=" "),)


@_problem("gulf", [5, 2.5, 0.15], [0])
def _gulf(x):
    t = _up_to(99) / 100
    y = 25 + (-50 * np.log(t)) ** (2 / 3)
    return (jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - t,)


@_problem("box3d", [0, 10, 20], [0, 0.0755887])
def _box3d(x):
    t = _up_to(10) / 10
    return (jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t)),)


@_problem("powell_singular", [3, -1, 0, 1], [0])
def _powell_singular(x):
    return (
        x[0] + 10 * x[1],
        5**0.5 * (x[2] - x[3]),
        (x[1] - 2 * x[2]) ** 2,
        10**0.5 * (x[0] - x[3]) ** 2,
    )


@_problem("wood", [-3, -1, -3, -1], [0])
def _wood(x):
    return (
        10 * (x[1] - x[0] ** 2),
        1 - x[0],
        90**0.5 * (x[3] - x[2] ** 2),
        1 - x[2],
        10**0.5 * (x[1] + x[3] - 2),
        10**-0.5 * (x[1] - x[3]),
    )


_KOWALIK_Y = ".1957 .1947 .1735 .1600 .0844 .0627 .0456 .0342 .0323 .0235 .0246"
_KOWALIK_U = "4 2 1 .5 .25 .167 .125 .1 .0833 .0714 .0625"


@_problem("kowalik_osborne", [0.25, 0.39, 0.415, 0.39], [3.07505e-4], infinite=(1.02734e-3,))
def _kowalik_osborne(x):
    y, u = np.fromstring(_KOWALIK_Y, sep=" "), np.fromstring(_KOWALIK_U, sep=" ")
    return (y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3]),)


@_problem("brown_dennis", [25, 5, -5, -1], [85822.2])
def _brown_dennis(x):
    t = _up_to(20) / 5
    return ((x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + x[3] * np.sin(t) - np.cos(t)) ** 2,)


_OSBORNE1 = (
    ".844 .908 .932 .936 .925 .908 .881 .850 .818 .784 .751 .718 .685 .658 .628 .603 .580 "
    ".558 .538 .522 .506 .490 .478 .467 .457 .448 .438 .431 .424 .420 .414 .411 .406"
)


@_problem("osborne1", [0.5, 1.5, -1, 0.01, 0.02], [5.46489e-5], infinite=(1.10603,))
def _osborne1(x):
    y, t = np.fromstring(_OSBORNE1, sep=" "), 10 * np.arange(33.0)
    return (y - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4])),)


@_problem("biggs_exp6", [1, 2, 1, 1, 1, 1], [0, 5.65565e-3], infinite=(0.306367,))
def _biggs_exp6(x):
    t = _up_to(13) / 10
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    model = x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4])
    return (model - y,)


_OSBORNE2 = (
    "1.366 1.191 1.112 1.013 .991 .885 .831 .847 .786 .725 .746 .679 .608 .655 .616 .606 .602 "
    ".626 .651 .724 .649 .649 .694 .644 .624 .661 .612 .558 .533 .495 .500 .423 .395 .375 .372 "
    ".391 .396 .405 .428 .429 .523 .562 .607 .653 .672 .708 .633 .668 .645 .632 .591 .559 .597 "
    ".625 .739 .710 .729 .720 .636 .581 .428 .292 .162 .098 .054"
)


@_problem("osborne2", [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5], [0.0401377])
def _osborne2(x):
    y, t = np.fromstring(_OSBORNE2, sep=" "), np.arange(65) / 10
    model = x[0] * jnp.exp(-t * x[4])
    for i in (1, 2, 3):
        model += x[i] * jnp.exp(-((t - x[7 + i]) ** 2) * x[4 + i])
    return (y - model,)


def _watson(x):
    j, t = np.arange(x.size), _up_to(29)[:, None] / 29
    slope = ((j[1:] * x[1:])[None] * t ** (j[1:] - 1)).sum(1)
    return slope - (x[None] * t**j).sum(1) ** 2 - 1, x[0], x[1] - x[0] ** 2 - 1


_problem("watson_6", np.zeros(6), [2.28767e-3])(_watson)
_problem("watson_9", np.zeros(9), [1.39976e-6])(_watson)
_problem("watson_12", np.zeros(12), [4.72238e-10])(_watson)


@_problem("extended_rosenbrock", [-1.2, 1] * 5, [0])
def _extended_rosenbrock(x):
    return 10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]


@_problem("extended_powell", [3, -1, 0, 1] * 3, [0])
def _extended_powell(x):
    return _powell_singular(x.reshape(-1, 4).T)


@_problem("penalty1", _up_to(10), [7.08765e-5])
def _penalty1(x):
    return 1e-5**0.5 * (x - 1), jnp.sum(x**2) - 0.25


def _penalty2(x):
    n, e = x.size, jnp.exp(x / 10)
    y = np.exp(_up_to(n) / 10)
    return (
        x[0] - 0.2,
        1e-5**0.5 * (e[1:] + e[:-1] - (y[1:] + y[:-1])),
        1e-5**0.5 * (e[1:] - np.exp(-0.1)),
        jnp.sum(_up_to(n)[::-1] * x**2) - 1,
    )


_problem("penalty2_4", [0.5] * 4, [9.37629e-6])(_penalty2)
_problem("penalty2_10", [0.5] * 10, [2.93660e-4])(_penalty2)


@_problem("variably_dimensioned", 1 - _up_to(10) / 10, [0])
def _variably_dimensioned(x):
    total = jnp.sum(_up_to(x.size) * (x - 1))
    return x - 1, total, total**2


@_problem("trigonometric", [0.1] * 10, [0, 2.79506e-5])
def _trigonometric(x):
    i = _up_to(x.size)
    return (x.size - jnp.sum(jnp.cos(x)) + i * (1 - jnp.cos(x)) - jnp.sin(x),)


@_problem("brown_almost_linear", [0.5] * 10, [0, 1])
def _brown_almost_linear(x):
    return x[:-1] + jnp.sum(x) - (x.size + 1), jnp.prod(x) - 1


def _grid(n: int) -> tuple[float, np.ndarray]:
    return 1 / (n + 1), _up_to(n) / (n + 1)


_BETWEEN = _grid(10)[1] * (_grid(10)[1] - 1)


@_problem("discrete_boundary_value", _BETWEEN, [0])
def _discrete_boundary_value(x):
    h, t = _grid(x.size)
    wide = jnp.pad(x, 1)
    return (2 * x - wide[:-2] - wide[2:] + h**2 * (x + t + 1) ** 3 / 2,)


@_problem("discrete_integral_equation", _BETWEEN, [0])
def _discrete_integral_equation(x):
    h, t = _grid(x.size)
    cube = (x + t + 1) ** 3
    below, above = jnp.cumsum(t * cube), jnp.cumsum(((1 - t) * cube)[::-1])[::-1]
    return (x + h * ((1 - t) * below + t * (above - (1 - t) * cube)) / 2,)


@_problem("broyden_tridiagonal", [-1] * 10, [0])
def _broyden_tridiagonal(x):
    wide = jnp.pad(x, 1)
    return ((3 - 2 * x) * x - wide[:-2] - 2 * wide[2:] + 1,)


@_problem("broyden_banded", [-1] * 10, [0])
def _broyden_banded(x):
    i = np.arange(x.size)
    off = i[:, None] - i
    band = (off <= 5) & (off >= -1) & (off != 0)
    return (x * (2 + 5 * x**2) + 1 - band @ (x * (1 + x)),)


@_problem("linear_full_rank", [1] * 10, [10])
def _linear_full_rank(x):
    mean = 2 / 20 * jnp.sum(x)
    return x - mean - 1, jnp.full(10, -1.0) - mean


@_problem("linear_rank_1", [1] * 10, [20 * 19 / 82])
def _linear_rank_1(x):
    return (_up_to(20) * jnp.sum(_up_to(10) * x) - 1,)


@_problem("linear_rank_1_zeros", [1] * 10, [(400 + 60 - 6) / 74])
def _linear_rank_1_zeros(x):
    total = jnp.sum(_up_to(10)[1:-1] * x[1:-1])
    return (np.r_[np.arange(19.0), 0] * total - 1,)


def _chebyquad(x):
    before, now = jnp.ones_like(x), 2 * x - 1
    rows = []
    for i in range(1, x.size + 1):
        rows.append(jnp.mean(now) - (0 if i % 2 else -1 / (i**2 - 1)))
        before, now = now, 2 * (2 * x - 1) * now - before
    return tuple(rows)


_problem("chebyquad_8", _grid(8)[1], [3.51687e-3])(_chebyquad)
_problem("chebyquad_9", _grid(9)[1], [0])(_chebyquad)
_problem("chebyquad_10", _grid(10)[1], [4.77271e-3, 6.50395e-3])(_chebyquad)
