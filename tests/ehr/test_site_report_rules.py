"""The unit rules that the report suggests, as a file stage 00 takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from clinrep.config import parse_config
from clinrep.ehr.configs.sources import UnitRule
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.site_report import compare_sites, summarize, write_site_report
from clinrep.ehr.site_report.summary import list_attention
from tests.ehr.fake_sites import compare, make_beyond, make_names, make_plausible_sites, make_row

EVEN = [100] * 10
NAMES = make_names(
    ("labs", "LAB_glucose_serum", "glucose_serum"),
    ("labs", "LAB_creatinine", "creatinine"),
    ("labs", "LAB_magnesium", "magnesium"),
    ("labs", "LAB_sodium", "sodium"),
    ("vitals", "VITAL_temp_c", "temp_c"),
    ("medications", "MED_norepinephrine", "norepinephrine"),
)
EXPECTED = {
    ("labs", "glucose_serum", "mmol/l", "mg/dl", 18.016, 0.0),
    ("labs", "creatinine", "mg/dl", "mg/dl", 1 / 88.42, 0.0),
    ("labs", "magnesium", "mg/dl.", "mg/dl", 1.0, 0.0),
    ("vitals", "temp_c", None, None, 5 / 9, -160 / 9),
}  # norepinephrine, suspected to be per kg in train, has no factor that is right for every patient


def read_rules(directory: Path) -> list[dict[str, Any]]:
    text = (directory / "site_unit_rules.yaml").read_text(encoding="utf-8")
    assert text.startswith("# suggested by medians alone: check with your laboratory before you use it\n")
    assert "None" not in text
    assert "null" not in text
    settings = yaml.safe_load(text)
    assert list(settings) == ["unit_rules"]
    return settings["unit_rules"]


def write(report: pl.DataFrame, directory: Path) -> Path:
    write_site_report(report, directory, tokenizer="a", site="b", num_train_stays=7000, num_site_stays=2500)
    return directory


def test_the_file_holds_a_rule_for_every_suspicion_and_every_other_name(tmp_path: Path):
    report = compare_sites(**make_plausible_sites().get_arguments(), names=NAMES)
    rules = read_rules(write(report, tmp_path))
    made = [UnitRule(**rule) for rule in rules]
    found = {(one.source, one.category, one.unit, one.new_unit): (one.factor, one.offset) for one in made}
    assert found == {one[:4]: pytest.approx(one[4:], rel=1e-15) for one in EXPECTED}
    assert {
        "source": "labs",
        "category": "glucose_serum",
        "unit": "mmol/l",
        "new_unit": "mg/dl",
        "factor": 18.016,
    } in rules
    assert {"source": "labs", "category": "magnesium", "unit": "mg/dl.", "new_unit": "mg/dl"} in rules
    temp = next(rule for rule in rules if rule["source"] == "vitals")
    assert list(temp) == ["source", "category", "factor", "offset"]
    assert 98.6 * temp["factor"] + temp["offset"] == pytest.approx(37.0, abs=1e-12)
    page = (tmp_path / "site_report.html").read_text(encoding="utf-8")
    assert page.index("Suggested unit rules</h2>") < page.index("By source</h2>")
    assert "{source: labs, category: glucose_serum, unit: mmol/l, new_unit: mg/dl, factor: 18.016}" in page
    assert "4 unit_rules are suggested in site_unit_rules.yaml" in summarize(report)
    assert [point.verdict for point in list_attention(report) if point.has_rules] == ["unit mismatch", "unknown"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("site_report.csv", "site_report.html", "site_unit_rules.yaml")
    ]


def test_the_file_is_settings_of_stage_00(tmp_path: Path):
    report = compare_sites(**make_plausible_sites().get_arguments(), names=NAMES)
    path = write(report, tmp_path) / "site_unit_rules.yaml"
    argv = ["--config=configs/ehr/00_tokenize.yaml", f"--config={path}", "--clif_dir=x", "--output_dir=y"]
    config = parse_config(TokenizeConfig, argv, "00_tokenize.py", "")
    assert {(one.source, one.category, one.unit, one.new_unit) for one in config.unit_rules} == {
        one[:4] for one in EXPECTED
    }


def test_a_rule_for_values_that_their_range_dropped():
    train = make_row("VITAL_temp_c", source="vitals", bins=EVEN, median=36.9)
    beyond = make_beyond("VITAL_temp_c", 41_454, 98.2, (10, 47), source="vitals")
    report = compare([train], [], beyond=beyond, names=NAMES)
    assert yaml.safe_load(report["unit_rule"].item()) == {
        "source": "vitals",
        "category": "temp_c",
        "factor": pytest.approx(5 / 9),
        "offset": pytest.approx(-160 / 9),
    }


@pytest.mark.parametrize(
    ("train_unit", "site_unit", "expected"),
    [
        ("meq/l", "mmol/l", {"unit": "mmol/l", "new_unit": "meq/l"}),
        ("meq/l", None, {"new_unit": "meq/l"}),
        (None, "meq/l", None),  # no rule leads to values without a unit
        ("%: no", "{yes}", {"unit": "{yes}", "new_unit": "%: no"}),
        ("µg", "# 1", {"unit": "# 1", "new_unit": "µg"}),
    ],
)
def test_a_unit_under_another_name(train_unit: str | None, site_unit: str | None, expected: dict[str, str] | None):
    train = make_row("LAB_sodium", unit=train_unit, bins=EVEN, median=139.0)
    site = make_row("LAB_sodium", unit=site_unit, num_events=500, median=138.0)
    report = compare([train], [site], known=("LAB_sodium",), keys=(("LAB_sodium", train_unit),), names=NAMES)
    rules = [yaml.safe_load(rule) for rule in report["unit_rule"].drop_nulls()]
    assert rules == ([{"source": "labs", "category": "sodium", **expected}] if expected else [])
    for rule in rules:
        UnitRule(**rule)
    assert not report["note"].str.contains("None|no unit").any()


def test_factors_are_those_of_the_table():
    train = make_row("LAB_po2_arterial", bins=EVEN, median=90.0)
    site = make_row("LAB_po2_arterial", bins=[1000] + [0] * 9, median=12.0)
    names = make_names(("labs", "LAB_po2_arterial", "po2_arterial"))
    for sides, factor in (((train, site), "7.50062"), ((site, train), repr(1 / 7.50062))):
        report = compare([sides[0]], [sides[1]], known=("LAB_po2_arterial",), names=names)
        assert report["unit_rule"].item() == f"{{source: labs, category: po2_arterial, factor: {factor}}}"


def test_a_source_without_categories_has_a_rule_without_one():
    train = make_row("FIO2", source="fio2", bins=EVEN, median=0.4)
    site = make_row("FIO2", source="fio2", bins=[0] * 9 + [1000], median=40.0)
    report = compare([train], [site], known=("FIO2",), keys=(("FIO2", None),), names=make_names(("fio2", "FIO2", None)))
    assert yaml.safe_load(report["unit_rule"].item()) == {"source": "fio2", "factor": 0.01}


def test_no_rule_without_a_name_nor_for_few_events_and_no_file(tmp_path: Path):
    arguments = make_plausible_sites().get_arguments()
    assert compare_sites(**arguments)["unit_rule"].count() == 0
    report = compare_sites(**arguments, names=NAMES)
    assert (write(report, tmp_path) / "site_unit_rules.yaml").exists()
    write(compare_sites(**arguments, names=NAMES.clear()), tmp_path)
    assert not (tmp_path / "site_unit_rules.yaml").exists()
    assert "Suggested unit rules" not in (tmp_path / "site_report.html").read_text(encoding="utf-8")
    train = make_row("LAB_sodium", unit="meq/l", bins=EVEN, median=139.0)
    site = make_row("LAB_sodium", unit="mmol/l", num_events=9, median=138.0)
    report = compare([train], [site], known=("LAB_sodium",), keys=(("LAB_sodium", "meq/l"),), names=NAMES)
    assert report["unit_rule"].count() == 0


def test_a_category_with_two_names_stays_one_row():
    names = make_names(("labs", "LAB_x", "first"), ("labs", "LAB_x", "second"))
    row = make_row("LAB_x", bins=EVEN, median=1.0)
    assert compare([row], [row], names=names).height == 1


def test_rules_of_the_run_are_kept_in_the_file(tmp_path: Path):
    """A later settings file replaces the list of an earlier one, so what was already mended must stay in it."""
    report = compare_sites(**make_plausible_sites().get_arguments(), names=NAMES)
    kept = "{source: labs, category: sodium, unit: mmol/l, new_unit: meq/l}"
    stays = {"num_train_stays": 7000, "num_site_stays": 3000}
    write_site_report(report, tmp_path, tokenizer="a", site="b", kept_rules=[kept], **stays)
    rules = read_rules(tmp_path)
    assert len(rules) == 1 + len(EXPECTED)
    assert rules[0] == yaml.safe_load(kept)


def test_magnesium_in_meq_is_no_other_name_of_mg():
    train = make_row("LAB_magnesium", unit="mg/dl", bins=EVEN, median=2.0)
    site = make_row("LAB_magnesium", unit="meq/l", num_events=1000, median=1.65)
    names = make_names(("labs", "LAB_magnesium", "magnesium"))
    report = compare([train], [site], known=("LAB_magnesium",), keys=(("LAB_magnesium", "mg/dl"),), names=names)
    rule = yaml.safe_load(report.filter(pl.col("unit") == "meq/l")["unit_rule"].item())
    assert rule["factor"] == pytest.approx(1.2153)
