"""Subgroups: who is in which, their scores, and that their small cells cannot be worked out from exported tables."""

import inspect
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.optimize import linprog
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.analysis.anomalies import score_anomalies
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import read_sites
from clinrep.analysis.subgroups import ENDED_BEFORE, SEEN_BEFORE, assign_subgroups
from clinrep.config import InputError
from clinrep.ehr import labels
from tests.analysis.fake_runs import FakeSite, run_main

LEAST = 11


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = FakeSite(tmp_path_factory.mktemp("site"), num_stays=600)
    ages = pl.Series([44.9, 45.0, 17.5, 80.0] + [50.0] * 596)
    site.stays = site.stays.with_columns(age=ages, race=pl.when(ages > 79).then(None).otherwise("race"))
    return site.write()


@pytest.fixture(scope="module")
def output(site, tmp_path_factory):
    flags = ["--subgroups=null", "--sections=[cohort,outcomes,performance,subgroups]", "--num_bootstraps=40"]
    return run_main(tmp_path_factory.mktemp("run") / "out", *site.flags("demo"), *flags)


def read(site: FakeSite, **settings: object) -> tuple[list, pl.DataFrame, AnalyzeConfig]:
    where = {"timelines_dir": {"demo": str(site.timelines)}, "representations_dir": {"demo": str(site.representations)}}
    config = AnalyzeConfig(output_dir="unused", **where, **settings)
    sites = read_sites(config)
    return sites, score_anomalies(sites, config), config


def test_stays_are_in_the_groups_their_tables_say(site):
    groups = assign_subgroups(*read(site))["demo"]
    of = {attribute: dict(rows.select("subject_id", "subgroup").iter_rows())
          for (attribute,), rows in groups.partition_by("attribute", as_dict=True).items()}  # fmt: skip
    first = [of["age"][name] for name in site.stays["subject_id"][:5]]
    assert first == ["age: 18-44", "age: 45-64", "age: under 18", "age: 80+", "age: 45-64"]
    assert of["race"][site.stays["subject_id"][3]] == "race: not recorded"
    icu = site.outcomes.filter(outcome="icu_admission")
    early = icu.filter(excluded_reason=SEEN_BEFORE)["subject_id"].to_list()
    assert {name for name, group in of["icu"].items() if group == "in ICU by index time"} == set(early)
    assert len(of["icu"]) == icu.height
    assert set(of["anomaly"].values()) == {"inliers", "outliers"}
    assert len(of["anomaly"]) == site.stays.filter(split="test").height


def test_words_of_exclusions_are_those_of_the_labels():
    source = inspect.getsource(labels)
    assert f'"{SEEN_BEFORE}"' in source
    assert f'"{ENDED_BEFORE}"' in source


def test_a_site_without_the_outcome_has_no_icu_groups(tmp_path, caplog):
    other = FakeSite(tmp_path)
    other.outcomes = other.outcomes.filter(pl.col("outcome") != "icu_admission")
    with caplog.at_level("INFO", "clinrep"):
        groups = assign_subgroups(*read(other.write()))["demo"]
    assert "icu" not in groups["attribute"].unique()
    assert "no outcome icu_admission" in caplog.text


def test_an_unknown_subgroup_lists_the_known(site):
    with pytest.raises(InputError, match=r"shoe_size.*ethnicity"):
        assign_subgroups(*read(site, subgroups=["shoe_size"]))


def test_scores_of_a_subgroup_are_of_its_stays(site, output):
    rows = artifacts.read_table("predictions", site.predictions / "in_hospital_death").filter(split="test")
    rows = rows.join(site.stays.filter(sex="female"), on="subject_id")
    found = artifacts.read_table("scores", output).filter(
        subgroup="sex: female", outcome="in_hospital_death", model="classifier", metric="auroc"
    )
    assert found["estimate"].item() == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
    assert found["num_subjects"].item() == rows.height
    assert found["low"].item() < found["estimate"].item() < found["high"].item()


