"""What a fit says at the end: values, errors, correlations, and whether to believe them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fisher import FisherMatrix
from fitkit._format import html_table, number, with_error
from fitkit._paths import element_name
from fitkit._result.assessment import Assessment, Kind

# Correlations worth a line of text.
STRONG = 0.9


@dataclass(frozen=True, repr=False)
class Result:
    """Values with their errors, and what qualifies them; made by ``Fit.result()``.

    Printed, it is a table; in a notebook, a rich one.

    Attributes
    ----------
    params : PyTree
        The parameters, in the structure they came in.
    values, errors : dict[str, np.ndarray]
        By parameter path, in the shape of the parameter and its unit. Errors are standard errors,
        infinite where the data leave an element free, and 0 where it was fixed.
    fixed : frozenset[str]
        Paths of the parameters that were frozen.
    loss : float
        Value of the loss: for residuals, half the sum of their squares.
    chi_square, degrees_of_freedom, reduced_chi_square
        Sum of squares of the residuals; their number less the rank; the ratio. None of a loss,
        which has no count of data, and the last where no degree of freedom is left.
    residuals : np.ndarray | None
        Flat residuals at the parameters.
    fisher : FisherMatrix
        Of the parameters that were not fixed, unscaled; its inverse is the covariance.
    covariance : np.ndarray
        Of the same elements, scaled as `errors` are.
    absolute_sigma : bool
        Whether the residuals' σ were taken as they are; if not, errors are scaled by the square
        root of the reduced chi-square, as in SciPy's ``curve_fit``.
    errors_from : str
        What they come from: ``"jacobian"``, ``"hessian"`` or ``"sandwich"``; see `Fit.result`.
    steps : int
        How many steps the fit took.
    assessment : Assessment
        Where the fit stands: at a minimum, on its way, at a saddle point, …, and how that is known.
    success : bool
        Whether all is well: finite, converged, and every free parameter constrained.
    message : str
        The same in words.
    warnings : tuple[str, ...]
        What should make a reader careful.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> x = jnp.linspace(0.0, 1.0, 11)
    >>> y = 3.0 * x + 1.0 + 0.1 * (-1.0) ** jnp.arange(11)
    >>> fit = fk.Fit(
    ...     residuals=lambda params, args: (params["slope"] * x + params["offset"] - y) / 0.1,
    ...     params={"offset": 0.0, "slope": 1.0},
    ...     optimiser=fk.gauss_newton(),
    ... )
    >>> fit.run(20, progress=False)
    >>> fit.result()
    Fit converged after ... steps, ... standard errors from the minimum
    reduced chi-square 1.212 (10.91 over 9 degrees of freedom)
      offset  1.01 ± 0.06   5.6 %
      slope   3.00 ± 0.10   3.2 %
    """

    params: PyTree
    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    fixed: frozenset[str]
    loss: float
    chi_square: float | None
    degrees_of_freedom: int | None
    reduced_chi_square: float | None
    residuals: Float[np.ndarray, " m"] | None
    fisher: FisherMatrix
    covariance: Float[np.ndarray, "n n"]
    absolute_sigma: bool
    errors_from: str
    steps: int
    assessment: Assessment
    success: bool
    message: str
    warnings: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """Whether the parameters are at a minimum, whatever the optimiser thinks."""
        return self.assessment.converged

    @property
    def distance(self) -> float:
        """How far the minimum is, in standard errors; see `Assessment`."""
        return self.assessment.distance

    @property
    def correlations(self) -> Float[np.ndarray, "n n"]:
        """Correlation coefficients of the elements that were not fixed, ``fisher.labels``."""
        return np.asarray(self.fisher.correlations)

    @property
    def unconstrained(self) -> tuple[str, ...]:
        """What the data leave unconstrained; parameters on a bound are left out."""
        if not self.fisher.labels:
            return ()
        held = np.isin(self.fisher.labels, self.assessment.at_bound)
        sentences = (self.fisher.given(held) if held.any() else self.fisher).unconstrained
        return tuple(self._without_effect(sentence) for sentence in sentences)

    def _without_effect(self, sentence: str) -> str:
        """Describe what the loss does along a parameter without first derivatives."""
        words, _, effect = sentence.partition(" is unconstrained: it has no effect")
        flat, sloping = words in self.assessment.flat, self.assessment.kind is Kind.SLOPING
        if words == sentence or effect or flat != sloping:
            return sentence
        what = "a slope and no curvature" if sloping else "no effect to first order"
        return f"{words} is unconstrained: it has {what}"

    def strong_correlations(self, threshold: float = STRONG) -> list[tuple[str, str, float]]:
        """Pairs of elements correlated by `threshold` or more in magnitude, strongest first."""
        matrix, labels = self.correlations, self.fisher.labels
        pairs = [
            (labels[i], labels[j], float(matrix[i, j]))
            for i in range(len(labels))
            for j in range(i + 1, len(labels))
            if abs(matrix[i, j]) >= threshold
        ]
        return sorted(pairs, key=lambda pair: -abs(pair[2]))

    def rows(self) -> list[tuple[str, float, float, bool]]:
        """One row per element: name, value, error, whether it was fixed."""
        return [
            (name, float(value), float(error), path in self.fixed)
            for path, leaf in self.values.items()
            for name, value, error in zip(
                names_of_elements(path, leaf), leaf.flat, self.errors[path].flat, strict=True
            )
        ]

    def to_dataframe(self) -> Any:
        """Tabulate as a pandas ``DataFrame``: value, error and fixed, indexed by parameter.

        Raises
        ------
        ImportError
            If pandas, which fitkit does not require, is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "Result.to_dataframe needs pandas, which is not installed: pip install pandas. "
                "Without it, Result.rows() holds the same table."
            ) from error
        table = pandas.DataFrame(self.rows(), columns=["parameter", "value", "error", "fixed"])
        return table.set_index("parameter")

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        cells = [
            (name, *value.partition(" ±")[::2], of_value)
            for name, value, of_value in self._written()
        ]
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
        table = [
            f"  {name:<{widths[0]}}  {value:>{widths[1]}} {'±' if error else ' '}"
            f"{error:<{widths[2]}}  {of_value}"
            for name, value, error, of_value in cells
        ]
        return "\n".join([self.message, *self._facts(), *(line.rstrip() for line in table)])

    def _repr_html_(self) -> str:
        headline = f"{'✓' if self.success else '⚠'} {self.message}"
        columns = ("parameter", "value ± standard error", "")
        return html_table(headline, self._facts(), columns, self._written(typeset=True))

    def _written(self, typeset: bool = False) -> list[tuple[str, str, str]]:
        """Write each element: its name, its value with its error, and what that is of the value."""
        written = []
        for name, value, error, fixed in self.rows():
            text = number(value, 6, typeset=typeset)
            if fixed:
                written.append((name, text, "fixed"))
            elif math.isinf(error):
                written.append(
                    (name, f"{text} ± {number(error, typeset=typeset)}", "unconstrained")
                )
            else:
                ratio = abs(error / value) if value else math.inf
                share = f"{number(100 * ratio, 2, typeset=typeset)} %" if ratio < 1 else ""
                written.append((name, with_error(value, error, typeset=typeset), share))
        return written

    def _facts(self) -> list[str]:
        facts = []
        if self.reduced_chi_square is not None:
            facts.append(
                f"reduced chi-square {number(self.reduced_chi_square)} "
                f"({number(self.chi_square)} over {self.degrees_of_freedom} degrees of freedom)"
            )
        if not self.absolute_sigma:
            facts.append("errors are scaled by the scatter of the residuals")
        if self.errors_from == "sandwich":
            facts.append("errors are those of the scatter of the residuals, whatever their σ")
        if self.errors_from == "hessian" and self.residuals is not None:
            facts.append("errors are those of a likelihood, from its Hessian")
        facts += [*self.unconstrained, *(self.fisher.degenerate if self.fisher.labels else ())]
        strong = self.strong_correlations()
        facts += [f"correlation of {a} and {b}: {r:+.3f}" for a, b, r in strong[:10]]
        facts += [f"and {len(strong) - 10} more above {STRONG}"] if len(strong) > 10 else []
        return facts + [f"warning: {warning}" for warning in self.warnings]

    if TYPE_CHECKING:  # Attached by _result_plots, so that a result can be had without matplotlib.

        def plot_residuals(self, ax: Any = None) -> Any: ...
        def plot_correlation(self, ax: Any = None) -> Any: ...
        def plot_spectrum(self, ax: Any = None) -> Any: ...


def names_of_elements(path: str, leaf: np.ndarray) -> tuple[str, ...]:
    """Name the elements of one leaf, in the order of ``leaf.flat``."""
    return tuple(element_name(path, index) for index in np.ndindex(leaf.shape))
