"""What a report says of the steps before: what was done to the fit, and what it does already."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._nonfinite import InForce, advice
from fitkit._optimisers import links

pytestmark = pytest.mark.slow

X = np.linspace(0.0, 1.0, 20)
Y = 2.0 * np.exp(-1.3 * X)


def misfit(params, args):
    return jnp.sum((params["a"] * jnp.exp(-params["b"] * X) - Y) ** 2)


def steep(params, args):
    return params["a"] - jnp.log(params["a"]) + params["b"] ** 2


def make(**changes):
    arguments = {"loss": misfit, "params": {"a": 1.0, "b": 1.0}, "optimiser": optax.sgd(1e-2)}
    return fk.Fit(**{**arguments, **changes})


def test_a_raised_learning_rate_comes_before_advice_on_units():
    fit = make()
    fit.run(10, progress=False)
    fit.learning_rates["a"] = 1e30
    fit.run(10, progress=False)
    report = fit.report
    assert report is not None
    ago = fit.step + 1 - 10
    assert report.history[0] == (
        f"the learning rate of a was raised 1e30-fold, to 1e30, at step 10, {ago} steps earlier"
    )
    assert (report.phase, report.family) == ("optimiser", "learning rate")
    assert report.advice.startswith("lower the learning rate of a again")
    assert not any(word in report.advice for word in ("units", "float64", "logarithm"))
    # What is done about it afterwards is no part of the story.
    fit.learning_rates["a"] = 1.0
    assert str(fit.report) == str(report)


def test_other_advice_follows_where_the_model_ends():
    fit = make(loss=steep, params={"a": 2.0, "b": 0.0})
    fit.learning_rates["a"] = 1.5
    fit.run(3, progress=False)
    fit.learning_rates["a"] = 1e4
    fit.run(3, progress=False)
    report = fit.report
    assert report is not None
    assert report.family == "log"
    raised = "lower the learning rate of a again"
    assert raised in report.advice
    assert report.advice.index(raised) < report.advice.index("logarithm of the parameter")
    # A rate that was raised by half is mentioned, and no more.
    assert "1.5-fold" in report.history[1]


def test_a_step_that_an_earlier_rate_took_is_not_blamed_on_the_next_one():
    def up(params, args):
        return params["a"] + 1e-3 * jnp.log(params["a"])

    fit = make(loss=up, params={"a": 0.7}, optimiser=optax.sgd(0.3))
    fit.run(3, progress=False)  # The last of these steps leads to a negative number.
    fit.learning_rates["a"] = 1e6
    fit.run(3, progress=False)
    assert fit.status == "non-finite"
    report = fit.report
    assert report is not None
    assert report.operation == "log of a negative number"
    assert not any("learning rate of a was raised" in line for line in report.history)


def test_another_optimiser_and_what_was_thawed_are_named():
    fit = make()
    fit.freeze("b")
    fit.run(5, progress=False)
    fit.change_optimiser(optax.sgd(1e200))
    fit.thaw("b")
    fit.run(5, progress=False)
    report = fit.report
    assert report is not None
    assert any("the optimiser was changed at step 5" in line for line in report.history)
    assert any("b was thawed at step 5" in line for line in report.history)
    assert report.advice.startswith("give the new optimiser a lower learning rate")


def test_a_bound_that_is_there_is_not_advised():
    fit = make(
        loss=lambda p, n: jnp.sum(p["mu"] - n * jnp.log(p["mu"])),
        params={"mu": 1.0},
        args=jnp.zeros(3),
        optimiser=optax.sgd(0.1),
        bounds={"mu": (0.0, None)},
    )
    fit.run(100, progress=False)
    report = fit.report
    assert report is not None
    assert report.advice.startswith("the parameter sits on its bound of 0")
    assert "set a bound" not in report.advice
    # The same where one element of an array is on its bound.
    fit = make(
        loss=lambda p, n: jnp.sum(p["mu"] - n * jnp.log(p["mu"])),
        params={"mu": jnp.array([1.0, 2.0])},
        args=jnp.zeros(2),
        optimiser=optax.sgd(0.1),
        bounds={"mu": (0.0, None)},
    )
    fit.run(100, progress=False)
    assert fit.report is not None
    assert "bound of 0" in fit.report.advice


def test_a_limit_of_the_step_that_is_there_is_not_advised():
    for optimiser, limited in (
        (optax.sgd(1e200), False),
        (optax.chain(optax.sgd(1e300), fk.max_step_size(1e200)), True),
    ):
        fit = make(optimiser=optimiser)
        fit.run(5, progress=False)
        report = fit.report
        assert report is not None
        assert report.family == "learning rate"
        assert ("lower the limit of the step" in report.advice) is limited
        assert ("limit the step, and" in report.advice) is not limited


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_double_precision_that_is_there_is_not_advised(dtype):
    report = fk.find_nonfinite(lambda p: jnp.exp(p), jnp.asarray(1e3, dtype))
    assert report is not None
    assert report.dtype == dtype
    assert ("float64" in report.advice) is (dtype == "float32")


def test_the_place_is_never_one_of_ours():
    def residuals(params, args):
        return params["a"] * jnp.ones(3) * 1e200 - 1e200 * args

    with pytest.raises(ValueError, match="overflow of square") as caught:
        make(loss=None, residuals=residuals, optimiser=None, args=jnp.zeros(3))
    assert "test_story.py" in str(caught.value)
    assert "problem.py" not in str(caught.value)


def test_links_of_an_optimiser():
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.zero_nans(), optax.adam(0.1))
    assert {"clip_by_global_norm", "zero_nans", "scale_by_adam"} <= links(chain)
    limited = optax.chain(optax.sgd(0.1), fk.max_step_size(0.1))
    mapped, _ = fk.map_optimisers({"a": 1.0, "b": 1.0}, {"a": limited, "b": optax.sgd(0.1)})
    steered = optax.inject_hyperparams(fk.max_step_size, static_args=("systems", "num_systems"))(
        limit=0.1
    )
    for optimiser in (limited, mapped, optax.chain(optax.adam(0.1), steered)):
        assert "max_step_size" in links(optimiser)
    assert "max_step_size" not in links(fk.gauss_newton())


def test_advice_leaves_out_what_is_in_force():
    assert advice("log").endswith(", or set a bound above 0")
    assert "bound" not in advice("log", in_force=InForce(bounded=True))
    assert advice("overflow", "float32").endswith("or use float64")
    assert advice("overflow", "float64").endswith("or rescale the units")
    inside = advice("domain", in_force=InForce(bounded=True, on_bound=1.0))
    assert "bound of 1" in inside
    assert "move the bound a little inside" in inside
