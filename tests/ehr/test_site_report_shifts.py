"""Charting that is less or more frequent throughout, though no category is by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clinrep.ehr.site_report import summarize, write_site_report
from clinrep.ehr.site_report.shifts import list_shifts
from clinrep.ehr.site_report.summary import count_totals, list_attention
from tests.ehr.fake_sites import compare, make_beyond, make_row

Counts = dict[str, tuple[int, int]]
TIMES = "\N{MULTIPLICATION SIGN}"


def compare_counts(counts: Counts, **more: Any) -> Any:
    """Compare 10,000 stays with 5,000; `counts` are events of 'source category' in train and at the site, in 100s."""
    rows = [
        [
            make_row(name.split()[1], source=name.split()[0], num_events=100 * both[side])
            for name, both in counts.items()
        ]
        for side in (0, 1)
    ]
    known = tuple(name.split()[1] for name in counts)
    return compare(*rows, known=known, keys=(), **{"num_train_stays": 10_000, "num_site_stays": 5_000} | more)


def name_shifts(counts: Counts) -> dict[str, float]:
    return {shift.source: round(shift.ratio, 2) for shift in list_shifts(compare_counts(counts))}


HALF = {"vitals A": (40_000, 10_000), "vitals B": (30_000, 7_500), "labs C": (2_000, 500), "static TL_START": (100, 50)}


def test_a_site_that_charts_everything_half_as_often(tmp_path: Path):
    report = compare_counts(HALF)
    assert set(report["verdict"]) == {"ok"}
    totals = count_totals(report)
    assert (totals.events_per_stay_train, totals.events_per_stay_site) == (721, 361)
    assert totals.events_per_stay_ratio == pytest.approx(361 / 721)
    (point,) = list_attention(report)
    assert point.title == "Events are charted more rarely at the whole site"
    assert point.entries == [
        f"all sources: 721 events per stay in train, 361 at the site ({TIMES} 0.50)",
        f"vitals: 700 events per stay in train, 350 at the site ({TIMES} 0.50)",
        f"labs: 20 events per stay in train, 10 at the site ({TIMES} 0.50)",
    ]
    assert "events per stay: 721 in train, 361 at the site (x 0.50)" in summarize(report)
    write_site_report(report, tmp_path, tokenizer="a", site="b", num_train_stays=100, num_site_stays=50)
    page = " ".join((tmp_path / "site_report.html").read_text(encoding="utf-8").split())
    assert f"Events per stay at the site</dt><dd>361 <small>721 in train ({TIMES} 0.50)</small>" in page
    assert "Nothing: every category" not in page


def test_the_same_frequency_is_nothing(tmp_path: Path):
    report = compare_counts({"vitals A": (40_000, 20_000), "labs C": (2_000, 900)})
    assert list_attention(report) == []
    write_site_report(report, tmp_path, tokenizer="a", site="b", num_train_stays=100, num_site_stays=50)
    page = " ".join((tmp_path / "site_report.html").read_text(encoding="utf-8").split())
    assert "Nothing: every category is known, present" in page
    assert "no source is charted much more or less often throughout" in page


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a A": (10_000, 3_510), "b B": (10_000, 6_990)}, {}),  # x 0.702 and x 1.398
        ({"a A": (10_000, 3_490), "b B": (40_000, 20_000)}, {"a": 0.7}),
        ({"a A": (10_000, 7_010), "b B": (40_000, 20_000)}, {"a": 1.4}),
        ({"a A": (5_100, 1_500), "a B": (4_900, 2_450), "b C": (90_000, 45_000)}, {"a": 0.79}),
        ({"a A": (4_900, 1_500), "a B": (5_100, 2_550), "b C": (90_000, 45_000)}, {}),  # less than half of a
        ({"a A": (5_100, 1_700), "a B": (4_900, 5_500), "b C": (90_000, 45_000)}, {}),  # a as a whole is more frequent
        ({"a A": (10_000, 2_000), "b B": (8_000, 4_000)}, {"all sources": 0.67, "a": 0.4}),
        ({"a A": (1_000, 2_000), "b B": (1_000, 300)}, {"all sources": 2.3, "a": 4.0, "b": 0.6}),
        ({"a A": (10_000, 0), "b B": (40_000, 20_000)}, {}),  # absent, which is told as such
        ({"a A": (6_000, 0), "a B": (5_000, 2_500), "b C": (90_000, 45_000)}, {}),  # so is a missing category
        ({"static A": (10_000, 1_000), "b B": (40_000, 20_000)}, {}),
        ({}, {}),
    ],
)
def test_what_counts_as_a_shift(counts: Counts, expected: dict[str, float]):
    assert name_shifts(counts) == expected


@pytest.mark.parametrize(("num_stays", "is_shift"), [(60, False), (600, True)])
def test_a_difference_between_few_stays_is_chance(num_stays: int, is_shift: bool):
    """Events come by the stay: x 0.6, of however many events, is within 3 x 1.6 x sqrt(2 / 60) = 0.88 of log 1."""
    report = compare_counts({"a A": (10_000, 6_000)}, num_train_stays=num_stays, num_site_stays=num_stays)
    assert bool(list_shifts(report)) == is_shift


def test_the_units_of_a_category_count_together_and_dropped_values_not():
    train = [make_row("A", unit="a", num_events=10_000), make_row("B", num_events=11_000)]
    site = [make_row("A", unit=unit, num_events=2_500) for unit in ("a", "b")] + [make_row("B", num_events=2_600)]
    beyond = make_beyond("B", 2_900, 5.0, (1, 2))
    report = compare(train, site, known=("A", "B"), keys=(), num_site_stays=50, beyond=beyond)
    assert list_shifts(report) == []


def test_directions_are_named():
    titles = [
        list_attention(compare_counts(counts))[0].title
        for counts in (
            {"a A": (10_000, 10_000), "b B": (90_000, 45_000)},
            {"a A": (10_000, 10_000), "b B": (9_000, 2_250), "c C": (90_000, 45_000)},
        )
    ]
    assert titles == [
        "Events are charted more often in 1 source",
        "Events are charted more rarely or more often in 2 sources",
    ]
