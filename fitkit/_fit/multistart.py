"""A fit from many starts at once, and a table of the minima that they find."""

import functools
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from fitkit._fit.judgement import assess_place
from fitkit._fit.snapshots import Snapshot
from fitkit._fit.step import initial_state
from fitkit._format import number
from fitkit._many import fit_many
from fitkit._paths import named_elements, named_leaves
from fitkit._result import CONVERGED
from fitkit._sharding import everywhere, replicated

# Two minima are one if their chi-squares differ by no more than this share: far above rounding, and
# far below what a thousandth of a standard error changes of a hundred data.
SAME = 1e-6
# By an optimiser a fit is over once the last half of its steps, and a hundred at least, has gained
# less than this share of all that it gained; twenty times as much is the same loss.
QUIET, LEAST, SAME_LOSS = 5e-7, 100, 1e-5
# Steps of a fit whose loss never comes to rest.
MOST_STEPS = 50_000
# Rows of the table that are shown.
SHOWN = 10


@dataclass(frozen=True, repr=False, eq=False)
class Multistart:
    """The minima that the starts of `Fit.multistart` found, the lowest first.

    Attributes
    ----------
    loss : Float[np.ndarray, " minima"]
        As `Fit.loss`: of residuals, half of chi-square.
    times : Int[np.ndarray, " minima"]
        How many of the starts came to each. A lowest one that a single start found may not be the
        lowest there is.
    status : tuple[str, ...]
        What each is: a kind of `Assessment`. Those that are no minimum come last.
    values : dict[str, np.ndarray]
        The parameters by path, with the minima along the first axis.
    starts : int
        How many starts there were.
    failed : int
        How many ended where the loss is not finite.
    note : str
        What the fit did with the first of the minima.

    Examples
    --------
    >>> import fitkit as fk
    >>> import jax.numpy as jnp
    >>> fit = fk.Fit(
    ...     residuals=lambda params, args: jnp.array([params["a"] ** 2 - 4.0, 0.1 * params["a"]]),
    ...     params={"a": 1.0},
    ...     bounds={"a": (-5.0, 5.0)},
    ... )
    >>> found = fit.multistart(20, progress=False)
    >>> found.minima, found.values["a"].round(2).tolist() in ([2.0], [-2.0])
    (1, True)
    """

    loss: Float[np.ndarray, " minima"]
    times: Int[np.ndarray, " minima"]
    status: tuple[str, ...]
    values: dict[str, np.ndarray]
    starts: int
    failed: int
    note: str = ""

    @property
    def minima(self) -> int:
        """How many of the rows are minima."""
        return sum(status in CONVERGED for status in self.status)

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        header, *rows = self._cells()
        widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
        lines = [
            "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in (header, *rows)
        ]
        return "\n".join([self._headline(), *lines, *self._notes()])

    def _repr_html_(self) -> str:
        header, *rows = self._cells(typeset=True)
        top = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self._notes())
        return (
            f"<div><b>{html.escape(self._headline())}</b><table><thead><tr>{top}</tr></thead>"
            f"<tbody>{body}</tbody></table><ul>{notes}</ul></div>"
        )

    def _headline(self) -> str:
        found = "1 minimum" if self.minima == 1 else f"{self.minima} minima"
        return f"{found} from {self.starts:,} starts"

    def _notes(self) -> list[str]:
        notes = [f"and {len(self) - SHOWN:,} more, in .loss and .values"] * (len(self) > SHOWN)
        if self.failed:
            notes.append(f"{self.failed:,} starts ended where the loss is not finite")
        return [*notes, self.note] if self.note else notes

    def _cells(self, typeset: bool = False) -> list[list[str]]:
        """Lay out the header and a row for each minimum, of the first elements."""
        first = {path: array[0] for path, array in self.values.items()} if len(self) else {}
        names = named_elements(first)[:SHOWN]
        rows = [["loss", "starts", "status", *names]]
        for k in range(min(len(self), SHOWN)):
            flat = np.concatenate([np.ravel(array[k]) for array in self.values.values()])
            cells = [number(float(one), 6, typeset=typeset) for one in flat[: len(names)]]
            loss = number(float(self.loss[k]), 6, typeset=typeset)
            rows.append([loss, f"{self.times[k]:,}", self.status[k], *cells])
        return rows


def search(now: Snapshot, starts: PyTree, progress: bool) -> Multistart:
    """Fit from all starts side by side, and sort what they find.

    Residuals are fitted by least squares, in the queue of `fit_many`, whatever the optimiser; a
    loss by the optimiser of the fit, a state for each start.

    Parameters
    ----------
    now
        The fit, which stands still.
    starts
        Trees like its parameters, along a first axis.
    progress
        Whether to print how far it is.
    """
    by_loss = now.place.program.problem.residuals_function is None
    with now.place.program.applied():
        return _by_optimiser(now, starts) if by_loss else _by_least_squares(now, starts, progress)


