"""The spectrum of a fit: all of it where that is affordable, or else its largest eigenvalues."""

import html
from collections.abc import Callable

import jax
import numpy as np

from fitkit._fisher import FisherSpectrum
from fitkit._fit import Fit
from fitkit._format import number
from fitkit._paths import named_leaves
from fitkit._plotting import is_large

# A hundredth of an eigenvalue cannot be seen on an axis of decades.
RTOL = 1e-2


def compute_spectrum(fit: Fit, callback: Callable[[], object] | None = None) -> None:
    """Compute what is known of the spectrum anew, at the present parameters of a fit.

    Parameters
    ----------
    fit
        The fit.
    callback
        Called before every product of the search for the largest eigenvalues, which ends with what
        it raises.
    """
    if is_large(fit.snapshot):
        fit.fisher_spectrum(rtol=RTOL, probes=0, callback=callback)
    else:
        fit.fisher()


def summary_of_largest(spectrum: FisherSpectrum, step: int) -> str:
    """Write what the largest eigenvalues are."""
    values = spectrum.eigenvalues
    found = f"{number(float(values[0]), 3, typeset=True)}"
    if len(values) > 1:
        found += f" to {number(float(values[-1]), 3, typeset=True)}"
    return (
        f"At step {step:,} the {len(values)} largest of {spectrum.size:,} eigenvalues are {found}, "
        "in the units of the parameters"
    )


def shares_of(spectrum: FisherSpectrum, index: int) -> dict[str, float]:
    """Compute which share of an eigenvector's squared length each parameter has, largest first."""
    leaves = named_leaves(spectrum.eigenvector(index))
    shares = {path: float(np.sum(np.square(leaf))) for path, leaf in jax.device_get(leaves).items()}
    return dict(sorted(shares.items(), key=lambda one: -one[1]))


def words_of_largest(spectrum: FisherSpectrum, index: int, most: int) -> tuple[str, str]:
    """Write what an eigenvector is, and its largest parts as bars."""
    value = number(float(spectrum.eigenvalues[index]), 3, typeset=True)
    shares = shares_of(spectrum, index)
    first = html.escape(next(iter(shares)))
    words = f"eigenvalue {value}, mostly {first}; shares of its squared length:"
    bars = "".join(
        f"<span>{html.escape(path)} <i style='width:{40 * share:.0f}px'></i> {share:.2f}</span>"
        for path, share in list(shares.items())[:most]
    )
    return words, bars
