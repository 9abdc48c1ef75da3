"""Numbers as people read them."""

import doctest
import math

import pytest

from fitkit import _format
from fitkit._format import count, number, power, with_error


def test_the_examples_run():
    assert doctest.testmod(_format).failed == 0


@pytest.mark.parametrize(
    ("value", "plain", "typeset"),
    [
        (None, "–", "–"),
        (0.0, "0", "0"),
        (1234.5678, "1235", "1235"),
        (99999.0, "1e5", "1e5"),
        (1e-9, "1e-9", "1e−9"),
        (1.5e20, "1.5e20", "1.5e20"),
        (-1.5e-300, "-1.5e-300", "−1.5e−300"),
        (math.inf, "inf", "∞"),
        (-math.inf, "-inf", "−∞"),
        (math.nan, "nan", "nan"),
    ],
)
def test_numbers_are_short(value, plain, typeset):
    assert number(value) == plain
    assert number(value, typeset=True) == typeset


@pytest.mark.parametrize("digits", [1, 2, 6, 17])
@pytest.mark.parametrize("value", [math.pi, -1e-7 / 3, 2e30 / 3, 1.0])
def test_plain_numbers_read_back(value, digits):
    assert float(number(value, digits)) == float(f"{value:.{digits}g}")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1234.5678, 0.12, "1234.57 ± 0.12"),
        (1.2345678e-9, 1.2e-12, "(1.2346 ± 0.0012)e-9"),
        (6.02e23, 1e21, "(6.020 ± 0.010)e23"),
        (1234567.0, 100.0, "(1.23457 ± 0.00010)e6"),
        (0.000123, 0.0001, "(1.2 ± 1.0)e-4"),
        (0.0, 0.5, "0.0 ± 0.5"),
        (0.0, 3e-9, "(0.0 ± 3.0)e-9"),
        (1.0, 25.0, "1 ± 25"),
        (1234.0, 250.0, "1230 ± 250"),
        (1234.0, 400.0, "1200 ± 400"),
        (3.0, math.inf, "3 ± inf"),
        (3.0, math.nan, "3 ± nan"),
        (math.pi, 0.0, "3.14159 ± 0"),
        (math.nan, 0.1, "nan ± 0.1"),
        (1.0, 1e-30, "1 ± 1e-30"),
        (1e300, 1e-300, "1e300 ± 1e-300"),
        # The examples of the Particle Data Group's rule.
        (0.827, 0.119, "0.83 ± 0.12"),
        (0.827, 0.367, "0.8 ± 0.4"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves(value, error, text):
    assert with_error(value, error) == text


@pytest.mark.parametrize("error", [0.0123, 0.3549, 0.355, 0.0949, 0.0951, 0.0996, 0.999, 7.0])
@pytest.mark.parametrize("value", [0.0, 3.14159265, -123.456789, 9.9996, 99999.96])
def test_digits_are_those_of_uncertainties(value, error):
    uncertainties = pytest.importorskip("uncertainties")
    assert with_error(value, error) == f"{uncertainties.ufloat(value, error):fP}".replace(
        "±", " ± "
    )


def test_a_typeset_value_has_true_signs():
    assert with_error(-1.5, math.inf, typeset=True) == "−1.5 ± ∞"
    assert with_error(-1.5e-9, 1e-12, typeset=True) == "(−1.5000 ± 0.0010)e−9"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e5, "10⁵"), (2e-12, "2×10⁻¹²"), (9.99e7, "10⁸"), (20.0, "20"), (0.0, "0"), (-2.0, "−2")],
)
def test_ticks_of_a_logarithmic_axis(value, text):
    assert power(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (9.96, "10"), (12345.6, "12,346"), (3.0, "3")]
)
def test_counts(value, text):
    assert count(value) == text
