"""One assessment of a state: hand-made points of every kind, in any unit, and exact distances."""

import jax
import jax.numpy as jnp
import nist
import numpy as np
import pytest
import scipy.optimize
from jax.test_util import check_grads

from fitkit._fisher import linearise
from fitkit._optimisers import bounded
from fitkit._result import Assessment, Kind, assess
from fitkit._result.rounding import coarsest_eps

# They mostly compile.
pytestmark = pytest.mark.slow

X = np.linspace(0.0, 3.0, 40)
NOISE = np.random.default_rng(2).normal(size=X.size)


def two(function):
    """Make a loss of two numbers a loss of params."""
    return lambda params, args: function(params["x"], params["y"])


def at(x, y):
    return {"x": np.float64(x), "y": np.float64(y)}


def cauchy(x, y):
    # Two clusters of data and one centre: concave between them, and in the tails.
    return jnp.sum(jnp.log1p((np.array([-1.0, 0.0, 1.0]) - x) ** 2)) + 0.5 * y**2


def huber(x, y):
    size = jnp.abs(np.array([-1.0, 0.5, 1.0]) - x)
    return jnp.sum(jnp.where(size < 1, 0.5 * size**2, size - 0.5)) + 0.5 * y**2


def mixture(x, y):
    return -jnp.log(jnp.exp(-0.5 * x**2) + 0.01) + 0.5 * y**2


CAUCHY = scipy.optimize.brentq(lambda x: jax.grad(cauchy)(x, 0.0), -0.5, 0.5, xtol=1e-15)

