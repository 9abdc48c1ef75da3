"""Profiles, intervals and contours: those of MINUIT, of closed forms and of SciPy, and honest."""

import copy
import dataclasses
import pickle
from typing import Any

import jax.numpy as jnp
import nist
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure
from scipy.optimize import brentq, least_squares, minimize_scalar
from test_programs import compiled, listening

import fitkit as fk

# Crossings are found to 1e-6 of their distance from the minimum.
FOUND = 2e-6

X = np.linspace(0.0, 2.0, 9)
Y = 3 * np.exp(-1.5 * X) + 0.3 * (-1.0) ** np.arange(9)
SIGMA = 0.5
_ = listening  # A fixture of this module, too.
NO_STEP = optax.sgd(0.1)  # For fits that start at their minimum.


def decay(params, args):
    x, y = args
    height, rate = params["p"]
    return (params["offset"] + height * jnp.exp(-rate * x) - y) / SIGMA


def make_decay(bounds=None):
    start = {"offset": 0.0, "p": jnp.array([1.0, 1.0])}
    fit = fk.Fit(residuals=decay, params=start, args=(X, Y), bounds=bounds)
    fit.freeze("offset")
    fit.run(progress=False)
    return fit


@pytest.fixture(scope="module")
def decayed():
    return make_decay()


@pytest.fixture(scope="module")
def bounded():
    return make_decay({"p": (np.array([0.0, 1.0]), np.array([np.inf, 1.6]))})


def chi_square(height, rate):
    return np.sum(((height * np.exp(-rate * X) - Y) / SIGMA) ** 2)


def lowest_of_rate(rate):
    """Chi-square and height where it is lowest: the model is linear in the height."""
    shape = np.exp(-rate * X)
    height = shape @ Y / (shape @ shape)
    return chi_square(height, rate), height


def ends_of_rate(fit, rise):
    best, least = float(fit.params["p"][1]), 2 * fit.loss

    def above(rate):
        return lowest_of_rate(rate)[0] - least - rise

    return brentq(above, 0.1, best, xtol=1e-12), brentq(above, best, 6.0, xtol=1e-12)


def test_a_profile_is_the_closed_form(decayed):
    profile = decayed.profile("p[1]", size=11)
    squares, heights = np.transpose([lowest_of_rate(rate) for rate in profile.values])
    assert profile.settled.all()
    # Minimised to where a step gains less than rounding.
    assert 2 * profile.loss == pytest.approx(squares, rel=1e-9)
    assert profile.delta == pytest.approx(squares - 2 * decayed.loss, abs=1e-8)
    found = profile.params["p"]
    assert found[:, 0] == pytest.approx(heights, rel=1e-5)
    assert np.array_equal(found[:, 1], profile.values) and "offset" not in profile.params
    assert profile.intervals[1] == pytest.approx(ends_of_rate(decayed, 1), rel=FOUND)
    assert profile.intervals[2] == pytest.approx(ends_of_rate(decayed, 4), rel=FOUND)
    assert profile.error == pytest.approx(decayed.result().errors["p"][1], rel=1e-9)
    assert profile.better is None
    (warning,) = profile.warnings
    assert "the standard error misleads: at level 2 the upper side is 1.4" in warning


def test_intervals_of_a_result_by_level_and_unit(decayed):
    result = decayed.result()
    intervals = result.intervals(0.9545)
    # The quantile of a normal variable at 0.9545 is 2.0000024.
    assert [end[1] for end in intervals["p"]] == pytest.approx(ends_of_rate(decayed, 4), rel=1e-5)
    assert intervals["offset"] == (0, 0)  # Frozen.
    scaled = decayed.result(absolute_sigma=False)
    ends = ends_of_rate(decayed, result.reduced_chi_square)
    assert [end[1] for end in scaled.intervals()["p"]] == pytest.approx(ends, rel=FOUND)
    profile = decayed.profile("p[1]", levels=(1,), size=3, absolute_sigma=False)
    assert profile.intervals[1] == pytest.approx(ends, rel=FOUND)
    value, error = scaled.values["p"], scaled.errors["p"]
    for end, sign in zip(scaled.intervals(2, "parabola")["p"], (-1, 1), strict=True):
        assert np.array_equal(end, value + sign * 2 * error)


def test_a_second_profile_compiles_nothing(decayed, unchecked):
    decayed.profile("p[1]", size=5)
    assert compiled(lambda: decayed.profile("p[0]", size=5)) == 0
    assert compiled(lambda: make_decay().profile("p[0]", size=7)) == 0
    assert compiled(decayed.result().intervals) == 0


