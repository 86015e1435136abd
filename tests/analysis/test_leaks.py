"""The section of the leakage audit."""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl

from clinrep.analysis.leaks import build_leakage_section
from clinrep.ehr.leakage.findings import Finding, hide_small, make_table


def make_study(*findings: Finding) -> SimpleNamespace:
    table = hide_small(make_table(findings), 11).select(pl.lit("home").alias("site"), pl.all())
    return SimpleNamespace(leaks=table, config=SimpleNamespace(min_cell_count=11, outcome_labels={}))


def test_nothing_found_is_said_in_words() -> None:
    section = build_leakage_section(make_study())
    assert section.text.endswith("Nothing was found.")
    assert not section.tables


def test_small_numbers_of_stays_are_hidden_also_in_the_file() -> None:
    few = Finding("doubtful", "trained on at the source", "78 stays of val or test", num_subjects=78, num_patients=10)
    many = Finding("doubtful", "telling token", "12 stays", "imv_event", "RESP_x", 1200, 11)
    nothing = Finding("doubtful", "not audited", "no leakage.csv")
    table = build_leakage_section(make_study(few, many, nothing)).tables[0]
    assert table.words["Stays"].to_list() == ["", "1,200", "*"]
    assert table.words["Outcome"].to_list() == ["", "Imv event", ""]
    assert "78" not in table.numbers.write_csv()
