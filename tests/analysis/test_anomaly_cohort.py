"""Inliers and outliers by site and split: counts by loops over rows, and small cells that nothing gives away."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinrep import artifacts
from clinrep.analysis.anomalies import score_anomalies
from clinrep.analysis.anomaly_cohort import GROUPS, CountLine, describe_by_anomaly, find_hidden_cells
from clinrep.analysis.anomaly_cohort_tables import build_anomaly_cohort_table
from clinrep.analysis.baselines import read_inputs
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import read_sites
from clinrep.analysis.model_config import AnomalyConfig
from clinrep.analysis.study import Study
from clinrep.analysis.subgroups import SEEN_BEFORE
from clinrep.ehr.baselines import read_stay_inputs
from tests.analysis.fake_runs import FakeSite


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return FakeSite(tmp_path_factory.mktemp("site"), num_stays=400).write()


@pytest.fixture(scope="module")
def study(fake):
    config = AnalyzeConfig(
        output_dir="unused",
        timelines_dir={"here": str(fake.timelines)},
        representations_dir={"here": str(fake.representations)},
        anomaly_methods=["mahalanobis"],
        anomalies=AnomalyConfig(outlier_quantile=0.7),
        min_cell_count=0,
        show_progress=False,
    )
    sites = read_sites(config)
    outcomes = ["in_hospital_death", "icu_admission"]
    inputs = read_inputs(read_stay_inputs, config)
    anomalies = score_anomalies(sites, config)
    return Study(config, Path("unused"), sites, outcomes, [], [], anomalies, pl.DataFrame(), inputs)


def test_cells_equal_counts_by_a_loop(fake, study):
    table = describe_by_anomaly(study)
    flags = dict(study.anomalies.select("subject_id", "is_outlier").iter_rows())
    labels = {(one, outcome): (label, reason) for one, outcome, label, reason in fake.outcomes.select(
        "subject_id", "outcome", "label", "excluded_reason").iter_rows()}  # fmt: skip
    lengths = {}
    for split in artifacts.SPLITS:
        for subject_id, times in (
            artifacts.read_table("timelines", fake.timelines, split).select("subject_id", "times").iter_rows()
        ):
            lengths[subject_id] = sum(time.day == 1 for time in times)
    for split, group in product(artifacts.SPLITS, GROUPS):
        stays = [stay for stay in fake.stays.filter(split=split).iter_rows(named=True)
                 if group == "all" or flags[stay["subject_id"]] == (group == "outliers")]  # fmt: skip
        ids = [stay["subject_id"] for stay in stays]
        rows = {row["characteristic"]: row for row in table.filter(split=split).iter_rows(named=True)}
        assert rows["Stays"][f"{group}_n"] == len(stays) > 0
        ages = [stay["age"] for stay in stays]
        assert rows["Age at admission in years, mean (SD)"][f"{group}_mean"] == pytest.approx(np.mean(ages))
        assert rows["Age at admission in years, mean (SD)"][f"{group}_sd"] == pytest.approx(np.std(ages, ddof=1))
        mean = np.mean([lengths[one] for one in ids])
        assert rows["Tokens before index time, mean (SD)"][f"{group}_mean"] == pytest.approx(mean)
        num_female = sum(stay["sex"] == "female" for stay in stays)
        assert rows["Sex: female, n (%)"][f"{group}_n"] == num_female
        assert rows["Sex: female, n (%)"][f"{group}_percent"] == pytest.approx(100 * num_female / len(stays))
        assert rows["Ethnicity: not recorded, n (%)"][f"{group}_percent"] == 100
        num_before = sum(labels[one, "icu_admission"][1] == SEEN_BEFORE for one in ids)
        known = [labels[one, "icu_admission"][0] for one in ids if labels[one, "icu_admission"][0] is not None]
        assert rows["Icu admission: before index time, n (%)"][f"{group}_n"] == num_before
        after = rows["Icu admission: after it, n (% of labelled)"]
        assert after[f"{group}_n"] == sum(known)
        assert after[f"{group}_percent"] == pytest.approx(100 * sum(known) / len(known))
        assert "In hospital death: before index time, n (%)" not in rows


def test_small_cells_and_what_would_give_them_away_are_hidden(study):
    least = 11
    shown = describe_by_anomaly(replace(study, config=replace(study.config, min_cell_count=least)))
    whole = describe_by_anomaly(study)
    num_hidden = 0
    for row, true in zip(shown.iter_rows(named=True), whole.iter_rows(named=True), strict=True):
        counts = [row[f"{group}_n"] for group in GROUPS]
        for group, count in zip(GROUPS, counts, strict=True):
            assert count is None or count == 0 or count >= least
            assert count is None or count == true[f"{group}_n"]
            if count is None and true[f"{group}_n"] is not None:
                assert row[f"{group}_percent"] is None
                num_hidden += 1
        # with all stays known, one hidden group would be the difference
        assert counts.count(None) != 1
    assert num_hidden > 0
    words = build_anomaly_cohort_table(replace(study, config=replace(study.config, min_cell_count=least))).words
    assert (words["Outliers"] == "*").sum() + (words["Inliers"] == "*").sum() >= num_hidden / 2


def make_groups(cells):
    """Return the groups of stays with these (category, is_outlier, count), a patient each."""
    frames = [pl.DataFrame({"race": [race] * count, "is_outlier": [flag] * count}) for race, flag, count in cells]
    stays = pl.concat(frames).with_row_index("patient_id")
    return {"inliers": stays.filter(~pl.col("is_outlier")), "outliers": stays.filter("is_outlier"), "all": stays}


def make_blocks(names):
    every = pl.lit(True)
    lines = [CountLine("race", name, pl.col("race") == name, every) for name in names]
    return {"Stays": [CountLine("Stays", "Stays", every, every)], "race": lines}


def test_four_cells_by_hand():
    """One small outlier cell: it, its inliers, and one other category of both hide each other."""
    cells = [("a", False, 80), ("a", True, 40), ("b", False, 50), ("b", True, 3), ("c", False, 30), ("c", True, 20)]
    hidden = find_hidden_cells(make_groups(cells), make_blocks("abc"), 11, is_scored=False)
    assert {("b", "outliers"), ("b", "inliers")} <= hidden
    others = hidden - {("b", "outliers"), ("b", "inliers")}
    assert others == {("c", "outliers"), ("c", "inliers")}


def test_a_category_small_in_all_hides_the_whole_block():
    cells = [("a", False, 80), ("a", True, 40), ("b", False, 3), ("b", True, 4), ("c", False, 30), ("c", True, 20)]
    hidden = find_hidden_cells(make_groups(cells), make_blocks("abc"), 11, is_scored=False)
    assert hidden == set(product("abc", GROUPS))


def test_few_outliers_hide_both_groups():
    cells = [("a", False, 80), ("a", True, 5)]
    hidden = find_hidden_cells(make_groups(cells), make_blocks("a"), 11, is_scored=False)
    assert {("Stays", "inliers"), ("Stays", "outliers")} <= hidden
    assert ("Stays", "all") not in hidden


def test_many_stays_of_few_patients_are_few_people():
    groups = make_groups([("a", False, 80), ("a", True, 40)])
    for name in ("outliers", "all"):
        one = pl.when("is_outlier").then(0).otherwise("patient_id").alias("patient_id")
        groups[name] = groups[name].with_columns(one)
    assert ("Stays", "outliers") in find_hidden_cells(groups, make_blocks("a"), 11, is_scored=False)


def test_stays_without_an_anomaly_score_are_not_counted(study):
    some = study.anomalies.filter(pl.int_range(pl.len()) % 2 == 0)
    table = describe_by_anomaly(replace(study, anomalies=some))
    assert table.filter(characteristic="Stays")["all_n"].sum() == some.height
