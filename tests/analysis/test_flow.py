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


def make_chain(*steps, num_stays=400):
    """Return the flow of a site whose ledger leaves out so many stays at each step, and the site."""
    left, rows = num_stays + sum(steps), []
    for number, step in enumerate(steps):
        rows.append(("hospitalization", f"step {number}", left, left - step, f"reason {number}"))
        left -= step
    stays = pl.DataFrame({"patient_id": [f"p{number}" for number in range(num_stays)]}).with_columns(
        split=pl.lit("test")
    )
    site = make_site(rows)
    site.stays, site.name = stays, "home"
    return [*count_flow(site, []), FlowRow("labelled", "test", "death", "", 43, 43),
            FlowRow("excluded", "test", "death", "early", 7, 7)], site  # fmt: skip


def hide(steps, *hidden, least=11):
    found = hide_small(*make_chain(*steps), People(frozenset(hidden), least))
    assert all(row.num_patients is None for row in found if row.num_stays is None)
    return {(row.step, row.reason) for row in found if row.num_stays is None}


def test_a_small_step_takes_all_of_its_chain_but_the_end_which_the_cohort_table_shows():
    assert hide([4, 96]) == {("source", ""), ("left out", "reason 0"), ("left out", "reason 1")}
    assert hide([4]) == {("source", ""), ("left out", "reason 0")}
    assert hide([4, 96], least=0) == set()
    assert hide([96]) == set()


def test_what_other_tables_hide_is_hidden_here():
    keys = [
        ("stays", "home", "test"),
        ("labelled", "home", "death", "test"),
        ("reason", "home", "death", "test", "early"),
    ]
    assert hide([96], *keys) == {("split", ""), ("labelled", ""), ("excluded", "early")}
    whole = {("source", ""), ("left out", "reason 0"), ("timeline", "")}
    assert hide([96], ("stays", "home", "all")) == whole


def test_exclusions_and_flow_hide_the_same_steps(tmp_path):
    """The fake ledger leaves out one stay twice: neither table may show a number of that chain."""
    site = FakeSite(tmp_path / "site").write()
    out = run_main(tmp_path / "out", *site.flags("demo"), "--sections=[flow,exclusions]")
    steps = pl.read_csv(out / "tables" / "exclusions.csv").filter(table="hospitalization")
    assert steps.select("rows_in", "left_out", "rows_out").null_count().row(0) == (steps.height,) * 3
    flow = pl.read_csv(out / "tables" / "flow.csv").filter(pl.col("step").is_in(["source", "left out"]))
    assert flow["num_stays"].null_count() == flow.height


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
    assert (out / "figures" / "flow_demo.pdf").is_file()
    page = (out / "report.html").read_text()
    assert ("(min_cell_count)" in page) == bool(least)


def test_rows_know_what_they_are():
    keys = {dataclasses.replace(FlowRow("excluded"), reason=reason).key for reason in "ab"}
    assert len(keys) == 2
