"""Small cells against a reader who adds up what is shown."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.optimize import linprog

from clinrep.analysis.suppression import HIDDEN, Cells, format_count, protect_table
from clinrep.analysis.tables import PrintedTable

LEAST = 11


def make_grid(values: np.ndarray) -> pl.DataFrame:
    """Return a two-way table in long form, with totals."""
    rows = [("all" if i == values.shape[0] else f"r{i}", "all" if j == values.shape[1] else f"c{j}")
            for i in range(values.shape[0] + 1) for j in range(values.shape[1] + 1)]  # fmt: skip
    whole = np.vstack([values, values.sum(axis=0)])
    whole = np.column_stack([whole, whole.sum(axis=1)])
    return pl.DataFrame(rows, schema=["row", "column"], orient="row").with_columns(
        num_subjects=pl.Series(whole.ravel())
    )


def hide_grid(frame: pl.DataFrame) -> pl.Series:
    """Return the numbers of a grid with totals, null where hidden; rows and columns add up to their totals."""
    cells, keys = Cells(), list(frame.select("row", "column").iter_rows())
    for key, value in zip(keys, frame["num_subjects"], strict=True):
        cells.add(key, value)
    for row, column in keys:
        if column == "all":
            cells.add_sum((row, "all"), [(row, other) for of, other in keys if of == row and other != "all"])
        if row == "all":
            cells.add_sum(("all", column), [(other, column) for other, of in keys if of == column and other != "all"])
    hidden = cells.hide(LEAST)
    return pl.Series([None if key in hidden else value for key, value in zip(keys, frame["num_subjects"], strict=True)])


def attack(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lowest and highest value of each cell of a grid with totals that agrees with what is shown (NaN: not)."""
    rows, columns = shown.shape
    sums = []
    for i, j in itertools.product(range(rows), range(columns)):
        for is_total, cells in ((j == columns - 1, [(i, k) for k in range(columns - 1)]),
                                (i == rows - 1, [(k, j) for k in range(rows - 1)])):  # fmt: skip
            if is_total:
                line = np.zeros((rows, columns))
                line[i, j] = -1
                for cell in cells:
                    line[cell] = 1
                sums.append(line.ravel())
    bounds = [(value, value) if np.isfinite(value) else (1, None) for value in shown.ravel()]
    ends = []
    for sign in (1, -1):
        found = [linprog(sign * np.eye(shown.size)[cell], A_eq=np.array(sums), b_eq=np.zeros(len(sums)), bounds=bounds)
                 for cell in range(shown.size)]  # fmt: skip
        ends.append(np.array([one.x[cell] if one.status == 0 else np.inf for cell, one in enumerate(found)]))
    return ends[0].reshape(shown.shape), ends[1].reshape(shown.shape)


@pytest.mark.parametrize("seed", range(12))
def test_whoever_adds_up_rows_and_columns_never_learns_that_a_cell_is_small(seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 3, 9, 10, 11, 12, 40, 200], size=(rng.integers(1, 4), rng.integers(2, 5)))
    frame = make_grid(values)
    shape = values.shape[0] + 1, values.shape[1] + 1
    shown = hide_grid(frame).cast(pl.Float64).fill_null(np.nan).to_numpy().reshape(shape)
    truth = frame["num_subjects"].to_numpy().reshape(shape)
    is_small = (truth > 0) & (truth < LEAST)
    assert np.isnan(shown[is_small]).all()
    low, high = attack(shown)
    assert (high[is_small] >= LEAST - 1e-6).all()
    assert (low[is_small] < high[is_small]).all()


def test_a_table_by_hand():
    cells = Cells()
    splits = {"train": (70, 30), "val": (30, 12), "test": (40, 4), "all": (140, 46)}
    for split, (stays, events) in splits.items():
        cells.add(("stays", split), stays)
        cells.add(("events", split), events)
        cells.add_sum(("stays", split), [("events", split)])
    for what in ("stays", "events"):
        cells.add_sum((what, "all"), [(what, split) for split in splits if split != "all"])
    # the 4 is small; 46 - 30 - 12 would give it away, so the smallest of the others, 12, goes with it
    assert cells.hide(LEAST) == {("events", "test"), ("events", "val")}
    assert cells.hide(0) == set()


