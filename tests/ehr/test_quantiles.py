"""Edges from train alone, left-closed bins, and what has neither."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clinrep.ehr import quantiles as module
from clinrep.ehr.quantiles import (
    BYTES_PER_VALUE,
    GroupQuantiles,
    find_bins,
    get_bin_words,
    interpolate,
    learn_quantiles,
)
from tests.ehr.tiny_clif import make_stays, tokenize_tiny
from tests.ehr.tiny_tables import at

PLENTY = 1 << 30


def learn(
    groups: list[list[float]], num_bins: int = 10, memory: int = PLENTY, num_chunks: int = 1, edges: Any = None
) -> GroupQuantiles:
    """Learn from values by group, shuffled and cut into chunks, some of which take no part."""
    rng = np.random.default_rng(0)
    group = np.concatenate([np.full(len(values), i) for i, values in enumerate(groups)] + [[-1, -1]]).astype(np.int64)
    value = np.concatenate([*groups, [1e6, np.nan]]).astype(float)
    order = rng.permutation(len(group))
    chunks = [(group[rows], value[rows]) for rows in np.array_split(order, num_chunks)]
    return learn_quantiles(lambda: iter(chunks), len(groups), num_bins, memory, edges)


def learn_edges(values: list[float], num_bins: int = 10) -> list[float]:
    return learn([values], num_bins).edges[0].tolist()


def find(values: list[float], edges: list[float]) -> list[int]:
    return find_bins(np.array(values, dtype=float), np.zeros(len(values), dtype=np.int64), np.array([edges])).tolist()


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
    values = [0.0, math.nextafter(5.0, 0), 5.0, 10.0, 15.0, 1e9, -1e9]
    assert find(values, [5.0, 10.0, 15.0]) == [0, 0, 1, 2, 3, 3, 0]


@pytest.mark.parametrize("num_bins", [2, 4, 10, 20])
def test_bins_are_numpys_digitize(num_bins: int):
    rng = np.random.default_rng(1)
    train = rng.integers(0, 12, 40).astype(float)
    values = np.concatenate([train, rng.normal(6, 9, 50)])
    edges = np.quantile(train, np.arange(1 / num_bins, 1, 1 / num_bins)[: num_bins - 1])
    assert find(values.tolist(), edges.tolist()) == np.digitize(values, edges).tolist()


def test_tied_edges_leave_bins_empty_and_a_constant_lands_in_the_last():
    edges = learn_edges([0.0] * 8 + [1.0, 2.0])
    assert len(edges) == 9
    assert find([0.0, 0.5, 2.0, -1.0], edges) == [7, 8, 9, 0]
    assert learn_edges([5.0, 5.0, 5.0]) == [5.0] * 9
    assert find([5.0, 4.9, 5.1], [5.0] * 9) == [9, 0, 9]


def test_groups_are_kept_apart():
    groups = [[1.0, 2.0, 3.0], [], [10.0, 20.0, 30.0], [100.0]]
    learned = learn(groups, 2)
    assert learned.count.tolist() == [3, 0, 3, 1]
    assert learned.edges[[0, 2, 3], 0].tolist() == [2.0, 20.0, 100.0]
    assert learned.median[[0, 2, 3]].tolist() == [2.0, 20.0, 100.0]
    assert learned.bin_count.tolist() == [[1, 2], [0, 0], [1, 2], [0, 1]]
    assert np.isnan(learned.edges[1]).all()
    assert np.isnan(learned.median[1])
    asked = find_bins(np.full(4, 5.0), np.array([0, 1, 2, 3]), learned.edges)
    assert asked.tolist() == [1, 0, 0, 0]  # a group without edges: whoever asks knows


@pytest.mark.parametrize("memory", [0, 1, 7 * BYTES_PER_VALUE, 40 * BYTES_PER_VALUE])
@pytest.mark.parametrize("num_chunks", [1, 9])
def test_a_small_budget_changes_nothing(memory: int, num_chunks: int):
    rng = np.random.default_rng(3)
    groups = [np.round(rng.normal(size=n), rng.integers(0, 6)).tolist() for n in (5, 0, 0, 90, 1, 2, 0, 33, 7, 0)]
    plenty, scarce = learn(groups), learn(groups, memory=memory, num_chunks=num_chunks)
    for name in ("count", "edges", "median", "bin_count"):
        np.testing.assert_array_equal(getattr(scarce, name), getattr(plenty, name))
    for i, values in enumerate(groups):
        if values:
            assert plenty.edges[i].tolist() == np.quantile(values, np.arange(0.1, 1, 0.1)).tolist()
            assert plenty.median[i] == np.quantile(values, 0.5)
            assert (
                plenty.bin_count[i].tolist() == np.bincount(np.digitize(values, plenty.edges[i]), minlength=10).tolist()
            )


def test_no_value_at_all():
    learned = learn([[], []], 4)
    assert learned.count.tolist() == [0, 0]
    assert np.isnan(learned.edges).all()
    assert learn([], 4).edges.shape == (0, 3)


def test_given_edges_are_counted_in_and_nothing_is_learned():
    edges = np.array([[0.0, 1.0], [np.nan, np.nan]])
    learned = learn([[-1.0, 0.0, 0.5, 1.0, 9.0], [5.0]], 3, edges=edges)
    np.testing.assert_array_equal(learned.edges, edges)
    assert learned.bin_count.tolist() == [[1, 2, 2], [0, 0, 0]]
    assert learned.median.tolist() == [0.5, 5.0]


def test_interpolation_between_infinities_is_no_number():
    ordered = np.array([-np.inf, 0.0, np.inf, np.inf])
    found = interpolate(ordered, np.array([4]), np.array([0.25, 0.5, 0.9]))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found[0], np.quantile(ordered, [0.25, 0.5, 0.9]))


def test_nan_is_in_bin_0_and_infinities_at_the_ends():
    assert find([math.nan, -math.inf, math.inf], [1.0, 2.0, 3.0]) == [0, 0, 3]


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


def test_values_that_are_no_numbers_take_no_part(tmp_path: Path):
    bad = [None, math.nan, math.inf, -math.inf]
    result = tokenize_tiny(tmp_path / "a", {"num_bins": 4}, labs=labs({"H1": [1.0, *bad, 2.0, 3.0]}))
    assert result.quantiles == {("LAB_sodium", "mmol/l"): (3, np.quantile([1, 2, 3], [0.25, 0.5, 0.75]).tolist())}
    assert not tokenize_tiny(tmp_path / "b", {"num_bins": 4}, labs=labs({"H1": bad})).quantiles


def test_units_have_their_own_edges(tmp_path: Path):
    rows = [
        row
        for unit, values in (("g", [1, 2, 3]), ("ml", [10, 20, 30]), (None, [100]))
        for row in labs({"H1": values}, reference_unit=unit)
    ]
    result = tokenize_tiny(tmp_path / "a", {"num_bins": 2}, labs=rows)
    assert list(result.quantiles.items()) == [
        (("LAB_sodium", None), (1, [100.0])),
        (("LAB_sodium", "g"), (3, [2.0])),
        (("LAB_sodium", "ml"), (3, [20.0])),
    ]
    assert Counter(result.events()) == {"LAB_sodium": 7, "Q0": 2, "Q1": 5}


def test_table_order_does_not_follow_the_rows(tmp_path: Path):
    keys = [("b", "u"), ("a", None), ("b", None), ("a", "u")]
    for shift in range(4):
        rows = [{"lab_category": c, "reference_unit": u} for c, u in keys[shift:] + keys[:shift]]
        found = tokenize_tiny(tmp_path / str(shift), {"num_bins": 2}, labs=rows).quantiles
        assert list(found) == [("LAB_a", None), ("LAB_a", "u"), ("LAB_b", None), ("LAB_b", "u")]


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


@pytest.mark.parametrize("sample_size", [1, 3, 40])
@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_a_group_too_large_to_be_sorted_has_the_same_quantiles(
    monkeypatch: pytest.MonkeyPatch, sample_size: int, decimals: int
):
    monkeypatch.setattr(module, "SAMPLE_SIZE", sample_size)
    rng = np.random.default_rng(sample_size)
    for num in (1, 2, 7, 300):
        values = np.round(rng.normal(0, 3, num), decimals)
        made = learn([values.tolist()], memory=1, num_chunks=3)
        np.testing.assert_array_equal(made.edges[0], np.quantile(values, np.arange(0.1, 1, 0.1)))
        bins = np.bincount(np.digitize(values, made.edges[0]), minlength=10)
        np.testing.assert_array_equal(made.bin_count[0], bins)


def test_the_sign_of_zero_does_not_follow_the_rows(tmp_path: Path):
    values = [0.0, -0.0, -0.0, 0.0, 1.0]
    for i, order in enumerate((values, values[::-1])):
        edges = tokenize_tiny(tmp_path / str(i), labs=labs({"H1": order})).quantiles["LAB_sodium", "mmol/l"][1]
        assert [math.copysign(1, edge) for edge in edges] == [1.0] * 9


def test_bin_counts_beside_infinite_values_do_not_follow_the_budget():
    values = [-math.inf] * 20 + list(range(60)) + [math.inf] * 20
    sorted_together, by_itself = (learn([values], memory=memory) for memory in (PLENTY, 1))
    assert np.isnan(sorted_together.edges).any()
    np.testing.assert_array_equal(sorted_together.edges, by_itself.edges)
    np.testing.assert_array_equal(sorted_together.bin_count, by_itself.bin_count)
    np.testing.assert_array_equal(by_itself.bin_count[0].sum(), 100)
