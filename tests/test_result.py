import dataclasses
import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib
import nist
import numpy as np
import optax
import pytest
import scipy.optimize

import fitkit as fk
from fitkit._optimisers.bounds import bounded
from fitkit._result import make_result
from fitkit._result.mean_loss import is_mean

matplotlib.use("agg")

X = np.linspace(-1, 2, 40)
SIGMA = 0.1
RNG = np.random.default_rng(5)
Y = 2 * X + 1 + SIGMA * RNG.normal(size=X.size)


def line(params, args):
    return (params["slope"] * X + params["offset"] - Y) / SIGMA + 0 * params["idle"][0]


SLOPE, OFFSET = np.polyfit(X, Y, 1)
BEST = {"slope": jnp.float64(SLOPE), "offset": jnp.float64(OFFSET), "idle": jnp.arange(2.0)}


def likelihood(params, args):
    return 0.5 * jnp.sum(line(params, args) ** 2)


@pytest.fixture(scope="module")
def result():
    return make_result(residuals=line, params=BEST, frozen="idle", status="finished", steps=7)


def test_values_and_errors_by_path(result):
    _, covariance = np.polyfit(X, Y, 1, w=np.full(X.size, 1 / SIGMA), cov="unscaled")
    assert result.success
    assert result.values["slope"] == SLOPE
    np.testing.assert_allclose(result.errors["slope"], covariance[0, 0] ** 0.5, rtol=1e-10)
    np.testing.assert_allclose(result.errors["offset"], covariance[1, 1] ** 0.5, rtol=1e-10)
    assert result.fixed == {"idle"}
    np.testing.assert_array_equal(result.errors["idle"], [0, 0])
    assert [row[0] for row in result.rows()] == ["idle[0]", "idle[1]", "offset", "slope"]
    chi_square = np.sum(((SLOPE * X + OFFSET - Y) / SIGMA) ** 2)
    assert result.chi_square == pytest.approx(chi_square)
    assert result.degrees_of_freedom == X.size - 2
    assert result.reduced_chi_square == pytest.approx(chi_square / (X.size - 2))
    assert result.warnings == ()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["residuals", "loss"])
def test_a_fit_gives_its_result(kind):
    start = {"slope": 1.0, "offset": 0.0, "idle": jnp.arange(2.0)}
    function = {"residuals": line, "loss": likelihood}[kind]
    # Gradient descent along the eigenvectors, one Newton step for each direction.
    fisher = fk.fisher_matrix(line, start)
    fit = fk.Fit(
        **{kind: function},
        params=start,
        optimiser=fk.eigen_projected(optax.sgd(1.0), fisher),
    )
    fit.freeze("idle")
    assert not fit.result().success
    fit.run(2, progress=False)
    assert fit.fisher().labels == ("offset", "slope")
    result = fit.result()
    assert result.success
    assert result.fixed == {"idle"}
    assert result.steps == 2
    assert result.values["slope"] == pytest.approx(SLOPE)
    fit.thaw("idle")
    assert fit.result().message.endswith("the data leave 2 eigenvectors free")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "message", "success"),
    [(50, "converged after", True), (1, "not converged: finished after 1 step", False)],
)
def test_the_optimisers_own_verdict_counts(steps, message, success):
    problem = nist.problems["Misra1a"]
    fit = fk.Fit(
        residuals=problem.residuals,
        params=problem.starts[0],
        args=problem.args,
        optimiser=fk.gauss_newton(),
    )
    fit.run(steps, progress=False)
    result = fit.result(absolute_sigma=False)
    assert result.success == success
    assert message in result.message
    if success:
        # Certified to 11 digits, reached to more than six.
        for path, error in problem.errors.items():
            np.testing.assert_allclose(result.errors[path], error, rtol=1e-6)


@pytest.mark.parametrize("absolute_sigma", [True, False])
def test_errors_scale_as_those_of_scipy(absolute_sigma):
    _, covariance = scipy.optimize.curve_fit(
        lambda x, slope, offset: slope * x + offset,
        X,
        Y,
        p0=[2, 1],
        sigma=np.full(X.size, SIGMA),
        absolute_sigma=absolute_sigma,
    )
    result = make_result(residuals=line, params=BEST, frozen="idle", absolute_sigma=absolute_sigma)
    # SciPy's Jacobian is made of forward differences.
    np.testing.assert_allclose(result.covariance, covariance[::-1, ::-1], rtol=1e-6)
    np.testing.assert_allclose(result.errors["slope"] ** 2, covariance[0, 0], rtol=1e-6)


def test_certified_standard_deviations():
    problem = nist.problems["MGH17"]
    result = make_result(
        residuals=problem.residuals,
        params=problem.certified,
        args=problem.args,
        absolute_sigma=False,
    )
    for path, error in problem.errors.items():
        # The parameters are given to 11 digits.
        np.testing.assert_allclose(result.errors[path], error, rtol=1e-8)
    assert result.success
    assert result.distance < 1e-4
    assert not make_result(
        residuals=problem.residuals,
        params={**problem.certified, "b1": problem.certified["b1"] * 1.001},
        args=problem.args,
    ).success