def test_a_contour_is_where_chi_square_has_risen(decayed):
    contour = decayed.contour("p[1]", "p[0]", level=0.9, size=32)
    assert contour.delta == pytest.approx(-2 * np.log(0.1))
    x, y = contour.points.T
    above = [chi_square(*one) - 2 * decayed.loss for one in zip(y, x, strict=True)]
    # It rises with up to the fifth power of the distance here.
    assert above == pytest.approx(np.full(len(x), contour.delta), rel=5 * FOUND)
    assert contour.on_curve.all() and not contour.warnings
    # Counter-clockwise: the area that it encloses is positive.
    assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0


@pytest.mark.slow
def test_intervals_end_at_bounds_and_others_keep_to_theirs(bounded):
    low, high = bounded.result().intervals(2)["p"]
    assert (low[1], high[1]) == (1.0, 1.6)

    def above(height):
        lowest = minimize_scalar(
            lambda rate: chi_square(height, rate),
            bounds=(1.0, 1.6),
            method="bounded",
            options={"xatol": 1e-12},
        )
        return lowest.fun - 2 * bounded.loss - 4

    # At the upper end the rate is on its bound, which SciPy comes near to.
    ends = brentq(above, 1, 3), brentq(above, 3.2, 6)
    assert (low[0], high[0]) == pytest.approx(ends, rel=1e-5)
    profile = bounded.profile("p[0]", size=5)
    assert profile.params["p"][-1, 1] == 1.6
    warnings = bounded.profile("p[1]", size=5).warnings
    assert "the upper end at level 1 is the bound of p[1]: the data alone go on" in warnings
    contour = bounded.contour("p[1]", "p[0]", level=2, size=32)
    assert contour.points[:, 0].min() == 1.0 and contour.points[:, 0].max() == 1.6
    assert np.isin(contour.points[~contour.on_curve][:, 0], [1.0, 1.6]).all()


def test_they_are_drawn(decayed):
    ax = decayed.profile("p[1]", size=5).plot(Figure().subplots())
    assert [line.get_label() for line in ax.get_lines()].count("parabola") == 1
    assert ax.get_xlabel() == "p[1]"
    contour = decayed.contour("p[1]", "p[0]", size=32)
    contour = dataclasses.replace(contour, on_curve=np.arange(32) > 4)
    ax = contour.plot(Figure().subplots())
    # The curve, and under it a dotted one that shows where it is not at its level.
    assert {line.get_linestyle() for line in ax.get_lines()} >= {":", "-"}


def test_what_cannot_be_is_refused_in_words(decayed, unchecked):
    with pytest.raises(fk.UnknownPathError, match="profile: no parameter 'q'. The parameters are"):
        decayed.profile("q")
    with pytest.raises(ValueError, match="'offset' is frozen, so it has no profile. Thaw it"):
        decayed.profile("offset")
    with pytest.raises(ValueError, match="'p' has 2 elements; must be one of them, such as 'p.0.'"):
        decayed.contour("p", "p[1]")
    with pytest.raises(ValueError, match=r"contour: 'p\[0\]' twice"):
        decayed.contour("p[0]", "p[0]")
    with pytest.raises(ValueError, match="level=-1; must be a probability between 0 and 1"):
        decayed.profile("p[0]", levels=(-1,))
    with pytest.raises(ValueError, match="size=2; must be a whole number of points"):
        decayed.profile("p[0]", size=2)
    with pytest.raises(ValueError, match="method='minos'; must be 'profile' or 'parabola'"):
        decayed.result().intervals(method="minos")
    begun = fk.Fit(residuals=decay, params={"offset": 0.0, "p": jnp.ones(2)}, args=(X, Y))
    with pytest.raises(ValueError, match=r"has not converged .*Run it until it has: fit.run\(\)"):
        begun.profile("p[0]")
    for again in (pickle.loads(pickle.dumps(decayed.result())), copy.deepcopy(decayed.result())):
        with pytest.raises(ValueError, match="does not know its model"):
            again.intervals()
        assert again.intervals(2, "parabola").keys() == {"offset", "p"}


