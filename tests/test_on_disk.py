"""Data that stay in files: read block by block, with the answers of data in memory."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

COUNT, SIZE = 1003, 100
X = np.linspace(0.0, 3.0, COUNT)
Y = 3 * np.exp(-0.7 * X) + np.random.default_rng(0).normal(0.0, 0.01, COUNT)
START = {"height": 1.0, "rate": 0.5}


class Source:
    """An array that is read by slices, as those of h5py are, and knows what was asked of it."""

    chunks = None

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.most = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        part = self.array[key]
        if not isinstance(key[-1], slice):
            assert np.all(np.diff(key[-1]) > 0)  # h5py reads ascending indices only.
        self.most = max(self.most, part.size)
        return part


def residuals(params, data):
    return (params["height"] * jnp.exp(-params["rate"] * data["x"]) - data["y"]) / 0.01


def summed(params, data):
    return 0.5 * jnp.sum(residuals(params, data) ** 2)


@pytest.fixture
def files(tmp_path):
    """Return the data as arrays in files: big-endian, as FITS has them, and NumPy's own."""
    np.save(tmp_path / "x.npy", X.astype(">f8"))
    np.save(tmp_path / "y.npy", Y)
    return {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"}


def of_batches(args):
    """Build a fit of which each step sees some of the data."""
    return fk.Fit(
        residuals=residuals,
        params=START,
        args=args,
        optimiser=optax.adam(0.05),
        minibatch=50,
        microbatch=SIZE,
    )


def same_answer(fit, plain):
    """Whether two fits agree to a thousandth of an error, and their errors to six digits."""
    ours, theirs = fit.result(), plain.result()
    assert ours.success
    for path, error in theirs.errors.items():
        assert abs(ours.values[path] - theirs.values[path]) < 1e-3 * error
        assert float(ours.errors[path]) == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param({"residuals": residuals}, id="residuals"),
        pytest.param({"loss": summed}, id="loss", marks=pytest.mark.slow),
    ],
)
def test_the_answer_is_that_of_data_in_memory(files, problem):
    optimiser = None if "residuals" in problem else optax.lbfgs()
    fits = [
        fk.Fit(**problem, params=START, args=args, optimiser=optimiser, microbatch=SIZE)
        for args in (files, {"x": X, "y": Y})
    ]
    for fit in fits:
        fit.run(progress=False)
    same_answer(*fits)


def test_no_more_than_a_block_is_read_at_a_time():
    sources = {"x": Source(X), "y": Source(Y.astype(np.float32))}
    fit = fk.Fit(residuals=residuals, params=START, args=sources, microbatch=SIZE)
    fit.run(progress=False)
    fit.fisher()
    assert fit.result().success
    assert max(source.most for source in sources.values()) == SIZE


def test_batches_are_drawn_from_files():
    fits = [of_batches(args) for args in ({"x": Source(X), "y": Source(Y)}, {"x": X, "y": Y})]
    for fit in fits:
        fit.run(30, progress=False)
    # The same draws; sums of 50 terms, fused otherwise.
    np.testing.assert_allclose(fits[0].history.loss, fits[1].history.loss, rtol=1e-10)


def test_along_another_axis_beside_what_is_shared_and_with_other_files():
    images = np.random.default_rng(1).normal(size=(4, 23, 3))
    psf = np.random.default_rng(2).normal(size=(4,))

    def several(params, args):
        model = params["a"] * args["psf"][:, None, None] * jnp.ones_like(args["images"])
        return jnp.where(args["good"][None, :, None], model - args["images"], 0)

    axes = {"images": 1, "psf": None, "good": 0}
    good = np.arange(23) % 5 != 0
    args = {"images": Source(images), "psf": Source(psf), "good": Source(good)}
    fit = fk.Fit(
        residuals=several, params={"a": 0.0}, args=args, microbatch=fk.Minibatch(5, axes=axes)
    )
    fit.run(progress=False)
    kept, wide = images[:, good], np.broadcast_to(psf[:, None, None], images[:, good].shape)
    expected = np.sum(wide * kept) / np.sum(wide**2)
    assert float(fit.params["a"]) == pytest.approx(expected, rel=1e-9)
    fit.restart(args=args | {"images": Source(2 * images)})
    fit.run(progress=False)
    assert float(fit.params["a"]) == pytest.approx(2 * expected, rel=1e-9)


@pytest.mark.parametrize("in_file", [True, False])
def test_a_bad_datum_is_named_with_its_place_in_the_file_and_the_line(in_file):
    bad = Y.copy()
    bad[777] = np.nan
    args = {"x": X, "y": Source(bad) if in_file else bad}
    with pytest.raises(ValueError, match=r"from: +data\.y\[777\] = nan") as caught:
        fk.Fit(residuals=residuals, params=START, args=args, microbatch=SIZE)
    assert "test_on_disk.py, line" in str(caught.value)


def test_a_bad_datum_of_a_batch_is_found():
    bad = Y.copy()
    bad[2 * SIZE :] = np.nan
    args = {"x": Source(X), "y": Source(bad)}
    with pytest.raises(ValueError, match=r"data\.y.* = nan"):
        of_batches(args)


def test_numbers_too_large_for_the_precision_are_refused(files):
    import jax

    with jax.enable_x64(False):
        large = {"x": Source(np.full(COUNT, 2**40)), "y": Source(Y.astype(np.float32))}
        with pytest.raises(Exception, match="too large for int32"):
            fk.Fit(residuals=residuals, params=START, args=large, microbatch=SIZE)


def test_without_microbatch_files_are_read_into_memory(files):
    fit = fk.Fit(residuals=residuals, params=START, args=files)
    plain = fk.Fit(residuals=residuals, params=START, args={"x": X, "y": Y})
    for one in (fit, plain):
        one.run(progress=False)
    same_answer(fit, plain)