def test_a_rank_deficient_fit_is_no_success():
    result = make_result(residuals=line, params=BEST)
    assert result.converged
    assert not result.success
    assert "the data leave 2 eigenvectors free" in result.message
    assert result.unconstrained == (
        "idle[0] is unconstrained: it has no effect",
        "idle[1] is unconstrained: it has no effect",
    )
    assert np.all(np.isinf(result.errors["idle"]))
    assert np.all(np.isfinite(result.errors["slope"]))
    assert result.degrees_of_freedom == X.size - 2
    assert "idle[1] is unconstrained" in str(result)


@pytest.mark.parametrize(
    ("status", "shift", "success"),
    [
        ("finished", 0.0, True),
        ("finished", 1e-5, True),
        ("finished", 1e-2, False),
        # Why the optimiser stopped does not decide where it stands.
        ("stalled", 0.0, True),
        ("converged", 1e-2, False),
        ("non-finite", 0.0, False),
        ("failed", 0.0, False),
    ],
)
def test_success_is_finite_converged_and_of_full_rank(status, shift, success):
    result = make_result(
        residuals=line,
        params={**BEST, "slope": BEST["slope"] + shift},
        frozen="idle",
        status=status,
    )
    assert result.success == success
    assert result.converged == (shift < 1e-3)
    assert result.message.startswith("Fit converged" if success else "Fit ")


def test_distance_is_in_standard_errors(result):
    moved = {**BEST, "slope": BEST["slope"] + 3 * result.errors["slope"]}
    away = make_result(residuals=line, params=moved, frozen=("idle", "offset"))
    # Alone, the slope is known better than together with the offset; the scatter is that of the
    # residuals at the best slope, over one degree of freedom more.
    scatter = (result.chi_square / (X.size - 1)) ** 0.5
    expected = 3 * result.errors["slope"] / away.errors["slope"] / scatter
    assert away.distance == pytest.approx(expected, rel=1e-6)


def test_data_met_exactly_count_as_converged():
    result = make_result(
        residuals=lambda p, args: p["a"] * X - 3 * X, params={"a": np.float64(3 + 1e-15)}
    )
    assert result.success


def test_a_loss_has_no_chi_square():
    result = make_result(loss=likelihood, params=BEST, frozen="idle")
    assert result.success
    assert result.reduced_chi_square is result.residuals is None
    with pytest.raises(ValueError, match=r"only Fit\(residuals=\.\.\.\)"):
        result.plot_residuals()
    with pytest.raises(ValueError, match="absolute_sigma=False scales errors"):
        make_result(loss=likelihood, params=BEST, absolute_sigma=False)


A = np.linspace(0, 1, 10)
MEANS = {
    "mean": lambda p, args: jnp.mean((p * A) ** 2),
    "half": lambda p, args: 0.5 * jnp.mean((p * A) ** 2),
    "under jit": lambda p, args: jax.jit(lambda q: jnp.mean((q * A) ** 2))(p),
    "by hand": lambda p, args: jnp.sum((p * args) ** 2) / args.size,
    "with a prior": lambda p, args: jnp.mean((p * A) ** 2) + p**2,
    "negative": lambda p, args: -(p * A).mean(),
}
SUMS = {
    "sum": lambda p, args: jnp.sum((p * A) ** 2),
    "half a sum": lambda p, args: 0.5 * jnp.sum((p * A) ** 2),
    "over sigma": lambda p, args: jnp.sum((p * A) ** 2) / 0.1**2,
    "scalar": lambda p, args: p**2 / 2,
    "mean inside": lambda p, args: jnp.sum((A - jnp.mean(p * A)) ** 2),
}


@pytest.mark.parametrize("name", [*MEANS, *SUMS])
def test_a_mean_is_told_from_a_sum(name):
    loss = {**MEANS, **SUMS}[name]
    assert is_mean(loss, 1.0, A) == (name in MEANS)
    assert is_mean(jax.jit(loss), jnp.float32(1.0), A.astype(np.float32)) == (name in MEANS)


def warnings_of(**arguments):
    return "\n".join(make_result(**arguments).warnings)


def test_warnings():
    mean = warnings_of(loss=lambda p, args: likelihood(p, args) / 1 + 0, params=BEST)
    assert mean == ""
    mean = warnings_of(
        loss=lambda p, args: jnp.mean(line(p, args) ** 2), params=BEST, frozen="idle"
    )
    assert "the loss is a mean over data, not a log-likelihood" in mean
    scatter = warnings_of(residuals=lambda p, args: 100 * line(p, args), params=BEST, frozen="idle")
    assert "reduced chi-square is" in scatter
    few = warnings_of(residuals=lambda p, args: p - 1.0, params=jnp.ones(2))
    assert "no more residuals than parameters" in few
    single = jnp.ones(2, jnp.float32)
    x = jnp.linspace(0, 1, 20, dtype=jnp.float32)
    near = warnings_of(residuals=lambda p, args: p[0] + p[1] * (1 + 2e-5 * x), params=single)
    assert "float32 with a condition number" in near
    # Two parameters of which only the sum shows are no matter of precision.
    assert "float32" not in warnings_of(residuals=lambda p, args: p[0] + p[1] + x, params=single)