@pytest.mark.slow
def test_open_ends_and_edges():
    """An arctan never rises to 1; a root ends where it is no number; one has no effect."""

    def loss(params, args):
        rest = 0 * params["free"]
        return (jnp.arctan(params["open"]) ** 2 + (params["edge"] ** 0.5 - 1) ** 2) / 8 + rest

    fit = fk.Fit(loss=loss, params={"edge": 1.0, "free": 0.3, "open": 0.0}, optimiser=NO_STEP)
    edge = fit.profile("edge", levels=(1,), size=5)
    # Bisected to 1e-6 of the distance, from the inside.
    assert edge.intervals[1] == pytest.approx((0, 9), rel=FOUND, abs=1e-6)
    assert "the lower end at level 1 is where the loss ceases to be finite" in edge.warnings
    for path in ("open", "free"):
        profile = fit.profile(path, levels=(1,), size=5)
        assert profile.intervals[1] == (-np.inf, np.inf)
        assert np.isfinite(profile.values).all() and np.isfinite(profile.delta).all()
        assert any("upper end at level 1 is open" in warning for warning in profile.warnings)
    with pytest.warns(UserWarning, match="the data leave one eigenvector free"):
        assert fit.result().intervals()["free"] == (-np.inf, np.inf)
    contour = fit.contour("open", "edge", size=16)
    assert np.isfinite(contour.points).all() and not contour.on_curve.all()


def test_a_lower_minimum_is_reported_with_its_parameters():
    """Of two, at the roots of 4 x³ - 4 x + c = 0: the lower one where x is negative."""
    start, _, lower = np.sort(np.roots([4, 0, -4, 0.4]))[::-1]
    fit = fk.Fit(
        loss=lambda params, args: (params["x"] ** 2 - 1) ** 2 + 0.4 * params["x"],
        params={"x": float(start)},
        optimiser=NO_STEP,
    )
    profile = fit.profile("x", levels=(2,))
    better: Any = profile.better
    assert float(better["x"]) == pytest.approx(lower, abs=1e-6)
    (warning,) = (one for one in profile.warnings if "a lower minimum was found" in one)
    assert "x = -1.04" in warning and "fit.restart(params=" in warning
    fit.restart(params=profile.better)
    assert fit.profile("x", levels=(2,)).better is None


def test_a_linear_model_has_a_parabola():
    """The line of iminuit's first tutorial (notebooks/basic.html), with its data rounded."""
    y = np.array([1.03, 1.3, 1.48, 1.54, 1.98, 2.16, 2.28, 2.61, 2.81, 3.03])
    x = np.linspace(0, 1, 10)
    slope, offset = np.polyfit(x, y, 1)
    fit = fk.Fit(
        loss=lambda p, args: jnp.sum(((p["a"] + p["b"] * x - y) / 0.1) ** 2) / 2,
        params={"a": float(offset), "b": float(slope)},
        optimiser=NO_STEP,
    )
    profile = fit.profile("a")
    # iminuit 2.33.0: minos() of LeastSquares(x, y, 0.1, line).
    found = np.array(profile.intervals[1]) - profile.value
    assert found == pytest.approx((-0.0587754, 0.0587754), rel=1e-5)
    assert not profile.warnings
    intervals, parabola = fit.result().intervals(2), fit.result().intervals(2, "parabola")
    for path in ("a", "b"):
        assert np.array(intervals[path]) == pytest.approx(np.array(parabola[path]), rel=FOUND)
    contour = fit.contour("a", "b")
    points = contour.points - contour.values
    rises = np.sum(points @ fit.result().fisher.matrix * points, axis=1)
    assert rises == pytest.approx(np.full(len(rises), contour.delta), rel=2 * FOUND)


# iminuit 2.33.0, of the counting experiment in its tutorial "Hesse and Minos"
# (https://scikit-hep.org/iminuit/notebooks/hesse_and_minos.html): minos() and minos(cl=2) of
# λ - k ln λ with errordef 0.5 and tol 1e-5, for k of 1, 3 and 10; errors less the value.
COUNTS = {
    1: (-0.698286, 1.357696, -0.947526, 3.505245),
    3: (-1.416005, 2.080258, -2.279520, 4.907670),
    10: (-2.838110, 3.504028, -5.067595, 7.722489),
}


@pytest.mark.parametrize("count", COUNTS)
def test_intervals_of_a_likelihood_are_those_of_minos(count):
    fit = fk.Fit(
        loss=lambda params, k: params["mean"] - k * jnp.log(params["mean"]),
        params={"mean": float(count)},
        args=jnp.asarray(float(count)),
        optimiser=NO_STEP,
    )
    intervals = fit.profile("mean", size=5).intervals
    found = np.concatenate([intervals[1], intervals[2]]) - count
    # MINUIT's own tolerance: its value of the mean is wrong by up to 2e-5.
    assert found == pytest.approx(COUNTS[count], rel=5e-5)


