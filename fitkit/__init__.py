"""Watch and steer the fit of a differentiable model from a notebook."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from fitkit._checkpoint import CheckpointError as CheckpointError
from fitkit._fisher import EigenProjection as EigenProjection
from fitkit._fisher import FisherMatrix as FisherMatrix
from fitkit._fisher import FisherSpectrum as FisherSpectrum
from fitkit._fisher import NotDifferentiableError as NotDifferentiableError
from fitkit._fisher import decompose as decompose
from fitkit._fisher import eigen_projected as eigen_projected
from fitkit._fisher import eigen_projection as eigen_projection
from fitkit._fisher import fisher_matrix as fisher_matrix
from fitkit._fisher import fisher_spectrum as fisher_spectrum
from fitkit._fit import Best as Best
from fitkit._fit import Event as Event
from fitkit._fit import Fit as Fit
from fitkit._fit import History as History
from fitkit._fit import LearningRates as LearningRates
from fitkit._fit import Minibatch as Minibatch
from fitkit._fit import Multistart as Multistart
from fitkit._fit import Snapshot as Snapshot
from fitkit._fit import Status as Status
from fitkit._fit import StepInfo as StepInfo
from fitkit._handoff import Posterior as Posterior
from fitkit._handoff import handoff as handoff
from fitkit._many import Completion as Completion
from fitkit._many import Independence as Independence
from fitkit._many import check_independent as check_independent
from fitkit._many import fit_many as fit_many
from fitkit._nonfinite import NonFiniteError as NonFiniteError
from fitkit._nonfinite import NonFiniteReport as NonFiniteReport
from fitkit._nonfinite import debug_nan_check as debug_nan_check
from fitkit._nonfinite import find_nonfinite as find_nonfinite
from fitkit._nonfinite import zero_nan_check as zero_nan_check
from fitkit._optimisers import Diagnostics as Diagnostics
from fitkit._optimisers import Verdict as Verdict
from fitkit._optimisers import delay as delay
from fitkit._optimisers import fisher_scaled as fisher_scaled
from fitkit._optimisers import from_optimistix as from_optimistix
from fitkit._optimisers import gauss_newton as gauss_newton
from fitkit._optimisers import map_optimisers as map_optimisers
from fitkit._optimisers import max_step_size as max_step_size
from fitkit._paths import UnknownPathError as UnknownPathError
from fitkit._plotting import Contour as Contour
from fitkit._plotting import Many as Many
from fitkit._plotting import Profile as Profile
from fitkit._plotting import Result as Result
from fitkit._programs import keep_memory as keep_memory
from fitkit._residuals import LogNormal as LogNormal
from fitkit._residuals import Normal as Normal
from fitkit._residuals import poisson_residuals as poisson_residuals
from fitkit._residuals import robust as robust
from fitkit._residuals import whiten as whiten
from fitkit._result import Assessment as Assessment

if _TYPE_CHECKING:
    from fitkit._dashboard import Dashboard as Dashboard

__version__ = _version("fitkit")

del _version


def __getattr__(name: str) -> object:
    # Drawing needs matplotlib's figures, which take longer to import than all of fitkit.
    if name == "Dashboard":
        from fitkit._dashboard import Dashboard

        return Dashboard
    raise AttributeError(f"module 'fitkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "Dashboard"])
