"""How numbers and tables are written, for people to read: pure functions from them to text.

By default a minus is a hyphen and infinity is ``inf``, as Python reads them back: for ``repr``,
errors and logs. With ``typeset=True`` they are ``−`` and ``∞``: for dashboards and plots.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

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


def with_error(value: float, error: float, *, typeset: bool = False) -> str:
    """Write a value and its standard error, rounded as the Particle Data Group does.

    If the first three digits of the error are 354 or less, it has two digits, otherwise one; 950
    or more are rounded up to 1000, of which two are kept (Review of Particle Physics,
    "Introduction", section 5.3). The value ends at the same digit, and both share one exponent. An
    error of zero, or one that is not finite, says nothing of the digits: the value has six then.

    >>> with_error(12.34567, 0.0234), with_error(0.827, 0.367)
    ('12.346 ± 0.023', '0.8 ± 0.4')
    >>> with_error(1234567.0, 100.0), with_error(0.000123, 0.0001, typeset=True)
    ('(1.23457 ± 0.00010)e6', '(1.2 ± 1.0)e−4')
    >>> with_error(3.0, math.inf, typeset=True)
    '3 ± ∞'
    """
    if not math.isfinite(value) or not math.isfinite(error) or error <= 0:
        return _typeset(f"{number(value, 6)} ± {number(error, 2)}", typeset)
    digits, exponent = f"{error:.{_MOST_DIGITS}e}".split("e")
    last = int(exponent) - (float(digits) < 3.55)
    # Where the error's own first digit counts, 0.096 say, it has become 0.10.
    first = max(_exponent(value, 1) if value else last, int(f"{round(error, -last):.0e}"[2:]))
    if first - last >= _MOST_DIGITS:
        return _typeset(f"{number(value, _MOST_DIGITS)} ± {number(error, 2)}", typeset)
    # Up to six digits before the point and two zeros after it are read at a glance.
    shift = 0 if -3 <= first < 6 else first
    text = " ± ".join(_rounded(one, last, shift) for one in (value, error))
    return _typeset(f"({text})e{shift}" if shift else text, typeset)


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


def html_table(
    headline: str, facts: Iterable[str], columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> str:
    """Write a headline, a list and a table as HTML, in the colours of the page.

    The first column holds names, as code. All text is escaped; without rows there is no table.

    >>> html_table("Fit", ["a < b"], ["parameter", "value"], [])
    '<div><b>Fit</b><ul><li>a &lt; b</li></ul></div>'
    """
    left = " style='text-align:left'"

    def row(cells: Iterable[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}{left}>{cell}</{tag}>' for cell in cells)}</tr>"

    body = []
    for name, *cells in rows:
        body.append(row([f"<code>{html.escape(name)}</code>", *map(html.escape, cells)], "td"))
    head = row(map(html.escape, columns), "th")
    table = f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>" if body else ""
    items = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    facts_list = f"<ul>{items}</ul>" if items else ""
    return f"<div><b>{html.escape(headline)}</b>{facts_list}{table}</div>"


def _short(text: str) -> str:
    """Shorten Python's exponent: ``1e-07`` to ``1e-7``, ``1e+07`` to ``1e7``."""
    return re.sub(r"e([+-]\d+)", lambda found: f"e{int(found[1])}", text)


def _rounded(value: float, last: int, shift: int) -> str:
    """Write a value to the digit of the power `last` of ten, in units of the power `shift`."""
    unit = Decimal(1).scaleb(last)
    return f"{Decimal(value).quantize(unit).scaleb(-shift):f}"


def _exponent(value: float, digits: int) -> int:
    """Return the power of ten of the first digit, once rounded to that many."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def _typeset(text: str, typeset: bool) -> str:
    return text.replace("-", "−").replace("inf", "∞") if typeset else text