def test_no_small_cell_of_the_subgroups_follows_from_all_tables_together(output):
    """A reader who knows all sums, and that hidden cells are above 0, cannot tell any small number to be small."""
    truth = artifacts.read_table("scores", output).filter(model="classifier", metric="auroc")
    shown = pl.read_csv(output / "tables" / "scores_by_subgroup.csv").filter(model="classifier", metric="auroc")
    num_small = 0
    for outcome in truth["outcome"].unique():
        rows, seen = (frame.filter(outcome=outcome) for frame in (truth, shown))
        assert rows["subgroup"].to_list() == seen["subgroup"].to_list()
        names, count = rows["subgroup"].to_list(), rows.height
        values = np.r_[rows["num_subjects"].to_numpy(), rows["num_events"].to_numpy()].astype(float)
        values = np.r_[values, values[:count] - values[count:]]  # and those without the event, never shown
        known = np.array(seen["num_subjects"].to_list() + seen["num_events"].to_list() + [None] * count, dtype=float)
        sums = []
        for index in range(count):
            line = np.zeros(3 * count)
            line[[index, count + index, 2 * count + index]] = 1, -1, -1
            sums.append(line)
        for attribute in ("sex", "race", "ethnicity", "age"):
            for block in range(2):
                line = np.zeros(3 * count)
                line[block * count + names.index("all")] = -1
                for index, name in enumerate(names):
                    line[block * count + index] += name.startswith(attribute)
                sums.append(line)
        bounds = [(value, value) if np.isfinite(value) else (0, None) for value in known]
        for cell in np.flatnonzero((values > 0) & (values < LEAST)):
            assert np.isnan(known[cell])
            best = linprog(-np.eye(values.size)[cell], A_eq=np.array(sums), b_eq=np.zeros(len(sums)), bounds=bounds)
            assert best.status == 3 or -best.fun >= LEAST - 1e-6, (outcome, cell)
            num_small += 1
    assert num_small > 5


def test_no_few_stays_left_out_of_a_subgroup_follow_from_two_outcomes(site, output):
    """Death leaves nobody out, so that its count of a subgroup is the whole, of which another outcome shows a part."""
    shown = pl.read_csv(output / "tables" / "scores_by_subgroup.csv", infer_schema_length=None).filter(
        model="classifier", metric="auroc"
    )
    whole = shown.filter(outcome="in_hospital_death").select("subgroup", whole="num_subjects")
    part = shown.filter(outcome="icu_admission").select("subgroup", part="num_subjects")
    left_out = whole.join(part, on="subgroup").with_columns(left_out=pl.col("whole") - pl.col("part")).drop_nulls()
    assert not left_out.filter(pl.col("left_out").is_between(1, LEAST - 1)).height
    icu = site.outcomes.filter(pl.col("label").is_null(), outcome="icu_admission")
    groups = assign_subgroups(*read(site))["demo"].join(icu.select("subject_id"), on="subject_id")
    tested = groups.join(site.stays.filter(split="test").select("subject_id"), on="subject_id")
    sizes = dict(tested.group_by("subgroup").len().iter_rows())
    assert any(0 < sizes.get(name, 0) < LEAST for name in whole["subgroup"]), "there is something to hide"


def test_no_exported_table_or_page_shows_a_small_number_of_people(output):
    for path in sorted((output / "tables").glob("*.csv")):
        frame = pl.read_csv(path)
        for name in frame.columns:
            if name.startswith("num_"):
                assert not frame[name].is_between(1, LEAST - 1).any(), (path.name, name)
    cohort = pl.read_csv(output / "tables" / "cohort.csv", infer_schema=False)
    counts = cohort.filter(pl.col("characteristic").str.contains("n (%)", literal=True)).drop("characteristic", "site")
    for cell in np.ravel(counts.rows()):
        assert cell in ("*", "0", "0 (0.0)") or int(cell.split()[0].replace(",", "")) >= LEAST, cell
    page = Path(output / "report.html").read_text()
    assert "counts fewer than 11 people" in page
    assert "Withheld" not in page
    assert list((output / "figures").glob("auroc_by_subgroup_demo.p*"))
