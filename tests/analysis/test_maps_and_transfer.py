"""Maps of the stays and the table of AUROC by site and inliers."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.preprocessing import StandardScaler

from clinrep import artifacts
from clinrep.analysis import maps
from clinrep.analysis.anomalies import score_anomalies
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import read_sites
from clinrep.analysis.maps import build_map_section, draw_stays, project_pca, project_t_sne
from clinrep.analysis.model_config import MapsConfig
from clinrep.analysis.study import Study
from clinrep.analysis.transfer_table import build_transfer_section
from clinrep.config import InputError
from tests.analysis.fake_runs import FakeSite

KEY = (2, "last_token")


@pytest.fixture(scope="module")
def quick_figures():
    """None: the files themselves are looked at here."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("sites")
    fakes = {
        "here": FakeSite(root / "here").write(),
        "away": FakeSite(root / "away", seed=3, num_stays=90, prefix="t").write(),
    }
    config = AnalyzeConfig(
        output_dir="unused",
        timelines_dir={name: str(fake.timelines) for name, fake in fakes.items()},
        representations_dir={name: str(fake.representations) for name, fake in fakes.items()},
        outcome_labels={"icu_admission": "ICU"},
        show_progress=False,
    )
    sites = read_sites(config)
    outcomes = ["icu_admission", "in_hospital_death"]
    return Study(config, root / "run", sites, outcomes, [], [], score_anomalies(sites, config), make_scores())


def make_scores():
    """Two outcomes, a probe and a classifier; `away` has no outliers, and one interval is missing."""
    rows = []
    groups = [("here", "all"), ("here", "inliers"), ("here", "outliers"), ("away", "all"), ("away", "inliers")]
    for index, (site, subgroup) in enumerate(groups):
        for outcome in ("icu_admission", "in_hospital_death"):
            for model, probe in (("backbone layer 2 mean", "logistic_regression"), ("classifier", "none")):
                low = None if (site, subgroup, probe) == ("away", "inliers", "none") else 0.6
                rows.append((site, model, probe, outcome, subgroup, "auroc", 0.7 + index / 100, low, low and 0.9))
                rows.append((site, model, probe, outcome, subgroup, "brier", 0.1, 0.0, 0.2))
    names = ["site", "model", "probe", "outcome", "subgroup", "metric", "estimate", "low", "high"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    reason = pl.when(pl.col("low").is_null()).then(pl.lit("too few events"))
    return frame.with_columns(num_subjects=pl.lit(100), num_events=pl.lit(20), reason=reason)


def test_transfer_tables_have_a_column_a_site_and_group(study):
    probes, classifiers = build_transfer_section(study).tables
    assert [probes.name, classifiers.name] == ["transfer_representations", "transfer_classifiers"]
    sites = [f"{site}, {group}" for site in ("here", "away") for group in ("overall", "inliers", "outliers")]
    assert probes.words.columns == ["Outcome", "Model", *sites]
    row = ["ICU", "Logistic regression on backbone layer 2 mean", "0.700 (0.600-0.900)", "0.710 (0.600-0.900)"]
    row += ["0.720 (0.600-0.900)", "0.730 (0.600-0.900)", "0.740 (0.600-0.900)", "no such stay"]
    assert [cell.replace("\N{EN DASH}", "-") for cell in probes.words.row(0)] == row
    assert classifiers.words["away, inliers"][0] == "0.740, no interval: too few events"
    assert probes.words.height == classifiers.words.height == 2
    assert set(probes.numbers["metric"]) == {"auroc"}


def test_transfer_of_one_site_without_subgroups(study):
    scores = study.scores.filter(site="here", subgroup="all", probe="none")
    config = replace(study.config, timelines_dir={"here": "x"}, representations_dir={"here": "x"})
    (table,) = build_transfer_section(replace(study, scores=scores, config=config)).tables
    assert table.words.columns == ["Outcome", "Model", "Overall"]
    assert build_transfer_section(replace(study, scores=scores.clear())).text == "There are no predictions to compare."


def test_auroc_of_few_events_is_rounded(study):
    few = study.scores.with_columns(num_events=pl.lit(3), estimate=pl.lit(0.123456))
    assert build_transfer_section(replace(study, scores=few)).tables[0].numbers["estimate"][0] == 0.123
    shown = replace(study, scores=few, config=replace(study.config, min_cell_count=0))
    assert build_transfer_section(shown).tables[0].numbers["estimate"][0] == 0.123456


def test_drawn_stays_are_joined_by_id(study):
    stays, vectors = draw_stays(study, KEY)
    assert stays.height == sum(len(site.representations["test"][KEY].values) for site in study.sites)
    for row, vector in list(zip(stays.iter_rows(named=True), vectors, strict=True))[::7]:
        site = next(site for site in study.sites if site.name == row["site"])
        one = site.representations["test"][KEY]
        np.testing.assert_array_equal(vector, one.values[one.subject_ids.index_of(row["subject_id"])])
        for outcome in study.outcomes:
            own = site.outcomes.filter(outcome=outcome, subject_id=row["subject_id"])["label"].item()
            assert row[outcome] == own
        flag = study.anomalies.filter(site=site.name, subject_id=row["subject_id"])["is_outlier"].item()
        assert row["is_outlier"] == flag


def test_of_many_stays_a_seeded_sample_is_drawn(study):
    few = replace(study, config=replace(study.config, maps=MapsConfig(max_stays=20)))
    one, again = draw_stays(few, KEY)[0], draw_stays(few, KEY)[0]
    assert one.height == 20
    assert one.equals(again)
    other = draw_stays(replace(few, config=replace(few.config, seed=7)), KEY)[0]
    assert not one.equals(other)


def test_pca_equals_numpys_singular_values(study):
    vectors = StandardScaler().fit_transform(draw_stays(study, KEY)[1])
    points = project_pca(vectors, study.config, 0).points
    left, values, _ = np.linalg.svd(vectors, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * values[:2]), atol=1e-9)
    share = 100 * values[0] ** 2 / (values**2).sum()
    assert project_pca(vectors, study.config, 0).axes[0] == f"First component ({share:.0f} %)"


