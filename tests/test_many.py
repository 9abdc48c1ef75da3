"""Many systems: right against SciPy and NIST, each by itself to the bit, and honest."""

import _thread
import threading
from typing import Any

import jax
import jax.numpy as jnp
import nist
import numpy as np
import optax
import pytest
from scipy.optimize import curve_fit, least_squares

import fitkit as fk

X = np.linspace(-1.0, 1.0, 30)
SIGMA = 0.1
START = {"centre": 0.0, "flux": 3.0, "sky": 0.0}


def model(params, x):
    return params["flux"] * jnp.exp(-8 * (x - params["centre"]) ** 2) + params["sky"]


def residuals(params, args):
    x, y = args
    return (model(params, x) - y) / SIGMA


def spectra(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centre = draw.uniform(-0.4, 0.4, (count, 1))
    return 5 * np.exp(-8 * (X - centre) ** 2) + SIGMA * draw.normal(size=(count, X.size))


DATA = spectra(300)


def fit(y=DATA, params=START, **keywords):
    keywords = {"args_axes": (None, 0), "progress": False} | keywords
    return fk.fit_many(residuals, params, (X, y), **keywords)


@pytest.fixture(scope="module")
def many():
    return fit()


def same(one, other, here: Any = slice(None), there: Any = slice(None)) -> bool:
    """Whether two answers are the same to the bit, NaN included."""
    pairs = [(one.values[path], other.values[path]) for path in one.values]
    pairs += [(one.errors[path], other.errors[path]) for path in one.errors]
    pairs += [(one.chi_square, other.chi_square), (one.rounds, other.rounds)]
    numbers = all(np.array_equal(a[here], b[there], equal_nan=True) for a, b in pairs)
    return numbers and np.array_equal(one.status[here], other.status[there])


def by_scipy(y, good=slice(None)):
    start = [START[name] for name in ("centre", "flux", "sky")]
    found, covariance = curve_fit(
        lambda x, c, f, s: f * np.exp(-8 * (x - c) ** 2) + s,
        X[good],
        y[good],
        p0=start,
        sigma=np.full(X[good].size, SIGMA),
        absolute_sigma=True,
        # Or it would be by finite differences, right to six digits.
        jac=lambda x, c, f, s: np.stack(
            [
                16 * f * (x - c) * np.exp(-8 * (x - c) ** 2),
                np.exp(-8 * (x - c) ** 2),
                np.ones_like(x),
            ],
            axis=1,
        ),
        xtol=1e-15,
        ftol=1e-15,
    )
    return found, np.sqrt(np.diag(covariance))


def test_values_and_errors_are_those_of_scipy(many):
    assert many.counts() == {"minimum": 300}
    assert many.success.all()
    for i in range(0, 300, 60):
        found, errors = by_scipy(DATA[i])
        # SciPy stops where the sum of squares shows no gain: at half the digits.
        assert [many.values[path][i] for path in START] == pytest.approx(found, abs=1e-6)
        assert [many.errors[path][i] for path in START] == pytest.approx(errors, rel=1e-5)
    assert np.all(many.degrees_of_freedom == X.size - 3)


def test_a_system_is_a_fit_of_its_own_to_the_bit(many):
    order = np.random.default_rng(1).permutation(len(DATA))
    assert same(many, fit(DATA[order]), order)
    assert same(many, fit(DATA[17:18]), slice(17, 18))
    bad = DATA.copy()
    bad[::3, 4] = np.nan
    bad[::6, 7] = np.inf
    spoilt, good = fit(bad), np.arange(len(DATA)) % 3 != 0
    assert same(many, spoilt, good, good)
    assert set(spoilt.status[~good]) == {"non-finite"}
    assert not spoilt.success[~good].any()


def test_a_start_that_is_not_finite_concerns_its_own_system(many):
    starts = {**START, "flux": np.where(np.arange(300) == 5, np.nan, 3.0)}
    found = fit(params=starts, params_axes={"centre": None, "flux": 0, "sky": None})
    others = np.arange(300) != 5
    assert found.status[5] == "non-finite"
    assert same(many, found, others, others)


def test_axes_of_systems_come_back_as_they_are(many):
    image = fit(DATA.reshape(15, 20, -1), systems=(15, 20))
    assert image.values["flux"].shape == image.status.shape == (15, 20)
    assert np.array_equal(image.values["flux"].ravel(), many.values["flux"])
    behind = fit(np.moveaxis(DATA.reshape(15, 20, -1), 2, 0), systems=(15, 20), args_axes=(None, 1))
    assert same(image, behind)
    assert image[2, 3].values["flux"] == many.values["flux"][43]
    assert image.worst(1)[0] == np.unravel_index(many.worst(1)[0], (15, 20))


def test_weights_of_zero_are_no_data_whatever_stands_there():
    draw = np.random.default_rng(2)
    good = draw.random(DATA[:40].shape) < 0.7
    ragged = fit(np.where(good, DATA[:40], np.nan), weights=good)
    assert np.array_equal(ragged.degrees_of_freedom, good.sum(axis=1) - 3)
    for i in (0, 39):
        found, errors = by_scipy(DATA[i], good[i])
        assert [ragged.values[path][i] for path in START] == pytest.approx(found, abs=1e-6)
        assert [ragged.errors[path][i] for path in START] == pytest.approx(errors, rel=1e-5)
    shared = fit(DATA[:40], weights=np.full(X.size, 4.0))
    # Four times the weight is half the error.
    assert shared.errors["sky"] == pytest.approx(fit(DATA[:40]).errors["sky"] / 2, rel=1e-9)


def test_frozen_parameters_and_bounds():
    sky = np.linspace(-0.05, 0.05, 40)
    axes = {"centre": None, "flux": None, "sky": 0}
    frozen = fit(DATA[:40], {**START, "sky": sky}, params_axes=axes, frozen="sky")
    assert np.array_equal(frozen.values["sky"], sky)
    assert not frozen.errors["sky"].any()
    assert np.all(frozen.degrees_of_freedom == X.size - 2)
    held = fit(DATA[:40], bounds={"flux": (0, 4.9), "centre": (-0.2, 0.2)})
    assert held.success.all()
    for i in range(0, 40, 8):
        answer = least_squares(
            lambda p, i=i: np.asarray(residuals(dict(zip(START, p, strict=True)), (X, DATA[i]))),
            [0.0, 3.0, 0.0],
            bounds=([-0.2, 0.0, -np.inf], [0.2, 4.9, np.inf]),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        # Quadratic in what is left of the way.
        assert held.chi_square[i] == pytest.approx(2 * answer.cost, rel=1e-9)
    touched = (held.values["flux"] == 4.9) | (held.values["flux"] == 0)
    assert np.array_equal(held.at_bound["flux"], touched)


def test_the_best_of_several_starts_wins():
    def double(params, args):
        # Minima near ±1, of which the positive one is lower.
        return jnp.stack([params["x"] ** 2 - 1, 0.1 * (params["x"] - 2), 0.0 * params["x"] + args])

    data = np.linspace(0.1, 0.2, 5)
    starts = [{"x": -2.0}, {"x": 2.0}, {"x": -0.5}]
    found = fk.fit_many(double, {"x": 0.5}, data, starts=starts, progress=False)
    assert np.all(found.values["x"] > 0.9)
    assert found.times_found.tolist() == [1] * 5
    assert "best of 3 starts" in repr(found)
    lone = fk.fit_many(double, {"x": -2.0}, data, progress=False)
    assert np.all(lone.values["x"] < -0.9)
    assert lone.refit(np.ones(5, bool), starts=[{"x": 2.0}]) == 5
    assert lone.values["x"] == pytest.approx(found.values["x"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "function", "start", "status"),
    [
        ("product", lambda p, y: p["a"] * p["b"] * X - y, {"a": 1.0, "b": 1.0}, "flat"),
        # Where the exponential has vanished.
        ("tail", lambda p, y: (jnp.exp(-p["a"]) + 1) * X**2 + 0.1 * y, {"a": 1.0}, "plateau"),
        ("exact", lambda p, y: p["a"] * X - 2.0 * X + 0 * y, {"a": 1.0}, "met"),
        ("symmetric", lambda p, y: p["a"] ** 2 * X - X + 0.1 * y, {"a": 0.0}, "saddle"),
    ],
)
def test_what_is_no_minimum_is_called_by_its_name(name, function, start, status):
    y = np.random.default_rng(3).normal(size=(3, X.size))
    found = fk.fit_many(function, start, y, progress=False)
    assert set(found.status) == {status}
    assert not found.success.any() or status == "met"
    if name == "product":
        assert np.isinf(found.errors["a"]).all()


def test_where_whole_steps_overshoot_a_lane_does_not_hover_to_the_last_round():
    def bent(params, curvature):
        # At 0 the residuals are (1, -1), and a step leads from there to curvature * x.
        x = params["x"]
        return jnp.stack([x + 1, curvature * x**2 + x - 1])

    found = fk.fit_many(bent, {"x": 0.3}, -np.linspace(1.2, 2, 5), progress=False)
    assert found.success.all()
    assert found.rounds.max() < 50
    # Six digits of a standard error, and far more.
    assert np.abs(found.values["x"] / found.errors["x"]).max() < 1e-9


def test_one_system_is_an_ordinary_result(many, unchecked):
    result = many[7]
    assert result.success
    assert result.chi_square == pytest.approx(many.chi_square[7], rel=1e-9)
    for path in START:
        assert result.values[path] == many.values[path][7]
        assert result.errors[path] == pytest.approx(many.errors[path][7], rel=1e-5)
    assert many[-1].values["flux"] == many.values["flux"][-1]
    with pytest.raises(IndexError, match="shape of the systems"):
        many[300]
    index: Any = slice(0, 2)
    with pytest.raises(TypeError, match="must be the number of one system"):
        many[index]
    with pytest.raises(ValueError, match="n=-1"):
        many.worst(-1)


def test_a_single_system_without_an_axis(many):
    alone = fit(DATA[3], args_axes=None)
    assert alone.values["flux"].shape == alone.status.shape == alone.shape == ()
    # Another program, which sees these data as what systems share.
    assert alone.values["flux"] == pytest.approx(many.values["flux"][3], rel=1e-9)
    assert alone[()].success


def test_a_pause_and_a_file_lose_nothing(tmp_path):
    y = np.tile(DATA, (30, 1))
    whole = fit(y)
    halted = fit(y, block=False)
    halted.pause()
    halted.save(tmp_path / "fits")
    assert not halted.running
    halted.resume()
    halted.wait()
    assert same(whole, halted)
    assert same(whole, fit(y, load=tmp_path / "fits"))
    with pytest.raises(ValueError, match="data, weights, starts or bounds are not those"):
        fit(y + 1, load=tmp_path / "fits")
    with pytest.raises(ValueError, match="saved with systems"):
        fit(DATA, load=tmp_path / "fits")


def test_less_memory_means_smaller_batches(many, monkeypatch):
    from fitkit._many import engine

    drain, calls = engine._drain, []

    def short_of_memory(method, lanes, batch, *rest):
        calls.append(len(batch.starts))
        if len(calls) < 3:
            raise MemoryError
        return drain(method, lanes, batch, *rest)

    monkeypatch.setattr(engine, "_drain", short_of_memory)
    found = fit()
    assert calls[2] == calls[0] // 4
    assert same(found, many)
    assert "batches" in found.notes[0]
    assert found.notes[0] in repr(found)


def test_no_memory_for_a_single_system_is_said(monkeypatch):
    from fitkit._many import engine

    def short_of_memory(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")

    monkeypatch.setattr(engine, "_drain", short_of_memory)
    with pytest.raises(MemoryError, match="even one system at a time, of 30 residuals and 3"):
        fit()


def test_ctrl_c_pauses_and_loses_nothing(monkeypatch, capsys):
    from fitkit._many import engine, worker

    y, drain, stopped, calls = np.tile(DATA, (30, 1)), engine._drain, threading.Event(), []

    def interrupting(*arguments):
        calls.append(1)
        if len(calls) == 3:
            _thread.interrupt_main()
            assert stopped.wait(60)
        return drain(*arguments)

    def stop(self):
        ask(self)
        stopped.set()

    ask = worker.Worker.stop
    monkeypatch.setattr(worker.Worker, "stop", stop)
    monkeypatch.setattr(engine, "_drain", interrupting)
    halted = fit(y)
    assert not halted.running and not halted.finished
    assert "paused; resume() goes on" in capsys.readouterr().out
    halted.resume()
    halted.wait()
    assert same(fit(y), halted)


def test_callbacks_see_the_fits_and_may_pause_them(capsys):
    seen = []

    def look(many):
        seen.append(many.progress)
        if len(seen) == 2:
            many.pause()

    def broken(many):
        raise ValueError("mine")

    halted = fit(np.tile(DATA, (30, 1)), block=False)
    halted.pause()
    seen.clear()
    halted.add_callback(look)
    halted.add_callback(broken)
    halted.resume()
    halted.wait()
    if not halted.finished:
        assert len(seen) == 2
        halted.resume()
        halted.wait()
    assert seen[-1] == 1.0 == halted.progress
    assert halted.notes == ("callback broken raised ValueError: mine",)
    assert capsys.readouterr().out.count("mine") == 1


def test_what_the_users_function_raises_is_raised():
    def broken(params, args):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fk.fit_many(broken, {"a": 1.0}, DATA, progress=False)


def test_a_global_that_has_changed_counts(monkeypatch):
    def scaled(params, args):
        return (params["a"] * SIGMA - args) / 0.1

    first = fk.fit_many(scaled, {"a": 1.0}, DATA[:3], progress=False)
    monkeypatch.setitem(globals(), "SIGMA", 2 * SIGMA)
    second = fk.fit_many(scaled, {"a": 1.0}, DATA[:3], progress=False)
    assert second.values["a"] == pytest.approx(first.values["a"] / 2, rel=1e-9)


def test_tables(many):
    table = many.to_dataframe()
    assert list(table.columns[:2]) == ["centre", "centre_error"]
    assert np.array_equal(table["flux"], many.values["flux"])
    assert "minimum  300" in repr(many)
    pytest.importorskip("xarray")
    assert many.to_xarray()["flux"].dims == ("system",)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"args_axes": 0}, r"'args.0' 30, 'args.1' 300.*args_axes=\(None, 0\)"),
        ({"args_axes": (None, 0, 0)}, "args_axes does not fit 'args'"),
        ({"params_axes": {"centre": 0}}, "params_axes does not fit 'params', which has 'centre'"),
        ({"params_axes": 0}, r"'params.centre' has shape \(\), and so no axis 0"),
        ({"args_axes": (None, -4)}, r"'args.1' has shape \(300, 30\), and so no axis -4"),
        ({"args_axes": (None, "0")}, "'0' for 'args.1'; must be the number of an axis"),
        ({"args_axes": (None, 2)}, r"'args.1' has shape \(300, 30\), and so no axis 2"),
        ({"y": DATA[:0]}, "counts no system at all"),
        ({"weights": np.ones((300, 3))}, r"'weights' has shape \(300, 3\); must be \(30,\)"),
        ({"weights": -np.ones(30)}, r"'weights\[0\]' is -1.0; a weight is"),
        ({"starts": [{"flux": 1.0}]}, r"starts\[0\] is .*must be a tree like `params`"),
        ({"bounds": {"flux": (4, 5)}}, "'flux' has the limits 4.0 and 5.0, and starts outside"),
        ({"frozen": "flx"}, "no parameter 'flx'. Nearest: 'flux'"),
        ({"systems": 7}, "systems=7, but the axes"),
        ({"optimiser": "adam"}, r"write optax.adam\(1e-2\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(keywords, message, unchecked):
    with pytest.raises((TypeError, ValueError), match=message):
        fit(**keywords)


@pytest.mark.slow
def test_an_optimiser_of_optax_for_every_system(many):
    found = fit(DATA[:20], optimiser=optax.lbfgs())
    assert found.success.all()
    away = (found.values["flux"] - many.values["flux"][:20]) / many.errors["flux"][:20]
    # What counts as a minimum: a thousandth of a standard error.
    assert np.abs(away).max() < 1e-3
    assert same(found, fit(DATA[4:5], optimiser=optax.lbfgs()), slice(4, 5))


@pytest.mark.parametrize(
    ("optimiser", "apart"),
    [
        (optax.sgd(0.1), True),
        (optax.adamw(0.1), True),
        (optax.lion(0.1), True),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), False),
        (optax.lbfgs(), False),
        (optax.lamb(0.1), False),
    ],
)
def test_which_optimisers_keep_systems_apart(optimiser, apart):
    params = {"flux": jnp.ones(5), "shape": jnp.ones((5, 2))}
    assert bool(fk.check_independent(optimiser, params, 5)) == apart
    with pytest.raises(ValueError, match="'flux' has shape"):
        fk.check_independent(optimiser, params, 4)


