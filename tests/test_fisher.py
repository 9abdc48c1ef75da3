import dataclasses

import jax
import jax.numpy as jnp
import nist
import numpy as np
import pytest
import scipy.optimize

import fitkit as fk

X = np.linspace(-1, 2, 40)
SIGMA = 0.1


def line(params, args):
    x, y = args
    return (params["slope"] * x + params["offset"] - y) / SIGMA


LINE = {"slope": 2.0, "offset": 1.0}
LINE_ARGS = (X, 2 * X + 1)
# C sorts before S: the order of a dictionary's leaves.
LINE_COVARIANCE = (
    SIGMA**2
    / (len(X) * np.sum(X**2) - np.sum(X) ** 2)
    * np.array([[np.sum(X**2), -np.sum(X)], [-np.sum(X), len(X)]])
)


def product(params, args):
    """`a` and `b` only enter as a product, and `idle` not at all."""
    x, y = args
    decay = jnp.exp(-params["rate"] * x)
    return (params["a"] * params["b"] * decay + 0 * params["idle"].sum() - y) / SIGMA


PRODUCT = {"a": 2.0, "b": 3.0, "rate": 0.5, "idle": np.zeros(2)}
PRODUCT_ARGS = (X, 6 * np.exp(-0.5 * X))


def half_sum_of_squares(params, args):
    return 0.5 * jnp.sum(line(params, args) ** 2)


def test_a_straight_line_has_its_closed_form():
    fisher = fk.fisher_matrix(line, LINE, LINE_ARGS)
    assert fisher.labels == ("offset", "slope")
    # Condition number 2.5: a few units of rounding.
    np.testing.assert_allclose(fisher.matrix, np.linalg.inv(LINE_COVARIANCE), rtol=1e-13)
    np.testing.assert_allclose(fisher.covariance, LINE_COVARIANCE, rtol=1e-13)
    np.testing.assert_allclose(fisher.errors**2, np.diag(LINE_COVARIANCE), rtol=1e-13)
    r = LINE_COVARIANCE[0, 1] / np.sqrt(np.prod(np.diag(LINE_COVARIANCE)))
    np.testing.assert_allclose(fisher.correlations, [[1, r], [r, 1]], rtol=1e-13)
    # The units-free matrix is [[1, -r], [-r, 1]].
    np.testing.assert_allclose(fisher.eigenvalues, [1 - r, 1 + r], rtol=1e-13)
    assert fisher.condition_number == pytest.approx((1 - r) / (1 + r))
    assert fisher.rank == 2
    assert fisher.unconstrained == fisher.degenerate == ()
    np.testing.assert_allclose(fisher.projection @ fisher.projection.T, LINE_COVARIANCE, rtol=1e-13)


def test_raw_spectrum_is_that_of_the_matrix():
    fisher = fk.fisher_matrix(line, LINE, LINE_ARGS)
    np.testing.assert_allclose(
        fisher.raw_eigenvalues, np.linalg.eigvalsh(fisher.matrix)[::-1], rtol=1e-13
    )
    for value, vector in zip(fisher.raw_eigenvalues, fisher.raw_eigenvectors, strict=True):
        np.testing.assert_allclose(fisher.matrix @ vector, value * vector, rtol=1e-12)


def test_hessian_of_a_loss_agrees_with_the_jacobian_and_finite_differences():
    fisher = fk.fisher_matrix(loss=half_sum_of_squares, params=LINE, args=LINE_ARGS)
    assert fisher.squared
    np.testing.assert_allclose(fisher.covariance, LINE_COVARIANCE, rtol=1e-12)

    def gradient(vector):
        params = {"offset": vector[0], "slope": vector[1]}
        grads = jax.grad(half_sum_of_squares)(params, LINE_ARGS)
        return np.array([grads["offset"], grads["slope"]])

    step = 1e-3  # The loss is quadratic: any step gives the Hessian but for rounding.
    differences = [
        (gradient(np.array([1.0, 2.0]) + step * e) - gradient(np.array([1.0, 2.0]) - step * e))
        / (2 * step)
        for e in np.eye(2)
    ]
    np.testing.assert_allclose(fisher.matrix, differences, rtol=1e-9)


def test_scipy_agrees():
    rng = np.random.default_rng(0)
    y = 6 * np.exp(-0.5 * X) + 1 + SIGMA * rng.normal(size=X.size)

    def model(x, amplitude, rate, sky):
        return amplitude * np.exp(-rate * x) + sky

    best, covariance = scipy.optimize.curve_fit(
        model, X, y, p0=[5, 0.4, 0], sigma=np.full(X.size, SIGMA), absolute_sigma=True, xtol=1e-14
    )

    def residuals(params, args):
        return (params[0] * jnp.exp(-params[1] * X) + params[2] - y) / SIGMA

    # SciPy's Jacobian is made of forward differences, good to about 1e-7.
    fisher = fk.fisher_matrix(residuals, jnp.asarray(best))
    np.testing.assert_allclose(fisher.covariance, covariance, rtol=1e-5)


