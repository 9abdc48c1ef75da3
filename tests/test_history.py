import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._fit.history import History, norm_medians
from fitkit._fit.record import Columns, recorded


def rows(count, start=0):
    step = np.arange(start, start + count, dtype=float)
    return np.stack([1000 - step, step, 2 * step], axis=1)


def test_rows_are_exact_until_the_bins_are_full():
    history = History.empty(Columns(["a"], {}))
    for start in range(0, 1000, 125):
        history = history.extended(rows(125, start))
    assert len(history) == 1000
    np.testing.assert_array_equal(history.steps, np.arange(1000))
    np.testing.assert_array_equal(history.loss, 1000 - np.arange(1000))
    np.testing.assert_array_equal(history.gradient_norms["a"], np.arange(1000))
    np.testing.assert_array_equal(history.step_norms["a"], 2 * np.arange(1000))


@pytest.mark.slow
def test_ten_million_steps_stay_small_and_keep_their_extremes():
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(3)]
    history = History.empty(Columns(names, {}))
    spike, dip = 7_654_321, 1_234_567
    total, chunk = 10_000_000, 40_000
    for start in range(0, total, chunk):
        block = 1 + 0.1 * rng.random((chunk, 7))
        if start <= spike < start + chunk:
            block[spike - start, 0] = 50.0
        if start <= dip < start + chunk:
            block[dip - start, 0] = -3.0
        history = history.extended(block)
    assert len(history) == total
    memory = history._data.nbytes + sum(block.nbytes for block in history._pending)
    assert memory < 5_000_000
    loss = history.summary("loss")
    assert len(loss.first) == len(history.steps) <= 2048
    assert loss.maximum.max() == 50.0
    assert loss.minimum.min() == -3.0
    where = history.steps[np.argmax(loss.maximum)]
    assert where - history.width < spike <= where
    # The median of 1 + 0.1 U(0, 1) is 1.05; 1000s of draws a bin leave less than 0.001 of noise.
    np.testing.assert_allclose(np.median(loss.median), 1.05, atol=1e-3)
    assert history.steps[-1] == total - 1


