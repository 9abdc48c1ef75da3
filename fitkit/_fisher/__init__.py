"""What the data constrain."""

from fitkit._fisher.combinations import combination as combination
from fitkit._fisher.combinations import simplest_basis as simplest_basis
from fitkit._fisher.compute import fisher_matrix as fisher_matrix
from fitkit._fisher.compute import split_params as split_params
from fitkit._fisher.eigen import AnyArray as AnyArray
from fitkit._fisher.eigen import decompose as decompose
from fitkit._fisher.eigen import eigen_projection as eigen_projection
from fitkit._fisher.eigen import rank_rtol as rank_rtol
from fitkit._fisher.eigen import scaled_columns as scaled_columns
from fitkit._fisher.jacobian import forward_jacobian as forward_jacobian
from fitkit._fisher.jacobian import residual_gradient as residual_gradient
from fitkit._fisher.jacobian import value_and_gradient as value_and_gradient
from fitkit._fisher.matrix import FisherMatrix as FisherMatrix
from fitkit._fisher.norm import norm as norm
from fitkit._fisher.norm import quick_norm as quick_norm
from fitkit._fisher.projection import EigenProjectedState as EigenProjectedState
from fitkit._fisher.projection import EigenProjection as EigenProjection
from fitkit._fisher.projection import eigen_projected as eigen_projected
from fitkit._fisher.residuals import check_residuals as check_residuals
from fitkit._fisher.second_order import contracted_hessian as contracted_hessian
from fitkit._fisher.second_order import hessian as hessian
from fitkit._fisher.second_order import insensitive as insensitive
from fitkit._fisher.second_order import linearise as linearise
from fitkit._fisher.second_order import loss_product as loss_product
from fitkit._fisher.second_order import second_derivative_norms as second_derivative_norms