@pytest.mark.parametrize("name", nist.problems)
def test_certified_standard_errors(name):
    problem = nist.problems[name]
    fisher = fk.fisher_matrix(problem.residuals, problem.certified, problem.args)
    errors = fisher.errors * np.sqrt(problem.rss / problem.degrees_of_freedom)
    assert fisher.rank == len(fisher.labels)
    # Parameters are certified to 11 digits; eight are asked for and ten are there.
    certified = [problem.errors[label] for label in fisher.labels]
    np.testing.assert_allclose(errors, certified, rtol=1e-9)


@pytest.mark.parametrize("memory", [2**29, 1000], ids=["jacobian", "products"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rank_deficient_model_says_what_is_free(dtype, memory):
    params = {path: np.asarray(value, dtype) for path, value in PRODUCT.items()}
    args = tuple(np.asarray(value, dtype) for value in PRODUCT_ARGS)
    fisher = fk.fisher_matrix(product, params, args, memory=memory)
    assert fisher.squared == (memory == 1000 and dtype == np.float64)
    assert fisher.labels == ("a", "b", "idle[0]", "idle[1]", "rate")
    assert fisher.rank == 2
    assert fisher.condition_number == np.inf
    assert fisher.unconstrained == (
        "a - 1.5 b is unconstrained",
        "idle[0] is unconstrained: it has no effect",
        "idle[1] is unconstrained: it has no effect",
    )
    np.testing.assert_array_equal(np.isinf(fisher.errors), [True] * 4 + [False])
    # The rest is known as well as in the model that has the product for its parameter.
    alone = fk.fisher_matrix(
        lambda p, args: product({**PRODUCT, "a": p[0], "b": 1.0, "rate": p[1]}, args),
        jnp.array([6.0, 0.5]),
        PRODUCT_ARGS,
    )
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(fisher.errors[-1], alone.errors[-1], rtol=rtol)
    for array in (fisher.covariance, fisher.errors, fisher.correlations, fisher.projection):
        assert not np.any(np.isnan(array))
    assert np.all(np.isfinite(fisher.correlations))
    assert fisher.correlations[0, 1] == pytest.approx(-1)
    assert fisher.covariance[0, 1] == -np.inf
    assert fisher.covariance[0, 2] == 0
    assert np.count_nonzero(np.any(fisher.projection != 0, axis=0)) == 2
    # A step along a free direction leaves the data as they are, to first order.
    steps = fisher.null_directions @ fisher.matrix @ fisher.null_directions.T
    np.testing.assert_allclose(steps, 0, atol=1e-10 if dtype == np.float64 else 1e-3)


def test_a_sum_is_named_as_in_the_users_units():
    def total(params, args):
        return params["flux"] + 0.5 * params["sky"] - jnp.ones(3)

    fisher = fk.fisher_matrix(total, {"flux": 1.0, "sky": 1.0})
    # Half a unit of flux makes up for one of sky.
    assert fisher.unconstrained == ("flux - 2 sky is unconstrained",)
    assert "flux - 2 sky is unconstrained" in repr(fisher)
    assert "flux" in repr(fisher)


def test_a_nearly_degenerate_direction_is_named_with_its_eigenvalue():
    def residuals(params, args):
        return params["a"] + params["b"] * (1 + 1e-4 * X)

    fisher = fk.fisher_matrix(residuals, {"a": 1.0, "b": 1.0})
    assert fisher.rank == 2
    assert fisher.unconstrained == ()
    (words,) = fisher.degenerate
    assert words.startswith("a - b is nearly unconstrained")
    assert fisher.in_words(1) == "a - b"


def test_many_parameters_are_hinted_at():
    fisher = fk.fisher_matrix(lambda p, args: p.sum().reshape(1), jnp.ones(30))
    assert "… and 10 more" in repr(fisher)
    assert len(fisher.unconstrained) == 29


@pytest.mark.parametrize("points", [12, 300])
def test_float32_spectrum_at_condition_number_1e11(points):
    """Against the singular values of the exact Jacobian; eigvalsh(J'J) in float32 is garbage."""
    rng = np.random.default_rng(points)
    left = np.linalg.qr(rng.normal(size=(points, 6)))[0]
    right = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    design = left * np.logspace(0, -5.5, 6) @ right
    design /= np.linalg.norm(design, axis=0)
    expected = np.linalg.svd(design)[1] ** 2
    assert 1e10 < expected[0] / expected[-1] < 1e12
    # Powers of two as units: they cost no rounding.
    rounded = jnp.asarray(design * 2.0 ** np.arange(-9, 9, 3), jnp.float32)

    def residuals(params, args):
        return args @ params

    for memory in (2**29, 2000):
        fisher = fk.fisher_matrix(residuals, jnp.ones(6, jnp.float32), rounded, memory=memory)
        assert not fisher.squared
        assert fisher.rank == 6
        np.testing.assert_allclose(fisher.eigenvalues, expected, rtol=1e-3)
    unit = rounded / jnp.linalg.norm(rounded, axis=0, keepdims=True)
    naive = jnp.linalg.eigvalsh(unit.T @ unit)
    assert abs(naive[0] / expected[-1] - 1) > 1


def test_poisson_counts_by_weights_and_by_the_loss():
    def model(params, x):
        return params["amplitude"] * jnp.exp(-params["rate"] * x) + params["sky"]

    params = {"amplitude": 6.0, "rate": 0.5, "sky": 2.0}
    mu = model(params, X)
    expected = fk.fisher_matrix(model, params, X, weights=1 / mu)
    jacobian = np.stack([np.exp(-0.5 * X), -6 * X * np.exp(-0.5 * X), np.ones(X.size)])
    np.testing.assert_allclose(expected.matrix, jacobian / np.asarray(mu) @ jacobian.T, rtol=1e-12)

    # With the expected counts as data, observed and expected information are one.
    def loss(params, counts):
        rate = model(params, X)
        return jnp.sum(rate - counts * jnp.log(rate))

    observed = fk.fisher_matrix(loss=loss, params=params, args=mu)
    np.testing.assert_allclose(observed.matrix, expected.matrix, rtol=1e-10)


def test_information_of_blocks_adds_up():
    whole = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS)
    x, y = (np.split(array, 4) for array in PRODUCT_ARGS)
    summed = sum(fk.fisher_matrix(product, PRODUCT, block) for block in zip(x, y, strict=True))
    assert isinstance(summed, fk.FisherMatrix)
    np.testing.assert_allclose(summed.matrix, whole.matrix, atol=1e-12 * float(whole.matrix.max()))
    np.testing.assert_allclose(summed.eigenvalues, whole.eigenvalues, atol=1e-14)
    np.testing.assert_allclose(summed.errors, whole.errors, rtol=1e-12)
    assert summed.unconstrained == whole.unconstrained
    assert not summed.squared
    formed = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS, memory=1000)
    np.testing.assert_allclose((formed + whole).errors, whole.errors / np.sqrt(2), rtol=1e-10)


