"""The directions of the spectrum: chosen one by one, named in words and as loadings."""

import html
import threading

import ipywidgets as widgets
import numpy as np

from fitkit._dashboard.rows import Act, Ask, under
from fitkit._fisher import FisherMatrix
from fitkit._fit import Fit
from fitkit._plotting import PALETTE, figures

ALL = -1  # in place of the number of a direction
LOADINGS = 6  # as many components of a direction are shown


class Modes:
    """The directions, what the chosen one combines, and buttons that act on the spectrum."""

    def __init__(self, fit: Fit, act: Act, ask: Ask):
        self._fit = fit
        self._known: FisherMatrix | None = None
        self._described: int | None = None
        # JupyterLab keeps the arrow keys of a drop-down list for itself, but not those of a slider.
        self.choice = widgets.SelectionSlider(
            options=[("all", ALL)],
            description="direction",
            tooltip="Show which combination of parameters a direction of the spectrum is",
        )
        self.choice.add_class("fitkit-choice")
        self._lock = threading.RLock()
        self.choice.set_state = under(self._lock, self.choice.set_state)
        self.words = widgets.HTML()
        self.words.add_class("fitkit-words")
        self.renew = widgets.Button(
            description="Refresh", icon="refresh", tooltip="Work out the spectrum of this moment"
        )
        self.basis = widgets.Button(icon="compass")
        self.renew.on_click(lambda _: ask("Working out the spectrum…", fit.fisher))
        self.basis.on_click(lambda _: ask("Changing the basis…", self._change_basis))
        self.choice.observe(lambda _: act(lambda: None), "value")
        bar = widgets.HBox([self.choice, self.renew, self.basis])
        self.box = widgets.VBox([bar, self.words])
        self.box.add_class("fitkit-modes")

    @property
    def chosen(self) -> int | None:
        """The number of the direction that is chosen, or None."""
        return None if self.choice.value == ALL else self.choice.value

    def refresh(self) -> None:
        """Show what the fit knows of its spectrum."""
        step, fisher = self._fit.known_fisher or (0, None)
        if fisher is not self._known:
            self._known, self._described = fisher, None
            self._list(fisher)
        if self.choice.value != self._described:
            self._described = self.choice.value
            self.words.value = _describe(fisher, step, self.chosen)
        inside = self._fit.in_eigenbasis
        self.basis.description = "Leave eigenbasis" if inside else "Enter eigenbasis"
        self.basis.tooltip = (
            "Go on with the optimiser that the fit was made with"
            if inside
            else "Go on along the directions of the spectrum, where all are alike, by L-BFGS"
        )

    def _change_basis(self) -> None:
        if self._fit.in_eigenbasis:
            self._fit.leave_eigenbasis()
        else:
            self._fit.enter_eigenbasis()

    def _list(self, fisher: FisherMatrix | None) -> None:
        options = [("all", ALL)]
        if fisher is not None:
            constrained = np.asarray(fisher.constrained)
            options += [
                (f"{i + 1}: {figures(float(value)) if constrained[i] else 'unconstrained'}", i)
                for i, value in enumerate(fisher.eigenvalues)
            ]
        with self._lock, self.choice.hold_sync():  # One message, or the slider would jump.
            chosen = self.choice.value if self.choice.value + 1 < len(options) else ALL
            self.choice.options = options
            self.choice.value = chosen


def _describe(fisher: FisherMatrix | None, step: int, chosen: int | None) -> str:
    if fisher is None:
        return "<span class='fitkit-dim'>What the data constrain is not known yet.</span>"
    if chosen is None:
        return f"<div>{_summary(fisher, step)}</div>"
    free = "" if chosen < fisher.rank else " <b>(unconstrained)</b>"
    return (
        f"<div>{html.escape(fisher.in_words(chosen))}{free}</div>"
        f"<div class='fitkit-loadings'>{_loadings(fisher, chosen)}</div>"
    )


def _summary(fisher: FisherMatrix, step: int) -> str:
    count, rank = len(fisher.labels), fisher.rank
    words = f"At step {step:,} the data constrain "
    if rank == count:
        weakest = html.escape(fisher.in_words(count - 1))
        return (
            f"{words}all {count} directions; the weakest, of eigenvalue "
            f"{figures(float(fisher.eigenvalues[-1]))}, is {weakest}"
        )
    shown = [f"<b>{html.escape(sentence)}</b>" for sentence in fisher.unconstrained[:2]]
    more = f" and {count - rank - 2} more" if count - rank > 2 else ""
    return f"{words}{rank} of {count} directions; {', '.join(shown)}{more}"


def _loadings(fisher: FisherMatrix, mode: int) -> str:
    """Draw the largest components, in units of what each parameter's own error would be."""
    direction = np.asarray(fisher.eigenvectors[mode])
    largest = np.argsort(-np.round(np.abs(direction), 6), kind="stable")[:LOADINGS]
    direction = direction * np.sign(direction[largest[0]])  # As in words: either sign is right.
    parts = []
    for i in largest:
        size = float(direction[i])
        colour = PALETTE[0] if size >= 0 else PALETTE[1]
        parts.append(
            f"<span>{html.escape(fisher.labels[i])} <i style='width:{abs(size) * 40:.0f}px;"
            f"background:{colour}'></i> {size:+.2f}</span>".replace("-0.", "−0.")
        )
    return "".join(parts)
