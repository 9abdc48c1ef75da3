"""What ways of making fits have in common: how they end, and what the parameters keep to."""

from enum import IntEnum
from typing import NamedTuple

from jaxtyping import Array, Float


class Outcome(IntEnum):
    """How a fit has ended in its lane."""

    RUNNING = 0
    CLEAR = 1
    MET = 2
    NONFINITE = 3
    DOUBTFUL = 4  # it has arrived, and where shall others say
    LEFT = 5  # on the way


class Limits(NamedTuple):
    """What the parameters keep to."""

    lower: Float[Array, " n"]
    upper: Float[Array, " n"]
