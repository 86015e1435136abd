"""A second site against a frozen tokenizer: every number by hand, and the verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from clinrep.ehr.site_report import compare_sites, summarize
from clinrep.ehr.site_report.drift import find_psi_by_chance
from clinrep.ehr.site_report.summary import count_totals, list_attention
from clinrep.ehr.site_report.verdicts import VERDICTS
from tests.ehr.fake_sites import compare, compare_one, make_plausible_sites, make_row

EVEN = [100] * 10
LOW = [300, 200, 150, 100, 50, 50, 50, 50, 25, 25]


def psi_of(train: list[int], site: list[int]) -> float:
    counts = np.array([train, site], dtype=float)
    t, s = np.maximum(counts, 0.5)[:, (counts > 0).any(axis=0)] / counts.sum(axis=1, keepdims=True)
    return float(np.sum((s - t) * np.log(s / t)))


def test_the_numbers_of_one_category_by_hand():
    train = make_row("LAB_x", bins=EVEN, num_missing=250, median=4.0)
    site = make_row("LAB_x", bins=LOW, num_missing=0, median=3.0)
    row = compare_one([train], [site], num_train_stays=500, num_site_stays=400)
    assert (row["num_events_train"], row["num_events_site"]) == (1250, 1000)
    assert (row["events_per_stay_train"], row["events_per_stay_site"], row["events_per_stay_ratio"]) == (2.5, 2.5, 1.0)
    assert (row["share_missing_train"], row["share_missing_site"], row["share_unknown"]) == (0.2, 0.0, 0.0)
    assert (row["median_train"], row["median_site"], row["median_ratio"]) == (4.0, 3.0, 0.75)
    assert row["train_shares"] == [0.1] * 10
    assert row["site_shares"] == [0.3, 0.2, 0.15, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025]
    assert (row["presence"], row["drift"], row["verdict"]) == ("both", "strong drift", "strong drift")
    assert row["is_uniform_expected"] is True
    by_hand = 0.2 * np.log(3) + 0.1 * np.log(2) + 0.05 * np.log(1.5) - 4 * 0.05 * np.log(0.5) - 0.15 * np.log(0.25)
    assert row["psi"] == pytest.approx(by_hand, rel=1e-12)
    changes = (row["largest_change"], row["largest_change_train"], row["largest_change_site"])
    assert changes == ("Q0", 0.1, 0.3)


@pytest.mark.parametrize("seed", range(8))
def test_psi_is_that_of_an_independent_formula(seed: int):
    rng = np.random.default_rng(seed)
    train, site = (rng.integers(0, 60, 10) * (rng.random(10) > 0.2) + np.eye(10, dtype=int)[3] for _ in range(2))
    row = compare_one([make_row("LAB_x", bins=train.tolist())], [make_row("LAB_x", bins=site.tolist())])
    assert row["psi"] == pytest.approx(psi_of(train.tolist(), site.tolist()), rel=1e-12)


@pytest.mark.parametrize(
    ("shift", "drift"),
    [(0, "ok"), (310, "ok"), (320, "moderate drift"), (470, "moderate drift"), (480, "strong drift")],
)
def test_drift_is_named_by_the_customary_limits(shift: int, drift: str):
    site = [1000 + shift] * 5 + [1000 - shift] * 5
    row = compare_one([make_row("LAB_x", bins=[1000] * 10)], [make_row("LAB_x", bins=site)])
    d = shift / 1000
    assert row["psi"] == pytest.approx(d / 2 * np.log((1 + d) / (1 - d)))  # 0.099, 0.106, 0.240, 0.251
    assert (row["drift"], row["verdict"]) == (drift, drift)


def test_bins_between_tied_edges_are_not_expected_to_hold_a_tenth():
    tied = [600, 0, 0, 0, 0, 0, 100, 100, 100, 100]
    row = compare_one([make_row("LAB_x", bins=tied)], [make_row("LAB_x", bins=tied)])
    assert (row["psi"], row["drift"], row["is_uniform_expected"]) == (0.0, "ok", False)
    assert row["train_shares"][:2] == [0.6, 0.0]
    constant = [0] * 9 + [50]
    row = compare_one([make_row("LAB_x", bins=constant)], [make_row("LAB_x", bins=constant)])
    assert (row["psi"], row["verdict"]) == (0.0, "ok")


def test_words_of_a_categorical_value_drift_too():
    words = {"yes": (90, 30), "no": (10, 60), "new": (0, 10)}
    rows = [[make_row("LAB_x", value=w, num_events=n[side]) for w, n in words.items() if n[side]] for side in (0, 1)]
    row = compare_one(*rows, known=("LAB_x", "yes", "no"), keys=())
    assert row["psi"] == pytest.approx(psi_of([90, 10, 0], [30, 60, 10]))
    assert (row["num_events_train"], row["num_events_site"], row["share_unknown"]) == (100, 100, 0.1)
    assert (row["drift"], row["verdict"], row["train_shares"]) == ("strong drift", "unknown", None)
    assert "new" in row["note"]


def test_unknown_is_a_category_a_value_or_a_unit_without_edges():
    known = ("LAB_x", "LAB_y", "yes")
    train = [make_row("LAB_x", bins=EVEN, unit="a", median=1.0), make_row("LAB_y", value="yes", num_events=50)]
    site = [
        make_row("LAB_x", bins=EVEN, unit="a", num_missing=10, median=1.0),
        make_row("LAB_x", num_events=40, unit="b", num_missing=10, median=7.0),
        make_row("LAB_y", value="yes", num_events=30),
        make_row("LAB_y", value="UNK", num_events=10),
        make_row("LAB_z", num_events=20),
        make_row("UNK", num_events=5, source="static"),
    ]
    report = compare(train, site, known=known, keys=(("LAB_x", "a"),))
    rows = {(row["category"], row["unit"]): row for row in report.iter_rows(named=True)}
    unknown = {key: (row["num_unknown"], row["share_unknown"]) for key, row in rows.items()}
    assert unknown == {
        ("LAB_x", "a"): (0, 0.0),
        ("LAB_x", "b"): (30, 0.75),
        ("LAB_y", None): (10, 0.25),
        ("LAB_z", None): (20, 1.0),
        ("UNK", None): (5, 1.0),
    }
    assert rows["LAB_x", "b"]["presence"] == "new unit"
    assert rows["LAB_z", None]["presence"] == "new"
    totals = count_totals(report)
    assert (totals.num_unknown, totals.num_site_events) == (65, 1115)
    assert totals.share_unknown == 65 / 1115


def test_a_tokenizer_that_fuses_category_and_value_knows_its_categories():
    train = [make_row("LAB_x", bins=EVEN), make_row("ASSESS_a", source="a", value="ASSESS_a=1", num_events=90)]
    site = [*train, make_row("ASSESS_b", source="a", value="ASSESS_b=1", num_events=30)]
    report = compare(train, site, known=("LAB_x_Q0", "ASSESS_a=1"))
    assert dict(report.select("category", "num_unknown").iter_rows()) == {"LAB_x": 0, "ASSESS_a": 0, "ASSESS_b": 30}


def test_a_number_at_the_edge_is_known_by_its_bins_and_not_by_a_token():
    age = make_row("age_at_admission", source="static", bins=[10] * 10, median=60.0)
    sex = make_row("SEX_female", source="static", num_events=50)
    report = compare([age, sex], [age, sex], known=("AGE_Q0", "SEX_female"), keys=(("age_at_admission", None),))
    assert report["num_unknown"].to_list() == [0, 0]


def test_a_missing_category_a_rare_one_and_one_in_another_unit():
    train = [
        make_row("LAB_x", num_events=500),
        make_row("LAB_y", num_events=9),
        make_row("LAB_z", bins=EVEN, unit="mg/dl", median=5.0),
    ]
    site = [make_row("LAB_z", num_events=50, unit="mg", median=5.5)]
    report = compare(train, site, known=("LAB_x", "LAB_y", "LAB_z"), keys=(("LAB_z", "mg/dl"),), num_site_stays=50)
    rows = {(row["category"], row["unit"]): row for row in report.iter_rows(named=True)}
    assert {key: (row["presence"], row["verdict"]) for key, row in rows.items()} == {
        ("LAB_x", None): ("missing", "missing"),
        ("LAB_y", None): ("missing", "too few"),
        ("LAB_z", "mg/dl"): ("other unit", "other unit"),
        ("LAB_z", "mg"): ("new unit", "unknown"),
    }
    assert "250 were expected" in rows["LAB_x", None]["note"]
    assert "rename it by a unit rule" in rows["LAB_z", "mg"]["note"]  # medians agree: only the name is another
    assert (rows["LAB_z", "mg"]["compared_unit"], rows["LAB_z", "mg"]["median_ratio"]) == ("mg/dl", 1.1)
    totals = count_totals(report)
    assert (totals.num_missing, totals.num_missing_rare, totals.num_categories) == (2, 1, 3)


def test_few_events_are_shown_and_not_judged():
    few = [0] * 9 + [9]
    row = compare_one([make_row("LAB_x", bins=EVEN)], [make_row("LAB_x", bins=few)], num_site_stays=1)
    assert (row["drift"], row["verdict"]) == ("too few", "too few")
    assert row["psi"] > 1
    twelve = [3, 3, 2, 2, 1, 1, 0, 0, 0, 0]  # more than ten, but chance makes as large an index
    row = compare_one([make_row("LAB_x", bins=EVEN)], [make_row("LAB_x", bins=twelve)], num_site_stays=1)
    assert (row["drift"], row["verdict"]) == ("too few", "too few")
    assert 0.25 < row["psi"] < row["psi_by_chance"]


def test_chance_is_the_95th_percentile_of_psi_without_drift():
    rng = np.random.default_rng(0)
    draws = rng.multinomial(400, [0.1] * 10, size=(2000, 2))
    simulated = np.quantile([psi_of(*pair.tolist()) for pair in draws], 0.95)
    assert find_psi_by_chance(10, 400, 400) == pytest.approx(simulated, rel=0.05)


def test_frequency_and_missing_values():
    row = compare_one([make_row("LAB_x", bins=EVEN)], [make_row("LAB_x", bins=EVEN)], num_site_stays=25)
    assert (row["events_per_stay_ratio"], row["verdict"]) == (4.0, "frequency")
    row = compare_one([make_row("LAB_x", bins=EVEN)], [make_row("LAB_x", bins=EVEN, num_missing=300)])
    assert (row["share_missing_site"], row["verdict"]) == (300 / 1300, "values missing")
    bare = make_row("ADT_icu", source="adt", num_events=100)  # no value by nature
    assert compare_one([bare], [bare], known=("ADT_icu",))["share_missing_site"] is None


def compare_glucose(site_bins: list[int], site_median: float, site_unit: str = "mg/dl") -> dict[str, Any]:
    train = make_row("LAB_glucose", unit="mg/dl", bins=EVEN, median=126.0)
    num_events = sum(site_bins) or 500
    site = make_row("LAB_glucose", unit=site_unit, bins=site_bins, num_events=num_events, median=site_median)
    report = compare([train], [site], known=("LAB_glucose",), keys=(("LAB_glucose", "mg/dl"),))
    return report.filter(pl.col("num_events_site") > 0).row(0, named=True)


def test_a_unit_mismatch_needs_the_factor_and_the_drift():
    row = compare_glucose([1000] + [0] * 9, 7.0)
    assert (row["verdict"], row["suspected_conversion"]) == ("unit mismatch", "mg/dL -> mmol/L")
    assert (row["conversion_factor"], row["conversion_offset"]) == (pytest.approx(1 / 18.016), 0)
    assert "train / 18.02" in row["note"]
    assert compare_glucose(EVEN, 7.0)["verdict"] == "ok"
    assert compare_glucose([1000] + [0] * 9, 60.0)["verdict"] == "strong drift"
    few = compare_glucose([15] + [0] * 9, 7.0)
    assert (few["drift"], few["suspected_conversion"]) == ("strong drift", None)


def test_an_unknown_unit_is_explained_by_the_medians():
    row = compare_glucose([0] * 10, 7.1, "mmol/l")
    assert (row["verdict"], row["share_unknown"], row["psi"]) == ("unit mismatch", 1.0, None)
    assert (row["median_train"], row["compared_unit"]) == (126.0, "mg/dl")
    row = compare_glucose([0] * 10, 45.0, "?")
    assert (row["verdict"], row["suspected_conversion"]) == ("unknown", None)
    assert "no known conversion" in row["note"]


def test_an_empty_site_and_an_empty_train():
    row = compare_one([make_row("LAB_x", bins=EVEN)], [], num_site_stays=0)
    assert (row["share_unknown"], row["psi"], row["events_per_stay_site"]) == (None, None, None)
    assert count_totals(compare([], [])).share_unknown is None
    assert compare([make_row("LAB_x", num_events=0)], []).height == 0


def test_what_needs_attention_comes_first():
    sites = make_plausible_sites()
    report = compare_sites(**sites.get_arguments())
    ranks = [list(VERDICTS).index(verdict) for verdict in report["verdict"]]
    assert ranks == sorted(ranks)
    suspected = set(report.filter(pl.col("verdict") == "unit mismatch")["category"])
    assert suspected == {"LAB_glucose_serum", "LAB_creatinine", "VITAL_temp_c", "MED_norepinephrine"}
    points = list_attention(report)
    assert points[0].entries == ["position: 1 category, 0.257 events per stay in train"]
    lines = summarize(report)
    assert 4 <= len(lines) <= 8
    assert "LAB_creatinine" in "\n".join(lines)
    shuffled = {
        name: value.sample(fraction=1, shuffle=True, seed=1) if name in ("train", "site") else value
        for name, value in sites.get_arguments().items()
    }
    assert compare_sites(**shuffled).equals(report)
