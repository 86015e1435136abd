"""The manuscript's numbers, and ours beside them."""

from __future__ import annotations

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.analysis.published import OUTCOMES, list_published
from clinrep.config import InputError
from tests.analysis.fake_runs import FakeSite, run_main


def test_the_table_has_every_number_once():
    published = list_published()
    keys = ["role", "model", "split", "outcome", "subgroup", "quantity"]
    assert published.select(keys).is_duplicated().sum() == 0
    assert published.null_count().sum_horizontal().item() == 0
    assert set(published["source"]) == {f"Table {number}" for number in range(1, 14)}
    assert set(published["outcome"]) == {"", *OUTCOMES}
    counts = dict(published.group_by("source").len().iter_rows())
    assert counts["Table 3"] == counts["Table 4"] == 24  # 4 outcomes, 3 groups, 2 sites
    assert counts["Table 5"] == 12
    assert all(counts[f"Table {number}"] == 5 for number in range(6, 14))


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"source": "Table 3", "role": "ucmc", "outcome": "icu_admission", "subgroup": "all"}, 0.529),
        ({"source": "Table 4", "role": "mimic", "outcome": "imv_event", "subgroup": "outliers"}, 0.885),
        ({"source": "Table 5", "role": "ucmc", "outcome": "in_hospital_death", "subgroup": "all"}, 0.892),
        ({"source": "Table 8", "quantity": "path_length"}, -3.515e-05),
        ({"source": "Table 13", "quantity": "num_subjects"}, 51350),
        ({"source": "Table 1", "split": "train", "subgroup": "inliers", "quantity": "num_subjects"}, 261736),
    ],
)
def test_numbers_are_those_of_the_paper(wanted, value):
    """Read once more from the paper's tables."""
    assert list_published().filter(**wanted)["published"].item() == value


def test_inliers_and_outliers_of_the_paper_add_up():
    sizes = list_published().filter(quantity="num_subjects", model="cohort").pivot("subgroup", values="published")
    whole = sizes.drop_nulls(["inliers", "outliers"])
    assert whole.height == 3
    assert (whole["inliers"] + whole["outliers"] == whole["all"]).all()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> FakeSite:
    return FakeSite(tmp_path_factory.mktemp("site"), num_stays=300).write()


def test_ours_stand_beside_with_their_intervals(site, tmp_path):
    flags = [*site.flags("here"), "--outcomes=[in_hospital_death,icu_admission]", "--sections=[published]"]
    out = run_main(tmp_path / "out", *flags, "--published_sites.mimic=here")
    table = pl.read_csv(out / "tables" / "published.csv", infer_schema_length=None)
    assert set(table["role"]) == {"mimic"}
    assert set(table["outcome"].fill_null("")) == {"", "in_hospital_death", "icu_admission"}
    scores = artifacts.read_table("scores", out).filter(metric="auroc", outcome="icu_admission", subgroup="all")
    for source, probe in (("Table 3", "logistic_regression"), ("Table 4", "none")):
        row = table.filter(source=source, outcome="icu_admission", subgroup="all").row(0, named=True)
        expected = scores.filter(probe=probe).row(0, named=True)
        assert [row[name] for name in ("estimate", "low", "high")] == pytest.approx(
            [expected[name] for name in ("estimate", "low", "high")],
            abs=6e-4,  # rounded where events are few
        )
    sizes = table.filter(source="Table 1", split="test", quantity="num_subjects", subgroup="all")
    assert sizes["estimate"].item() == site.stays.filter(split="test").height
    rows = site.outcomes.filter(outcome="in_hospital_death").join(site.stays.filter(split="test"), on="subject_id")
    share = table.filter(split="test", outcome="in_hospital_death", quantity="prevalence", subgroup="all")["estimate"]
    assert share.item() == pytest.approx(rows["label"].drop_nulls().mean())
    test = site.stays.filter(split="test")
    told = dict(table.filter(model="cohort", split="test", subgroup="all").select("quantity", "estimate").iter_rows())
    assert told["age"] == pytest.approx(test["age"].mean())
    assert told["female"] == pytest.approx((test["sex"] == "female").mean())
    before = table.filter(quantity="seen_before", split="test", outcome="icu_admission").row(0, named=True)
    seen = site.outcomes.filter(outcome="icu_admission").join(test, on="subject_id")["excluded_reason"]
    assert 0 < (seen == "event before index_time").sum() < 11
    assert (before["estimate"], before["reason"]) == (None, "not shown (min_cell_count)")
    assert "mean tokens are of sequences cut at 1,024 tokens, ours of all" in (out / "report.html").read_text()


