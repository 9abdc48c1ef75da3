"""What moves the parameters."""

from fitkit._optimisers.bounds import Bounds as Bounds
from fitkit._optimisers.bounds import bounded as bounded
from fitkit._optimisers.eigenbasis import in_eigenbasis as in_eigenbasis
from fitkit._optimisers.gauss_newton import gauss_newton as gauss_newton
from fitkit._optimisers.gauss_newton import restart as restart
from fitkit._optimisers.mapping import Assignment as Assignment
from fitkit._optimisers.mapping import assign as assign
from fitkit._optimisers.mapping import delay as delay
from fitkit._optimisers.mapping import injected_learning_rates as injected_learning_rates
from fitkit._optimisers.mapping import map_optimisers as map_optimisers
from fitkit._optimisers.mapping import tolerant as tolerant
from fitkit._optimisers.max_step_size import max_step_size as max_step_size