LOSSES = {
    "minimum": (two(lambda x, y: 0.5 * (x - 1) ** 2 + 50 * (y + x) ** 2), at(1, -1), "minimum"),
    "one error away": (two(lambda x, y: 0.5 * (x - 1) ** 2 + 50 * y**2), at(2, 0), "distant"),
    "saddle x·y": (two(lambda x, y: x * y), at(0, 0), "saddle"),
    "saddle x² - y²": (two(lambda x, y: x**2 - y**2), at(0, 0), "saddle"),
    "near a saddle": (two(lambda x, y: x**2 - y**2), at(0, 1), "concave"),
    "monkey saddle": (two(lambda x, y: x**3 - 3 * x * y**2), at(0, 0), "plateau"),
    "maximum": (two(lambda x, y: -(x**2) - y**2), at(0, 0), "saddle"),
    "quartic zero": (two(lambda x, y: (x - 1) ** 4 + y**2), at(1.001, 0), "degenerate"),
    "exponential tail": (two(lambda x, y: jnp.exp(-x) + y**2), at(20, 0), "running away"),
    "power tail": (two(lambda x, y: 1 / x + y**2), at(1e9, 0), "running away"),
    "line": (two(lambda x, y: -x + 0.5 * (y - 1) ** 2), at(0, 1), "sloping"),
    "absolute value": (two(lambda x, y: jnp.abs(x) + y**2), at(1, 0), "sloping"),
    "no effect": (two(lambda x, y: 0.5 * (x - 1) ** 2 + 0 * y), at(1, 3), "flat"),
    "product": (two(lambda x, y: (x * y - 6) ** 2), at(2, 3), "flat"),
    "nothing": (two(lambda x, y: 0 * x * y), at(2, 3), "plateau"),
    "underflow": (two(lambda x, y: jnp.exp(-x) + (y - 1) ** 2), at(1e4, 1), "plateau"),
    "Cauchy's tail": (two(cauchy), at(50, 0), "concave"),
    "Cauchy's minimum": (two(cauchy), at(CAUCHY, 0), "minimum"),
    "Huber's tail": (two(huber), at(50, 0), "sloping"),
    "mixture's tail": (two(mixture), at(2.8, 0), "concave"),
    "infinite": (two(lambda x, y: jnp.log(x) + y**2), at(0, 0), "non-finite"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_points_of_a_loss(name):
    loss, params, kind = LOSSES[name]
    found = assess(loss=loss, params=params, gain=1.0)
    assert found.kind == kind
    assert found.converged == (kind in ("minimum", "flat"))
    assert found.success == (kind == "minimum")
    assert found.message


UNITS = (1e-12, 1e-6, 1e6, 1e12)


# Of an infinite loss there is no number to scale; and a loss times 1e-12 is a distance times 1e-6.
SCALABLE = [name for name in LOSSES if name not in ("infinite", "one error away")]


@pytest.mark.parametrize("name", SCALABLE)
def test_no_unit_changes_the_words(name):
    loss, params, kind = LOSSES[name]

    def scaled(params, units):
        of_loss, of_x = units
        return of_loss * loss({"x": params["x"] * of_x, "y": params["y"] / of_x}, None)

    for of_loss, of_x in [(unit, 1.0) for unit in UNITS] + [(1.0, unit) for unit in UNITS]:
        there = {"x": params["x"] / of_x, "y": params["y"] * of_x}
        # Arrays, for Python's numbers would compile anew.
        args = np.float64(of_loss), np.float64(of_x)
        found = assess(loss=scaled, params=there, args=args, gain=of_loss)
        assert found.kind == kind, (of_loss, of_x)


def line(params, args):
    x, y, sigma = args
    return (params["slope"] * x + params["offset"] - y) / sigma


def data(sigma=0.1):
    y = 2 * X + 1 + sigma * NOISE
    slope, offset = np.polyfit(X, y, 1)
    return (X, y, sigma), {"slope": np.float64(slope), "offset": np.float64(offset)}


def decay(params, args):
    return (params["a"] * jnp.exp(-params["k"] * X) - args) / 0.01


def residuals_of(function):
    return lambda params, args: jnp.stack(function(params["x"], params["y"]))


# Where two residuals of Freudenstein and Roth cannot both be 0, the best is 48.98.
VALLEY = (2 - 22**0.5) / 3

RESIDUALS = {
    # A sum of squares of 0, met to the last digit, and not yet.
    "exact": (residuals_of(lambda x, y: (10 * (y - x**2), 1 - x)), at(1, 1), "met"),
    "nearly exact": (residuals_of(lambda x, y: (10 * (y - x**2), 1 - x)), at(1.1, 1), "distant"),
    # Freudenstein and Roth: J is singular at the minimum of 48.98, whose curvature is ∇²r's.
    "singular J": (
        residuals_of(
            lambda x, y: (
                -13 + x + ((5 - y) * y - 2) * y,
                -29 + x + ((y + 1) * y - 14) * y,
            )
        ),
        at(21 + 8 * VALLEY - 3 * VALLEY**2, VALLEY),
        "minimum",
    ),
    "saddle": (residuals_of(lambda x, y: (x * y + 1, x * y)), at(0, 0), "saddle"),
    "product": (
        residuals_of(lambda x, y: (x * y - 5, x * y - 7, 2 * x * y - 12)),
        at(2, 3),
        "flat",
    ),
    "exponential tail": (
        residuals_of(lambda x, y: (jnp.exp(-x), y - 1)),
        at(30, 1),
        "running away",
    ),
    "power tail": (residuals_of(lambda x, y: (1 / x, y - 1)), at(1e5, 1), "running away"),
    "zero of order four": (
        residuals_of(lambda x, y: ((x - 1) ** 2, y)),
        at(1 + 1e-8, 0),
        "degenerate",
    ),
    "plateau": (residuals_of(lambda x, y: (jnp.exp(-x) - 1, 0 * y - 1)), at(1e4, 1), "plateau"),
    "idle": (residuals_of(lambda x, y: (x - 1, x - 2, 0 * y - 1)), at(1.5, 3), "flat"),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_points_of_residuals_in_any_unit(name):
    residuals, params, kind = RESIDUALS[name]

    def scaled(params, units):
        of_residuals, of_x = units
        return of_residuals * residuals({"x": params["x"] * of_x, "y": params["y"] / of_x}, None)

    cases = [(1.0, 1.0)] + [(unit, 1.0) for unit in UNITS] + [(1.0, unit) for unit in UNITS]
    for units in cases:
        there = {"x": params["x"] / units[1], "y": params["y"] * units[1]}
        found = assess(scaled, there, tuple(map(np.float64, units)))
        assert found.kind == kind, units
        assert found.converged == (kind in ("minimum", "flat", "met"))


def test_a_zero_of_higher_order_is_met_when_all_but_rounding_is_gained():
    residuals = RESIDUALS["zero of order four"][0]
    assert assess(residuals, at(1 + 1e-8, 0), gain=1e-4).kind == "degenerate"
    assert assess(residuals, at(1 + 1e-9, 0), gain=0.5).kind == "met"


@pytest.mark.parametrize("sigma", [0.1, 1e-9, 1e9])
def test_the_distance_is_in_standard_errors(sigma):
    args, best = data(sigma)
    x = args[0]
    design = np.stack([x, np.ones_like(x)], 1)
    left = design @ [best["slope"], best["offset"]] - args[1]
    covariance = np.linalg.inv(design.T @ design) * (left @ left) / (x.size - 2)
    for errors in (0.0, 1e-4, 0.01, 1.0, 5.0):
        moved = {**best, "slope": best["slope"] + errors * covariance[0, 0] ** 0.5}
        # With the offset where it is, the slope alone is known better.
        expected = errors * (covariance[0, 0] * np.linalg.inv(covariance)[0, 0]) ** 0.5
        found = assess(line, moved, args)
        # Of data with ten digits of noise the rest is the rounding of the data themselves.
        rounding = max(1e-9, 3 * found.floor)
        assert found.distance == pytest.approx(expected, rel=1e-6, abs=rounding)
        assert found.converged == (expected <= 1e-3)


@pytest.mark.parametrize("name", ["Misra1a", "DanWood", "Gauss1", "Kirby2", "Rat42", "MGH09"])
def test_the_distance_of_nist_problems_is_right_to_a_tenth(name):
    problem = nist.problems[name]
    keys = list(problem.certified)
    best = np.array([problem.certified[key] for key in keys])
    _, transposed = linearise(
        problem.residuals,
        problem.certified | {},
        dict.fromkeys(keys),
        problem.args,
        jnp.asarray(best),
    )
    jacobian = np.asarray(transposed).T * best
    scatter = (problem.rss / problem.degrees_of_freedom) ** 0.5
    _, sizes, right = np.linalg.svd(jacobian / scatter, full_matrices=False)
    for errors in (0.01, 0.1, 0.5, 1.0):
        for which in (0, -1):
            for sign in (-1, 1):
                moved = best * (1 + sign * errors * right[which] / sizes[which])
                found = assess(problem.residuals, dict(zip(keys, moved, strict=True)), problem.args)
                assert found.kind != "minimum"
                # Of 1e-2 errors the certified digits leave a part in a thousand at least.
                assert found.distance == pytest.approx(errors, rel=0.1)


@pytest.mark.parametrize("name", nist.problems)
def test_certified_parameters_are_minima(name):
    problem = nist.problems[name]
    start = problem.certified
    keys = list(start)
    # Eleven digits are not enough for Lanczos2, whose data are exact to six.
    fit = scipy.optimize.least_squares(
        lambda b: np.asarray(problem.residuals(dict(zip(keys, b, strict=True)), problem.args)),
        [start[key] for key in keys],
        x_scale=np.abs([start[key] for key in keys]),
        method="lm",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    found = assess(problem.residuals, dict(zip(keys, fit.x, strict=True)), problem.args)
    assert found.kind == "minimum"
    assert found.success


def test_bounds():
    loss = two(lambda x, y: 0.5 * (x - 1) ** 2 + 50 * (y - 2) ** 2)

    def found(x_value, y_value, **limits):
        x, y = x_value, y_value
        return assess(loss=loss, params=at(x, y), bounds=bounded(limits, at(x, y)), gain=1.0)

    out = found(2, 2, x=(2, None))
    assert (out.kind, out.at_bound, out.distance) == ("minimum", ("x",), 0)
    near = found(2 + 1e-9, 2, x=(2, None))
    assert (near.kind, near.at_bound) == ("minimum", ("x",))
    into = found(2, 2, x=(None, 2))
    assert (into.kind, into.at_bound) == ("distant", ())
    assert into.distance == pytest.approx(1)
    both = found(2, 3, x=(2, None), y=(3, None))
    assert (both.kind, both.at_bound) == ("minimum", ("x", "y"))
    other = found(2, 3, x=(2, None))
    assert (other.kind, other.at_bound) == ("distant", ("x",))
    # On a bound without any derivative left, and pushed against it: held, and not flat.
    root = assess(
        loss=two(lambda x, y: x + 0.5 * (y - 1) ** 2),
        params=at(0, 1),
        bounds=bounded({"x": (0, None)}, at(0, 1)),
        gain=1.0,
    )
    assert (root.kind, root.flat, root.at_bound) == ("minimum", (), ("x",))


def test_frozen_parts():
    args, best = data()
    moved = {**best, "slope": best["slope"] + 1.0}
    assert assess(line, moved, args).kind == "distant"
    offset = {"slope": moved["slope"], "offset": np.mean(args[1] - moved["slope"] * X)}
    assert assess(line, offset, args, frozen="slope").kind == "minimum"
    assert assess(line, offset, args, frozen=("slope", "offset")).kind == "frozen"


def masked(params, args):
    x, y, sigma, mask = args
    return (
        jnp.where(mask, params["slope"] * x + params["offset"] - jnp.where(mask, y, 0), 0) / sigma
    )


def test_masked_residuals_are_no_data():
    (x, y, sigma), _ = data()
    mask = np.arange(x.size) % 4 == 0
    slope, offset = np.polyfit(x[mask], y[mask], 1)
    best = {"slope": np.float64(slope), "offset": np.float64(offset)}
    args = (x, np.where(mask, y, np.nan), sigma, mask)
    found = assess(masked, best, args)
    assert (found.kind, found.left_out) == ("minimum", 30)
    error = np.polyfit(x[mask], y[mask], 1, cov=True)[1][0, 0] ** 0.5
    moved = {**best, "slope": best["slope"] + error}
    few = assess(masked, moved, args)
    same = assess(line, moved, (x[mask], y[mask], sigma))
    assert few.distance == pytest.approx(same.distance, rel=1e-9)
    assert assess(masked, best, args, frozen=("slope", "offset")).left_out == 30


def test_a_parameter_too_coarse_for_its_error_is_named():
    # The time of a transit in days: single precision has steps of a quarter of a day.
    t = np.linspace(2459000.0, 2459004.0, 400)
    dip = 0.01 * np.exp(-0.5 * ((t - 2459002.43) / 0.3) ** 2)
    y = 1 - dip + 1e-3 * np.random.default_rng(0).normal(size=400)

    def residuals(params, args):
        model = 1 - params["d"] * jnp.exp(-0.5 * ((args[0] - params["t0"]) / 0.3) ** 2)
        return (model - args[1]) / np.float32(1e-3)

    args = t.astype(np.float32), y.astype(np.float32)
    # The depth that fits best where the time cannot move.
    shape = np.exp(-0.5 * ((args[0] - np.float32(2459002.5)).astype(float) / 0.3) ** 2)
    depth = shape @ (1 - y) / (shape @ shape)
    found = assess(residuals, {"d": np.float32(depth), "t0": np.float32(2459002.5)}, args)
    assert found.kind == "coarse"
    assert found.coarse == ("t0",)
    assert not found.converged


def test_float32_inside_float64_is_seen():
    def single(params, args):
        k = params["k"].astype(jnp.float32)
        return (params["a"].astype(jnp.float32) * jnp.exp(-k * X.astype(np.float32))).astype(
            jnp.float64
        )

    def looped(params, args):
        def body(i, carry):
            return carry + params["a"].astype(jnp.float32).astype(jnp.float64)

        return jax.lax.fori_loop(0, 3, body, jnp.float64(0))

    def scanned(params, args):
        def body(carry, _):
            return carry.astype(jnp.float32).astype(jnp.float64), None

        return jax.lax.scan(body, params["a"], None, 3)[0]

    def beside(params, args):
        return params["a"] * args.astype(jnp.float64) + params["k"]

    params = {"a": jnp.float64(2.0), "k": jnp.float64(1.3)}
    held = {"a": None, "k": None}
    eps = np.finfo(np.float32).eps, np.finfo(np.float64).eps
    assert coarsest_eps(single, params, held, None) == eps[0]
    assert coarsest_eps(looped, params, held, None) == eps[0]
    assert coarsest_eps(scanned, params, held, None) == eps[0]
    assert coarsest_eps(jax.jit(single), params, held, None) == eps[0]
    # float32 that no parameter passes through counts for nothing.
    assert coarsest_eps(beside, params, held, jnp.float32(3.0)) == eps[1]

    y = 2 * np.exp(-1.3 * X) + 0.01 * NOISE

    def residuals(params, args):
        return (single(params, args) - y) / 0.01

    best, _ = scipy.optimize.curve_fit(lambda x, a, k: a * np.exp(-k * x), X, y, p0=[1, 1])
    found = assess(residuals, {"a": best[0], "k": best[1]})
    assert found.kind == "minimum"
    assert 1e-6 < found.floor < 1e-2
    assert assess(residuals, {"a": best[0] + 0.01, "k": best[1]}).kind == "distant"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_null_eigenvectors_are_flat_in_every_precision(dtype):
    x = X.astype(dtype)
    y = (2 * X + 1 + 0.1 * NOISE).astype(dtype)

    def residuals(params, args):
        return (params["flux"] + params["sky"] + params["a"] * params["b"] * x - y) / dtype(0.1)

    slope, offset = np.polyfit(X, y, 1)
    params = {"flux": offset - 3, "sky": 3.0, "a": slope / 0.7, "b": 0.7}
    found = assess(residuals, {path: dtype(value) for path, value in params.items()})
    assert found.kind == "flat"
    assert len(found.flat) == 2
    assert found.flat[1] == "flux - sky"


def test_a_loss_needs_what_the_fit_gained_for_its_unit():
    # A plain sum of squares of data of 1e-8: far from the minimum, and all numbers small.
    scale = 1e-8
    y = np.exp(-0.5 * ((X - 1.4) / 0.2) ** 2) * scale

    def loss(params, args):
        model = params["a"] * jnp.exp(-0.5 * ((X - params["m"]) / 0.2) ** 2)
        return jnp.sum((model - y) ** 2)

    start = {"a": np.float64(1.5 * scale), "m": np.float64(1.6)}
    gain = float(loss(start, None))
    for m in (1.4 + 1e-2, 1.4 + 1e-4):
        found = assess(loss=loss, params={"a": np.float64(scale), "m": np.float64(m)}, gain=gain)
        assert found.converged == (m < 1.401)
    assert not assess(loss=loss, params=start, gain=0.0).converged
    assert not assess(loss=loss, params=start, gain=0.0).unit_known
    assert assess(
        loss=loss, params={"a": np.float64(scale), "m": np.float64(1.4)}, gain=0.0
    ).success


@pytest.mark.parametrize("size", [600])
def test_many_parameters(size):
    weights = np.geomspace(1e-3, 1e3, size)

    def loss(params, args):
        x = params["x"]
        return (
            0.5 * jnp.sum(weights**2 * (x - 1) ** 2)
            + 0.1 * jnp.sum((x[1:] - x[:-1]) ** 2)
            + (args * x[0] ** 2)
        )

    found = assess(loss=loss, params={"x": np.ones(size)}, args=0.0, gain=1e3)
    assert found.kind == "settled"
    assert found.success
    assert "no negative curvature found" in found.message
    moved = np.ones(size) + 1 / weights * np.sign(np.sin(np.arange(size)))
    away = assess(loss=loss, params={"x": moved}, args=0.0, gain=1e3)
    assert away.kind == "distant"
    hessian = np.diag(weights**2) + 0.2 * (
        2 * np.eye(size)
        - np.diag(np.r_[1, np.zeros(size - 2), 1])
        - np.eye(size, k=1)
        - np.eye(size, k=-1)
    )
    exact = (moved - 1) @ hessian @ (moved - 1)
    # Exact of a parabola, to where conjugate gradients stop.
    assert away.distance == pytest.approx(exact**0.5, rel=0.1)
    assert assess(loss=loss, params={"x": np.ones(size)}, args=-5.0, gain=1e3).kind in (
        "concave",
        "saddle",
    )
    sloping = assess(loss=lambda p, args: jnp.sum(p["x"]), params={"x": np.ones(size)}, gain=1.0)
    assert sloping.kind == "sloping"


def test_many_parameters_of_residuals():
    size = 600
    y = np.random.default_rng(1).normal(size=(3, size))
    best = y.mean(axis=0)

    def residuals(params, args):
        return params["x"][None] - y

    assert assess(residuals, {"x": best}).kind == "settled"
    one = best.copy()
    one[7] += 3**-0.5
    spread = np.sum((y - best) ** 2) / (2 * size)
    assert assess(residuals, {"x": one}).distance == pytest.approx(spread**-0.5, rel=1e-3)


@jax.custom_vjp
def reverse_only(x):
    return jnp.exp(-x)


reverse_only.defvjp(lambda x: (jnp.exp(-x), x), lambda x, g: (-g * jnp.exp(-x),))


def forward_only(x):
    def step(carry):
        total, term, k = carry
        return total + term, -term * x / (k + 1), k + 1

    start = jnp.zeros_like(x), jnp.ones_like(x), 0.0
    return jax.lax.while_loop(lambda carry: jnp.any(jnp.abs(carry[1]) > 1e-17), step, start)[0]


@pytest.mark.parametrize("exponential", [reverse_only, forward_only])
def test_functions_with_one_mode_of_differentiation(exponential):
    y = 2 * np.exp(-1.3 * X) + 0.01 * NOISE
    best, covariance = scipy.optimize.curve_fit(
        lambda x, a, k: a * np.exp(-k * x), X, y, p0=[1, 1], xtol=1e-15, ftol=1e-15, gtol=1e-15
    )

    def residuals(params, args):
        return params["a"] * exponential(params["k"] * X) - y

    check_grads(lambda k: jnp.exp(-k), (1.0,), order=1)
    params = {"a": best[0], "k": best[1]}
    assert assess(residuals, params).kind == "minimum"
    moved = {**params, "k": best[1] + covariance[1, 1] ** 0.5}
    expected = (covariance[1, 1] * np.linalg.inv(covariance)[1, 1]) ** 0.5
    assert assess(residuals, moved).distance == pytest.approx(expected, rel=1e-2)
    loss = assess(
        loss=lambda p, args: 0.5 * jnp.sum((residuals(p, args) / 0.01) ** 2),
        params=params,
        gain=1.0,
    )
    assert loss.kind == "minimum"


def test_it_compiles_once():
    traces = []

    def residuals(params, args):
        traces.append(None)
        return line(params, args)

    args, best = data()
    assess(residuals, best, args)
    count = len(traces)
    assert assess(residuals, {**best, "slope": best["slope"] + 1e-9}, args).kind is Kind.MINIMUM
    assert len(traces) == count


def test_every_kind_has_its_line():
    lines = {Assessment(kind).message for kind in Kind}
    assert len(lines) == len(Kind)