@pytest.mark.parametrize("name", ["Misra1a", "MGH17", "BoxBOD", "Rat42"])
def test_no_false_success_on_nist(name):
    problem = nist.problems[name]
    draw = np.random.default_rng(4)
    starts = {
        path: value * (1 + 0.1 * draw.normal(size=256)) for path, value in problem.starts[1].items()
    }
    found = fk.fit_many(
        problem.residuals, starts, problem.args, params_axes=0, args_axes=None, progress=False
    )
    rows = [{path: found.values[path][i] for path in starts} for i in range(256)]
    right = np.array([problem.digits(row) >= 6 for row in rows])
    assert right[found.success].all()
    assert found.success.mean() > 0.95
    scatter = (problem.rss / problem.degrees_of_freedom) ** 0.5
    for path, error in problem.errors.items():
        # As many digits as a step of 1e-4 standard errors leaves.
        errors = np.sort(found.errors[path][found.success] * scatter)
        assert np.median(errors) == pytest.approx(error, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Misra1a", "MGH17"])
def test_float32_claims_no_more_than_it_has(name):
    problem = nist.problems[name]
    draw = np.random.default_rng(5)
    starts = {
        path: np.float32(value * (1 + 0.1 * draw.normal(size=64)))
        for path, value in problem.starts[1].items()
    }
    found = fk.fit_many(
        problem.residuals,
        starts,
        jax.tree.map(np.float32, problem.args),
        params_axes=0,
        args_axes=None,
        progress=False,
    )
    assert found.values["b1"].dtype == np.float32
    assert found.success.mean() > 0.95
    scatter = (problem.rss / problem.degrees_of_freedom) ** 0.5
    for i in np.flatnonzero(found.success):
        # Half of the digits that float32 has; MGH17 by normal equations alone was wrong in all.
        assert problem.digits({path: found.values[path][i] for path in starts}) > 3
    for path, error in problem.errors.items():
        assert np.median(found.errors[path] * scatter) == pytest.approx(error, rel=1e-2)


@pytest.fixture(scope="module")
def spoilt():
    """Systems of an image: two of them not finite, one of another shape than the model."""
    y = DATA[:48].copy()
    y[[5, 6], 2] = np.nan
    y[7] += np.sin(9 * X)
    return fit(y.reshape(6, 8, -1), systems=(6, 8))


def test_a_map_sets_what_failed_apart(spoilt):
    import matplotlib.pyplot as plt

    ax = plt.figure().add_subplot()
    assert spoilt.plot_map("centre", ax=ax) is ax
    values, failed = (np.ma.filled(image.get_array(), np.nan) for image in ax.images)
    good = spoilt.success
    assert np.array_equal(values[good], spoilt.values["centre"][good])
    assert np.isnan(values[~good]).all()
    assert np.array_equal(np.isfinite(failed), ~good)
    legend = ax.get_legend()
    assert legend is not None and legend.get_texts()[0].get_text() == "without success: 2"
    curve = fit(DATA[:4]).plot_map("sky")
    assert curve.get_ylabel() == "sky"
    for drawn in (ax, curve):
        drawn.figure.canvas.draw()
    with pytest.raises(fk.UnknownPathError, match="Nearest: 'centre'"):
        spoilt.plot_map("center")
    plt.close("all")


def test_a_histogram_beside_what_is_expected(spoilt, many):
    import matplotlib.pyplot as plt
    from scipy.stats import chi2

    ax = many.plot_chi_square()
    (line,) = ax.lines
    x, expected = line.get_xdata(), line.get_ydata()
    heights = [bar.get_height() for bar in ax.patches]
    width, freedom = ax.patches[0].get_width(), X.size - 3
    density = 300 * width * freedom * chi2.pdf(freedom * x, freedom)
    assert expected == pytest.approx(density, rel=1e-9, abs=1e-9)
    # One system, with a chi-square that four standard deviations do not reach, is left out at most.
    assert 299 <= sum(heights) <= 300
    worst = spoilt.plot_worst(3)
    assert [tick.get_text() for tick in worst.get_yticklabels()] == ["(0, 5)", "(0, 6)", "(0, 7)"]
    assert worst.texts[0].get_text() == "non-finite"
    for drawn in (ax, worst, spoilt.plot_chi_square()):
        drawn.figure.canvas.draw()
    with pytest.raises(ValueError, match="no system has a reduced chi-square"):
        fit(np.full_like(DATA[:2], np.nan)).plot_chi_square()
    plt.close("all")
