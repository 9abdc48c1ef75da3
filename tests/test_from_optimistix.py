"""Solvers of optimistix: the numbers of optimistix itself, and what ends a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from nist import problems

import fitkit as fk

TOLERANCES: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
X = jnp.linspace(0.0, 3.0, 20)
START = {"height": jnp.array(1.0), "rate": jnp.array(0.5)}


def residuals(params, args):
    del args
    return params["height"] * jnp.exp(-params["rate"] * X) - 3 * jnp.exp(-1.1 * X) + 0.1 * X


def loss(params, args):
    return 0.5 * jnp.sum(residuals(params, args) ** 2)


def assert_close(found, expected, rtol):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol)


# Compiled differently, the two agree to the rounding of the last step, which comes after quadratic
# convergence: far below the tolerances.
@pytest.mark.parametrize(
    "kind",
    [
        optx.Dogleg,
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in (optx.LevenbergMarquardt, optx.IndirectLevenbergMarquardt)
        ),
    ],
)
def test_least_squares_are_those_of_optimistix(kind):
    problem, solver = problems["Misra1a"], kind(**TOLERANCES)
    start = jax.tree.map(jnp.asarray, problem.starts[1])
    args = jax.tree.map(jnp.asarray, problem.args)
    solution = optx.least_squares(problem.residuals, solver, start, args)
    optimiser = fk.from_optimistix(solver)
    fit = fk.Fit(residuals=problem.residuals, params=start, args=args, optimiser=optimiser)
    fit.run(300, progress=False)
    assert fit.status == "converged" and fit.result().converged
    assert_close(fit.params, solution.value, 1e-11)
    # The first of optimistix' steps takes the loss of the start; fitkit has that already.
    assert abs(fit.step - (int(solution.stats["num_steps"]) - 1)) <= 1


@pytest.mark.parametrize("kind", [optx.BFGS, pytest.param(optx.NelderMead, marks=pytest.mark.slow)])
def test_minima_are_those_of_optimistix(kind):
    solver = kind(**TOLERANCES)
    solution = optx.minimise(loss, solver, START, max_steps=1000)
    fit = fk.Fit(loss=loss, params=START, optimiser=fk.from_optimistix(solver))
    fit.run(1000, progress=False)
    assert fit.status == "converged"
    assert fit.step == int(solution.stats["num_steps"])
    # The same steps, but for rounding in a sum of squares, which shows to half the digits.
    assert_close(fit.params, solution.value, 1e-8)


def test_bounds_frozen_parameters_and_moves_by_hand_are_respected(tmp_path):
    optimiser = fk.from_optimistix(optx.LevenbergMarquardt(**TOLERANCES))
    problem: dict[str, Any] = {
        "residuals": residuals,
        "params": START,
        "bounds": {"rate": (0, 1.0)},
    }
    fit = fk.Fit(**problem, optimiser=optimiser)
    fit.freeze("height")
    fit.run(100, progress=False)
    assert fit.status == "converged" and float(fit.params["height"]) == 1.0
    fit.thaw("height")
    fit.set_values({"rate": 0.9})
    fit.run(100, progress=False)
    assert fit.status == "converged" and float(fit.params["rate"]) == 1.0
    # Linear in what is left: the height that least squares give in closed form.
    model = jnp.exp(-X)
    data = 3 * jnp.exp(-1.1 * X) - 0.1 * X
    # As near as the tolerance of 1e-10 brings it.
    expected = float(model @ data / (model @ model))
    assert float(fit.params["height"]) == pytest.approx(expected, rel=1e-8)
    fit.save(tmp_path / "fit")
    loaded = fk.Fit.load(tmp_path / "fit", **problem, optimiser=optimiser)
    assert loaded.step == fit.step and loaded.status == "converged"


def test_a_solver_that_gets_nowhere_ends_the_run():
    never = fk.from_optimistix(optx.LevenbergMarquardt(rtol=0.0, atol=0.0))
    fit = fk.Fit(residuals=residuals, params=START, optimiser=never)
    fit.run(1000, progress=False)
    assert fit.status == "stalled" and fit.result().converged


bare: Any = optx.BFGS(**TOLERANCES)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (lambda: fk.from_optimistix(optx.Dogleg), r"Call it: Dogleg\(rtol=1e-8"),
        (lambda: fk.from_optimistix(optx.Bisection(rtol=1e-3, atol=1e-3)), "or a minimiser"),
        (
            lambda: fk.Fit(loss=loss, params=START, optimiser=bare),
            r"Write fitkit.from_optimistix\(BFGS",
        ),
        (
            lambda: fk.Fit(
                loss=loss,
                params=START,
                optimiser=fk.from_optimistix(optx.Dogleg(**TOLERANCES)),
            ).run(1, progress=False),
            "needs residuals= in place of loss=",
        ),
    ],
)
def test_slips_are_named(slip, said):
    with pytest.raises(TypeError, match=said):
        slip()
