"""What takes long and happens off the drawing thread: spectra, and what a button asks for."""

import time
from collections.abc import Callable, Sequence

from fitkit._dashboard.jobs import TURN, JobThread
from fitkit._dashboard.spectra import compute_spectrum
from fitkit._dashboard.unasked import SHARE, Unasked
from fitkit._fit import Fit, Status
from fitkit._plotting import MOST_ELEMENTS, affordable

OFTEN = 2.0  # seconds of running between two, however cheap they are
GUESS = 0.1  # seconds the first is taken to last
REST = 1.0  # seconds that a fit stands still before it gets one without being asked
# Products of a search that nobody asked for: as many derivatives as the largest matrix takes.
MOST_PRODUCTS = MOST_ELEMENTS


class Abandoned(Exception):
    """Ends a search for eigenvalues: something else is to be done."""


class BackgroundThread(JobThread):
    """Does one job after the other, and keeps what is known of the spectrum fresh in between.

    While the fit runs, a Fisher matrix is computed whenever a share of the running time since the
    last pays for it, compilation included, but at most every other second; once the fit rests, one
    is computed of where it rests. A search for the largest eigenvalues is paid for product by
    product: between two of them the fit runs alone. It is abandoned for a job, where the fit comes
    to rest elsewhere, and at the end.

    Parameters
    ----------
    fit
        The fit.
    fishers
        Whether to compute spectra that nobody asked for, if they are affordable.
    unasked
        What else is done in between.
    on_error
        Called with what a job raised.
    on_change
        Called when a job began or ended.

    Attributes
    ----------
    problem
        Why the latest spectrum could not be computed; empty if it was.
    """

    def __init__(
        self,
        fit: Fit,
        fishers: bool,
        unasked: Sequence[Unasked],
        on_error: Callable[[Exception], None],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(on_error, on_change)
        self._fit = fit
        self._spectra, self._unasked = fishers and affordable(fit), unasked
        self._cost, self._ran, self._rested = GUESS, 0.0, 0.0
        self._looked = time.monotonic()
        self._tried: tuple[int, frozenset[str]] | None = None
        self._search = Search()
        self.problem = ""

    def renew(self) -> None:
        """Compute the spectrum of now, a job to `ask` for; a search ends with the thread."""
        try:
            compute_spectrum(self._fit, self._refuse_to_outlive)
            self.problem = ""
        except Abandoned:
            pass

    def look_around(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        seconds, self._looked = now - self._looked, now
        self._note_time(seconds)
        for one in self._unasked:
            one.note_time(self._fit.snapshot, seconds)
        for one in self._unasked:
            if not self.ending.is_set() and one.due(self._fit.snapshot):
                one.do(self._fit.snapshot)
                self._on_change()
                self._looked = time.monotonic()
        if self._spectra and not self.ending.is_set() and self._due():
            self._try_spectrum()
            self._looked = time.monotonic()

    def _note_time(self, seconds: float) -> None:
        if self._fit.status.busy:
            self._ran, self._rested = self._ran + seconds, 0.0
        else:
            self._rested += seconds

    def _due(self) -> bool:
        now = self._fit.snapshot
        if self._tried == (now.step, now.frozen):
            return False
        if now.status.busy:
            return now.status is Status.RUNNING and self._ran >= max(self._cost / SHARE, OFTEN)
        return self._rested >= REST

    def _try_spectrum(self) -> None:
        """Compute a spectrum; where that fails the panel says so, and nothing else does."""
        now = self._fit.snapshot
        self._tried = now.step, now.frozen
        self._search = search = Search(self._fit.status.busy)
        try:
            compute_spectrum(self._fit, self._wait_for_turn)
            self.problem = ""
        except Abandoned:
            self._tried = None
        except Exception as error:
            self.problem = str(error).partition("\n")[0] or type(error).__name__
        self._on_change()
        self._cost, self._ran = search.worked, search.waited

    def _refuse_to_outlive(self) -> None:
        if self.ending.is_set():
            raise Abandoned

    def _wait_for_turn(self) -> None:
        """Let the fit run until it has paid for the product before; called before every product."""
        search = self._search
        search.products += 1
        if search.products <= 2:
            search.first = search.worked
        if search.products > MOST_PRODUCTS:
            raise RuntimeError(
                f"the largest eigenvalues lie so close together that {MOST_PRODUCTS} products did "
                "not tell them apart"
            )
        while True:
            running = self._fit.status.busy
            with self._condition:
                if self._jobs or self.ending.is_set() or (search.running and not running):
                    raise Abandoned
                left = search.due if running else 0.0
                if left <= 0:
                    return
                begun = time.monotonic()
                self._condition.wait(min(left, TURN))
                search.waited += time.monotonic() - begun


class Search:
    """The cost of one spectrum so far.

    Attributes
    ----------
    running
        Whether the fit was running when it began.
    products
        How many products of the Fisher matrix with a vector it took.
    first
        Seconds that the first took, compilation included, which is paid for before the next search.
    waited
        Seconds in which nothing was computed, while the fit ran.
    """

    def __init__(self, running: bool = False) -> None:
        self.running, self.products = running, 0
        self.first = self.waited = 0.0
        self._begun = time.monotonic()

    @property
    def worked(self) -> float:
        """Seconds in which it was computed."""
        return time.monotonic() - self._begun - self.waited

    @property
    def due(self) -> float:
        """Seconds for which the fit is to run before the next product."""
        return (self.worked - self.first) * (1 / SHARE - 1) - self.waited
