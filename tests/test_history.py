import dataclasses

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


def bytes_of(history):
    """Count what is held, whole arrays where a part of one is held."""
    pending = history._pending
    arrays = history._data, pending.parts, pending.rows
    return sum((one if one.base is None else one.base).nbytes for one in arrays)


def wide(width, names=("a",)):
    """Build an empty history whose bins are as wide as after many steps."""
    return dataclasses.replace(History.empty(Columns(names, {})), width=width)


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
    assert bytes_of(history) < 5_000_000
    loss = history.summary("loss")
    assert len(loss.first) == len(history.steps) <= 2048
    assert loss.maximum.max() == 50.0
    assert loss.minimum.min() == -3.0
    where = history.steps[np.argmax(loss.maximum)]
    assert where - history.width < spike <= where
    # The median of 1 + 0.1 U(0, 1) is 1.05; 1000s of draws a bin leave less than 0.001 of noise.
    np.testing.assert_allclose(np.median(loss.median), 1.05, atol=1e-3)
    assert history.steps[-1] == total - 1


@pytest.mark.parametrize("width", [1, 2**16, 2**20])
def test_a_bin_of_many_rows_takes_no_more_memory_than_one_of_few(width):
    history, most = wide(width, [f"p{i}" for i in range(450)]), 0
    block = np.ones((3000, history.row_length))
    for _ in range(25):
        history = history.extended(block)
        most = max(most, bytes_of(history))
    assert len(history) == 75_000
    # Bins of 8 MB, 127 rows of 901 numbers, and 13 parts of a bin at most, of five rows each.
    assert most < 8_000_000 + (127 + 13 * 5) * 901 * 8
    back = history.truncated(74_000)
    assert (len(back), bytes_of(back) < 10_000_000) == (74_000, True)
    saved = sum(array.nbytes for array in history.to_arrays().values())
    assert saved < 10_000_000


def test_of_a_large_array_only_the_rows_that_came_are_kept():
    history, record = wide(64), np.ones((100_000, 3))
    for _ in range(100):
        history = history.extended(record[:1])
    assert bytes_of(history) < 500_000


@pytest.mark.parametrize("width", [8, 128, 256, 4096])
def test_a_wide_bin_knows_its_rows_while_it_is_filled(width):
    rng = np.random.default_rng(width)
    noise, history, seen = rng.normal(size=(9000, 3)), wide(width), []
    while len(history) < len(noise):
        history = history.extended(noise[len(history) :][: rng.integers(1, 700)])
        seen.append(history)
    # Asked at the end, each history knows its own steps, not those that others went on with.
    for one in seen:
        bins = np.split(noise[: len(one)], range(width, len(one), width))
        bounds = np.cumsum([0, *map(len, bins)])
        found = [one.summary("loss"), one.summary("step_norms", "a")]
        for column, summary in zip((0, 2), found, strict=True):
            values = [rows[:, column] for rows in bins]
            np.testing.assert_array_equal(one.steps, bounds[1:] - 1)
            np.testing.assert_array_equal(summary.first, [rows[0] for rows in values])
            np.testing.assert_array_equal(summary.last, [rows[-1] for rows in values])
            np.testing.assert_array_equal(summary.minimum, [rows.min() for rows in values])
            np.testing.assert_array_equal(summary.maximum, [rows.max() for rows in values])
            # The ninther of normal noise errs by 0.4 or so where there are no more than 128 rows.
            assert np.all(np.abs(summary.median[[len(rows) > 8 for rows in values]]) < 2)
        np.testing.assert_array_equal(one.latest.gradient_norms, noise[len(one) - 1, 1:2])


def test_the_median_of_a_bin_weighs_each_part_by_its_rows():
    losses = np.repeat([1.0, 2.0, 3.0], [256, 128, 64])
    history = wide(1024).extended(np.stack([losses] * 3, axis=1))
    # Three roundings.
    wanted = np.mean(losses)
    np.testing.assert_allclose(history.summary("loss").median, [wanted], rtol=3 * 2.3e-16)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 5000])
