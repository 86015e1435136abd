"""Edges from train alone, left-closed bins, and what has neither."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from clinrep.ehr.quantiles import find_bins, get_bin_words, learn_quantiles
from tests.ehr.tiny_clif import at, make_stays, tokenize_tiny

VALUES = {"category": pl.String, "unit": pl.String, "value": pl.Float64}


def make_values(values: list[float | None], category: str = "x", unit: str | None = None) -> pl.DataFrame:
    return pl.DataFrame([(category, unit, value) for value in values], schema=VALUES, orient="row")


def learn_edges(values: list[float | None], num_bins: int = 10) -> list[float]:
    return learn_quantiles(make_values(values), num_bins)["edges"][0].to_list()


def find(values: list[float | None], edges: list[float], num_bins: int) -> list[int | None]:
    table = pl.DataFrame({"category": ["x"], "unit": [None], "edges": [edges]}, schema_overrides={"unit": pl.String})
    return find_bins(make_values(values), table, num_bins).to_list()


@pytest.mark.parametrize("num_bins", [2, 3, 4, 7, 10, 20, 49, 100])
def test_edges_are_numpys_to_the_last_bit(num_bins: int):
    rng = np.random.default_rng(num_bins)
    grid = np.arange(1 / num_bins, 1, 1 / num_bins)[: num_bins - 1]
    assert len(grid) == num_bins - 1
    for _ in range(60):
        values = np.round(rng.normal(size=rng.integers(1, 80)) * 10.0 ** rng.integers(-1, 3), rng.integers(0, 4))
        assert learn_edges(values.tolist(), num_bins) == np.quantile(values, grid).tolist()


def test_probabilities_are_those_of_arange_not_the_literals():
    # arange gives 0.30000000000000004, and 10 x that is no whole number: the edge leaves the value 3.
    values = [float(i) ** 2 for i in range(11)]
    assert learn_edges(values) == np.quantile(values, np.arange(0.1, 1, 0.1)).tolist()
    assert learn_edges(values) != np.quantile(values, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]).tolist()


def test_three_values_by_hand():
    # Linear between 0, 10 and 20 at p = 0.25, 0.5, 0.75.
    assert learn_edges([20.0, 0.0, 10.0], num_bins=4) == [5.0, 10.0, 15.0]
    # An edge belongs to the bin above it.
    assert find([0.0, math.nextafter(5.0, 0), 5.0, 10.0, 15.0, 1e9, -1e9], [5.0, 10.0, 15.0], 4) == [
        0,
        0,
        1,
        2,
        3,
        3,
        0,
    ]


@pytest.mark.parametrize("num_bins", [2, 4, 10, 20])
def test_bins_are_numpys_digitize(num_bins: int):
    rng = np.random.default_rng(1)
    train = rng.integers(0, 12, 40).astype(float)
    values = np.concatenate([train, rng.normal(6, 9, 50)])
    edges = np.quantile(train, np.arange(1 / num_bins, 1, 1 / num_bins)[: num_bins - 1])
    assert find(values.tolist(), edges.tolist(), num_bins) == np.digitize(values, edges).tolist()


def test_tied_edges_leave_bins_empty_and_a_constant_lands_in_the_last():
    edges = learn_edges([0.0] * 8 + [1.0, 2.0])
    assert len(edges) == 9
    assert set(find([0.0, 0.5, 2.0, -1.0], edges, 10)) == {0, 7, 9} | set(find([0.5], edges, 10))
    assert learn_edges([5.0, 5.0, 5.0]) == [5.0] * 9
    assert find([5.0, 4.9, 5.1], [5.0] * 9, 10) == [9, 0, 9]


def test_values_that_are_no_numbers_take_no_part_and_have_no_bin():
    bad = [None, math.nan, math.inf, -math.inf]
    assert learn_edges([1.0, *bad, 2.0, 3.0], 4) == learn_edges([1.0, 2.0, 3.0], 4)
    table = learn_quantiles(make_values([1.0, *bad]), 4)
    assert table["train_count"].to_list() == [1]
    assert find(bad, [1.0, 2.0, 3.0], 4) == [None] * 4
    assert learn_quantiles(make_values(bad), 4).height == 0
    nothing = learn_quantiles(make_values([]), 4)
    assert find_bins(make_values([7.0, None, math.nan]), nothing, 4).to_list() == [-1, None, None]


def test_units_are_kept_apart():
    values = pl.concat([make_values([1.0, 2.0, 3.0], unit=u) for u in ("g", "ml")] + [make_values([100.0])])
    values = values.with_columns(value=pl.when(pl.col("unit") == "ml").then(pl.col("value") * 10).otherwise("value"))
    table = learn_quantiles(values, 2)
    assert table.rows() == [("x", None, 1, [100.0]), ("x", "g", 3, [2.0]), ("x", "ml", 3, [20.0])]
    asked = pl.concat([make_values([5.0], unit=unit) for unit in ("g", "ml", None, "mg")])
    assert find_bins(asked, table, 2).to_list() == [1, 0, 0, -1]


def test_table_order_does_not_follow_the_rows():
    rows = [("b", "u", 1.0), ("a", None, 1.0), ("b", None, 1.0), ("a", "u", 1.0)]
    for shift in range(4):
        table = learn_quantiles(pl.DataFrame(rows[shift:] + rows[:shift], schema=VALUES, orient="row"), 2)
        assert table.select("category", "unit").rows() == [("a", None), ("a", "u"), ("b", None), ("b", "u")]


def test_bin_words():
    assert get_bin_words(3) == ["Q0", "Q1", "Q2"]


# --- through the stage


def labs(values: dict[str, list[Any]], **settings: Any) -> list[dict[str, Any]]:
    return [
        {"hospitalization_id": subject, "lab_value_numeric": value, "lab_result_dttm": at(i), **settings}
        for subject, numbers in values.items()
        for i, value in enumerate(numbers)
    ]


@pytest.mark.parametrize("held_out", ["H02", "H03"])
def test_val_and_test_values_change_nothing_that_is_learned(tmp_path: Path, held_out: str):
    settings = {"train_fraction": 0.5, "val_fraction": 0.25}
    rows = labs({"H00": [1, 2], "H01": [3], "H02": [4], "H03": [5]})
    before = tokenize_tiny(tmp_path / "a", settings, hospitalization=make_stays(4), labs=rows)
    changed = [
        {**row, "lab_value_numeric": 999.0} if row["hospitalization_id"] == held_out else row for row in rows
    ] + labs({held_out: [-5.0, 7.0]}, lab_category="unseen", reference_unit="new unit")
    stays = [
        {**stay, "age_at_admission": 99} if stay["hospitalization_id"] == held_out else stay for stay in make_stays(4)
    ]
    after = tokenize_tiny(tmp_path / "b", settings, hospitalization=stays, labs=changed)
    assert (
        after.quantiles
        == before.quantiles
        == {("LAB_sodium", "mmol/l"): (3, before.quantiles["LAB_sodium", "mmol/l"][1])}
    )
    assert after.vocabulary == before.vocabulary
    assert after.timelines[held_out] != before.timelines[held_out]
    changed_train = [{**row, "lab_value_numeric": 999.0} if row["hospitalization_id"] == "H01" else row for row in rows]
    third = tokenize_tiny(tmp_path / "c", settings, hospitalization=make_stays(4), labs=changed_train)
    assert third.quantiles != before.quantiles


def test_words_of_values(tmp_path: Path):
    rows = labs({"H1": [1.0, 3.0, None, math.nan, math.inf]})
    rows += labs({"H1": [None]}, lab_category="never_a_number")
    result = tokenize_tiny(tmp_path / "a", {"num_bins": 2}, labs=rows)
    assert result.events() == [
        *["LAB_never_a_number", "MISSING_VALUE", "LAB_sodium", "Q0", "LAB_sodium", "Q1"],
        *["LAB_sodium", "MISSING_VALUE"] * 3,
    ]
    assert result.quantiles == {("LAB_sodium", "mmol/l"): (2, [2.0])}
    assert [token for token, kind, _ in result.vocabulary if kind == "bin"] == ["Q0", "Q1", "MISSING_VALUE"]


def test_constant_category_is_in_the_last_bin(tmp_path: Path):
    assert tokenize_tiny(tmp_path / "a", labs=labs({"H1": [0, 0, 0]})).events() == ["LAB_sodium", "Q9"] * 3


def test_unit_train_does_not_have_is_unknown(tmp_path: Path):
    rows = (
        labs({"H00": [1.0, 2.0]})
        + labs({"H01": [1.0]}, reference_unit="MMOL/l ")
        + labs({"H01": [1.0]}, reference_unit="g")
    )
    result = tokenize_tiny(tmp_path / "a", {"train_fraction": 0.5}, hospitalization=make_stays(2), labs=rows)
    assert result.events("H01") == ["LAB_sodium", "UNK", "LAB_sodium", "Q0"]
    assert [row[2:] for row in result.ledger if row[1] == "labs: unknown"] == [
        (1, 1, "value UNK of LAB_sodium is not in train: kept as UNK")
    ]