@pytest.mark.parametrize("chunk", [1, 7, 1000, 5000])
def test_bins_do_not_depend_on_how_rows_arrive(chunk):
    whole, parts = History.empty(Columns(["a"], {})), History.empty(Columns(["a"], {}))
    data = rows(9001)
    whole = whole.extended(data)
    for start in range(0, len(data), chunk):
        parts = parts.extended(data[start : start + chunk])
    np.testing.assert_array_equal(whole.steps, parts.steps)
    for left, right in zip(whole.summary("loss"), parts.summary("loss"), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("total", [100, 9001])
@pytest.mark.parametrize("keep", [0, 1, 57, 99])
def test_truncated_history_goes_on(total, keep):
    history = History.empty(Columns(["a"], {}))
    history = history.extended(rows(total))
    history = history.truncated(keep)
    assert len(history) == keep
    assert len(history.steps) == len(history.loss)
    history = history.extended(rows(10, keep))
    assert len(history) == keep + 10
    assert history.steps[-1] == keep + 9
    assert history.loss[-1] == 1000 - (keep + 9)


def test_many_parameters_have_fewer_bins():
    history = History.empty(Columns([f"p{i}" for i in range(1000)], {}))
    history = history.extended(np.zeros((3000, 2001)))
    assert history._data.nbytes < 11_000_000
    assert len(history) == 3000


def moving(shapes):
    """Build a fit by steps of a tenth of each value: after n of them 0.9ⁿ of it is left."""
    params = {name: 1 + jnp.arange(float(np.prod(s))).reshape(s) for name, s in shapes.items()}
    return fk.Fit(
        loss=lambda p, _: 0.5 * sum(jnp.sum(leaf**2) for leaf in p.values()),
        params=params,
        optimiser=optax.sgd(0.1),
    ), params


def test_values_are_those_that_steps_start_from():
    fit, start = moving({"flux": (), "tilt": (2, 3), "image": (65,)})
    fit.run(30, progress=False)
    values = fit.history.values
    assert list(values) == ["flux", "tilt"]
    assert values["tilt"].shape == (30, 2, 3)
    left = 0.9 ** np.arange(30.0)
    # Thirty products, each rounded.
    np.testing.assert_allclose(values["flux"], left, rtol=30 * 2e-16)
    np.testing.assert_allclose(
        values["tilt"], left[:, None, None] * np.asarray(start["tilt"]), rtol=30 * 2e-16
    )
    assert next(fit.steps(1)).values["flux"] == values["flux"][-1] * 0.9
    with pytest.raises(KeyError, match="'image' is not recorded"):
        values["image"]


def test_extremes_of_values_are_kept_element_by_element():
    columns = Columns(["a"], {"a": (2,)})
    history = History.empty(columns)
    rows = np.zeros((10_000, columns.count))
    rows[1234, 3], rows[4321, 4] = 5.0, -7.0
    history = history.extended(rows)
    assert history.width > 1
    bins = history.summary("values", "a")
    assert bins.maximum.shape == (len(history.steps), 2)
    np.testing.assert_array_equal(bins.maximum.max(axis=0), [5.0, 0.0])
    np.testing.assert_array_equal(bins.minimum.min(axis=0), [0.0, -7.0])


def test_values_survive_rewinding_saving_and_another_start(tmp_path):
    shapes = {"flux": (), "tilt": (3,)}
    fit, start = moving(shapes)
    fit.run(20, progress=False)
    before = fit.history.values
    fit.save(tmp_path / "fit")
    fit.rewind(12)
    assert len(fit.history.values["flux"]) == 12
    fit.run(8, progress=False)
    for name in shapes:
        np.testing.assert_array_equal(fit.history.values[name], before[name])
    again = fk.Fit.load(
        tmp_path / "fit",
        loss=lambda p, _: 0.5 * sum(jnp.sum(leaf**2) for leaf in p.values()),
        params=start,
        optimiser=optax.sgd(0.1),
    )
    np.testing.assert_array_equal(again.history.values["tilt"], before["tilt"])
    fit.restart()
    assert fit.history.values["tilt"].shape == (0, 3)


def test_of_thousands_of_elements_the_values_of_the_smallest_are_recorded():
    many = {f"v{k:02d}": jnp.zeros(60) for k in range(20)}
    scalars = {f"s{k}": jnp.array(0.0) for k in range(100)}
    chosen = recorded(many | scalars)
    assert set(scalars) < set(chosen)
    assert sum(leaf.size for leaf in chosen.values()) == 1000
    assert list(chosen) == [name for name in sorted(many | scalars) if name in chosen]


def test_norms_of_big_leaves_are_those_of_what_moved():
    fit, start = moving({"flux": (), "image": (65,)})
    fit.run(1, progress=False)
    fit.learning_rates["image"] = 0.5
    fit.run(1, progress=False)
    fit.freeze("image")
    fit.run(1, progress=False)
    size = np.linalg.norm(start["image"])
    # A few roundings of float64; the factor of a learning rate travels as float32.
    wanted = {"gradient_norms": [size, 0.9 * size, 0], "step_norms": [0.1 * size, 0.045 * size, 0]}
    for quantity, norms in wanted.items():
        found = fit.history.summary(quantity, "image").last
        np.testing.assert_allclose(found, norms, rtol=1e-7)


@pytest.mark.parametrize("total", [0, 1, 5, 2048, 2049, 2052, 10_000, 10_007])
@pytest.mark.parametrize("quantity", ["gradient_norms", "step_norms"])
def test_the_medians_of_all_parameters_are_those_of_each(total, quantity):
    names = ("a", "b", "c")
    noise = np.random.default_rng(0).normal(size=(total, 7))
    history = History.empty(Columns(names, {}))
    for start in range(0, total, 3):  # so that pending rows are in several parts
        history = history.extended(noise[start : start + 3])
    expected = [history.summary(quantity, name).median for name in names]
    np.testing.assert_array_equal(norm_medians(history, quantity).T, expected)
