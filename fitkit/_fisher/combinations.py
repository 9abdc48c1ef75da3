"""Eigenvectors written as sums of parameters: ``"flux + 0.98 background"``."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fitkit._format import number

# Four names fit on a line, and a term below a twentieth of the largest changes a step along the
# eigenvector by less than 0.05² of its length squared, which no reader acts on.
MOST_TERMS = 4
SMALLEST_TERM = 0.05
# Equal but for rounding, in float32 too.
TIE = 6


def combination(
    eigenvector: Float[np.ndarray, " n"], scale: Float[np.ndarray, " n"], labels: Sequence[str]
) -> str:
    """Write a units-free eigenvector as a sum in the parameters' own units.

    A step of one unit in the first parameter named goes with a step of that many units in each of
    the others. The parameter that matters most comes first; what matters less than a
    twentieth of it, and what comes after the fourth, is only hinted at by "…".

    Parameters
    ----------
    eigenvector
        Components in units of each parameter's own ``1/scale``.
    scale
        Divide by it to come back to the units of the parameters.
    labels
        The names of the elements.
    """
    size = np.abs(eigenvector)
    # A stable sort, with ties (equal but for rounding) in the order of the parameters.
    order = np.argsort(-np.round(size / size.max(), TIE), kind="stable")
    shown = [i for i in order if size[i] >= SMALLEST_TERM * size.max()][:MOST_TERMS]
    units = eigenvector / scale
    words = str(labels[shown[0]])
    for i in shown[1:]:
        coefficient = units[i] / units[shown[0]]
        factor = number(abs(float(coefficient)), 3)
        times = "" if factor == "1" else f"{factor} "
        words += f" {'-' if coefficient < 0 else '+'} {times}{labels[i]}"
    return words + (" + …" if np.count_nonzero(size) > len(shown) else "")


def simplest_basis(vectors: Float[np.ndarray, "k n"], noise: float) -> Float[np.ndarray, "k n"]:
    """Find a basis of the same space whose vectors each involve few parameters.

    The reduced row echelon form with complete pivoting. Two parameters that are each without
    effect come out one by one, where singular vectors would mix them arbitrarily. Components below
    `noise` are rounding, and become zero. In the order of the first parameter involved.
    """
    rows = np.array(vectors)
    for step in range(len(rows)):
        pivot, column = np.unravel_index(np.argmax(np.abs(rows[step:])), rows[step:].shape)
        rows[[step, pivot + step]] = rows[[pivot + step, step]]
        rows[step] /= rows[step, column]
        others = np.arange(len(rows)) != step
        rows[others] -= np.outer(rows[others, column], rows[step])
    rows[np.abs(rows) <= noise] = 0
    first = np.argmax(rows != 0, axis=1)
    return rows[np.argsort(first, kind="stable")]
