"""The report on a non-finite value: what a user reads."""

import dataclasses
import html

from fitkit._format import number
from fitkit._input import place_text


@dataclasses.dataclass(frozen=True, repr=False)
class NonFiniteReport:
    """Where a NaN or an infinity came from.

    ``print(report)`` writes it out; in a notebook it is a table.

    Attributes
    ----------
    phase
        ``"data"`` where the value was in an input array (or alone led to it), ``"forward"`` where
        the model made it, ``"gradient"`` where only the derivative did, ``"optimiser"`` where the
        update did, or where the optimiser had driven the parameters to absurd values.
    operation
        What was done: ``"derivative of sqrt at 0"``.
    file, line, source
        The innermost line of the user's own code, and its text. In a notebook `file` is
        ``"Cell In[2]"``. ``None`` and ``""`` where JAX recorded no place.
    called_from
        The user's lines that led there, innermost first.
    values
        The operand elements that caused it, as (name, value).
    parameters
        The paths of the parameters that came out non-finite: of their gradients, or of their new
        values. Where the function returns nothing shaped like the parameters, its bad outputs.
    origin
        The path and element of the value that caused it, ``"star.r2[1]"``, or the data array and
        index; ``None`` where it came from no input.
    origin_value
        Its value.
    other_origins
        Further elements that took part, the likeliest first.
    iteration
        In a loop, the index of the iteration (for a scan, into the arrays it scans over).
    lane
        Under ``vmap``, the index of the lane; a tuple where nested.
    chain
        The user's lines through which the value went on its way to the output.
    advice
        What to try.
    family
        The kind of failure, a short key such as ``"sqrt at 0"``.
    dtype
        The dtype of the value that first went bad.
    note
        What else a reader must know: that the line was found by another route, for example.
    history
        What the fit adds: the values at the steps before.
    """

    phase: str
    operation: str
    file: str | None = None
    line: int | None = None
    source: str = ""
    called_from: tuple[str, ...] = ()
    values: tuple[tuple[str, object], ...] = ()
    parameters: tuple[str, ...] = ()
    origin: str | None = None
    origin_value: object = None
    other_origins: tuple[str, ...] = ()
    iteration: int | None = None
    lane: int | tuple[int, ...] | None = None
    chain: tuple[str, ...] = ()
    advice: str = ""
    family: str = "other"
    dtype: str = ""
    note: str = ""
    history: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The file and line as one writes them: ``"model.py, line 12"``."""
        return place_text(self.file, self.line)

    def __str__(self) -> str:
        lines = [f"{_HEADLINES[self.phase]}: {self.operation}"]
        for label, text in self._rows():
            lines.append(f"  {label + ':':<14} {text}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left;white-space:nowrap'><b>{html.escape(label)}</b></td>"
            f"<td style='text-align:left'>{_html_text(label, text)}</td></tr>"
            for label, text in self._rows()
        )
        headline = html.escape(f"{_HEADLINES[self.phase]}: {self.operation}")
        return f"<div><p><b>{headline}</b></p><table>{rows}</table></div>"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("at", self.place)]
        if self.source:
            rows.append(("line", self.source))
        if self.called_from:
            rows.append(("called from", " ← ".join(self.called_from)))
        if self.values:
            rows.append(("values", ", ".join(f"{name} = {_value(v)}" for name, v in self.values)))
        if self.iteration is not None:
            rows.append(("iteration", str(self.iteration)))
        if self.lane is not None:
            rows.append(("vmap lane", str(self.lane)))
        if self.origin:
            held = "" if self.origin_value is None else f" = {_value(self.origin_value)}"
            others = f" (with {', '.join(self.other_origins[:3])})" if self.other_origins else ""
            rows.append(("from", self.origin + held + others))
        if self.parameters:
            shown = ", ".join(self.parameters[:8])
            more = len(self.parameters) - 8
            rows.append(("non-finite", shown + (f" and {more} more" if more > 0 else "")))
        if len(self.chain) > 1:
            rows.append(("then through", " → ".join(self.chain[1:7])))
        rows += [("before", sentence) for sentence in self.history]
        if self.advice:
            rows.append(("try", self.advice))
        if self.note:
            rows.append(("note", self.note))
        return rows


_HEADLINES = {
    "data": "Non-finite because of the data",
    "forward": "Non-finite in the model",
    "gradient": "Non-finite in the gradient",
    "optimiser": "Non-finite through the optimiser",
}


def _value(value: object) -> str:
    return number(value, 6) if isinstance(value, float | complex) else str(value)


def _html_text(label: str, text: str) -> str:
    escaped = html.escape(text)
    return f"<code>{escaped}</code>" if label == "line" else escaped
