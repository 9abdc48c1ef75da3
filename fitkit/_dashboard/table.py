"""The rows in sight: all of a few parameters; of many, groups by path, or a page of those."""

import fnmatch
from collections.abc import Iterable

import ipywidgets as widgets
import jax
import numpy as np

from fitkit._dashboard.eigenvectors import is_old
from fitkit._dashboard.rows import Act, Lock, Row, describe
from fitkit._fit import Fit, Snapshot
from fitkit._format import number
from fitkit._paths import named_leaves
from fitkit._plotting import Entry, Errors, colour, dash

VISIBLE = 12  # rows at a time: a dozen widgets each, hundreds of which make a page slow


class Table:
    """A row for each parameter in sight; above many, a filter and a row for all that match it.

    Parameters
    ----------
    fit
        The fit.
    act
        Does what a control asks.
    lock
        Held while a control's message is handled, and while controls are set.
    """

    def __init__(self, fit: Fit, act: Act, lock: Lock) -> None:
        self._fit, self._act = fit, act
        self._first, self._below = 0, ""
        self._index = {path: index for index, path in enumerate(fit.names)}
        many = len(fit.names) > VISIBLE
        self.rows = [Row(fit, act, lock, opened=self._open)]
        while len(self.rows) < min(len(fit.names), VISIBLE):
            self.rows.append(Row(fit, act, lock, self.rows[0], self._open))
        self.together = Row(fit, act, lock, self.rows[0]) if many else None
        self.filter = widgets.Text(
            placeholder="part of a path, or a pattern such as mirrors.*.tip",
            description="filter",
            tooltip="Show the parameters whose path holds this, or matches it",
        )
        self.filter.add_class("fitkit-filter")
        self.filter.observe(lambda _: self._turn(-self._first), "value")
        self.up = _icon("level-up", "Back to the groups above")
        self.back = _icon("chevron-left", "Parameters before these")
        self.forth = _icon("chevron-right", "Parameters after these")
        self.up.on_click(lambda _: self._go_below(self._below.rpartition(".")[0]))
        self.back.on_click(lambda _: self._turn(-VISIBLE))
        self.forth.on_click(lambda _: self._turn(VISIBLE))
        self.where = widgets.HTML()
        bar = widgets.HBox([self.up, self.filter, self.back, self.where, self.forth])
        bar.add_class("fitkit-bar-of-many")
        self.head = widgets.HTML()
        self.head.add_class("fitkit-head")
        boxes = [row.box for row in self.rows]
        if self.together is None:
            bar.add_class("fitkit-none")
        else:
            self.together.box.add_class("fitkit-together")
            boxes.insert(0, self.together.box)
        rows = widgets.VBox(boxes)
        rows.add_class("fitkit-in-columns")
        self.box = widgets.VBox([bar, self.head, rows])
        self.box.add_class("fitkit-rows")

    def in_sight(self) -> list[Entry]:
        """List what has a row now."""
        return self._page(self._entries())

    def _page(self, entries: list[Entry]) -> list[Entry]:
        return entries[self._first : self._first + len(self.rows)]

    def refresh(self, now: Snapshot, errors: Errors) -> None:
        """Set every control in sight from the fit, and values from this moment of it."""
        entries = self._entries()
        self._first = min(self._first, max(0, (len(entries) - 1) // VISIBLE * VISIBLE))
        self.head.value = self._headings(now)
        for position, row in enumerate(self.rows):
            _show(row.box, position + self._first < len(entries))
        page = self._page(entries)
        # Fetched in one go, and only those in sight: `now.params` would copy every one.
        leaves = named_leaves(now.place.view.params)
        values = jax.device_get({e.paths[0]: leaves[e.paths[0]] for e in page if not e.group})
        for row, (label, paths, colour_number, group) in zip(self.rows, page, strict=False):
            line = f"border-top-style:{dash(colour_number)[0]};"
            line += f"border-top-color:{colour(colour_number)}"
            if group:
                value, label = _summary(now, paths, errors), f"{label} ({len(paths)})"
            elif paths[0] in now.frozen:
                value = f"{describe(values[paths[0]])} fixed"
            else:
                value = describe(values[paths[0]], errors.get(paths[0]))
            row.refresh(paths, label, f"<i style='{line}'></i>", value, group)
        if self.together is not None:
            self._refresh_many(now, entries)

    def _refresh_many(self, now: Snapshot, entries: list[Entry]) -> None:
        assert self.together is not None
        total, last = len(entries), min(self._first + VISIBLE, len(entries))
        self.where.value = f"{self._first + 1}–{last} of {total}" if total else "none match"
        self.up.disabled = not self._below
        self.back.disabled, self.forth.disabled = self._first == 0, last >= total
        _show(self.together.box, total > 0)
        paths = tuple(path for entry in entries for path in entry.paths)
        if paths:
            where = f" of {self._below}" if self._below and not self.filter.value.strip() else ""
            label = f"all {len(paths)}{where}"
            self.together.refresh(paths, label, "", _summary(now, paths, {}))

    def _entries(self) -> list[Entry]:
        """List what there are rows for: what a filter leaves, or the groups below a path.

        Groups where they are a few, because a page of groups of two would hide more than it shows.
        """
        words = self.filter.value.strip()
        if words:
            whole = any(sign in words for sign in "*?[")
            return self._single(
                path
                for path in self._fit.names
                if (fnmatch.fnmatch(path, words) if whole else words in path)
            )
        inside = f"{self._below}." if self._below else ""
        below = [path for path in self._fit.names if path.startswith(inside)]
        groups: dict[str, list[str]] = {}
        for path in below:
            child = inside + path.removeprefix(inside).partition(".")[0]
            groups.setdefault(child, []).append(path)
        if len(below) <= VISIBLE or not 1 < len(groups) <= VISIBLE:
            return self._single(below)
        return [
            Entry(label, tuple(paths), number, group=True)
            if len(paths) > 1
            else Entry(paths[0], tuple(paths), number)
            for number, (label, paths) in enumerate(groups.items())
        ]

    def _single(self, paths: Iterable[str]) -> list[Entry]:
        return [Entry(path, (path,), self._index[path]) for path in paths]

    def _open(self, paths: tuple[str, ...]) -> None:
        self._go_below(next(entry.label for entry in self._entries() if entry.paths == paths))

    def _go_below(self, path: str) -> None:
        self._below, self._first = path, 0
        self._act(lambda: None)

    def _turn(self, by: int) -> None:
        self._first = max(0, self._first + by)
        self._act(lambda: None)

    def _headings(self, now: Snapshot) -> str:
        relative = {self._fit.learning_rates.relative(path) for path in self._fit.names[:VISIBLE]}
        rate = "learning rate" if relative == {False} else "× learning rate"
        error, old = "value ± error", ""
        if now.known_fisher is not None:
            error += f" of step {now.known_fisher[0]:,}"
            old = " fitkit-old" if is_old(now, now.known_fisher[0]) else ""
        columns = (
            *(("swatch", ""), ("name", "parameter"), (f"value{old}", error)),
            *(("slider", ""), ("rate", rate), ("reset", ""), ("freeze", "")),
        )
        cells = "".join(f"<span class='fitkit-{name}'>{words}</span>" for name, words in columns)
        # Twice: the second stands above a second column of rows, or else below the edge.
        return 2 * f"<div class='fitkit-columns'>{cells}</div>"


def _summary(now: Snapshot, paths: tuple[str, ...], errors: Errors) -> str:
    """Write how many of a group are frozen, and its largest pull and step in standard errors.

    The pull is the gradient times the standard error: for one parameter alone, how many standard
    errors it is away from where the data want it. Without errors units cannot be compared.
    """
    frozen = len(now.frozen.intersection(paths))
    words = [f"{frozen} frozen"] if frozen else []
    latest = now.history.latest
    free = [path for path in paths if path not in now.frozen]
    sizes = {path: float(np.max(errors[path])) for path in free if path in errors}
    if latest is not None and sizes and len(sizes) == len(free):
        at = {path: i for i, path in enumerate(now.steering.names)}
        pulls = {path: float(latest.gradient_norms[at[path]]) * e for path, e in sizes.items()}
        steps = {path: float(latest.step_norms[at[path]]) / e for path, e in sizes.items() if e}
        for name, numbers in (("pull", pulls), ("step", steps)):
            if finite := [one for one in numbers.values() if np.isfinite(one)]:
                words.append(f"{name} ≤ {number(max(finite), 2, typeset=True)} σ")
    return ", ".join(words)


def _icon(icon: str, words: str) -> widgets.Button:
    """Make a button that shows an icon, and has words for a screen reader."""
    button = widgets.Button(icon=icon, description=words, tooltip=words)
    button.add_class("fitkit-icon")
    return button


def _show(box: widgets.Box, seen: bool) -> None:
    (box.remove_class if seen else box.add_class)("fitkit-none")