def test_small_groups_are_not_shown_and_cannot_be_worked_out(site, tmp_path):
    flags = [*site.flags("here"), "--outcomes=[in_hospital_death]", "--sections=[published]"]
    out = run_main(tmp_path / "out", *flags, "--published_sites.mimic=here", "--min_cell_count=30")
    table = pl.read_csv(out / "tables" / "published.csv", infer_schema_length=None).filter(model="cohort", split="test")
    sizes = {row["subgroup"]: row for row in table.filter(quantity="num_subjects").iter_rows(named=True)}
    assert sizes["all"]["estimate"] == site.stays.filter(split="test").height > 30
    assert sizes["inliers"]["estimate"] is None
    assert sizes["outliers"]["estimate"] is None
    assert table.filter(quantity="prevalence")["estimate"].null_count() == 3  # under 30 events
    assert "would give such a number away" in sizes["outliers"]["reason"]


def test_what_tables_1_and_2_hide_of_inliers_and_outliers_is_not_told_beside_the_published(site, tmp_path):
    """Few outliers are excluded, so their stays are hidden, many as they are: scored ones and all would tell them."""
    flags = [*site.flags("here"), "--anomaly_methods=[mahalanobis]", "--anomalies.outlier_quantile=0.7"]
    flags += ["--sections=[published,cohort_by_anomaly]", "--published_sites.mimic=here"]
    out = run_main(tmp_path / "out", *flags)
    ours = pl.read_csv(out / "tables" / "published.csv", infer_schema_length=None).filter(model="cohort", split="test")
    theirs = pl.read_csv(out / "tables" / "cohort_by_anomaly.csv", infer_schema_length=None).filter(split="test")
    lines = {"num_subjects": "Stays", "prevalence": "In hospital death: after it, n (% of labelled)"}
    for quantity, words in lines.items():
        line, told = theirs.filter(characteristic=words), ours.filter(quantity=quantity)
        for group in ("inliers", "outliers"):
            assert line[f"{group}_n"].item() is None
            assert set(told.filter(subgroup=group)["estimate"]) == {None}


def test_a_small_split_is_not_told_by_the_others(site, tmp_path):
    out = run_main(tmp_path / "out", *site.flags("here"), "--sections=[published,cohort]", "--min_cell_count=60",
                   "--published_sites.mimic=here")  # fmt: skip
    table = pl.read_csv(out / "tables" / "published.csv", infer_schema_length=None)
    sizes = table.filter(model="cohort", quantity="num_subjects", subgroup="all")
    counts = dict(sizes.select("split", "estimate").iter_rows())
    assert site.stays.filter(split="val").height < 60 < site.stays.filter(split="test").height
    assert list(counts.values()).count(None) > 1


def test_without_roles_the_section_says_what_to_set(site, tmp_path):
    out = run_main(tmp_path / "out", *site.flags("here"), "--sections=[published]")
    assert "--published_sites.mimic SITE" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--published_sites.bidmc=here", "unknown role in published_sites 'bidmc'; known: mimic, ucmc"),
        ("--published_sites.ucmc=there", "unknown site in published_sites.ucmc 'there'; known: here"),
    ],
)
def test_unknown_roles_and_sites_are_refused(site, tmp_path, flag, words):
    with pytest.raises(InputError, match=words):
        run_main(tmp_path / "out", *site.flags("here"), flag)