def test_t_sne_keeps_clusters_apart_and_is_the_same_again(study):
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(30, 5)), 20 + rng.normal(size=(30, 5))])
    config = replace(study.config, maps=MapsConfig(perplexity=10))
    points = project_t_sne(vectors, config, 1).points
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert ((np.argmin(distances, axis=1) < 30) == (np.arange(60) < 30)).all()
    np.testing.assert_array_equal(points, project_t_sne(vectors, config, 1).points)
    with pytest.raises(InputError, match=r"maps\.perplexity is 60 but 60 stays are drawn"):
        project_t_sne(vectors, replace(config, maps=MapsConfig(perplexity=60)), 1)


def test_maps_are_the_same_bytes_and_hold_no_id(study, tmp_path):
    written = []
    for name in ("one", "two"):
        section = build_map_section(replace(study, directory=tmp_path / name))
        assert [figure.name for figure in section.figures] == ["map_pca"]
        written.append({path.name: path.read_bytes() for path in sorted((tmp_path / name / "figures").iterdir())})
    assert written[0] == written[1]
    assert not any(one.encode() in written[0]["map_pca.pdf"] for one in study.sites[0].stays["subject_id"])


def test_a_panel_that_would_count_few_stays_has_one_colour(study, monkeypatch):
    drawn = []
    monkeypatch.setattr(maps, "_draw_panel", lambda axis, points, values, levels, words, is_two: drawn.append(words))
    for least in (0, 200):
        projection = maps.Projection(np.zeros((draw_stays(study, KEY)[0].height, 2)), ("x", "y"), "")
        config = replace(study.config, min_cell_count=least)
        maps._draw_panels(projection, draw_stays(study, KEY)[0], replace(study, config=config))
    outcomes = [["without", "with"]] * 2
    assert drawn[:4] == [*outcomes, ["here", "away"], ["inlier", "outlier"]]
    assert drawn[4:] == [["too few to colour"]] * 2 + [["here", "away"], ["too few to colour"]]


def test_an_unknown_map_lists_the_known(study):
    wrong = replace(study, config=replace(study.config, maps=MapsConfig(methods=["umap"])))
    with pytest.raises(InputError, match=r"unknown maps.methods 'umap'; known: pca, t_sne"):
        build_map_section(wrong)


def test_sites_without_val_are_read_and_those_with_are_scored(tmp_path):
    fake = FakeSite(tmp_path / "site").write()
    for path in (fake.representations / "representations" / "val").iterdir():
        path.unlink()
    config = AnalyzeConfig(
        output_dir="unused",
        timelines_dir={"a": str(fake.timelines)},
        representations_dir={"a": str(fake.representations)},
        show_progress=False,
    )
    assert list(read_sites(config)[0].representations) == ["train", "test"]
    fake.write_representations()
    sites = read_sites(config)
    assert list(sites[0].representations) == list(artifacts.SPLITS)
    assert set(score_anomalies(sites, config)["split"]) == set(artifacts.SPLITS)
