"""The eigenvectors of the spectrum: chosen one by one, in words and as components."""

import html
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np

from fitkit._dashboard.rows import Act, Ask, Lock, under
from fitkit._dashboard.spectra import summary_of_largest, words_of_largest
from fitkit._fisher import FisherMatrix, FisherSpectrum
from fitkit._fit import Fit, Snapshot
from fitkit._format import number
from fitkit._plotting import PALETTE, is_large, latest_spectrum

ALL = -1  # in place of the number of an eigenvector
COMPONENTS = 6  # as many of an eigenvector are shown: what fits into a line


class Eigenvectors:
    """A choice of eigenvector, what it is made of, and buttons that act on the spectrum.

    Parameters
    ----------
    fit
        The fit.
    act, ask
        Do what a button asks, here or in the background.
    lock
        Held while a control's message is handled, and while controls are set.
    renew
        Computes the spectrum of this moment.
    """

    def __init__(
        self, fit: Fit, act: Act, ask: Ask, lock: Lock, renew: Callable[[], object]
    ) -> None:
        self._fit = fit
        self._known: FisherMatrix | FisherSpectrum | None = None
        self._described: int | None = None
        # JupyterLab keeps the arrow keys of a drop-down list for itself, but not those of a slider.
        self.choice = widgets.SelectionSlider(
            options=[("all", ALL)],
            description="eigenvector",
            tooltip="Show which parameters an eigenvector of the spectrum is made of",
        )
        self.choice.add_class("fitkit-choice")
        self._lock = lock
        self.choice.set_state = under(lock, self.choice.set_state)
        self.words = widgets.HTML()
        self.words.add_class("fitkit-words")
        self.renew = widgets.Button(
            description="Refresh", icon="refresh", tooltip="Compute the spectrum of this moment"
        )
        self.basis = widgets.Button(icon="compass")
        self.renew.on_click(lambda _: ask("Computing the spectrum…", renew))
        self.basis.on_click(lambda _: ask("Changing the basis, compiling…", self._change_basis))
        self.choice.observe(lambda _: act(lambda: None), "value")
        bar = widgets.HBox([self.choice, self.renew, self.basis])
        self.box = widgets.VBox([bar, self.words])
        self.box.add_class("fitkit-eigenvectors")

    @property
    def chosen(self) -> int | None:
        """The number of the eigenvector that is chosen, or None."""
        return None if self.choice.value == ALL else self.choice.value

    def refresh(self, now: Snapshot) -> None:
        """Show what is known of the spectrum at this moment."""
        known = latest_spectrum(now)
        step, fisher = known or (0, None)
        if fisher is not self._known:
            self._known, self._described = fisher, None
            self._list(fisher)
        old = is_old(now, None if known is None else step)
        (self.words.add_class if old else self.words.remove_class)("fitkit-old")
        if self.choice.value != self._described:
            self._described = self.choice.value
            self.words.value = _describe(fisher, step, self.chosen)
        inside = self._fit.in_eigenbasis
        self.basis.description = "Leave eigenbasis" if inside else "Enter eigenbasis"
        self.basis.disabled = not inside and is_large(now)
        self.basis.tooltip = (
            "Go on with the optimiser that the fit was made with"
            if inside
            else "Needs the whole Fisher matrix, which may take long: fit.enter_eigenbasis()"
            if self.basis.disabled
            else "Go on by L-BFGS in the eigenbasis, where all eigenvectors are alike"
        )

    def _change_basis(self) -> None:
        if self._fit.in_eigenbasis:
            self._fit.leave_eigenbasis()
        else:
            self._fit.enter_eigenbasis()

    def _list(self, fisher: FisherMatrix | FisherSpectrum | None) -> None:
        options = [("all", ALL)]
        if fisher is not None:
            values = np.asarray(fisher.eigenvalues)
            whole = isinstance(fisher, FisherMatrix)
            constrained = np.asarray(fisher.constrained) if whole else values > 0
            for i, (value, known) in enumerate(zip(values, constrained, strict=True)):
                words = number(float(value), typeset=True) if known else "unconstrained"
                options.append((f"{i + 1}: {words}", i))
        with self._lock, self.choice.hold_sync():  # One message, or the slider would jump.
            chosen = self.choice.value if self.choice.value + 1 < len(options) else ALL
            self.choice.options = options
            self.choice.value = chosen


def is_old(now: Snapshot, step: int | None) -> bool:
    """Return whether what was computed at a step, if at any, says little of this moment.

    At rest it is that of this step or another one's; while the fit runs it is always some steps
    old, and fades once they are a tenth of all.
    """
    if step is None:
        return False
    steps = now.step - step
    return steps > now.step / 10 if now.status.busy else steps != 0


def _describe(fisher: FisherMatrix | FisherSpectrum | None, step: int, chosen: int | None) -> str:
    if fisher is None:
        return "<span class='fitkit-dim'>What the data constrain is not known yet.</span>"
    if isinstance(fisher, FisherSpectrum):
        if chosen is None:
            return f"<div>{summary_of_largest(fisher, step)}</div>"
        words, bars = words_of_largest(fisher, chosen, COMPONENTS)
        return f"<div>{words}</div><div class='fitkit-components'>{bars}</div>"
    if chosen is None:
        return f"<div>{_summary(fisher, step)}</div>"
    free = "" if chosen < fisher.rank else " <b>(unconstrained)</b>"
    return (
        f"<div>{html.escape(fisher.in_words(chosen))}{free}</div>"
        f"<div class='fitkit-components'>{_components(fisher, chosen)}</div>"
    )


def _summary(fisher: FisherMatrix, step: int) -> str:
    count, rank = len(fisher.labels), fisher.rank
    words = f"At step {step:,} the data constrain "
    if rank == count:
        weakest = html.escape(fisher.in_words(count - 1))
        smallest = float(np.asarray(fisher.eigenvalues).min())
        return (
            f"{words}all {count} eigenvectors; the weakest, of eigenvalue "
            f"{number(smallest, typeset=True)}, is {weakest}"
        )
    shown = [f"<b>{html.escape(sentence)}</b>" for sentence in fisher.unconstrained[:2]]
    more = f" and {count - rank - 2} more" if count - rank > 2 else ""
    return f"{words}{rank} of {count} eigenvectors; {', '.join(shown)}{more}"


def _components(fisher: FisherMatrix, index: int) -> str:
    """Draw the largest components, in units of what each parameter's own error would be."""
    eigenvector = np.array(fisher.eigenvectors, dtype=float)[index]
    # Rounded, so that rounding does not decide the order of equal ones.
    largest = np.argsort(-np.round(np.abs(eigenvector), 6), kind="stable")[:COMPONENTS]
    eigenvector *= np.sign(eigenvector[largest[0]])  # Either sign is right.
    parts = []
    for i in largest:
        size = float(eigenvector[i])
        colour = PALETTE[0] if size >= 0 else PALETTE[1]
        parts.append(
            f"<span>{html.escape(fisher.labels[i])} <i style='width:{abs(size) * 40:.0f}px;"
            f"background:{colour}'></i> {size:+.2f}</span>".replace("-0.", "−0.")
        )
    return "".join(parts)