def best_params(table: Multistart, params: PyTree) -> PyTree:
    """Build the parameters of the first row."""
    leaves = named_leaves(params)
    new = [jnp.asarray(table.values[path][0], leaf.dtype) for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(params), new)


def _by_least_squares(now: Snapshot, starts: PyTree, progress: bool) -> Multistart:
    place = now.place
    limits: Any = None if place.program.bounds is None else place.program.bounds.by_path()
    count = len(jax.tree.leaves(starts)[0])
    many = fit_many(
        place.functions["residuals"],
        starts,
        place.program.args,
        systems=count,
        params_axes=0,
        args_axes=None,
        bounds=limits,
        frozen=tuple(sorted(now.frozen)),
        progress=progress,
    )
    if not many.finished:
        raise KeyboardInterrupt
    loss, status = np.asarray(many.chi_square) / 2, [str(word) for word in many.status]

    def same(a: int, b: int) -> bool:
        # Zero is met to rounding only, of which no share is a measure.
        met = status[a] == status[b] == "met"
        alike = (status[a] in CONVERGED) == (status[b] in CONVERGED)
        return alike and (met or bool(abs(loss[a] - loss[b]) <= SAME * loss[a]))

    finite = np.flatnonzero(np.isfinite(loss) & (np.array(status) != "non-finite"))
    lost = np.array([word not in CONVERGED for word in status])
    order = finite[np.lexsort((loss[finite], lost[finite]))]
    return _table(loss, [(status[g[0]], g) for g in _grouped(order, same)], many.values)


def _by_optimiser(now: Snapshot, starts: PyTree) -> Multistart:
    # The lowest loss that an optimiser met counts, and so each must be one of all data.
    program = now.place.program
    if program.problem.batches is not None:
        program = program.but(problem=program.problem.whole)
    controls = jax.tree.map(jnp.asarray, now.steering.controls)
    step, mesh = program.step, program.problem.mesh

    def begin(params: PyTree) -> tuple:
        state = initial_state(params, program.optimiser, program.on_nonfinite)
        return step.begin(state, controls), params, jnp.asarray(jnp.inf)

    def take(args: PyTree, carry: tuple) -> tuple:
        state, best, lowest = carry
        after, info, _ = step(state, controls, args)
        better = info.loss < lowest
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.params, best)
        return after, best, jnp.where(better, info.loss, lowest).astype(lowest.dtype)

    @functools.partial(jax.jit, static_argnums=2, out_shardings=replicated(mesh))
    def advance(carry: tuple, args: PyTree, steps: int) -> tuple:
        def several(one: tuple) -> tuple:
            return jax.lax.fori_loop(0, steps, lambda _, one: take(args, one), one)

        return jax.vmap(several)(carry)

    carry, taken = advance(everywhere(jax.vmap(begin)(starts), mesh), program.args, 1), 0
    first = before = np.asarray(carry[2])
    while True:
        # As many again as there were, so that the last half is what a look covers.
        more = max(taken, LEAST)
        for _ in range(more // LEAST):
            carry = advance(carry, program.args, LEAST)
        taken, lowest = taken + more, np.asarray(carry[2])
        finite = np.isfinite(lowest)
        gained = np.where(finite, first, 0) - np.where(finite, lowest, 0)
        lately = np.where(finite, before, 0) - np.where(finite, lowest, 0)
        if np.all(lately <= QUIET * gained) or taken >= MOST_STEPS:
            break
        before = lowest
    values = {path: np.asarray(leaf) for path, leaf in named_leaves(carry[1]).items()}

    def same(a: int, b: int) -> bool:
        return bool(abs(lowest[a] - lowest[b]) <= SAME_LOSS * max(gained[a], gained[b]))

    def status(k: int) -> str:
        params = jax.tree.map(lambda leaf: leaf[k], carry[1])
        return str(assess_place(now, now.place.with_params(params), follow=False).kind)

    groups = _grouped(np.argsort(lowest)[: finite.sum()], same)
    found = [(status(group[0]), group) for group in groups]
    return _table(lowest, found, values)


def _grouped(order: Int[np.ndarray, " some"], same: Callable[[int, int], bool]) -> list[list[int]]:
    """Put together what is the same as the first of a group."""
    groups: list[list[int]] = []
    for k in map(int, order):
        if groups and same(groups[-1][0], k):
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups


def _table(
    loss: Float[np.ndarray, " starts"],
    found: list[tuple[str, list[int]]],
    values: Mapping[str, np.ndarray],
) -> Multistart:
    """Make the table of groups of starts, each with its status; minima come first."""
    found = sorted(found, key=lambda one: (one[0] not in CONVERGED, loss[one[1][0]]))
    rows = np.array([group[0] for _, group in found], int)
    times = np.array([len(group) for _, group in found], int)
    return Multistart(
        loss=loss[rows],
        times=times,
        status=tuple(status for status, _ in found),
        values={path: array[rows] for path, array in values.items()},
        starts=len(loss),
        failed=len(loss) - int(times.sum()),
    )