def test_few_without_the_event_are_as_small_a_cell():
    cells = Cells()
    for name, stays, events in (("few others", 50, 47), ("enough", 60, 30)):
        cells.add(("stays", name), stays, is_fixed=True)
        cells.add(("events", name), events)
        cells.add_sum(("stays", name), [("events", name)])
    assert cells.hide(LEAST) == {("events", "few others")}


def test_a_table_with_hidden_cells_says_what_they_mean():
    frame = pl.DataFrame({"num_events": [30, None]})
    words = pl.DataFrame({"Events": ["30", HIDDEN]})
    table = PrintedTable("t", "T", "Caption.", frame, words, 0)
    assert "fewer than 11 people" in protect_table(table, LEAST).caption
    assert protect_table(table, 0) == table


def test_stays_of_few_patients_are_a_small_cell_and_a_fixed_cell_stays():
    cells = Cells()
    cells.add("all", 100, is_fixed=True)
    cells.add("many stays of three", 12, num_people=3)
    cells.add("rest", 88)
    cells.add_sum("all", ["many stays of three", "rest"])
    assert cells.hide(LEAST) == {"many stays of three", "rest"}


def test_an_undeclared_small_count_is_withheld():
    frame = pl.DataFrame({"model": ["one"], "num_events": [3]})
    table = PrintedTable("t", "T", "Caption.", frame, frame.cast(pl.String), 0)
    named = PrintedTable("t", "T", "Caption.", frame.rename({"num_events": "n"}), frame.cast(pl.String), 0)
    assert protect_table(named, LEAST) == named
    assert protect_table(replace(named, count_columns=("n",)), LEAST).numbers.height == 0
    withheld = protect_table(table, LEAST)
    assert withheld.numbers.height == withheld.words.height == 0
    assert "Withheld" in withheld.caption
    assert protect_table(table, 0) == table


def test_counts_in_sentences():
    assert [format_count(count, LEAST) for count in (0, 1, 10, 11, 1234)] == [
        "0", "fewer than 11", "fewer than 11", "11", "1,234"]  # fmt: skip
    assert format_count(3, 0) == "3"


def test_two_tens_that_make_twenty_are_not_left_to_a_reader_who_knows_both_to_be_small():
    cells = Cells()
    for key, value in (("all", 70), ("a", 10), ("b", 10), ("c", 50)):
        cells.add(key, value)
    cells.add_sum("all", ["a", "b", "c"])
    assert cells.hide(LEAST) == {"a", "b", "c"}


def test_no_more_is_hidden_than_it_takes():
    cells = Cells()
    for key, value in (("all", 183), ("a", 3), ("b", 50), ("c", 60), ("d", 70)):
        cells.add(key, value)
    cells.add_sum("all", ["a", "b", "c", "d"])
    assert cells.hide(LEAST) == {"a", "b"}
    assert cells.hide(0) == set()


def test_thousands_of_small_ledgers_take_no_more_memory_than_one_and_are_hidden_alike():
    """A site with 60,000 laboratory categories notes each unknown one: rows in, left out and left."""
    cells = Cells()
    for number in range(20_000):
        for name, value in (("in", 30), ("out", 4), ("left", 26)):
            cells.add((number, name), value)
        cells.add_sum((number, "in"), [(number, "out"), (number, "left")])
    hidden = cells.hide(11)
    alone = Cells()
    for name, value in (("in", 30), ("out", 4), ("left", 26)):
        alone.add(name, value)
    alone.add_sum("in", ["out", "left"])
    expected = alone.hide(11)
    assert "out" in expected
    assert len(expected) == 2
    assert hidden == {(number, name) for number in range(20_000) for name in expected}
