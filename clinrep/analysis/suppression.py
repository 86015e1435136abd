"""Small cells: which numbers of people no exported table may show, and which others would give them away.

For a section of the report:

- counts of labelled test stays and their events, and of the cohort, occur in many tables, which must hide the same
  ones: take them from `study.people` (clinrep/analysis/people.py), whose cells are hidden together.
- other counts that add up: put them into `Cells`, with the patients behind each, and show what `hide` leaves.
- a count in a sentence or the title of a figure: `format_count(count, config.min_cell_count)`, a count of patients.

A table that still has a small number in a column of people is not written but withheld, with words.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog
from scipy.sparse import csgraph

if TYPE_CHECKING:
    from clinrep.analysis.tables import PrintedTable

MIN_CELL_COUNT = 11
"""What `min_cell_count` is unless set."""
HIDDEN = "*"
"""What a hidden cell shows."""
PEOPLE_COLUMNS = ("num_subjects", "num_events", "num_stays", "num_patients", "num_excluded", "num_labelled")
"""Columns that count people in any table."""
FIXED_COST = 1e6  # of hiding a cell that is better known than others, such as the size of the cohort


class Cells:
    """Numbers of people and the sums that tie them together."""

    def __init__(self) -> None:
        self._index: dict[Hashable, int] = {}
        self._values: list[int] = []
        self._hides_zero: list[bool] = []
        self._people: list[int] = []
        self._is_shown: list[bool] = []
        self._costs: list[float] = []
        self._sums: list[tuple[int, list[int]]] = []

    def __contains__(self, key: Hashable) -> bool:
        """Return whether there is such a cell."""
        return key in self._index

    def add(
        self,
        key: Hashable,
        value: int,
        *,
        num_people: int | None = None,
        is_shown: bool = True,
        is_fixed: bool = False,
        hides_zero: bool = False,
    ) -> None:
        """Add a cell, once; `num_people` are those behind it (of stays: patients), `value` unless given.

        A cell that is not shown can be worked out where all but it are; a fixed one is hidden only if nothing
        else helps. `hides_zero`: 0 is small too, where other words tell 0 or 1 from more.
        """
        if key in self._index:
            return
        self._index[key] = len(self._values)
        self._values.append(int(value))
        self._people.append(int(value if num_people is None else num_people))
        self._hides_zero.append(hides_zero)
        self._is_shown.append(is_shown)
        self._costs.append(FIXED_COST if is_fixed else 1.0 + value)

    def add_sum(self, whole: Hashable, parts: Sequence[Hashable]) -> None:
        """Say that a reader knows the whole to be these parts and, where they do not add up to it, a rest not shown."""
        rest = self._values[self._index[whole]] - sum(self._values[self._index[part]] for part in parts)
        assert rest >= 0, f"{parts} are more than {whole}"
        parts = list(parts)
        if rest:
            key = ("rest", whole, *parts)
            self.add(key, rest, is_shown=False)
            parts.append(key)
        self._sums.append((self._index[whole], [self._index[part] for part in parts]))

    def hide(self, least: int) -> set[Hashable]:
        """Return the keys of the cells not to show, so that no cell of 1 to least - 1 people can be worked out.

        Shown zeros are no small cells (the rule of the US Centers for Medicare and Medicaid Services, which also has
        the 11). For each small cell others are hidden until, with all shown sums right, it could be `least` or more,
        and, for a reader who knows which cells are small, another small number: as few people as a linear program
        finds (Kelly, Golden and Assad, Networks 22 (1992) 397-417).
        """
        answers: dict[_Part, NDArray[np.bool_]] = {}
        is_hidden = np.zeros(len(self._values), dtype=bool)
        for cells, part in self._list_parts():
            if part not in answers:  # a ledger has thousands of the same
                answers[part] = part.hide(least)
            is_hidden[cells] = answers[part]
        return {key for key, index in self._index.items() if is_hidden[index] and self._is_shown[index]}

    def _list_parts(self) -> Iterator[tuple[NDArray[np.intp], _Part]]:
        """Yield the cells that sums tie together, with what ties them; no others tell of them."""
        size = len(self._values)
        ties = np.array([(whole, part) for whole, parts in self._sums for part in parts], dtype=np.int64).reshape(-1, 2)
        graph = sparse.coo_array((np.ones(len(ties)), (ties[:, 0], ties[:, 1])), shape=(size, size))
        _, part_of = csgraph.connected_components(graph, directed=False)
        sums: dict[int, list[tuple[int, list[int]]]] = {}
        for whole, parts in self._sums:
            sums.setdefault(int(part_of[whole]), []).append((whole, parts))
        order = np.argsort(part_of, kind="stable")
        ends = np.flatnonzero(np.diff(part_of[order])) + 1
        for cells in np.split(order, ends) if size else ():
            place = {int(cell): number for number, cell in enumerate(cells)}
            own = sums.get(int(part_of[cells[0]]), [])
            part = _Part(
                values=tuple(self._values[cell] for cell in cells),
                people=tuple(self._people[cell] for cell in cells),
                hides_zero=tuple(self._hides_zero[cell] for cell in cells),
                is_shown=tuple(self._is_shown[cell] for cell in cells),
                costs=tuple(self._costs[cell] for cell in cells),
                sums=tuple((place[whole], tuple(place[one] for one in parts)) for whole, parts in own),
            )
            yield cells, part


@dataclass(frozen=True)
class _Part:
    """C cells that S sums tie together, one entry a cell; equal parts have equal answers."""

    values: tuple[int, ...]
    people: tuple[int, ...]
    hides_zero: tuple[bool, ...]
    is_shown: tuple[bool, ...]
    costs: tuple[float, ...]
    sums: tuple[tuple[int, tuple[int, ...]], ...]

    def hide(self, least: int) -> NDArray[np.bool_]:
        """Return which cells are not to be shown, or never were, bool (C,)."""
        values, people = np.array(self.values, float), np.array(self.people)
        is_small = ((people > 0) | np.array(self.hides_zero, bool)) & (people < least)
        is_hidden: NDArray[np.bool_] = ~np.array(self.is_shown, bool) | is_small
        if not self.sums:
            return is_hidden
        entries = [
            (row, cell, sign)
            for row, (whole, parts) in enumerate(self.sums)
            for cell, sign in ((whole, -1.0), *((part, 1.0) for part in parts))
        ]
        rows, columns, signs = (np.array(column) for column in zip(*entries, strict=True))
        matrix = sparse.csr_array((signs, (rows, columns)), shape=(len(self.sums), values.size))
        highest = np.where(is_small, np.maximum(values, least - 1), np.inf)
        for cell in np.flatnonzero(is_small):
            rise = max(1.0, least - values[cell])
            is_hidden |= self._find_moved(matrix, is_hidden, int(cell), rise, np.full(values.size, np.inf))
            is_hidden |= self._find_moved(matrix, is_hidden, int(cell), -1.0 if values[cell] > 1 else 1.0, highest)
        return is_hidden

    def _find_moved(
        self, matrix: sparse.csr_array, is_hidden: NDArray[Any], cell: int, move: float, highest: NDArray[Any]
    ) -> NDArray[Any]:
        """Return which cells change when `cell` moves, sums (S, C) staying right and the cost of shown ones least."""
        values, is_shown = np.array(self.values, float), np.array(self.is_shown)
        costs = np.where(is_hidden, 0.0, np.array(self.costs))
        for lowest in (1.0, 0.0):  # whoever reads knows that hidden cells are not 0, if that can be kept
            downs = np.where(is_shown, np.maximum(values - lowest, 0), values)
            ups = np.where((values == 0) & ~is_hidden & (lowest > 0), 0.0, highest - values)
            ups[cell], downs[cell] = max(move, 0.0), max(-move, 0.0)
            least_ups, least_downs = np.zeros(values.size), np.zeros(values.size)
            least_ups[cell], least_downs[cell] = ups[cell], downs[cell]
            bounds = np.column_stack([np.r_[least_ups, least_downs], np.r_[ups, downs]])
            balance = sparse.hstack([matrix, -matrix], format="csr")
            found = linprog(np.r_[costs, costs], A_eq=balance, b_eq=np.zeros(matrix.shape[0]), bounds=bounds)
            if found.status == 0:
                return np.abs(found.x[: values.size] - found.x[values.size :]) > 1e-6
        ties = abs(matrix)
        return (ties.T @ ties[:, [cell]].toarray().ravel()) > 0  # no sum can hold: show none of its sums


def round_counts(frame: pl.DataFrame, columns: dict[str, str], least: int) -> pl.DataFrame:
    """Return the frame with counts of stays rounded down to multiples of `least`: no two differ by fewer.

    `columns` names for each the column that counts the patients; of fewer than `least` of them the count is 0. The
    columns of patients are left out of the answer.
    """
    if least:
        frame = frame.with_columns(
            pl.when(pl.col(patients) >= least).then(pl.col(name) // least * least).otherwise(0).alias(name)
            for name, patients in columns.items()
        )
    return frame.drop(columns.values())


def format_count(count: int, least: int) -> str:
    """Return `1,234`, or `fewer than 11` for 1 to 10 where `least` is 11."""
    return f"fewer than {least}" if 0 < count < least else f"{count:,}"


def format_small(count: int, least: int) -> str:
    """Return as `format_count` does, and of 0 too `fewer than 11`: where other words tell 0 or 1 from more."""
    return f"fewer than {least}" if count < least else f"{count:,}"


def protect_table(table: PrintedTable, least: int) -> PrintedTable:
    """Return the table with words for its hidden cells, or without content where a small number is left."""
    if least == 0:
        return table
    names = [name for name in (*PEOPLE_COLUMNS, *table.count_columns) if name in table.numbers.columns]
    counts = [table.numbers[name] for name in names if table.numbers[name].dtype.is_integer()]
    if any(column.is_between(1, least - 1).any() for column in counts):
        caption = f"Withheld: it would show numbers under {least} (min_cell_count)."
        return replace(table, numbers=table.numbers.clear(), words=table.words.clear(), caption=caption)
    if any((table.words[name] == HIDDEN).any() for name in table.words.columns):
        return replace(table, caption=f"{table.caption} {explain_hidden(least)}")
    return table


def explain_hidden(least: int) -> str:
    """Return the sentence under a table with hidden cells."""
    return (
        f"{HIDDEN}: not shown, because the cell, or one that could be worked out from it, counts fewer than {least} "
        "people (min_cell_count)."
    )
