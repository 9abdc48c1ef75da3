"""What other tools need of a fit."""

from fitkit._handoff import handoff as handoff
from fitkit._handoff.posterior import Posterior as Posterior
