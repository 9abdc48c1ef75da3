"""The panels that a dashboard has, from left to right; a new one is a file and a word here."""

from fitkit._plotting.gradients import Gradients
from fitkit._plotting.loss import Loss
from fitkit._plotting.panel import Panel
from fitkit._plotting.rates import Rates
from fitkit._plotting.residuals import Residuals
from fitkit._plotting.spectrum import Spectrum
from fitkit._plotting.step_sizes import StepSizes
from fitkit._plotting.values import Values

PANELS: dict[str, Panel] = {
    panel.name: panel
    for panel in (Loss(), StepSizes(), Spectrum(), Residuals(), Values(), Gradients(), Rates())
}
