"""An optimiser for a fit that continues in the Fisher eigenbasis of its present parameters."""

import numpy as np
import optax
from jaxtyping import PyTree

from fitkit._fisher import EigenProjection, FisherMatrix, eigen_projected
from fitkit._input import OptaxLike
from fitkit._paths import named_elements


def in_eigenbasis(
    inner: optax.GradientTransformation | OptaxLike, params: PyTree, fisher: FisherMatrix
) -> optax.GradientTransformationExtraArgs:
    """Run `inner` in the eigenbasis of a Fisher matrix of some of the parameters.

    The elements that the matrix leaves out, because they are frozen, stay where they are.

    Raises
    ------
    ValueError
        If the data constrain no eigenvector at all.
    """
    if fisher.rank == 0:
        raise ValueError(
            "enter_eigenbasis: the data constrain no eigenvector at these parameters. Move the "
            "parameters, or thaw some."
        )
    rows = dict(zip(fisher.labels, np.asarray(fisher.projection), strict=True))
    still = np.zeros(len(fisher.labels))
    # As wide as there are elements, so that another projection has the same shape.
    labels = named_elements(params)
    matrix = np.zeros((len(labels), len(labels)))
    matrix[:, : len(fisher.labels)] = [rows.get(label, still) for label in labels]
    return eigen_projected(inner, EigenProjection(params, matrix))
