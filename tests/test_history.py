import numpy as np
import pytest

from fitkit._fit.history import History


def rows(count, start=0):
    step = np.arange(start, start + count, dtype=float)
    return np.stack([1000 - step, step, 2 * step], axis=1)


def test_rows_are_exact_until_the_bins_are_full():
    history = History.empty(["a"])
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
    history = History.empty(names)
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
    whole, parts = History.empty(["a"]), History.empty(["a"])
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
    history = History.empty(["a"])
    history = history.extended(rows(total))
    history = history.truncated(keep)
    assert len(history) == keep
    assert len(history.steps) == len(history.loss)
    history = history.extended(rows(10, keep))
    assert len(history) == keep + 10
    assert history.steps[-1] == keep + 9
    assert history.loss[-1] == 1000 - (keep + 9)


def test_many_parameters_have_fewer_bins():
    history = History.empty([f"p{i}" for i in range(1000)])
    history = history.extended(np.zeros((3000, 2001)))
    assert history._data.nbytes < 11_000_000
    assert len(history) == 3000
