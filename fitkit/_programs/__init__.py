"""What compiled programs depend on: the content of functions, JAX's settings, and the process."""

from fitkit._programs.content import Content as Content
from fitkit._programs.content import content_of as content_of
from fitkit._programs.forks import inside_jax as inside_jax
from fitkit._programs.forks import is_forked as is_forked
from fitkit._programs.forks import refuse_in_fork as refuse_in_fork
from fitkit._programs.forks import waiting_for_device as waiting_for_device
from fitkit._programs.jax_settings import JaxSettings as JaxSettings
from fitkit._programs.jax_settings import no_debugging as no_debugging
from fitkit._programs.memory import keep_memory as keep_memory
from fitkit._programs.pieces import leave_room as leave_room
