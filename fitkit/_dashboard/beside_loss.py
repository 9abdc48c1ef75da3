"""What a loss returns beside the loss, in a line: evaluated beside the fit."""

import html
from typing import Any

import ipywidgets as widgets
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from fitkit._dashboard.unasked import Unasked, of_each_place
from fitkit._fit import Fit, Snapshot
from fitkit._format import number

MOST = 12  # values that a line holds


class BesideLoss:
    """The values of the latest moment at which they were evaluated.

    Parameters
    ----------
    fit
        The fit.
    """

    def __init__(self, fit: Fit) -> None:
        self._fit, self._words = fit, ""
        self.line = widgets.HTML()
        self.line.add_class("fitkit-status")
        if not self._is_there(fit.snapshot):
            self.line.add_class("fitkit-none")

    @property
    def unasked(self) -> tuple[Unasked, ...]:
        """Evaluate them from time to time, and where the fit rests."""
        if not self._is_there(self._fit.snapshot):
            return ()
        return (of_each_place(self.evaluate),)

    def evaluate(self) -> None:
        """Evaluate them at this moment."""
        now = self._fit.snapshot
        try:
            words = in_words(now.aux)
        except Exception as error:  # Nobody asked: the line says it, and all else goes on.
            words = f"<span>cannot be evaluated: {type(error).__name__}</span>"
        self._words = f"<span class='fitkit-dim'>beside the loss at step {now.step:,}</span>{words}"

    def refresh(self) -> None:
        """Show them."""
        self.line.value = f"<div class='fitkit-line'>{self._words}</div>"

    @staticmethod
    def _is_there(now: Snapshot) -> bool:
        return now.place.program.problem.has_aux


def in_words(aux: Any) -> str:
    """Write the values of a tree with their places in it; of arrays, what they are."""
    leaves = jax.tree_util.tree_leaves_with_path(aux)
    words = []
    for path, leaf in leaves[:MOST]:
        name = keystr(path, simple=True, separator=".")
        # Only numbers are read: an array would be copied from the device for its shape.
        dtype, shape = getattr(leaf, "dtype", None), np.shape(leaf)
        special = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended)
        shown = (
            f"{dtype or type(leaf).__name__} of shape {shape}"
            if shape or special or np.iscomplexobj(leaf)
            else number(float(leaf), typeset=True)
        )
        words.append(f"<span>{html.escape(f'{name} {shown}'.strip())}</span>")
    if len(leaves) > MOST:
        words.append(f"<span class='fitkit-dim'>and {len(leaves) - MOST} more</span>")
    return "".join(words)
