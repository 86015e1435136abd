"""The flow of stays against counts by hand, and its small numbers hidden."""

import dataclasses
from types import SimpleNamespace

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.analysis.flow import FlowRow, count_flow, hide_small
from clinrep.analysis.people import People
from tests.analysis.fake_runs import FakeSite, run_main

ROWS = [
    ("hospitalization", "read", 100, 100, "rows"),
    ("hospitalization", "adult", 100, 80, "too young"),
    ("patient", "adult stay", 70, 60, "no adult stay"),
    ("hospitalization", "unknown token", 3, 2, "a note on tokens"),
    ("hospitalization", "length of stay", 80, 5, "too short"),
]


def make_site(rows=ROWS):
    stays = pl.DataFrame(
        {
            "subject_id": list("abcde"),
            "patient_id": ["p", "p", "q", "r", "s"],
            "split": ["train", "train", "train", "val", "test"],
        }
    )
    labels = {"a": True, "b": None, "c": None, "d": False, "e": None}
    reasons = {"b": "event before", "c": "event before"}
    outcomes = stays.with_columns(
        outcome=pl.lit("death"),
        label=pl.Series(labels.values(), dtype=pl.Boolean),
        excluded_reason=pl.col("subject_id").replace_strict(reasons, default=None, return_dtype=pl.String),
    )
    counts = {"rows_in": pl.UInt64, "rows_out": pl.UInt64}
    schema = {"table": pl.String, "step": pl.String, **counts, "reason": pl.String}
    return SimpleNamespace(stays=stays, outcomes=outcomes, ledger=pl.DataFrame(rows, schema=schema, orient="row"))


def test_counts_by_hand():
    assert count_flow(make_site(), ["death"]) == [
        FlowRow("source", num_stays=100),
        FlowRow("left out", reason="too young", num_stays=20),
        FlowRow("left out", reason="too short", num_stays=75),
        FlowRow("timeline", num_stays=5, num_patients=4),
        FlowRow("split", "train", num_stays=3, num_patients=2),
        FlowRow("split", "val", num_stays=1, num_patients=1),
        FlowRow("split", "test", num_stays=1, num_patients=1),
        FlowRow("labelled", "train", "death", "", 1, 1),
        FlowRow("excluded", "train", "death", "event before", 2, 2),
        FlowRow("labelled", "val", "death", "", 1, 1),
        FlowRow("labelled", "test", "death", "", 0, 0),
        FlowRow("excluded", "test", "death", "no reason given", 1, 1),
    ]


def test_a_ledger_that_does_not_end_at_the_stays_says_so():
    rows = count_flow(make_site(ROWS[:-1]), [])
    assert rows[2] == FlowRow("left out", reason="not accounted for in the ledger", num_stays=75)


CHAIN = [
    FlowRow("source", num_stays=500),
    FlowRow("left out", reason="young", num_stays=4),
    FlowRow("left out", reason="short", num_stays=96),
    FlowRow("timeline", num_stays=400, num_patients=300),
    FlowRow("split", "train", num_stays=300, num_patients=200),
    FlowRow("labelled", "test", "death", "", 43, 43),
    FlowRow("excluded", "test", "death", "early", 7, 7),
]


WITHOUT_FEW = [FlowRow("source", num_stays=496), *CHAIN[2:]]


def hide(rows, *hidden, least=11):
    found = hide_small(rows, "home", People(frozenset(hidden), least))
    assert all(row.num_patients is None for row in found if row.num_stays is None)
    return {(row.step, row.reason) for row in found if row.num_stays is None}


def test_a_lone_small_step_takes_another_with_it():
    assert hide(CHAIN) == {("left out", "young"), ("left out", "short")}
    assert hide(CHAIN, least=0) == set()
    assert hide(WITHOUT_FEW) == set()


def test_the_only_step_takes_the_source_with_it_for_the_cohort_table_shows_the_timelines():
    assert hide([FlowRow("source", num_stays=404), CHAIN[1], CHAIN[3]]) == {("left out", "young"), ("source", "")}


def test_what_other_tables_hide_is_hidden_here():
    keys = [
        ("stays", "home", "train"),
        ("labelled", "home", "death", "test"),
        ("reason", "home", "death", "test", "early"),
    ]
    assert hide(WITHOUT_FEW, *keys) == {("split", ""), ("labelled", ""), ("excluded", "early")}
    assert hide(WITHOUT_FEW, ("stays", "home", "all")) == {("source", ""), ("timeline", "")}


@pytest.mark.parametrize("least", [0, 11])
def test_table_and_figure_show_the_same(least, tmp_path):
    site = FakeSite(tmp_path / "site").write()
    flags = [*site.flags("demo"), "--sections=[flow]", f"--min_cell_count={least}"]
    out = run_main(tmp_path / "out", *flags)
    table = pl.read_csv(out / "tables" / "flow.csv")
    assert artifacts.read_table("subjects", site.timelines).height == 150
    assert table.filter(step="timeline")["num_stays"].item() == 150
    excluded = table.filter(step="excluded", outcome="icu_admission")["num_stays"].sum()
    rows = site.outcomes.filter(outcome="icu_admission")
    assert excluded == (rows["label"].null_count() if least == 0 else 0)
    assert (out / "figures" / "flow_demo.pdf").read_bytes().startswith(b"%PDF")
    page = (out / "report.html").read_text()
    assert ("(min_cell_count)" in page) == bool(least)


def test_rows_know_what_they_are():
    keys = {dataclasses.replace(FlowRow("excluded"), reason=reason).key for reason in "ab"}
    assert len(keys) == 2