# iminuit 2.33.0: migrad() from the certified values with gradient, strategy 2 and tol 1e-4, then
# minos() and minos(cl=2), of the sum of squares over its certified variance.
MINOS = {
    "Misra1a": {
        "b1": (-2.676733, 2.745878, -5.286910, 5.563604),
        "b2": (-7.273532e-06, 7.280971e-06, -1.453720e-05, 1.457259e-05),
    },
    "MGH17": {
        "b1": (-0.002098231, 0.002085086, -0.004210119, 0.004157574),
        "b2": (-0.1846291, 0.2857733, -0.3159486, 0.8147281),
        "b3": (-0.2872122, 0.1860914, -0.8175832, 0.3188971),
        "b4": (-0.0004186121, 0.0005026118, -0.0007806839, 0.001148066),
        "b5": (-0.0009532687, 0.0008744273, -0.002043815, 0.001697743),
    },
    "Rat42": {
        "b1": (-1.609459, 1.778391, -3.079429, 3.761996),
        "b2": (-0.08582032, 0.09045660, -0.1673679, 0.1859162),
        "b3": (-0.003305186, 0.003431294, -0.006495563, 0.007000884),
    },
}


def fit_of(name):
    problem = nist.problems[name]
    fit = fk.Fit(residuals=problem.residuals, params=problem.starts[1], args=problem.args)
    fit.run(progress=False)
    return problem, fit


@pytest.mark.slow
@pytest.mark.parametrize("name", MINOS)
def test_intervals_of_nist_problems_are_those_of_minos(name):
    _, fit = fit_of(name)
    result = fit.result(absolute_sigma=False)
    pairs = result.intervals(1), result.intervals(2)
    for path, minos in MINOS[name].items():
        found = np.array([end for ends in pairs for end in ends[path]]) - result.values[path]
        # MINUIT's are as near as that: of Misra1a, b2 at level 2 has a closed form, -1.453966e-05
        # and 1.456941e-05, from which it is 2e-4 off.
        assert found == pytest.approx(minos, rel=3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MGH17", "Rat42"])
def test_profiles_of_nist_problems_are_those_of_scipy(name):
    problem, fit = fit_of(name)
    names = tuple(problem.certified)
    for path in names[:2]:
        profile = fit.profile(path, size=5, absolute_sigma=False)
        others = [one for one in names if one != path]
        for k, value in enumerate(profile.values):
            scale = np.array([float(profile.params[one][k]) for one in others])

            def residuals(z, scale=scale, value=value, path=path, others=others):
                b = {path: value, **dict(zip(others, z * scale, strict=True))}
                return np.asarray(problem.residuals(b, problem.args))

            # From next to it: whether there is anything lower, and nothing is higher.
            found = least_squares(
                residuals, np.full(len(others), 1.001), "3-point", xtol=1e-15, ftol=1e-15
            )
            assert profile.loss[k] == pytest.approx(found.cost, rel=1e-7)
        assert profile.settled.all()


# iminuit 2.33.0, as above: mncontour("b1", "b2", size=8), with cl=None (0.68) and cl=0.9, of Rat42.
MNCONTOUR = {
    0.68: [
        (70.08777119, 2.675600818),
        (70.94731727, 2.559128012),
        (71.81376915, 2.518550688),
        (73.54666537, 2.490188760),
        (75.22306406, 2.560569969),
        (74.25375612, 2.665895707),
        (73.27989175, 2.713220071),
        (71.33121398, 2.756529098),
    ],
    0.9: [
        (69.17848779, 2.701685698),
        (70.37322062, 2.531477918),
        (71.57873682, 2.475908981),
        (73.98930080, 2.439141924),
        (76.53361763, 2.537334655),
        (75.11800737, 2.682064273),
        (73.69668771, 2.750980892),
        (70.85252260, 2.818367685),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("level", MNCONTOUR)
def test_contours_are_those_of_minuit(level):
    _, fit = fit_of("Rat42")
    contour = fit.contour("b1", "b2", level=level, size=256, absolute_sigma=False)
    errors = fit.result(absolute_sigma=False).errors
    unit = np.array([errors["b1"], errors["b2"]])
    ours = (contour.points - contour.values) / unit
    theirs = (np.array(MNCONTOUR[level]) - contour.values) / unit
    angles, order = np.arctan2(*ours.T[::-1]), np.argsort(np.arctan2(*ours.T[::-1]))
    at = np.arctan2(*theirs.T[::-1])
    lengths = np.interp(at, angles[order], np.linalg.norm(ours, axis=1)[order], period=2 * np.pi)
    # Between 256 points the line is up to 1e-4 inside of the curve; MINUIT's are as good.
    assert np.linalg.norm(theirs, axis=1) == pytest.approx(lengths, rel=3e-4)