def test_a_prior_frees_nothing():
    data = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS)
    prior = fk.fisher_matrix(lambda p, args: (p["a"] - 2) / 0.1, PRODUCT)
    both = data + prior
    assert both.rank == data.rank + 1
    # With only the prior to tell a from b, a is known as well as the prior knows it.
    assert both.errors[0] == pytest.approx(0.1)


@pytest.mark.parametrize("memory", [2**29, 1000])
def test_what_would_follow_if_some_were_known(memory):
    fisher = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS, memory=memory)
    given = fisher.given(np.array([False, True, False, False, False]))
    assert given.labels == ("a", "idle[0]", "idle[1]", "rate")
    frozen = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS, frozen="b")
    np.testing.assert_allclose(given.errors, frozen.errors, rtol=1e-10)


def test_unlike_parameters_do_not_add():
    one = fk.fisher_matrix(line, LINE, LINE_ARGS)
    other = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS)
    with pytest.raises(ValueError, match=r"same parameters only.*'slope'"):
        _ = one + other


def test_a_saddle_is_not_a_minimum():
    fisher = fk.fisher_matrix(
        loss=lambda p, args: p["x"] ** 2 - 2 * p["y"] ** 2, params={"x": 0.0, "y": 0.0}
    )
    assert fisher.rank == 1
    np.testing.assert_allclose(fisher.errors, [0.5**0.5, np.inf])
    assert fisher.unconstrained == ("y is unconstrained: the loss curves downwards along it",)


@pytest.mark.parametrize(
    "params",
    [
        jnp.array([2.0]),
        {"a": {"b": [jnp.float64(2.0)]}},
        {"a": jnp.float64(2.0), "activation": jnp.tanh},
    ],
)
def test_single_parameters_of_many_kinds(params):
    def residuals(params, args):
        (value,) = (leaf for leaf in jax.tree.leaves(params) if not callable(leaf))
        return {"one": 3 * value.reshape(1), "two": [4 * value.reshape(1, 1)]}

    fisher = fk.fisher_matrix(residuals, params)
    np.testing.assert_allclose(fisher.errors, [0.2])
    assert fisher.condition_number == 1


