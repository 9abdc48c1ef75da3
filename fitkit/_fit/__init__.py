"""The one live fit."""

from fitkit._fit.fit import Fit as Fit
from fitkit._fit.history import History as History
from fitkit._fit.history import Summary as Summary
