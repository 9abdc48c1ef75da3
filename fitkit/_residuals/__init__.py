"""Residuals of data and of priors."""

from fitkit._residuals.counts import poisson_residuals as poisson_residuals
from fitkit._residuals.robust import robust as robust
from fitkit._residuals.whiten import whiten as whiten
