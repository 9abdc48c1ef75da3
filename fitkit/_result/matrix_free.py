"""The curvature of a loss of many parameters, from products of its Hessian with vectors alone.

A Newton step by conjugate gradients, and the lowest end of the spectrum by Lanczos. The latter is
a fixed number of products and no iteration to a tolerance, as ARPACK's would be: a Ritz value
below zero proves negative curvature whatever its own accuracy, and the absence of one in that
many products proves nothing, which the answer says.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fitkit._fisher import lanczos
from fitkit._result.curvature import Quadratic

# Rounds of equilibration, two random vectors each. A diagonal scaling is found by the first, that
# of a product of parameters is halved (in logarithms) by every one.
ROUNDS = 8
# Products that find the decrement to a tenth: 12 to 74 were seen, on problems as flat as
# condition numbers of 1e8 after scaling.
MOST_PRODUCTS = 100
# The gradient left over, relative to all of it, in the norm in which the parameters are scaled.
LEFT_OVER = 1e-4
# Enough for a Ritz value to pass below zero where the lowest eigenvalue is 1e-3 of the largest.
KRYLOV = 50


def from_products(
    gradient: Float[np.ndarray, " n"],
    product: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]],
    eps: float,
) -> Quadratic:
    """Build a model of the loss along its Newton step, and along negative curvature if there is.

    Its coordinates are few, and `proven` is False.
    """
    scale = _stochastic_scale(product, len(gradient))

    def scaled(v: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return product(v / scale) / scale

    n = len(gradient)
    step, other = _conjugate_gradients(scaled, gradient / scale)
    if other is None:
        other = _lanczos(scaled, n, eps)
    vectors, curvatures, signs = [], [], []
    for vector in (step, other):
        if vector is None or not np.any(vector):
            continue
        vector = vector / np.linalg.norm(vector)
        curvature = float(vector @ scaled(vector))
        vectors.append(vector / scale)
        curvatures.append(curvature)
        # After equilibration the largest eigenvalue is of order 1.
        signs.append(int(np.sign(curvature)) if abs(curvature) > 4 * n * eps else 0)
    if not vectors:  # A gradient of zero, and nothing that curves downwards.
        empty = np.zeros((len(gradient), 0))
        return Quadratic(empty, empty.T, np.zeros(0), np.zeros(0), np.zeros(0, int), False)
    columns = np.stack(vectors, axis=1)
    return Quadratic(
        vectors=columns,
        inverse=np.linalg.pinv(columns * scale[:, None]) * scale,
        curvatures=np.array(curvatures),
        slopes=columns.T @ gradient,
        signs=np.array(signs),
        proven=False,
    )


def _stochastic_scale(product: Callable, n: int) -> Float[np.ndarray, " n"]:
    """Equilibrate by the root mean square of rows, from products with random signs.

    S. Diamond and S. Boyd, "Stochastic matrix-free equilibration", J. Optim. Theory Appl. 172,
    436 (2017).
    """
    random = np.random.default_rng(0)
    scale = np.ones(n)
    for _ in range(ROUNDS):
        signs = random.choice([-1.0, 1.0], (2, n))
        rows = np.sqrt(np.mean([(product(z / scale) / scale) ** 2 for z in signs], axis=0))
        scale *= np.sqrt(np.where(rows > 0, rows, 1))
    return scale


def _conjugate_gradients(
    product: Callable, gradient: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"] | None]:
    """Newton step; and the vector without positive curvature that ended the search, if any."""
    step = np.zeros_like(gradient)
    residual = -gradient
    vector = residual
    square = start = float(residual @ residual)
    for _ in range(min(MOST_PRODUCTS, 2 * len(gradient))):
        if square <= LEFT_OVER**2 * start or square == 0:
            break
        curved = product(vector)
        curvature = float(vector @ curved)
        if curvature <= 0:
            return step, vector
        length = square / curvature
        step = step + length * vector
        residual = residual - length * curved
        after = float(residual @ residual)
        vector = residual + after / square * vector
        square = after
    return step, None


def _lanczos(product: Callable, n: int, eps: float) -> Float[np.ndarray, " n"] | None:
    """Find a vector of negative curvature, or none, in one Krylov space of a random vector."""
    start = np.random.default_rng(1).normal(size=n)
    found = lanczos(product, start, min(KRYLOV, n), eps)
    values, vectors = found.decomposed()
    if values[0] >= -4 * n * eps * np.max(np.abs(values)):
        return None
    return vectors[:, 0] @ found.basis
