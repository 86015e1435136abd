"""Values beyond the declared range: dropped before the comparison, and still told."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from clinrep.ehr.site_report import summarize
from clinrep.ehr.site_report.summary import count_totals, list_attention
from tests.ehr.fake_sites import compare, make_beyond, make_names, make_row

EVEN = [100] * 10
TEMP, RANGE = "VITAL_temp_c", (10.0, 47.0)
TRAIN = make_row(TEMP, source="vitals", bins=EVEN, median=36.9)


def compare_temp(site: list[Any], num_beyond: int, median: float | None = 98.2, **more: Any) -> dict[str, Any]:
    beyond = make_beyond(TEMP, num_beyond, median, RANGE, source="vitals", **more)
    report = compare([TRAIN], site, known=(TEMP,), keys=((TEMP, None),), beyond=beyond)
    assert report.height == 1
    return report.row(0, named=True)


def make_site(num_events: int, median: float = 36.9) -> list[Any]:
    assert num_events % 10 == 0
    return [make_row(TEMP, source="vitals", bins=[num_events // 10] * 10, median=median)]


def test_a_fahrenheit_site_whose_every_value_was_dropped():
    beyond = make_beyond(TEMP, 41_454, 98.2, RANGE, source="vitals")
    rate = make_row("LAB_x", bins=EVEN, median=5.0)
    report = compare([TRAIN, rate], [rate], known=(TEMP, "LAB_x"), keys=((TEMP, None), ("LAB_x", None)), beyond=beyond)
    row = report.row(0, named=True)
    assert (row["verdict"], row["presence"], row["category"]) == ("beyond range", "both", TEMP)
    assert (row["num_events_site"], row["num_beyond"], row["share_beyond"]) == (0, 41_454, 1.0)
    assert (row["num_unknown"], row["median_beyond"], row["median_site"]) == (0, 98.2, None)
    assert row["suspected_conversion"] == "Celsius -> Fahrenheit"
    assert (row["conversion_factor"], row["conversion_offset"]) == (1.8, 32.0)
    assert row["note"] == (
        "41,454 of 41,454 values are beyond [10, 47]: median 98.2; fits Fahrenheit for Celsius "
        "(site = train \N{MULTIPLICATION SIGN} 1.8 + 32). These events are dropped."
    )
    other = report.row(1, named=True)
    assert (other["verdict"], other["num_beyond"], other["share_beyond"]) == ("ok", 0, 0.0)
    totals = count_totals(report)
    assert (totals.num_missing, totals.num_categories, totals.num_unit_mismatches) == (0, 2, 1)
    point = list_attention(report)[0]
    assert (point.verdict, point.entries) == ("beyond range", [f"{TEMP}: {row['note']}"])
    lines = summarize(report)
    assert f"values beyond their range: {TEMP}" in lines
    assert f"1 suspected unit mismatches: {TEMP}" in lines


def test_a_source_with_values_dropped_by_their_range_is_not_absent():
    train = [TRAIN, make_row("VITAL_sbp", source="vitals", num_events=500)]
    beyond = make_beyond(TEMP, 900, 98.2, RANGE, source="vitals")
    report = compare(train, [], known=(TEMP, "VITAL_sbp"), beyond=beyond)
    assert dict(report.select("category", "verdict").iter_rows()) == {TEMP: "beyond range", "VITAL_sbp": "missing"}
    assert [point.title for point in list_attention(report)][1] == "1 category of train does not occur at the site"


@pytest.mark.parametrize(("action", "num_events"), [("drop", 700), ("clip", 1000), ("keep", 1000)])
def test_the_share_is_of_all_events_also_dropped_ones(action: str, num_events: int):
    row = compare_temp(make_site(num_events), 300, 62.0, action=action)
    assert (row["num_events_site"], row["num_beyond"], row["share_beyond"]) == (num_events, 300, 0.3)
    assert (row["verdict"], row["suspected_conversion"]) == ("beyond range", None)
    told = {"drop": "These events are dropped.", "clip": "They are clipped to the bound.", "keep": "They are kept"}
    assert row["note"].startswith(f"300 of 1,000 values are beyond [10, 47]: median 62. {told[action]}")


@pytest.mark.parametrize(
    ("num_events", "num_beyond", "verdict", "is_told"),
    [(190, 10, "beyond range", True), (200, 10, "ok", False), (90, 9, "ok", True), (0, 9, "frequency", True)],
)
def test_few_values_beyond_are_not_what_a_row_is_judged_by(num_events, num_beyond, verdict, is_told):
    site = make_site(num_events) if num_events else []
    beyond = make_beyond(TEMP, num_beyond, None, RANGE, source="vitals")
    report = compare([TRAIN], site, known=(TEMP,), keys=((TEMP, None),), num_site_stays=20, beyond=beyond)
    row = report.row(0, named=True)
    assert (row["verdict"], row["presence"]) == (verdict, "both")
    assert ("beyond [10, 47]" in row["note"]) == is_told
    assert "None" not in row["note"]


def test_many_dropped_values_of_a_rare_category_are_not_too_few():
    report = compare([], [], beyond=make_beyond("LAB_new", 40, 3.0, (5.0, 9.0)))
    assert report.select("verdict", "presence", "note").row(0) == (
        "beyond range",
        "new",
        "Not in train. 40 of 40 values are beyond [5, 9]: median 3. These events are dropped.",
    )


def test_values_kept_as_they_are_are_compared_as_ever():
    fahrenheit = [make_row(TEMP, source="vitals", bins=[0] * 9 + [1000], median=98.1)]
    row = compare_temp(fahrenheit, 1000, action="keep")
    assert (row["verdict"], row["suspected_conversion"]) == ("beyond range", "Celsius -> Fahrenheit")
    assert row["note"].count("Fahrenheit") == 1
    assert "Medians: 36.9 in train, 98.1 at the site" in row["note"]
    clipped = [make_row(TEMP, source="vitals", bins=[0] * 9 + [1000], median=47.0)]
    row = compare_temp(clipped, 1000, action="clip")
    assert row["suspected_conversion"] == "Celsius -> Fahrenheit"  # 47 would explain nothing
    assert "median 98.2; fits Fahrenheit for Celsius (" in row["note"]


def test_a_part_in_another_unit_is_told_and_no_rule_suggested():
    """A rule would convert the values that are right, too."""
    names = make_names(("vitals", TEMP, "temp_c"))
    rules = []
    for num_beyond, num_events in ((980, 20), (970, 30), (300, 300), (300, 310)):
        beyond = make_beyond(TEMP, num_beyond, 98.2, RANGE, source="vitals")
        report = compare(
            [TRAIN], make_site(num_events), known=(TEMP,), keys=((TEMP, None),), beyond=beyond, names=names
        )
        rules.append(report["unit_rule"].item())
    assert rules[0] is not None  # 98 %
    assert rules[1:] == [None, None, None]
    assert report["suspected_conversion"].item() is None
    assert "fits Fahrenheit for Celsius. These events are dropped. A unit rule would convert the others, too." in (
        report["note"].item()
    )
    assert "Fahrenheit" not in compare_temp([], 19)["note"]  # medians of fewer than 20 say little
    assert "Fahrenheit" not in compare_temp(make_site(100), 19)["note"]
    assert "Fahrenheit" in compare_temp(make_site(100), 20)["note"]
    heaped = [make_row(TEMP, source="vitals", bins=[70] * 9 + [370], median=37.1)]
    clipped = compare_temp(heaped, 300, action="clip")
    assert (clipped["drift"], clipped["suspected_conversion"]) == ("strong drift", None)
    assert "Q9" not in clipped["note"]  # the range explains the heap


def test_values_dropped_in_a_unit_that_train_does_not_have():
    train = make_row("LAB_glucose", unit="mg/dl", bins=EVEN, median=126.0)
    beyond = make_beyond("LAB_glucose", 500, 7.0, (20.0, math.inf), unit="mmol/l")
    report = compare([train], [], known=("LAB_glucose",), keys=(("LAB_glucose", "mg/dl"),), beyond=beyond)
    rows = {row["unit"]: row for row in report.iter_rows(named=True)}
    assert {unit: (row["presence"], row["verdict"]) for unit, row in rows.items()} == {
        "mmol/l": ("new unit", "beyond range"),
        "mg/dl": ("other unit", "other unit"),
    }
    assert rows["mmol/l"]["suspected_conversion"] == "mg/dL -> mmol/L"
    assert rows["mmol/l"]["note"].startswith("500 of 500 values are below 20: median 7; fits mmol/L for mg/dL (")
    assert rows["mg/dl"]["note"] == "The site records it in mmol/l only."


def test_without_values_beyond_nothing_changes():
    report = compare([TRAIN], make_site(1000), known=(TEMP,), keys=((TEMP, None),))
    empty = make_beyond(TEMP, 0, None, RANGE, source="vitals").clear()
    assert report.equals(compare([TRAIN], make_site(1000), known=(TEMP,), keys=((TEMP, None),), beyond=empty))
    assert report.select("num_beyond", "share_beyond", "median_beyond").row(0) == (0, 0.0, None)
    assert report.schema["num_beyond"] == pl.Int64
