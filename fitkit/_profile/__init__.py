"""The loss along one element or two, minimised over all others: profiles and their intervals."""

from fitkit._profile.contour import Contour as Contour
from fitkit._profile.contour import make_contour as make_contour
from fitkit._profile.intervals import make_intervals as make_intervals
from fitkit._profile.minimum import Minimum as Minimum
from fitkit._profile.profile import Profile as Profile
from fitkit._profile.profile import make_profile as make_profile
