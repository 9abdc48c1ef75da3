"""Residuals of data and of priors."""

from fitkit._residuals.counts import poisson_residuals as poisson_residuals
from fitkit._residuals.priors import LogNormal as LogNormal
from fitkit._residuals.priors import Normal as Normal
from fitkit._residuals.priors import PriorFunction as PriorFunction
from fitkit._residuals.priors import RowPrior as RowPrior
from fitkit._residuals.priors import WithPriors as WithPriors
from fitkit._residuals.priors import check_starts as check_starts
from fitkit._residuals.priors import read_priors as read_priors
from fitkit._residuals.priors import rows_of as rows_of
from fitkit._residuals.priors import with_other_data as with_other_data
from fitkit._residuals.priors import without_priors as without_priors
from fitkit._residuals.robust import robust as robust
from fitkit._residuals.whiten import whiten as whiten