def test_wide_bins_do_not_depend_on_how_rows_arrive(chunk):
    noise = np.random.default_rng(0).normal(size=(9001, 3))
    whole, parts = wide(1024).extended(noise), wide(1024)
    for start in range(0, len(noise), chunk):
        parts = parts.extended(noise[start : start + chunk])
    for name, array in whole.to_arrays().items():
        np.testing.assert_array_equal(array, parts.to_arrays()[name])


@pytest.mark.parametrize("known", [0, 1, 100, 700, 5000])
@pytest.mark.parametrize("keep", [4096, 4097, 4800, 5119, 5120, 5121, 5990, 6016, 6020, 1500, 256])
def test_of_a_cut_bin_what_can_be_known_stays(keep, known):
    """Bins of 4096 rows, and 2000 rows in parts of 1024, 512, 256 and 128, and 80 as they are."""
    noise = np.random.default_rng(0).normal(size=(6096, 3))
    full = wide(4096).extended(noise)
    before = full.summary("loss")
    known = min(known, keep)
    history = full.truncated(keep, noise[keep - known : keep])
    # The cut part is that whose rows are not all before the cut.
    starts = [0, 4096, 5120, 5632, 5888, 6016]
    start = max(one for one in starts if one <= keep)
    wanted = noise[:keep].copy()
    if start < 6016:
        wanted[start : max(keep - known, start)] = noise[start]
    bins = np.split(wanted, [4096])[: 1 + (keep > 4096)]
    found = history.summary("loss")
    assert len(history) == keep
    np.testing.assert_array_equal(found.first, [rows[0, 0] for rows in bins])
    np.testing.assert_array_equal(found.last, [rows[-1, 0] for rows in bins])
    np.testing.assert_array_equal(found.minimum, [rows[:, 0].min() for rows in bins])
    np.testing.assert_array_equal(found.maximum, [rows[:, 0].max() for rows in bins])
    # What is filled from here on is filled as if the rows had come so.
    again = history.extended(noise[keep:])
    assert len(again) == len(noise)
    assert [len(one) for one in again.summary("loss")] == [2] * 5
    np.testing.assert_array_equal(full.summary("loss"), before)


def test_a_history_of_wide_bins_is_saved_and_goes_on():
    noise = np.random.default_rng(0).normal(size=(9001, 3))
    whole = wide(1024).extended(noise)
    start = wide(1024).extended(noise[:5000])
    again = History.empty(Columns(["a"], {})).from_arrays(start.to_arrays())
    assert (len(again), again.width) == (5000, 1024)
    for name, array in again.extended(noise[5000:]).to_arrays().items():
        np.testing.assert_array_equal(array, whole.to_arrays()[name])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("counts", np.array([1024, 4])),
        ("counts", np.array([1024.0, 4.0, 904.0])),
        ("counts", np.array([1000, 4, 904])),
        ("counts", np.array([0, 4, 904])),
        ("counts", np.array([1024, 5, 904])),
        ("counts", np.array([1024, 4, 905])),
        ("counts", np.array([1024, 4, 904 - 128])),
        ("counts", np.array([1024, 4, 904 + 1024])),
        ("counts", np.array([1024, 4, -120])),
        ("parts", np.zeros((5, 2, 3))),
        ("parts", np.zeros((5, 3, 4))),
        ("parts", np.zeros((5, 3, 3), "float32")),
        ("pending", np.zeros((9, 3))),
        ("pending", np.zeros((8, 4))),
        ("pending", np.zeros(8)),
        ("pending", np.zeros((8, 3), complex)),
        ("bins", np.zeros((5, 3, 3))),
    ],
)
def test_arrays_of_no_history_are_refused(name, array):
    history = wide(1024).extended(rows(5000))
    arrays = history.to_arrays()
    shapes = {one: value.shape for one, value in arrays.items()}
    assert shapes == {"bins": (5, 4, 3), "parts": (5, 3, 3), "pending": (8, 3), "counts": (3,)}
    with pytest.raises(ValueError, match="a history "):
        history.from_arrays({**arrays, name: array})


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
    for one in (history.extended(noise), wide(2**12, names).extended(noise)):
        expected = [one.summary(quantity, name).median for name in names]
        np.testing.assert_array_equal(norm_medians(one, quantity).T, expected)
