"""How numbers are written, for people to read: pure functions from numbers to text.

By default a minus is a hyphen and infinity is ``inf``, as Python reads them back: for ``repr``,
errors and logs. With ``typeset=True`` they are ``−`` and ``∞``: for dashboards and plots.
"""

import math
import re

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Decimal digits that every float64 keeps: more would be made up.
_MOST_DIGITS = 15


def number(value: complex | None, digits: int = 4, *, typeset: bool = False) -> str:
    """Write a number with that many significant digits, in as few characters as it takes.

    None, a value that is not known yet, is a dash.

    >>> number(1234567.0), number(1.5e-7), number(-0.25, typeset=True)
    ('1.235e6', '1.5e-7', '−0.25')
    """
    if value is None:
        return "–"
    return _typeset(_short(f"{value:.{digits}g}"), typeset)


def value_and_error(value: float, error: float, *, typeset: bool = False) -> tuple[str, str]:
    """Write a value to the second digit of its standard error, and the error.

    An error of zero, or one that is not finite, says nothing of the digits: the value has six then.

    >>> value_and_error(12.34567, 0.0234)
    ('12.346', '0.023')
    >>> value_and_error(1234.5, 250.0), value_and_error(-1.234567e-7, 2.3e-10)
    (('1230', '250'), ('-1.2346e-7', '2.3e-10'))
    >>> value_and_error(3.0, math.inf, typeset=True)
    ('3', '∞')
    """
    if not math.isfinite(value) or not math.isfinite(error) or error <= 0:
        return number(value, 6, typeset=typeset), number(error, 2, typeset=typeset)
    # The error rounded first: 0.0996 is 0.10, and its second digit the hundredth.
    second = _exponent(error, 2) - 1
    largest = max(_exponent(value, 1) if value else second, second + 1)
    if largest - second >= _MOST_DIGITS:
        return number(value, _MOST_DIGITS, typeset=typeset), number(error, 2, typeset=typeset)
    if -4 <= largest < 6:
        decimals = max(-second, 0)
        texts = [f"{round(one, -second):.{decimals}f}" for one in (value, error)]
    else:
        first = _short(f"{value:.{largest - second}e}") if value else "0"
        texts = [first, _short(f"{error:.1e}")]
    return _typeset(texts[0], typeset), _typeset(texts[1], typeset)


def power(value: float) -> str:
    """Write a number of one significant digit, as ticks of a logarithmic axis are: ``"2×10⁵"``.

    >>> power(1e-7), power(2e5), power(0.5)
    ('10⁻⁷', '2×10⁵', '0.5')
    """
    if not math.isfinite(value) or value <= 0 or 1e-3 < value < 1e5:
        return number(value, 6, typeset=True)
    factor, exponent = f"{value:.0e}".split("e")
    lead = "" if factor == "1" else f"{factor}×"
    return f"{lead}10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def count(value: float) -> str:
    """Write a count or a rate: whole with thousands apart, or of two digits where it is below ten.

    >>> count(1234567), count(2.345), count(0.0)
    ('1,234,567', '2.3', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 10 else number(value, 2)


def _short(text: str) -> str:
    """Shorten Python's exponent: ``1e-07`` to ``1e-7``, ``1e+07`` to ``1e7``."""
    return re.sub(r"e([+-]\d+)", lambda found: f"e{int(found[1])}", text)


def _exponent(value: float, digits: int) -> int:
    """Return the power of ten of the first digit, once rounded to that many."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def _typeset(text: str, typeset: bool) -> str:
    return text.replace("-", "−").replace("inf", "∞") if typeset else text