def test_a_parameter_on_its_bound():
    limits = {"slope": (SLOPE + 1.0, None), "offset": (None, 10.0), "idle": (0.0, 5.0)}
    # The best offset for a slope that is held back by its bound.
    params = {**BEST, "slope": SLOPE + 1.0, "offset": np.mean(Y - (SLOPE + 1.0) * X)}
    bounds = bounded(limits, params)
    result = make_result(residuals=line, params=params, frozen="idle", bounds=bounds)
    on = [warning.split(" is on its bound")[0] for warning in result.warnings]
    assert on[-2:] == ["idle[0]", "slope"]
    assert result.success
    assert not make_result(residuals=line, params=params, frozen="idle").success
    # Where descent leads back inside, a bound is no excuse.
    params["slope"] = np.float64(SLOPE - 1.0)
    bounds = bounded({"slope": (SLOPE - 1.0, None)}, params)
    assert not make_result(residuals=line, params=params, frozen="idle", bounds=bounds).success


def test_text(result):
    text = str(result)
    assert text.startswith("Fit converged after 7 steps")
    assert "reduced chi-square" in text
    assert "  fixed" in text
    error = result.errors["slope"]
    assert f"{SLOPE:.3f} ± {error:.3f}" in text
    assert repr(result) == text


@pytest.mark.parametrize(
    ("value", "error", "written"),
    [
        (1234.5678, 0.12, "1234.57 ± 0.12  0.0097 %"),
        (6.02e23, 1e21, "(6.020 ± 0.010)e23  0.17 %"),
        (0.0, 0.5, "0.0 ± 0.5"),
        (3.0, np.inf, "3 ± inf  unconstrained"),
    ],
)
def test_errors_are_written_beside_the_value_and_as_a_part_of_it(value, error, written):
    result = make_result(
        residuals=lambda p, args: 0 * p["p"] if error == np.inf else (p["p"] - value) / error,
        params={"p": np.array([value])},
    )
    assert f"p[0]  {written}" in str(result)


def test_correlations_above_a_threshold():
    result = make_result(
        residuals=lambda p, args: jnp.stack([p["a"] + p["b"], 0.01 * p["a"], p["c"]]),
        params={"a": 0.0, "b": 0.0, "c": 0.0},
    )
    ((a, b, r),) = result.strong_correlations()
    assert (a, b) == ("a", "b")
    assert r == pytest.approx(-1 / np.hypot(1, 0.01))
    assert "correlation of a and b: -1.000" in str(result)
    assert len(result.strong_correlations(0.0)) == 3


def test_html_escapes_names():
    fit = fk.Fit(residuals=lambda p, args: p["<b>"] * X - 2 * X, params={"<b>": 0.0})
    for _ in range(2):
        for shown in (fit, fit.history, fit.fisher(), fit.result()):
            written = shown._repr_html_()
            assert "<b></code>" not in written
            # A history without a step has no table; and colours are those of the page.
            assert "<code>&lt;b&gt;</code>" in written or not len(fit.history)
            assert "color" not in written
        fit.run(progress=False)
    assert "<td style='text-align:left'>2</td>" in fit._repr_html_()


def test_dataframe(result):
    table = result.to_dataframe()
    assert list(table.columns) == ["value", "error", "fixed", "initial", "derived"]
    assert table.loc["slope", "value"] == SLOPE
    assert list(table.index[table.fixed]) == ["idle[0]", "idle[1]"]


def test_without_pandas_the_cure_is_named(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_dataframe()


@pytest.mark.parametrize("given", [False, True])
def test_plots_return_their_axes(given, result):
    import matplotlib.pyplot as plt

    deficient = make_result(residuals=line, params=BEST)
    for method in ("plot_residuals", "plot_correlation", "plot_spectrum"):
        for one in (result, deficient):
            ax = plt.figure().add_subplot() if given else None
            drawn = getattr(one, method)(ax=ax)
            assert drawn is ax or not given
            drawn.figure.canvas.draw()
    constrained, free, cut = deficient.plot_spectrum().lines
    assert len(constrained.get_ydata()) == len(free.get_ydata()) == 2
    assert free.get_markerfacecolor() == "none"
    assert cut.get_xdata() == (2.5, 2.5)
    plt.close("all")


@pytest.mark.parametrize(
    "shapes, count",
    [({"flux": (), "phase": (39,)}, 40), ({"flux": (), "image": (12, 12), "phase": (8,)}, 3)],
    ids=["elements", "parameters"],
)
def test_labels_of_correlations_do_not_touch(shapes, count):
    import matplotlib.pyplot as plt

    params = {
        path: np.linspace(1, 2, int(np.prod(shape))).reshape(shape)
        for path, shape in shapes.items()
    }
    fitted = make_result(
        residuals=lambda p, a: jnp.concatenate([jnp.ravel(leaf) for leaf in p.values()]),
        params=params,
    )
    ax = fitted.plot_correlation()
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(boxes) == count
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) > 0  # No name is cut.
    plt.close("all")


def test_it_is_frozen(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.success = True
