"""The one live fit."""

from fitkit._fit.batches import Minibatch as Minibatch
from fitkit._fit.evaluated import residuals_at as residuals_at
from fitkit._fit.events import Event as Event
from fitkit._fit.filling_bin import Summary as Summary
from fitkit._fit.fit import Fit as Fit
from fitkit._fit.history import History as History
from fitkit._fit.history import norm_medians as norm_medians
from fitkit._fit.multistart import Multistart as Multistart
from fitkit._fit.rates import own_learning_rates as own_learning_rates
from fitkit._fit.rates import rates_at as rates_at
from fitkit._fit.record import StepInfo as StepInfo
from fitkit._fit.snapshots import Best as Best
from fitkit._fit.snapshots import Snapshot as Snapshot
from fitkit._fit.status import Status as Status
from fitkit._fit.steering import LearningRates as LearningRates
