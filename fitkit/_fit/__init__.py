"""The one live fit."""

from fitkit._fit import checkpoint as checkpoint
from fitkit._fit.checkpoint import CheckpointError as CheckpointError
from fitkit._fit.content import content_of as content_of
from fitkit._fit.fit import Fit as Fit
from fitkit._fit.forks import refuse_in_fork as refuse_in_fork
from fitkit._fit.history import History as History
from fitkit._fit.history import Summary as Summary
from fitkit._fit.jax_settings import JaxSettings as JaxSettings
from fitkit._fit.jax_settings import no_debugging as no_debugging
from fitkit._fit.record import StepInfo as StepInfo
from fitkit._fit.snapshots import Best as Best
from fitkit._fit.snapshots import Event as Event
from fitkit._fit.snapshots import Snapshot as Snapshot
from fitkit._fit.status import Status as Status
from fitkit._fit.steering import LearningRates as LearningRates
