"""Small cells against a reader who adds up what is shown."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy.optimize import linprog

from clinrep.analysis.suppression import HIDDEN, Cells, Counts, find_hidden, format_count, protect_table, suppress
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


GRID = Counts(("num_subjects",), across=(("row", "all"), ("column", "all")), keys=("row", "column"))


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
    shown = suppress(frame, GRID, LEAST)["num_subjects"].cast(pl.Float64).fill_null(np.nan).to_numpy().reshape(shape)
    truth = frame["num_subjects"].to_numpy().reshape(shape)
    is_small = (truth > 0) & (truth < LEAST)
    assert np.isnan(shown[is_small]).all()
    low, high = attack(shown)
    assert (high[is_small] >= LEAST - 1e-6).all()
    assert (low[is_small] < high[is_small]).all()


def test_a_table_by_hand():
    frame = pl.DataFrame({"split": ["train", "val", "test", "all"], "num_subjects": [70, 30, 40, 140],
                          "num_events": [30, 12, 4, 46]}).with_columns(
        prevalence=pl.col("num_events") / pl.col("num_subjects"))  # fmt: skip
    counts = Counts(
        ("num_subjects", "num_events"),
        sums=(("num_subjects", ("num_events",)),),
        across=(("split", "all"),),
        keys=("split",),
        derived={"num_events": ("prevalence",)},
        words={"num_events": ("Events",)},
    )
    # the 4 is small; 46 - 30 - 12 would give it away, so the smallest of the others, 12, goes with it
    assert find_hidden(frame, counts, LEAST) == {(2, "num_events"), (1, "num_events")}
    words = frame.select(Stays=pl.col("num_subjects").cast(pl.String), Events=pl.format("{} (%)", "num_events"))
    table = protect_table(PrintedTable("t", "T", "Caption.", frame, words, 0, counts), LEAST)
    assert table.numbers["num_events"].to_list() == [30, None, None, 46]
    assert table.numbers["prevalence"].is_null().to_list() == [False, True, True, False]
    assert table.words["Events"].to_list() == ["30 (%)", HIDDEN, HIDDEN, "46 (%)"]
    assert table.words["Stays"].to_list() == ["70", "30", "40", "140"]
    assert "fewer than 11 people" in table.caption
    assert protect_table(PrintedTable("t", "T", "Caption.", frame, words, 0, counts), 0).words.equals(words)


def test_few_without_the_event_are_as_small_a_cell():
    frame = pl.DataFrame({"num_subjects": [50, 60], "num_events": [47, 30]})
    counts = Counts(("num_subjects", "num_events"), sums=(("num_subjects", ("num_events",)),))
    assert find_hidden(frame, counts, LEAST) == {(0, "num_events")}


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
