"""What the data constrain."""

from fitkit._fisher.compute import fisher_matrix as fisher_matrix
from fitkit._fisher.compute import split_params as split_params
from fitkit._fisher.eigen import AnyArray as AnyArray
from fitkit._fisher.eigen import decompose as decompose
from fitkit._fisher.eigen import eigen_projection as eigen_projection
from fitkit._fisher.eigen import rank_rtol as rank_rtol
from fitkit._fisher.eigen import scaled_columns as scaled_columns
from fitkit._fisher.jacobian import residual_gradient as residual_gradient
from fitkit._fisher.jacobian import value_and_gradient as value_and_gradient
from fitkit._fisher.matrix import FisherMatrix as FisherMatrix
from fitkit._fisher.projection import EigenProjection as EigenProjection
from fitkit._fisher.projection import eigen_projected as eigen_projected
