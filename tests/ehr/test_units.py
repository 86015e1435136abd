"""Declared ranges and a site's unit rules: what they change, which one holds, what the ledger says."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr.configs.sources import UnitRule, ValueRange
from clinrep.ehr.units import normalize_unit, tell_unit, tell_units
from tests.ehr.tiny_clif import LABS, Result, make_config, tokenize_tiny
from tests.ehr.tiny_tables import at


def labs(*rows: tuple[str, str | None, float | None], **settings: Any) -> list[dict[str, Any]]:
    return [
        {"lab_category": c, "reference_unit": u, "lab_value_numeric": v, "lab_result_dttm": at(i), **settings}
        for i, (c, u, v) in enumerate(rows)
    ]


def run(directory: Path, rows: list[dict[str, Any]], ranges: Any = (), rules: Any = (), **settings: Any) -> Result:
    source = replace(LABS, ranges=[ValueRange(**one) for one in ranges])
    unit_rules = [UnitRule(**{"source": "labs", **rule}) for rule in rules]
    return tokenize_tiny(
        directory, {"sources": [source], "unit_rules": unit_rules, "num_bins": 2, **settings}, labs=rows
    )


def notes(result: Result, step: str) -> list[tuple[int, str]]:
    return [(row[2], row[4]) for row in result.ledger if row[1] == step and row[2] == row[3]]


@pytest.mark.parametrize(
    ("text", "unit"), [(" 10^3/µL\t", "10^3/µl"), ("mmol  /\n L", "mmol / l"), ("", None), ("\t ", None), (None, None)]
)
def test_units_are_lower_case_with_single_blanks(text: str | None, unit: str | None):
    assert pl.select(normalize_unit(pl.lit(text, dtype=pl.String))).item() == unit


@pytest.mark.parametrize(
    ("action", "events", "edge", "rows_out"),
    [
        ("drop", ["Q0", "Q1", "Q1"], (3, [50.0]), 3),
        ("clip", ["Q0", "Q0", "Q1", "Q1", "Q1"], (5, [50.0]), 5),
        ("keep", ["Q0", "Q0", "Q1", "Q1"], (5, [50.0]), 5),
    ],
)
def test_values_beyond_the_range(
    tmp_path: Path, action: str, events: list[str], edge: tuple[int, list[float]], rows_out: int
):
    """Both bounds belong to the range; what is learned is learned of what is left."""
    rows = labs(*(("Sodium", "mmol/L", value) for value in (-1.0, 0.0, 50.0, 100.0, 100.5)))
    result = run(tmp_path / "a", rows, [{"category": "sodium", "low": 0, "high": 100, "action": action}])
    assert result.quantiles == {("LAB_sodium", "mmol/l"): edge}
    bins = result.events()[1::2]
    assert bins == (events if action != "keep" else ["Q0", "Q0", "Q1", "Q1", "Q1"])
    assert result.dropped("labs", "labs: range") == (5, rows_out)
    assert notes(result, "labs: beyond range") == [(2, f"LAB_sodium not in [0, 100] mmol/l: {action}")]


def test_clipped_values_are_the_bounds(tmp_path: Path):
    rows = labs(*(("sodium", "g", value) for value in (-9.0, 9.0)))
    one = {"category": "sodium", "low": 2, "high": 4, "action": "clip"}
    assert run(tmp_path / "a", rows, [one], num_bins=4).quantiles["LAB_sodium", "g"] == (2, [2.5, 3.0, 3.5])


def test_a_missing_or_infinite_value_is_within_every_range(tmp_path: Path):
    rows = labs(*(("sodium", "g", value) for value in (None, float("nan"), float("inf"), 3.0)))
    result = run(tmp_path / "a", rows, [{"category": "sodium", "low": 2, "high": 4}])
    assert result.events()[1::2] == ["MISSING_VALUE", "MISSING_VALUE", "MISSING_VALUE", "Q1"]


def test_range_of_a_unit_goes_before_that_of_any_and_others_are_untouched(tmp_path: Path):
    rows = labs(("sodium", "g", 5.0), ("sodium", "MG ", 5.0), ("sodium", None, 5.0), ("bun", "g", 5.0))
    ranges = [{"category": "sodium", "high": 4}, {"category": "Sodium", "unit": "mg", "high": 6}]
    result = run(tmp_path / "a", rows, ranges)
    assert result.events()[::2] == ["LAB_sodium", "LAB_bun"]
    assert sorted(key for key in result.quantiles if key[0] == "LAB_sodium") == [("LAB_sodium", "mg")]


def test_range_of_a_source_without_categories(tmp_path: Path):
    source = replace(LABS, category_column=None, token="LAB", ranges=[ValueRange(low=0)])
    result = tokenize_tiny(tmp_path / "a", {"sources": [source]}, labs=labs(("x", "g", -1.0), ("y", "g", 1.0)))
    assert result.events() == ["LAB", "Q9"]


def test_a_range_of_one_source_is_none_of_another(tmp_path: Path):
    sources = [
        replace(LABS, ranges=[ValueRange(category="sodium", high=4)]),
        replace(LABS, name="b", token="B_{category}"),
    ]
    result = tokenize_tiny(tmp_path / "a", {"sources": sources}, labs=labs(("sodium", "g", 5.0)))
    assert result.events() == ["B_sodium", "Q9"]


def test_unit_rules_rename_and_convert_before_anything_is_learned(tmp_path: Path):
    rows = labs(("sodium", "mmol/L", 4.0), ("sodium", "MEQ/L", 8.0), ("bun", "meq/l", 8.0))
    rules = [
        {"unit": "mEq/L", "new_unit": "MMOL/l ", "category": "Sodium", "factor": 0.5, "offset": 1.0},
        {"unit": "meq/L", "new_unit": "x"},
    ]
    result = run(tmp_path / "a", rows, [{"category": "sodium", "high": 7}], rules)
    assert result.quantiles == {("LAB_bun", "x"): (1, [8.0]), ("LAB_sodium", "mmol/l"): (2, [4.5])}
    assert result.events() == ["LAB_sodium", "Q0", "LAB_sodium", "Q1", "LAB_bun", "Q1"]
    assert notes(result, "labs: unit") == [
        (1, "Sodium from mEq/L to MMOL/l : value * 0.5 + 1"),
        (1, "every category from meq/L to x"),
    ]


def test_unit_rule_of_no_unit_may_name_one_or_none(tmp_path: Path):
    rows = labs(("sodium", None, 1.0), ("bun", None, 98.6))
    rules = [{"category": "sodium", "new_unit": "g"}, {"category": "bun", "factor": 5 / 9, "offset": -160 / 9}]
    quantiles = run(tmp_path / "a", rows, rules=rules).quantiles
    assert quantiles["LAB_sodium", "g"] == (1, [1.0])
    assert quantiles["LAB_bun", None] == (1, [pytest.approx(37.0)])
    with pytest.raises(ValueError, match="new_unit of unit rule for g is None but must be given with unit; name it"):
        UnitRule(source="labs", unit="g", factor=18.0)


def test_unit_rule_that_no_row_follows_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        result = run(tmp_path / "a", labs(("sodium", "g", 1.0)), rules=[{"unit": "mg", "new_unit": "g"}])
    assert "source labs: no row follows the unit rule every category from mg to g" in caplog.text
    assert notes(result, "labs: unit") == [(0, "every category from mg to g")]


@pytest.mark.parametrize(
    ("ranges", "rules", "message"),
    [
        ([{"category": "a", "low": 0}, {"category": "A", "high": 9}], [], "two ranges for 'a' in unit None; keep one"),
        ([], [{"unit": "g", "new_unit": "h"}] * 2, r"two rules of source 'labs' for \(None, 'g'\); keep one"),
    ],
)
def test_two_for_one_are_refused(tmp_path: Path, ranges: Any, rules: Any, message: str):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "a", labs(("a", "g", 1.0)), ranges, rules)


def test_unit_rule_of_a_source_without_units_is_refused(tmp_path: Path):
    rule = UnitRule(source="labs", unit="g", new_unit="h")
    settings = {"sources": [replace(LABS, unit_column=None)], "unit_rules": [rule]}
    with pytest.raises(InputError, match="source 'labs' has no unit_column, so unit 'g' cannot occur"):
        tokenize_tiny(tmp_path / "a", settings, labs=labs(("a", "g", 1.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ValueRange(category="a"), r"range of a is \[-inf, inf\] but must have low < high, one of them finite"),
        (lambda: ValueRange(category="a", low=2, high=1), r"range of a is \[2, 1\] but must have low < high"),
        (
            lambda: UnitRule(source="labs", unit="g", new_unit="h", factor=0),
            "factor of unit rule for labs is 0 but must",
        ),
        (lambda: replace(LABS, ranges=[ValueRange(low=0)]), "ranges of labs is None but must name a category exactly"),
        (
            lambda: replace(LABS, value_column=None, unit_column=None, ranges=[ValueRange(category="a", low=0)]),
            "ranges of labs is 1 but must go with a value_column; drop them",
        ),
        (
            lambda: make_config(Path("x"), unit_rules=[UnitRule(source="lab", unit="g", new_unit="h")]),
            "unknown source in unit_rules 'lab'; known: adt, labs. Did you mean 'labs'?",
        ),
    ],
)
def test_contradicting_settings_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({"category": "sodiun", "low": 1}, "no row for the range of sodiun; did you mean sodium?"),
        (
            {"category": "sodium", "unit": "mg", "low": 1},
            "the range of sodium is for unit mg, but this site has g: not checked",
        ),
        ({"category": "lactate", "low": 1}, None),
        ({"category": "Sodium", "unit": "G", "low": 1}, None),
    ],
)
def test_range_that_no_row_has_is_warned_of_where_it_looks_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, one: dict[str, Any], message: str | None
):
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        run(tmp_path / "a", labs(("sodium", "g", 3.0)), [one])
    assert (message in caplog.text) if message else ("range" not in caplog.text)


def test_category_mostly_beyond_its_range_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = labs(*[("temp_c", "c", value) for value in (98.0, 99.0, 100.0, 37.0)] * 4)
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        run(tmp_path / "a", rows, [{"category": "temp_c", "low": 10, "high": 47}])
    assert "12 of 16 values of LAB_temp_c not in [10, 47] c: drop (median 99); another unit?" in caplog.text


def test_the_median_of_few_values_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of one value it is that value: a patient's."""
    rows = labs(*[("temp_c", "c", value) for value in (98.0, 99.0, 100.0, 37.0)])
    with caplog.at_level(logging.WARNING, logger="clinrep"):
        run(tmp_path / "a", rows, [{"category": "temp_c", "low": 10, "high": 47}])
    assert "3 of 4 values of LAB_temp_c not in [10, 47] c: drop; another unit?" in caplog.text


@pytest.mark.parametrize(
    "unit", ["mg/dl", "10^3/\u00b5l", "ml/min/1.73 m2", "mm3", "k/ul", "%", "cmh2o", "10*9/l", "mg/24h", "mg/100ml"]
)
def test_units_are_told(unit: str):
    assert tell_unit(unit) == f" {unit}"


@pytest.mark.parametrize(
    "unit", ["for 20044587", "2113-08-25", "mg/dl per doctor's order of today", "h123", "for h2", "1234"]
)
def test_what_may_be_data_in_a_column_of_units_is_not_told(unit: str):
    assert unit not in tell_unit(unit)
    assert tell_units([unit, "mg/dl", None]) == "None, mg/dl, 1 that are not shown"


def test_blank_category_of_a_range_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="names the category ' ', which is blank"):
        run(tmp_path / "a", labs(("sodium", "g", 3.0)), [{"category": " ", "low": 1}])
