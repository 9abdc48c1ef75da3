import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zodiax

from fitkit import decompose, eigen_projection
from fitkit._fisher.eigen import ScaledSVD, rank_rtol, scaled_svd


def information(size, seed=0, spread=4):
    """A Fisher matrix of full rank in units that differ by many orders of magnitude."""
    rng = np.random.default_rng(seed)
    jacobian = rng.normal(size=(size + 3, size)) * 10 ** rng.uniform(-spread, spread, size)
    return jacobian.T @ jacobian


def same_up_to_sign(rows, expected, rtol):
    signs = np.sign(np.sum(np.asarray(rows) * expected, axis=-1, keepdims=True))
    np.testing.assert_allclose(rows * signs, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("shape", [(9, 4), (4, 4), (2, 4), (0, 3), (5, 1)])
@pytest.mark.parametrize("library", [np, jnp])
def test_scaled_svd_puts_the_jacobian_together_again(shape, library):
    jacobian = np.random.default_rng(1).normal(size=shape) * 10.0 ** np.arange(shape[1])
    svd = ScaledSVD(*map(np.asarray, scaled_svd(library.asarray(jacobian))))
    # A few units of rounding of the largest entry in each column.
    back = (svd.left * svd.singular_values) @ svd.right * svd.scale
    np.testing.assert_allclose(back / svd.scale, jacobian / svd.scale, atol=1e-14)
    np.testing.assert_allclose(svd.right @ svd.right.T, np.eye(shape[1]), atol=1e-14)
    assert np.all(np.diff(svd.singular_values) <= 0)
    np.testing.assert_allclose(
        svd.scale, np.where(shape[0], np.linalg.norm(jacobian, axis=0), 1), rtol=1e-14
    )


def test_scaled_svd_neither_overflows_nor_vanishes():
    jacobian = jnp.array([[1e-200, 1e200, 0.0], [1e-200, 0.0, 0.0], [0.0, 1e200, 0.0]])
    svd = scaled_svd(jacobian)
    # Columns 1 and 2 at 60 degrees, column 3 without effect: eigenvalues 1.5, 0.5 and 0.
    np.testing.assert_allclose(svd.singular_values**2, [1.5, 0.5, 0], atol=1e-15)
    np.testing.assert_allclose(svd.scale, [2**0.5 * 1e-200, 2**0.5 * 1e200, 1], rtol=1e-14)


def test_scaled_svd_under_jit_and_vmap():
    jacobians = np.random.default_rng(2).normal(size=(3, 6, 4))
    together = jax.jit(jax.vmap(scaled_svd))(jacobians)
    for jacobian, values in zip(jacobians, together.singular_values, strict=True):
        expected = np.linalg.svd(jacobian / np.linalg.norm(jacobian, axis=0))[1]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_the_tolerance_leaves_condition_numbers_of_1e11_in_float32():
    assert rank_rtol(jnp.float32) ** 2 < 1e-11
    assert rank_rtol(jnp.float64) < 1e-12


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("hermitian", [False, True])
def test_decompose_gives_what_zodiax_gives(size, normalise, hermitian):
    matrix = jnp.asarray(information(size, spread=0))
    values, vectors = decompose(matrix, hermitian, normalise)
    expected_values, expected_vectors = zodiax.optimisation.decompose(matrix, hermitian, normalise)
    # The same LAPACK routine on the same matrix.
    np.testing.assert_allclose(values, expected_values, rtol=1e-12)
    same_up_to_sign(vectors, np.asarray(expected_vectors), rtol=1e-10)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0.0, 0.0], [0.0, 0.0]], [0, 0]),
        ([[-1.0, 0.0], [0.0, -2.0]], [-0.5, -1]),
        ([[4.0, 0.0], [0.0, -8.0]], [1, -2]),
        ([[1, 0], [0, 2]], [1, 0.5]),
    ],
)
def test_normalised_eigenvalues_keep_their_order_and_signs(matrix, expected):
    np.testing.assert_allclose(decompose(matrix, normalise=True)[0], expected)


@pytest.mark.parametrize("name", ["fmat", "cov"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_eigen_projection_gives_what_zodiax_gives(name, size):
    matrix = jnp.asarray(information(size))
    projection = eigen_projection(**{name: matrix})
    expected = zodiax.optimisation.eigen_projection(**{name: matrix})
    scale = np.linalg.norm(np.asarray(expected), axis=1)[:, None]
    same_up_to_sign((projection / scale).T, (np.asarray(expected) / scale).T, rtol=1e-8)
    covariance = np.asarray(matrix) if name == "cov" else np.linalg.inv(matrix)
    errors = np.sqrt(np.diag(covariance))
    # Condition numbers stay below 1e4 once the units are taken out, which costs four digits.
    np.testing.assert_allclose(
        np.asarray(projection @ projection.T) / errors / errors[:, None],
        covariance / errors / errors[:, None],
        atol=1e-11,
    )


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (np.ones((2, 2)), 1),
        (np.diag([4.0, 0.0]), 1),
        (np.diag([4.0, -1.0]), 1),
        (np.zeros((3, 3)), 0),
        ([[0.0, 1.0], [1.0, 0.0]], 1),
        (np.outer([1e6, 1e-6, 1.0], [1e6, 1e-6, 1.0]), 1),
    ],
)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("name", ["fmat", "cov"])
def test_eigen_projection_cuts_what_is_not_there(matrix, rank, transform, name):
    matrix = jnp.asarray(matrix)
    projection = transform(lambda m: eigen_projection(**{name: m}))(matrix)
    assert projection.shape == matrix.shape
    assert np.all(np.isfinite(projection))
    assert np.sum(np.any(projection != 0, axis=0)) == rank


def test_a_zero_row_leaves_the_other_parameters_alone():
    matrix = information(4)
    matrix[2] = matrix[:, 2] = 0
    others = np.array([0, 1, 3])
    projection = np.asarray(eigen_projection(fmat=matrix))
    assert np.all(projection[2] == 0)
    inner = projection[others]
    expected = np.linalg.inv(matrix[np.ix_(others, others)])
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        inner @ inner.T / scale / scale[:, None], expected / scale / scale[:, None], atol=1e-11
    )


def test_vmap():
    matrices = jnp.stack([jnp.asarray(information(3, seed)) for seed in range(3)])
    together = jax.vmap(eigen_projection)(matrices)
    for matrix, projection in zip(matrices, together, strict=True):
        np.testing.assert_allclose(projection, eigen_projection(matrix), rtol=1e-6)
    assert jax.vmap(decompose)(matrices)[0].shape == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither was given"),
        ({"fmat": np.eye(2), "cov": np.eye(2)}, "not both"),
        ({"fmat": np.ones((2, 3))}, r"fmat must be square \(n, n\), got shape \(2, 3\)"),
        ({"cov": np.ones(3)}, r"cov must be square"),
        ({"cov": [[1.0, np.nan], [0.0, 1.0]]}, r"cov\[0, 1\] is nan, and 1 of 4"),
        ({"fmat": [[1.0, 0.0], [0.0, np.inf]]}, r"fmat\[1, 1\] is inf"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_eigen_projection_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        eigen_projection(**arguments)


def test_decompose_refuses_complex_eigenvalues():
    with pytest.raises(ValueError, match="complex eigenvalues"):
        decompose([[0.0, 1.0], [-1.0, 0.0]], hermitian=False)
