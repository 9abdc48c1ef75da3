"""One of many systems, chosen by its number or among the worst, and what was found of it."""

import html
import time
from typing import Any

import ipywidgets as widgets

from fitkit._dashboard.rows import Act, Ask, Lock, under
from fitkit._format import number
from fitkit._plotting import Many, ManyFrame

PAUSE = 3.0  # seconds at least between two lists while fits run, for an open list to stay open


class SystemChoice:
    """A number to type and a list of the worst; below them the result of the chosen system.

    Parameters
    ----------
    many
        The systems.
    act, ask
        Do what a control asks, here or in the background.
    lock
        Held while a control's message is handled, and while controls are set.

    Attributes
    ----------
    chosen
        The index of the system whose result is shown; None without.
    """

    def __init__(self, many: Many, act: Act, ask: Ask, lock: Lock) -> None:
        self._many, self._act, self._ask, self._lock = many, act, ask, lock
        self.chosen: tuple[int, ...] | None = None
        self._listed: list[tuple[int, ...]] = []
        self._due = 0.0
        axes = len(many.shape)
        self.index = widgets.Text(
            placeholder=", ".join("ijklmn"[:axes]) if axes > 1 else "number",
            description="system",
            tooltip="The result of the system of this number, or of one number for each axis",
            continuous_update=False,
            layout={"width": "190px"},
            style={"description_width": "50px"},
        )
        self.worst = widgets.Dropdown(
            options=[("the worst…", None)],
            index=0,
            description="or one of",
            tooltip="The result of one of the worst systems",
            layout={"width": "330px"},
            style={"description_width": "66px"},
        )
        self.map = widgets.Dropdown(
            options=list(many.labels),
            description="map",
            tooltip="Which element the map shows",
            layout={"width": "240px"},
            style={"description_width": "36px"},
        )
        self.words = widgets.HTML()
        self.worst.set_state = under(lock, self.worst.set_state)
        self.index.observe(self._typed, "value")
        self.worst.observe(self._picked, "value")
        self.map.observe(lambda _: act(lambda: None), "value")
        bar = widgets.HBox([self.index, self.worst, self.map])
        self.box = widgets.VBox([bar, self.words])

    def refresh(self, now: ManyFrame) -> None:
        """List the worst systems at this moment."""
        if now.status.busy and time.monotonic() < self._due:
            return
        self._due = time.monotonic() + PAUSE
        worst = now.worst
        if worst == self._listed:
            return
        options: list[tuple[str, Any]] = [("the worst…", None)]
        for index in worst:
            reduced = number(float(now.reduced[index]), 3, typeset=True)
            options.append((f"{_text(index)}: χ²/ν {reduced}, {self._many.status[index]}", index))
        with self.worst.hold_sync():
            chosen = self.worst.value
            self._listed = worst
            self.worst.options = options
            # Not by its value: None would leave the list blank.
            self.worst.index = 1 + worst.index(chosen) if chosen in worst else 0

    def _typed(self, change: Any) -> None:
        text = change["new"].strip()
        if text:
            self._act(lambda: self._choose(index_of(text)))

    def _picked(self, change: Any) -> None:
        with self._lock:
            # A list that is renewed chooses again what was chosen.
            if change["new"] not in (None, self.chosen):
                self._act(lambda: self._choose(change["new"]))

    def _choose(self, index: tuple[int, ...]) -> None:
        self._ask(f"Computing the result of system {_text(index)}…", lambda: self._show(index))

    def _show(self, index: tuple[int, ...]) -> None:
        many = self._many
        try:
            found = many[index]._repr_html_()
        except ValueError as error:
            if many.status[index] != "non-finite":
                raise
            found = f"<p>{html.escape(str(error))}</p>"
        self.chosen = tuple(i % size for i, size in zip(index, many.shape, strict=False))
        self.words.value = f"<b>many[{_text(index)}]: {many.status[index]}</b>{found}"


def index_of(text: str) -> tuple[int, ...]:
    """Read the index of a system: ``"12"``, ``"3, 4"`` or ``"(3, 4)"``.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    parts = text.strip("()[] ").replace(",", " ").split()
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"system {text!r}: must be whole numbers, one for each axis that counts systems, such "
            "as 12, or 3, 4 in an image."
        ) from None


def _text(index: tuple[int, ...]) -> str:
    return ", ".join(map(str, index)) or "0"
