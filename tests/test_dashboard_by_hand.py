"""Controls of what is done by hand, clicked: values, code, and the card of a non-finite fit."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
from browser import wait_until
from controls import live, row

import fitkit as fk
from fitkit._dashboard.by_hand import NOTCHES, Scale
from fitkit._dashboard.eigenvectors import is_old
from fitkit._fit.snapshots import Place


def residuals(params, args):
    return [10.0 * (params["flux"] - 3.0), params["star"]["xy"] - jnp.array([1.0, 2.0])]


def make_fit(**more):
    params = {"flux": jnp.array(1.0), "star": {"xy": jnp.array([0.5, 0.1])}}
    given = {"residuals": residuals, "optimiser": optax.adam(1e-2), "bounds": {"flux": (0, 100)}}
    return fk.Fit(params=params, **{**given, **more})


@pytest.mark.parametrize(
    ("value", "lower", "upper", "expected"),
    [
        (2.0, 0.0, 10.0, Scale(0.0, 10.0, False)),
        (2.0, 1e-3, 1e3, Scale(2e-3, 1e3, True)),
        (2.0, 0.0, math.inf, Scale(2e-3, 2e3, True)),
        (-2.0, -math.inf, 0.0, Scale(-8.0, 0.0, False)),
        (0.0, -math.inf, math.inf, Scale(-3.0, 3.0, False)),
    ],
)
def test_a_slider_fits_the_value_and_its_bounds(value, lower, upper, expected):
    scale = Scale.of(value, lower, upper)
    assert scale == expected
    assert lower <= scale.at(0) < scale.at(NOTCHES) <= upper
    assert all(scale.notch(scale.at(notch)) == notch for notch in range(0, NOTCHES + 1, 40))


def test_values_are_set_by_number_and_slider_and_undone(fit, dashboard):
    by_hand = live(dashboard).by_hand
    assert not by_hand.numbers
    by_hand.values.value = True
    wait_until(lambda: len(by_hand.numbers) == 3, "a number for every element")
    flux, x, _ = by_hand.numbers
    x.number.value = 7.5
    wait_until(lambda: float(fit.params["star"]["xy"][0]) == 7.5, "the number in the fit")
    flux.slider.value = NOTCHES // 2
    wait_until(lambda: float(fit.params["flux"]) == 50.0, "the slider in the fit")
    wait_until(lambda: flux.number.value == 50.0, "the number to follow")
    live(dashboard).header.undo.click()
    wait_until(lambda: float(fit.params["flux"]) == 1.0, "the value to be given back")
    wait_until(lambda: flux.number.value == 1.0, "the number to follow")
    flux.number.value = -1.0
    wait_until(lambda: "outside of the bounds" in live(dashboard).header.notice.value, "a notice")
    wait_until(lambda: flux.number.value == 1.0, "the number to go back")
    live(dashboard).header.run.click()
    wait_until(lambda: by_hand.values.disabled or fit.step == 1000, "the fit to run")


def test_the_code_of_what_was_done_is_there_to_be_copied(fit, dashboard):
    by_hand = live(dashboard).by_hand
    by_hand.code.value = True
    wait_until(lambda: "Nothing" in by_hand.text.value, "no code")
    fit.freeze("flux")
    wait_until(lambda: by_hand.text.value == "fit.freeze('flux')", "the code")


@pytest.mark.parametrize("button", ["undo", "rewind", "lower"])
def test_the_card_of_a_non_finite_fit(button):
    def logarithm(params, args):
        return -(jnp.log(params["a"]) ** 2) + params["b"] ** 2

    fit = fk.Fit(
        loss=logarithm, params={"a": jnp.array(0.5), "b": jnp.array(2.0)}, optimiser=optax.sgd(0.01)
    )
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    fit.run(3, progress=False)
    fit.learning_rates["a"] = 40.0
    fit.run(500, progress=False)
    assert fit.status == "non-finite"
    card = live(dashboard).card
    dashboard.refresh()
    assert "fitkit-none" not in card.box._dom_classes
    assert "learning rate of a: 40" in card.words.value and "log" in card.words.value
    best = fit.best.step
    getattr(card, button).click()
    if button == "undo":
        wait_until(lambda: fit.learning_rates["a"] == 1.0, "the rate to be given back")
    else:
        wait_until(lambda: fit.status == "stopped" and fit.step == best, "the best step")
        assert fit.learning_rates["a"] == (20.0 if button == "lower" else 40.0)
        wait_until(lambda: "fitkit-none" in card.box._dom_classes, "the card to go")
    dashboard.close()


def test_a_frozen_parameter_is_fixed_and_errors_carry_their_step(fit, dashboard):
    fit.run(3, progress=False)
    fit.fisher()
    fit.freeze("flux")
    dashboard.refresh()
    table = live(dashboard).table
    assert row(dashboard, "flux").value.value.endswith(" fixed")
    assert "±" not in row(dashboard, "flux").value.value
    assert "±" in row(dashboard, "star.xy").value.value
    assert "error of step 3" in table.head.value and "fitkit-old" not in table.head.value
    fit.set_values({"flux": 2.0})
    now = fit.snapshot
    assert is_old(now.but(place=Place(4, now.place.kept, now.place.program)), 3)


def test_a_group_tells_its_largest_pull_and_step():
    # With σ of 0.1 and 1, and unit steps of sgd: pulls (x - best) / σ are 10 and 2.
    params = {"many": {f"p{i:02}": jnp.array(0.0) for i in range(13)}, "one": jnp.array(0.0)}

    def independent(params, args):
        return [
            (leaf - 1.0) / (0.1 if path[-1].key == "p03" else 0.5)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        ]

    fit = fk.Fit(residuals=independent, params=params, optimiser=optax.sign_sgd(0.001))
    dashboard = fk.Dashboard(fit)
    _ = dashboard.widget
    fit.run(1, progress=False)
    fit.fisher()
    dashboard.refresh()
    words = live(dashboard).table.rows[0].value.value
    assert words == "pull ≤ 10 σ, step ≤ 0.01 σ"
    dashboard.close()
