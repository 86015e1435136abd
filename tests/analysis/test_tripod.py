"""The checklist has the items of the statement, and says nothing is answered that is not."""

import re
from collections import Counter

import polars as pl

from clinrep.analysis.sections import SECTIONS
from clinrep.analysis.tripod import BY_AUTHORS, fill_checklist, format_checklist
from clinrep.analysis.tripod_items import ITEMS

# sub-items per item as the statement has them (Collins et al. 2024, table 2)
SUB_ITEMS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}


def test_there_are_27_items_and_52_sub_items_in_order():
    numbers = [item.number for item in ITEMS]
    assert len(numbers) == len(set(numbers)) == 52
    counts = Counter(int(re.match(r"\d+", number)[0]) for number in numbers)
    assert list(counts) == list(range(1, 28))
    assert counts == {number: SUB_ITEMS.get(number, 1) for number in range(1, 28)}
    expected = [f"{n}{chr(97 + i)}" if n in SUB_ITEMS else f"{n}" for n in range(1, 28) for i in range(counts[n])]
    assert numbers == expected


def test_items_only_for_one_kind_of_study_are_marked_as_the_statement_does():
    of = {item.number: item.applies for item in ITEMS}
    assert {number for number, kind in of.items() if kind == "D"} == {
        *("9a", "12a", "12b", "12c", "15", "22", "27a", "27b")
    }
    assert {number for number, kind in of.items() if kind == "E"} == {"12f", "12g", "20c", "24"}


def test_what_the_report_lacks_is_left_to_the_authors():
    bare, whole = (
        dict(fill_checklist(sections, True).select("item", "answered").iter_rows()) for sections in ([], SECTIONS)
    )
    assert bare["20a"] == BY_AUTHORS
    assert bare["23a"] == BY_AUTHORS
    assert whole["23a"].startswith("sections performance")
    assert BY_AUTHORS not in whole["23a"]
    for number in ("1", "17", "18a", "19", "25"):  # no program knows these
        assert BY_AUTHORS in whole[number]
    assert "subgroups" not in bare["14"]
    without = dict(fill_checklist(["performance"]).select("item", "answered").iter_rows())["23a"]
    assert without == f"section performance of the report; {BY_AUTHORS}: performance of key groups"


def test_markdown_has_a_row_an_item():
    rows = [line for line in format_checklist(fill_checklist(SECTIONS)).splitlines() if line.startswith("| ")]
    assert len(rows) == 52 + 2
    assert all(row.count("|") == 6 for row in rows)


def test_no_cell_is_empty():
    table = fill_checklist([])
    assert (table.select(pl.all().str.len_chars()).min_horizontal() > 0).all()
