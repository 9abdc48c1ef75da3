"""Numbers as people read them."""

import doctest
import math

import pytest

from fitkit import _format
from fitkit._format import count, number, power, value_and_error


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
        (1.2345678e-9, 1.2e-12, "1.2346e-9 ± 1.2e-12"),
        (6.02e23, 1e21, "6.020e23 ± 1.0e21"),
        (0.0, 0.5, "0.00 ± 0.50"),
        (0.0, 3e-9, "0 ± 3.0e-9"),
        (1.0, 25.0, "1 ± 25"),
        (1234.0, 250.0, "1230 ± 250"),
        (3.0, 0.0996, "3.00 ± 0.10"),
        (9.996, 0.012, "9.996 ± 0.012"),
        (9.9999, 0.12, "10.00 ± 0.12"),
        (3.0, math.inf, "3 ± inf"),
        (3.0, math.nan, "3 ± nan"),
        (math.pi, 0.0, "3.14159 ± 0"),
        (math.nan, 0.1, "nan ± 0.1"),
        (1.0, 1e-30, "1 ± 1e-30"),
        (1e300, 1e-300, "1e300 ± 1e-300"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves(value, error, text):
    assert " ± ".join(value_and_error(value, error)) == text


def test_a_typeset_value_has_true_signs():
    assert value_and_error(-1.5, math.inf, typeset=True) == ("−1.5", "∞")
    assert value_and_error(-1.5e-9, 1e-12, typeset=True) == ("−1.5000e−9", "1.0e−12")


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
