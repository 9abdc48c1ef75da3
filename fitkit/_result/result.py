"""What a fit says at the end: values, errors, correlations, and whether to believe them."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, PyTree

from fitkit._fisher import FisherMatrix
from fitkit._format import html_table, number, with_error
from fitkit._paths import element_name
from fitkit._result.as_json import read, written
from fitkit._result.assessment import Assessment, Kind
from fitkit._result.labelled import dataset, uncertain
from fitkit._result.levels import deviations

Intervals = dict[str, tuple[np.ndarray, np.ndarray]]

# Correlations worth a line of text.
STRONG = 0.9


class Row(NamedTuple):
    """One element of a result: of a parameter, or of what is derived from the parameters.

    The initial value is NaN where it is not known.
    """

    name: str
    value: float
    error: float
    fixed: bool
    initial: float
    derived: bool


@dataclass(frozen=True, repr=False)
class Result:
    """Values with their errors, and what qualifies them; made by ``Fit.result()``.

    Printed, it is a table; in a notebook, a rich one.

    Attributes
    ----------
    params : PyTree
        The parameters, in the structure they came in.
    values, errors : dict[str, np.ndarray]
        By parameter path, in the order in which the parameters came, in the shape of each and its
        unit. Errors are standard errors, infinite where the data leave an element free, and 0 where
        it was fixed.
    derived, derived_errors : dict[str, np.ndarray]
        What the function `derived` of the `Fit` computes from the parameters, by path, with
        standard errors by linear propagation: the roots of the diagonal of ``J C Jᵀ``, J its
        Jacobian and C the covariance. Infinite where it changes along what the data leave free.
    initial : dict[str, np.ndarray]
        Parameters and derived quantities where the fit started; empty if that is not known.
    fixed : frozenset[str]
        Paths of the parameters that were frozen.
    loss : float
        Value of the loss: for residuals, half the sum of their squares; with what priors add.
    chi_square, degrees_of_freedom, reduced_chi_square
        Sum of squares of the residuals; their number less the rank; the ratio. None of a loss,
        which has no count of data, and the last where no degree of freedom is left. Priors are no
        part of it: it says how well the model fits the data. What they determine of a parameter the
        data need not, so with priors the degrees of freedom are the number of data less the trace
        of ``C D``, C the covariance and D the Fisher matrix of the data alone, and no whole number.
    prior_chi_square : float | None
        Twice what the priors add to the loss: for each element with a `Normal` prior the square of
        ``(value - mean) / sigma``. None without priors.
    residuals : np.ndarray | None
        Flat residuals of the data at the parameters.
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
      offset  1.01 ± 0.06  5.6 %  (init = 0)
      slope   3.00 ± 0.10  3.2 %  (init = 1)
    """

    params: PyTree
    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    derived: dict[str, np.ndarray]
    derived_errors: dict[str, np.ndarray]
    initial: dict[str, np.ndarray]
    fixed: frozenset[str]
    loss: float
    chi_square: float | None
    degrees_of_freedom: float | None
    reduced_chi_square: float | None
    prior_chi_square: float | None
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
    # Of a level, by profiles; the fit's, which a copy in a file does not know any more.
    _by_profile: Callable[[float], tuple[Intervals, tuple[str, ...]]] | None = field(
        default=None, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_by_profile": None}

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

    def intervals(
        self, level: float = 1, method: Literal["profile", "parabola"] = "profile"
    ) -> Intervals:
        """Compute lower and upper ends of confidence intervals, by parameter path.

        Parameters
        ----------
        level
            A probability below 1, such as 0.9545; or a number of standard errors, which stands for
            the probability of a normal variable to lie within them: 1 for 0.6827.
        method
            ``"profile"``: where the loss, minimised over all other parameters, has risen by
            ``n**2 / 2`` for n standard errors; by as much times the reduced chi-square where
            errors are scaled by it. It is what MINUIT's MINOS computes. ``"parabola"``: the value
            and n standard errors around it, which is the same where the model is linear.

        Returns
        -------
        dict
            Pairs of arrays in the shape of the parameter and its unit. An end is infinite where
            the loss does not rise so much, and a bound where it does not rise so much before. The
            ends of what was fixed are its value.

        Raises
        ------
        ValueError
            If the fit has not converged, or `method` is ``"profile"`` and the result has no model:
            it comes from a file, or from `fit_many`.

        Warns
        -----
        UserWarning
            If a lower minimum was found on the way, or the fit is at no proper minimum.

        Examples
        --------
        >>> import fitkit as fk
        >>> import jax.numpy as jnp
        >>> fit = fk.Fit(
        ...     residuals=lambda params, args: jnp.log(params["flux"] / jnp.array([90.0, 110.0])),
        ...     params={"flux": 100.0},
        ... )
        >>> fit.run(progress=False)
        >>> low, high = fit.result().intervals()["flux"]
        >>> round(float(low), 3), round(float(high), 3)
        (49.06, 201.795)
        """
        if method == "profile":
            if self._by_profile is None:
                raise ValueError(
                    "intervals: this result does not know its model, because it comes from a file "
                    "or from fit_many. Ask fit.result() of a Fit, or use method='parabola'."
                )
            intervals, found = self._by_profile(level)
            for warning in found:
                warnings.warn(f"intervals: {warning}.", stacklevel=2)
            return intervals
        if method != "parabola":
            raise ValueError(f"intervals: method={method!r}; must be 'profile' or 'parabola'.")
        n = deviations(level, "intervals")
        return {
            path: (
                np.asarray(value - n * self.errors[path]),
                np.asarray(value + n * self.errors[path]),
            )
            for path, value in self.values.items()
        }

    def rows(self) -> list["Row"]:
        """One row per element of the parameters and of what is derived from them."""
        return [
            Row(name, float(value), float(error), path in self.fixed, float(began), is_derived)
            for is_derived, values, errors in (
                (False, self.values, self.errors),
                (True, self.derived, self.derived_errors),
            )
            for path, leaf in values.items()
            for name, value, error, began in zip(
                names_of_elements(path, leaf),
                leaf.flat,
                errors[path].flat,
                np.ravel(self.initial.get(path, np.full(leaf.shape, np.nan))),
                strict=True,
            )
        ]

    def to_dataframe(self) -> Any:
        """Tabulate as a pandas ``DataFrame`` of `rows`, indexed by parameter.

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
        table = pandas.DataFrame(self.rows(), columns=["parameter", *Row._fields[1:]])
        return table.set_index("parameter")

    def to_xarray(self) -> Any:
        """Make an ``xarray.Dataset`` of all elements that were not fixed, labelled by name.

        Returns
        -------
        xarray.Dataset
            ``value`` and ``error`` by ``parameter``; ``covariance`` and ``correlation`` by
            ``parameter`` and ``other``.

        Raises
        ------
        ImportError
            If xarray is not installed.
        """
        return dataset(self)

    def to_uncertainties(self) -> dict[str, Any]:
        """Make numbers of the package uncertainties that know how they are correlated.

        Returns
        -------
        dict
            By element; what was fixed is a plain number.

        Raises
        ------
        ImportError
            If uncertainties is not installed.
        ValueError
            If the data leave an element free, whose error is infinite.

        Examples
        --------
        >>> import fitkit as fk, jax.numpy as jnp
        >>> x = jnp.array([0.0, 1.0, 2.0])
        >>> fit = fk.Fit(
        ...     residuals=lambda p, args: (p["a"] + p["b"] * x - jnp.array([1.0, 3.0, 5.0])) / 0.1,
        ...     params={"a": 0.0, "b": 1.0},
        ... )
        >>> fit.run(progress=False)
        >>> of = fit.result().to_uncertainties()
        >>> print(of["a"] + of["b"])  # their covariance counts
        3.00+/-0.06
        """
        return uncertain(self)

    def to_json(self) -> str:
        """Write everything as JSON, with all digits; read back, every number has the same bits.

        Arrays are objects with ``dtype``, ``shape`` and ``data``, their elements one after the
        other; what JSON has no number for is ``"nan"``, ``"inf"`` or ``"-inf"``. What is not
        written is the model, and so `intervals` of a result that was read are those of the
        parabola; and the structure of `params`.

        Examples
        --------
        >>> import fitkit as fk, json
        >>> fit = fk.Fit(residuals=lambda p, args: (p["x"] - 3.0).reshape(1), params={"x": 3.0})
        >>> text = fit.result().to_json()
        >>> json.loads(text)["values"]["x"]["data"]
        [3.0]
        >>> fk.Result.from_json(text).values["x"].item()
        3.0
        """
        return written(self)

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """Read what `to_json` wrote; `params` is a dictionary by path, as `values` is.

        Raises
        ------
        ValueError
            If the text is something else, or of a version that this one does not know.
        """
        return cls(**read(text))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        cells = [
            (name, *value.partition(" ±")[::2], of_value, began and f"({began})")
            for name, value, of_value, began in self._written()
        ]
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(4)]
        table = [
            f"  {name:<{widths[0]}}  {value:>{widths[1]}} {'±' if error else ' '}"
            f"{error:<{widths[2]}}  {of_value:<{widths[3]}}  {began}"
            for name, value, error, of_value, began in cells
        ]
        return "\n".join([self.message, *self._facts(), *(line.rstrip() for line in table)])

    def _repr_html_(self) -> str:
        headline = f"{'✓' if self.success else '⚠'} {self.message}"
        columns = ("parameter", "value ± standard error", "", "initial" if self.initial else "")
        return html_table(headline, self._facts(), columns, self._written(typeset=True))

    def _written(self, typeset: bool = False) -> list[tuple[str, str, str, str]]:
        """Write each element: name, value and error, what that is of it, where it began."""
        written = []
        for name, value, error, fixed, initial, is_derived in self.rows():
            text = number(value, 6, typeset=typeset)
            began = "" if typeset else "init = "
            began += number(initial, 6, typeset=typeset)
            if is_derived:
                began = "derived"
            elif fixed or math.isnan(initial):
                began = ""
            if fixed:
                written.append((name, text, "fixed", began))
            elif math.isinf(error):
                text = f"{text} ± {number(error, typeset=typeset)}"
                written.append((name, text, "unconstrained", began))
            else:
                ratio = abs(error / value) if value else math.inf
                share = f"{number(100 * ratio, 2, typeset=typeset)} %" if ratio < 1 else ""
                written.append((name, with_error(value, error, typeset=typeset), share, began))
        return written

    def _facts(self) -> list[str]:
        facts = []
        if self.reduced_chi_square is not None:
            freedom = self.degrees_of_freedom
            shown = number(freedom) if isinstance(freedom, float) else freedom
            facts.append(
                f"reduced chi-square {number(self.reduced_chi_square)} "
                f"({number(self.chi_square)} over {shown} degrees of freedom)"
            )
        if self.prior_chi_square is not None:
            of = "the priors" if self.chi_square is None else "the priors, beside that of the data,"
            facts.append(f"chi-square of {of} {number(self.prior_chi_square)}")
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
