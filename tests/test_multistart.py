"""Many starts: right where one start fails, and back again."""

import jax.numpy as jnp
import mgh
import nist
import numpy as np
import optax
import pytest

import fitkit as fk

# Puromycin of R's package datasets, treated cells: concentration in ppm, rate in counts/min².
# D. M. Bates and D. G. Watts, "Nonlinear Regression Analysis and Its Applications" (1988), A1.3;
# data of M. A. Treloar (1974). The untreated cells follow.
CONCENTRATION = np.array([0.02, 0.02, 0.06, 0.06, 0.11, 0.11, 0.22, 0.22, 0.56, 0.56, 1.1, 1.1])
TREATED = np.array([76.0, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200])
UNTREATED = np.array([67.0, 51, 84, 86, 98, 115, 131, 124, 144, 158, 160])

X = np.linspace(0.0, 3.0, 40)


def michaelis_menten(params, args):
    concentration, rate = args
    return params["Vm"] * concentration / (params["K"] + concentration) - rate


def wave(params, args):
    return 10 * (jnp.sin(params["frequency"] * X) - np.sin(9.0 * X))


def make_wave(**keywords):
    keywords = {"residuals": wave, "bounds": {"frequency": (0.1, 20.0)}} | keywords
    return fk.Fit(params={"frequency": 2.0}, **keywords)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "answer"),
    # R's help page of Puromycin prints 212.7 and 0.06412; Bates and Watts 160.3 and 0.0477.
    [(TREATED, (212.7, 0.06412)), (UNTREATED, (160.3, 0.0477))],
    ids=["treated", "untreated"],
)
def test_puromycin_from_beyond_a_pole(rate, answer):
    start = {"Vm": 1.0, "K": -1.0}
    args = CONCENTRATION[: len(rate)], rate
    alone = fk.Fit(residuals=michaelis_menten, params=start, args=args)
    alone.run(progress=False)
    assert not alone.result().success
    fit = fk.Fit(residuals=michaelis_menten, params=start, args=args)
    found = fit.multistart(12, {"Vm": 100.0, "K": 1.0}, progress=False)
    # The last digit that is printed.
    assert float(fit.params["Vm"]) == pytest.approx(answer[0], abs=0.051)
    assert float(fit.params["K"]) == pytest.approx(answer[1], abs=5.1e-5)
    assert found.status[0] == "minimum" and found.times[0] > 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spread", "far"), [("MGH17", 10.0, 1), ("MGH09", 3.0, 10)])
def test_nist_from_the_far_start_and_ten_times_as_far(name, spread, far):
    problem = nist.read(name)
    start = {path: far * value for path, value in problem.starts[0].items()}
    fit = fk.Fit(residuals=problem.residuals, params=start, args=problem.args)
    found = fit.multistart(40, spread, progress=False)
    assert problem.digits(fit.params) > 6
    assert 2 * found.loss[0] == pytest.approx(problem.rss, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["freudenstein_roth", "jennrich_sampson"])
def test_the_global_minima_of_more_garbow_and_hillstrom(name):
    problem = mgh.problems[name]
    fit = fk.Fit(residuals=problem.residuals, params=problem.start)
    # The first of them has a local minimum, in which the standard start alone ends.
    fit.multistart(16, {"params": 5.0 if name == "freudenstein_roth" else 1.0}, progress=False)
    best = problem.minima[0]
    assert 2 * fit.loss == pytest.approx(best, rel=1e-5, abs=1e-16)


@pytest.mark.slow
def test_all_minima_are_found_and_the_fit_goes_on_from_the_lowest_and_back():
    fit = make_wave(optimiser=optax.sgd(1e-6))
    fit.run(2, progress=False)
    before, step = fit.params, fit.step
    found = fit.multistart(40, progress=False)
    assert float(fit.params["frequency"]) == pytest.approx(9.0, rel=1e-12)
    assert fit.loss == fit.best.loss < 1e-20 and found.status[0] == "met"
    assert found.times.sum() + found.failed == found.starts == 40
    assert np.all(np.diff(found.loss) > 0) and found.minima == len(found) > 5
    # What the table says is there, by a slope of finite differences.
    for k, frequency in enumerate(found.values["frequency"][1:4], start=1):
        losses = [
            0.5 * np.sum(np.asarray(wave({"frequency": f}, None)) ** 2)
            for f in (frequency - 1e-4, frequency, frequency + 1e-4)
        ]
        assert losses[1] == pytest.approx(found.loss[k]) and losses[1] == min(losses)
    assert "40 starts" in repr(found) and "<table>" in found._repr_html_()
    fit.run(3, progress=False)
    fit.undo()
    assert fit.params == before and fit.step == step == len(fit.history)
    assert fit.undoable == "" and fit.best.step <= step
    fit.run(2, progress=False)
    assert fit.step == step + 2


@pytest.mark.slow
def test_the_same_key_draws_the_same_starts_and_what_is_frozen_stays():
    def two(params, args):
        return jnp.append(wave(params, args), params["offset"] - 1.0)

    def make():
        fit = fk.Fit(residuals=two, params={"frequency": 2.0, "offset": 0.5})
        fit.freeze("offset")
        return fit

    one, same, other = make(), make(), make()
    tables = [
        fit.multistart(8, {"frequency": 3.0}, key=key, progress=False)
        for fit, key in ((one, 1), (same, 1), (other, 2))
    ]
    assert np.array_equal(tables[0].loss, tables[1].loss)
    assert not np.array_equal(tables[0].loss, tables[2].loss)
    assert {float(fit.params["offset"]) for fit in (one, same, other)} == {0.5}


@pytest.mark.slow
def test_a_loss_is_minimised_by_the_optimiser_of_the_fit():
    fit = make_wave(
        residuals=None,
        loss=lambda params, args: 0.5 * jnp.sum(wave(params, args) ** 2),
        optimiser=optax.adam(0.02),
    )
    found = fit.multistart(30, progress=False)
    # A share of 5e-7 of what is gained, 2000, may be left: a few 1e-4 of the frequency.
    assert float(fit.params["frequency"]) == pytest.approx(9.0, abs=1e-3)
    assert found.status[0] == "minimum" and found.minima > 5


def test_a_fit_that_is_at_the_lowest_stays_there():
    fit = make_wave()
    fit.restart({"frequency": 9.0})
    found = fit.multistart(2, progress=False)
    assert fit.loss == 0 and found.loss[0] == 0


@pytest.mark.parametrize(
    ("error", "match", "given"),
    [
        (ValueError, "2 or more", (1,)),
        (ValueError, "'offset' has no lower and upper bound", (5,)),
        (ValueError, "'offset' is 0, which a factor", (5, 2.0)),
        (ValueError, "a factor above 1", (5, 0.5)),
        (ValueError, "a factor above 1", (5, "far")),
        (fk.UnknownPathError, "Nearest: 'frequency'", (5, {"frequencies": 1.0})),
        (ValueError, "'frequency' has the spread -1", (5, {"frequency": -1.0})),
        (
            ValueError,
            r"'frequency' has shape \(\), and its spread \(2,\)",
            (5, {"frequency": [1, 2]}),
        ),
        (TypeError, "there is no argument `sigma`", ()),
    ],
)
def test_bad_input_is_answered_by_path_with_the_cure(unchecked, error, match, given):
    fit = fk.Fit(
        residuals=lambda params, args: wave(params, args) + params["offset"],
        params={"frequency": 2.0, "offset": 0.0},
        bounds={"frequency": (0.1, 20.0)},
    )
    with pytest.raises(error, match=match):
        fit.multistart(*given, **({} if given else {"sigma": 1.0}))
