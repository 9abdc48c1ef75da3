"""`find_nonfinite` on models whose failure is known, and on what else a user may hand to it."""

import os
import time

import jax
import jax.numpy as jnp
import nan_models
import numpy as np
import optax
import pytest
from nan_models import MODELS

import fitkit as fk

BAD = [name for name, model in MODELS.items() if model.phase]
HARMLESS = [name for name, model in MODELS.items() if not model.phase]
A = jnp.array


def found(*args, **options) -> fk.NonFiniteReport:
    report = fk.find_nonfinite(*args, **options)
    assert report is not None
    return report


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_the_report_tells_what_went_wrong(name: str) -> None:
    model = MODELS[name]
    report = found(model.loss, model.params(), model.args(), gradient=True)
    assert report.file is not None
    assert os.path.basename(report.file) == os.path.basename(nan_models.__file__)
    assert report.line == model.line, report
    assert report.phase == model.phase, report
    assert model.operation in report.operation, report
    assert model.family in ("", report.family), report
    assert model.origin in (None, report.origin), report
    assert model.parameters in (None, report.parameters), report
    assert model.iteration in (None, report.iteration), report
    assert model.lane in (None, report.lane), report
    assert report.advice
    assert f"line {model.line}" in str(report)
    assert "<table>" in report._repr_html_()


@pytest.mark.parametrize("name", HARMLESS)
def test_no_report_where_all_outputs_are_finite(name: str) -> None:
    model = MODELS[name]
    assert fk.find_nonfinite(model.loss, model.params(), model.args(), gradient=True) is None


def test_a_value_and_gradient_of_ones_own_and_a_jitted_function_do_as_well() -> None:
    model = MODELS["semi_minor_axis"]
    for function in (jax.value_and_grad(model.loss), jax.jit(jax.grad(model.loss))):
        report = found(function, model.params(), None)
        assert (report.line, report.origin) == (model.line, "orbit.ecc[1]")


def test_a_step_of_an_optimiser() -> None:
    optimiser = optax.adam(0.1, eps=0.0)

    def step(params, state):
        gradient = jax.grad(lambda p: (p["used"] - 3.0) ** 2 + 0.0 * p["idle"])(params)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params = {"used": A(1.0), "idle": A(0.5)}
    report = found(step, params, optimiser.init(params))
    assert (report.phase, report.family) == ("optimiser", "without effect")
    assert report.origin == "idle"
    assert report.parameters == ("idle",)


def test_the_path_of_calls_is_that_of_the_second_call() -> None:
    model = MODELS["visibility"]
    report = found(model.loss, model.params(), None)
    # The jitted helper was traced at its first, healthy call.
    assert any("in visibility" in place for place in report.called_from)


def test_where_the_compiler_reorders_the_report_says_so() -> None:
    # Compiled, division by a constant multiplies by its reciprocal, which overflows in float32.
    def scaled(params, args):
        return (params * jnp.float32(1e-30)) / jnp.float32(1e-39)

    value = jnp.float32(1e-20)
    report = fk.find_nonfinite(scaled, value, None)
    if np.isfinite(jax.jit(scaled)(value, None)):
        assert report is None
    else:
        assert report is not None
        assert report.line is not None


def test_parameters_that_are_not_finite_to_begin_with() -> None:
    report = found(lambda p, a: jnp.sum(p["x"]), {"x": A([1.0, jnp.nan])}, None)
    assert report.operation == "NaN in the parameters given"
    assert report.origin == "x[1]"


def test_what_is_handed_through_unchanged_is_no_failure() -> None:
    assert fk.find_nonfinite(lambda p, best: (p * 2, best), A(1.0), A(jnp.inf)) is None


def test_functions_and_texts_among_the_arguments() -> None:
    params = {"x": A(-1.0), "activation": jnp.log, "name": "text"}
    report = found(lambda p: p["activation"](p["x"]), params)
    assert report.origin == "x"


def test_numbers_and_one_bare_array() -> None:
    report = found(lambda p, a: jnp.log(p) * a, -1.0, 2.0, gradient=True)
    assert report.origin == "p"
    assert report.origin_value == -1.0


def test_the_users_debugging_switches_do_not_stop_the_replay() -> None:
    model = MODELS["ring_edge"]
    params, args = model.params(), model.args()
    with jax.debug_nans(True):
        report = found(model.loss, params, args, gradient=True)
    assert report.line == model.line


def test_inside_a_trace_it_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match="call it outside"):
        jax.jit(lambda x: fk.find_nonfinite(jnp.log, x))(1.0)


def test_a_report_is_frozen() -> None:
    report = found(jnp.log, A(-1.0))
    with pytest.raises(AttributeError):
        report.line = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_thousands_of_equations_are_replayed_in_seconds() -> None:
    def long(params, args):
        x = params
        for _ in range(500):
            x = jnp.sin(x * 1.01 + 0.1) * 0.9
        return jnp.log(jnp.sum(x) - 1e3)

    from fitkit._nonfinite.replay import run
    from fitkit._nonfinite.scope import Memory, count_equations

    closed = jax.make_jaxpr(jax.value_and_grad(long))(jnp.ones(50), None)
    began = time.process_time()
    scope = run(closed, [np.ones(50)], Memory())
    # 10 s are allowed for 10,000 equations, of which this is a part.
    assert time.process_time() - began < 10 * count_equations(closed) / 10_000
    loss = scope.read(scope.outputs[0])
    assert loss is not None and np.isnan(loss)


CELLS = [
    "import jax.numpy as jnp\nimport fitkit as fk",
    "def loss(params, args):\n    return jnp.sum(jnp.sqrt(params['r2']))",
    "report = fk.find_nonfinite(loss, {'r2': jnp.zeros(2)}, None, gradient=True)\nprint(report)",
]


@pytest.mark.slow
def test_in_a_notebook_the_report_names_the_cell() -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = notebook.cells[2].outputs[0].text
    assert "Cell In[2], line 2" in shown
    assert "return jnp.sum(jnp.sqrt(params['r2']))" in shown
