"""What moves the parameters."""

from fitkit._optimisers.bounds import Bounds as Bounds
from fitkit._optimisers.bounds import blocked as blocked
from fitkit._optimisers.bounds import bounded as bounded
from fitkit._optimisers.diagnostics import Diagnostics as Diagnostics
from fitkit._optimisers.diagnostics import Verdict as Verdict
from fitkit._optimisers.diagnostics import knows_verdict as knows_verdict
from fitkit._optimisers.diagnostics import restart_judged as restart_judged
from fitkit._optimisers.diagnostics import spectrum_of as spectrum_of
from fitkit._optimisers.diagnostics import verdict_of as verdict_of
from fitkit._optimisers.eigenbasis import in_eigenbasis as in_eigenbasis
from fitkit._optimisers.frozen_memory import put_aside as put_aside
from fitkit._optimisers.frozen_memory import put_back as put_back
from fitkit._optimisers.gauss_newton import gauss_newton as gauss_newton
from fitkit._optimisers.links import links as links
from fitkit._optimisers.mapping import Assignment as Assignment
from fitkit._optimisers.mapping import assign as assign
from fitkit._optimisers.mapping import delay as delay
from fitkit._optimisers.mapping import injected_learning_rates as injected_learning_rates
from fitkit._optimisers.mapping import map_optimisers as map_optimisers
from fitkit._optimisers.mapping import tolerant as tolerant
from fitkit._optimisers.max_step_size import max_step_size as max_step_size
from fitkit._optimisers.own_counts import own_counts as own_counts
from fitkit._optimisers.own_counts import separated as separated
