"""The rows in sight: all of a few parameters, or a page of those that a filter leaves of many."""

import fnmatch
from typing import Any

import ipywidgets as widgets

from fitkit._dashboard._rows import Act, Row, describe
from fitkit._fit import Fit
from fitkit._names import named_leaves
from fitkit._plots import colour, dash

VISIBLE = 12  # rows at a time; with hundreds of them the page would crawl


class Table:
    """A row for each parameter in sight; above many, a filter and a row for all that match it."""

    def __init__(self, fit: Fit, act: Act):
        self._fit, self._act = fit, act
        self._first = 0
        self._index = {path: index for index, path in enumerate(fit.names)}
        many = len(fit.names) > VISIBLE
        self.rows = [Row(fit, act)]
        self.rows += [Row(fit, act, self.rows[0]) for _ in range(min(len(fit.names), VISIBLE) - 1)]
        self.together = Row(fit, act, self.rows[0]) if many else None
        self.filter = widgets.Text(
            placeholder="part of a path, or a pattern such as mirrors.*.tip",
            description="filter",
            tooltip="Show the parameters whose path holds this, or matches it",
        )
        self.filter.add_class("fitkit-filter")
        self.filter.observe(self._filtered, "value")
        self.back = widgets.Button(icon="chevron-left", tooltip="Parameters before these")
        self.on = widgets.Button(icon="chevron-right", tooltip="Parameters after these")
        self.back.on_click(lambda _: self._turn(-VISIBLE))
        self.on.on_click(lambda _: self._turn(VISIBLE))
        self.where = widgets.HTML()
        bar = widgets.HBox([self.filter, self.back, self.where, self.on])
        bar.add_class("fitkit-bar-of-many")
        head = widgets.HTML(self._headings())
        head.add_class("fitkit-head")
        above = [bar, head]
        if self.together is None:
            bar.add_class("fitkit-none")
        else:
            self.together.box.add_class("fitkit-together")
            above.append(self.together.box)
        self.box = widgets.VBox([*above, *(row.box for row in self.rows)])
        self.box.add_class("fitkit-rows")

    def in_sight(self) -> dict[str, int]:
        """Give path and number of every parameter that has a row now."""
        paths = self._matching()[self._first : self._first + len(self.rows)]
        return {path: self._index[path] for path in paths}

    def refresh(self) -> None:
        """Set every control in sight from the fit."""
        leaves = named_leaves(self._fit.params)
        matching = self._matching()
        self._first = min(self._first, max(0, (len(matching) - 1) // VISIBLE * VISIBLE))
        shown = self.in_sight()
        for row, (path, index) in zip(self.rows, shown.items(), strict=False):
            line = f"border-top-style:{dash(index)[0]};border-top-color:{colour(index)}"
            row.refresh((path,), path, f"<i style='{line}'></i>", describe(leaves[path]))
        for number, row in enumerate(self.rows):
            _show(row.box, number < len(shown))
        if self.together is not None:
            self._refresh_many(matching, len(shown))

    def _refresh_many(self, matching: tuple[str, ...], count: int) -> None:
        total, last = len(matching), self._first + count
        self.where.value = f"{self._first + 1}–{last} of {total}" if total else "none match"
        self.back.disabled, self.on.disabled = self._first == 0, last >= total
        assert self.together is not None
        _show(self.together.box, total > 0)
        if matching:
            frozen = len(self._fit.frozen.intersection(matching))
            value = f"{frozen} frozen" if frozen else ""
            self.together.refresh(matching, f"all {total}", "", value)

    def _matching(self) -> tuple[str, ...]:
        words = self.filter.value.strip()
        if not words:
            return self._fit.names
        whole = any(sign in words for sign in "*?[")
        return tuple(
            path
            for path in self._fit.names
            if (fnmatch.fnmatch(path, words) if whole else words in path)
        )

    def _filtered(self, _: Any) -> None:
        self._turn(-self._first)

    def _turn(self, by: int) -> None:
        self._first = max(0, self._first + by)
        self._act(lambda: None)

    def _headings(self) -> str:
        relative = {self._fit.learning_rates.relative(path) for path in self._fit.names[:VISIBLE]}
        rate = "learning rate" if relative == {False} else "× learning rate"
        columns = ("swatch", ""), ("slider", "parameter"), ("rate", rate), ("freeze", "")
        cells = "".join(f"<span class='fitkit-{name}'>{words}</span>" for name, words in columns)
        return f"<div class='fitkit-columns'>{cells}<span class='fitkit-value'>value</span></div>"


def _show(box: widgets.Box, seen: bool) -> None:
    (box.remove_class if seen else box.add_class)("fitkit-gone")
