"""What a person does to a fit: values set by hand, and the code that repeats all of it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

TRACED = []


def residuals(params, args):
    TRACED.append(1)
    x = jnp.linspace(-1.0, 1.0, 8)
    return params["slope"] * x + params["star"]["xy"][0] + params["star"]["xy"][1] * x**2 - 2.0


def make_fit(**more):
    params = {"slope": jnp.array(1.0), "star": {"xy": jnp.array([0.5, 0.1])}}
    optimiser = optax.inject_hyperparams(optax.adam)(learning_rate=1e-2)
    return fk.Fit(residuals=residuals, params=params, **{"optimiser": optimiser, **more})


def same(one, other):
    assert one.step == other.step and one.frozen == other.frozen
    # A rate is written in full and divided by the optimiser's own again: an ulp or so.
    for path, rate in one.learning_rates.items():
        assert other.learning_rates[path] == pytest.approx(rate, rel=1e-12)
    for a, b in zip(one.params["star"]["xy"], other.params["star"]["xy"], strict=True):
        assert float(b) == pytest.approx(float(a), rel=1e-9)
    assert float(other.params["slope"]) == pytest.approx(float(one.params["slope"]), rel=1e-9)


def test_the_code_repeats_what_was_done(fit):
    fit.run(20, progress=False)
    fit.learning_rates["slope"] = 0.123456789
    fit.learning_rates.update({"slope": 0.3, "star.xy": 0.007})
    fit.run(5, progress=False)
    fit.freeze("slope")
    fit.undo()
    fit.freeze("star.xy")
    fit.run(10, progress=False)
    fit.set_values({"slope": 4.0, "star.xy": [0.25, -1.5]})
    fit.run(7, progress=False)
    fit.thaw("star")
    fit.rewind(39)
    fit.enter_eigenbasis()
    fit.run(2, progress=False)
    fit.leave_eigenbasis()
    fit.run(3, progress=False)
    code = fit.events.as_code()
    assert "fit.run(20)\n" in code and "fit.thaw('star.xy')" in code
    again = make_fit()
    exec(
        code.replace("fit.run(", "run("), {"fit": again, "run": lambda n: again.run(n, None, False)}
    )
    same(fit, again)
    assert fit.events.as_code("other").startswith("other.run(20)\nother.learning_rates[")


def test_the_code_survives_a_checkpoint_and_ends_at_the_present_step(fit, tmp_path):
    assert fit.events.as_code() == "" and fit.events == ()
    fit.freeze("slope")
    fit.set_values({"slope": 3.0})
    fit.run(4, progress=False)
    fit.save(tmp_path / "fit")
    loaded = fk.Fit.load(
        tmp_path / "fit",
        residuals=residuals,
        params={"slope": 1.0, "star": {"xy": jnp.array([0.5, 0.1])}},
        optimiser=optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    )
    code = "fit.freeze('slope')\nfit.set_values({'slope': 3.0})\nfit.run(4)"
    assert loaded.events.as_code() == fit.events.as_code() == code
    assert loaded.undoable == "froze slope"  # The old values are not in the file.


def test_what_cannot_be_written_is_a_name_to_define(fit):
    fit.change_optimiser(optax.sgd(0.1))
    with pytest.raises(NameError, match="optimiser"):
        exec(fit.events.as_code(), {"fit": make_fit()})


def test_values_are_set_without_compiling_and_undone(fit):
    fit.run(3, progress=False)
    before, best, traced = float(fit.params["slope"]), fit.best, len(TRACED)
    fit.set_values({"slope": 9})
    fit.set_values({"slope": 10})  # Within a second: one gesture.
    x = np.linspace(-1.0, 1.0, 8)
    xy = np.asarray(fit.params["star"]["xy"])
    expected = 0.5 * np.sum((10.0 * x + xy[0] + xy[1] * x**2 - 2.0) ** 2)
    assert fit.loss == pytest.approx(expected, rel=1e-12)
    assert fit.step == 3 and fit.status == "stopped" and fit.undoable == "set slope: 10"
    assert fit.events[-1].step == 3 and len(fit.events) == 1
    fit.run(2, progress=False)
    assert fit.best.step == best.step  # It was lower there.
    fit.undo()
    assert float(fit.params["slope"]) == before and fit.step == 5
    assert len(TRACED) == traced
    assert fit.undoable == ""


def test_the_best_can_be_rewound_to_after_values_were_set_there(fit):
    fit.run(50, progress=False)
    best = fit.best
    assert best.step == fit.step
    fit.set_values({"slope": 50.0})
    fit.rewind(best.step)
    assert fit.loss == best.loss
    fit.set_values({"slope": 50.0})
    fit.run(5, progress=False)
    fit.rewind(best.step)
    assert fit.loss == best.loss


def test_a_running_fit_goes_on_from_the_values(fit):
    fit.freeze("slope")
    fit.start(10**9)
    fit.set_values({"slope": 4.0})
    assert fit.status.busy and float(fit.params["slope"]) == 4.0
    fit.pause()
    target = fit.target
    fit.set_values({"slope": 5.0})
    assert fit.status == "paused" and fit.target == target


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"slope": jnp.nan}, "nan for 'slope' must be finite"),
        ({"star.xy": [1.0, jnp.inf]}, r"inf for 'star.xy\[1\]' must be finite"),
        ({"slope": 11.0}, "11.0 for 'slope' is outside of the bounds"),
        ({"slope": [1.0, 2.0]}, r"'slope' has shape \(2,\); must be \(\)"),
        ({"slope": "much"}, "'slope' is 'much'; must be a number"),
        ({"slop": 1.0}, "slope"),
        ({}, "no values"),
    ],
)
def test_impossible_values_are_refused(values, words):
    fit = make_fit(bounds={"slope": (-10.0, 10.0)})
    before = fit.snapshot
    with pytest.raises(ValueError, match=words):
        fit.set_values(values)
    assert fit.snapshot is before