def test_frozen_parameters_are_given():
    whole = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS)
    fisher = fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS, frozen=("b", "id*"))
    assert fisher.labels == ("a", "rate")
    np.testing.assert_allclose(fisher.matrix, whole.matrix[[0, 4]][:, [0, 4]], rtol=1e-12)
    with pytest.raises(KeyError, match="no parameter 'bb'"):
        fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS, frozen="bb")
    with pytest.raises(ValueError, match="all parameters are frozen"):
        fk.fisher_matrix(product, PRODUCT, PRODUCT_ARGS, frozen="*")


def test_no_effect_at_all_and_zero_residuals():
    fisher = fk.fisher_matrix(lambda p, args: 0 * p[:1], jnp.ones(2))
    assert fisher.rank == 0
    assert np.all(np.isinf(fisher.errors))
    assert np.all(np.isfinite(fisher.correlations))
    assert fisher.condition_number == np.inf
    assert not np.any(fisher.projection)


@pytest.mark.slow
def test_under_jit_and_vmap():
    def errors(rate):
        return fk.fisher_matrix(product, {**PRODUCT, "rate": rate}, PRODUCT_ARGS).errors

    rates = jnp.array([0.2, 0.5])
    together = jax.jit(jax.vmap(errors))(rates)
    for rate, row in zip(rates, together, strict=True):
        np.testing.assert_allclose(row, errors(rate), rtol=1e-10)
    batch = jax.vmap(lambda slope: fk.fisher_matrix(line, {**LINE, "slope": slope}, LINE_ARGS))
    assert "shape (2, 2, 2)" in repr(batch(rates))
    fisher = jax.jit(lambda p: fk.fisher_matrix(line, p, LINE_ARGS))(LINE)
    np.testing.assert_allclose(fisher.covariance, LINE_COVARIANCE, rtol=1e-12)
    by_loss = jax.jit(
        lambda p: fk.fisher_matrix(loss=half_sum_of_squares, params=p, args=LINE_ARGS)
    )
    np.testing.assert_allclose(by_loss(LINE).errors, fisher.errors, rtol=1e-12)


def test_a_second_call_traces_nothing():
    traces = []

    def counted(params, args):
        traces.append(1)
        return line(params, args)

    fk.fisher_matrix(counted, LINE, LINE_ARGS)
    first = len(traces)
    for offset in (0.0, 3.0):
        fk.fisher_matrix(counted, {**LINE, "offset": offset}, LINE_ARGS)
    assert len(traces) == first


def test_it_is_immutable():
    fisher = fk.fisher_matrix(line, LINE, LINE_ARGS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fisher.matrix = np.eye(2)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        fisher.matrix[0, 0] = 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"params": LINE}, ValueError, "either residuals or loss=, got neither"),
        (
            {"residuals": line, "loss": half_sum_of_squares, "params": LINE},
            ValueError,
            "got both",
        ),
        (
            {"residuals": line, "params": {**LINE, "slope": 2}, "args": LINE_ARGS},
            TypeError,
            "parameter 'slope' has dtype int64",
        ),
        (
            {"residuals": line, "params": {**LINE, "slope": jnp.nan}, "args": LINE_ARGS},
            ValueError,
            "parameter 'slope' is not finite",
        ),
        ({"residuals": line, "params": {}}, ValueError, "no parameter"),
        (
            {"residuals": lambda p, args: jnp.log(p["x"] - 1), "params": {"x": 1.0}},
            ValueError,
            "1 of 1 values of the residuals are not finite",
        ),
        (
            {"residuals": lambda p, args: jnp.sqrt(p), "params": jnp.array([1.0, 0.0, 4.0])},
            ValueError,
            r"derivatives are not finite with respect to 'params\[1\]' \(1 of 3\)\.",
        ),
        (
            {"residuals": lambda p, args: p["x"] > 1, "params": {"x": 1.0}},
            TypeError,
            "fisher_matrix: residuals have dtype bool; must be a tree of floating-point",
        ),
        (
            {"loss": lambda p, args: p["x"] * jnp.ones(2), "params": {"x": 1.0}},
            TypeError,
            r"one real number, got float64 of shape \(2,\)",
        ),
        (
            {"loss": half_sum_of_squares, "params": LINE, "weights": 1.0},
            ValueError,
            "weights belong to residuals",
        ),
        (
            {"residuals": line, "params": LINE, "args": LINE_ARGS, "rtol": -1.0},
            ValueError,
            r"rtol must be in \[0, 1\)",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        fk.fisher_matrix(**arguments)
