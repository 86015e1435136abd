"""Means over seeds: who is averaged with whom, and the numbers by hand."""

from __future__ import annotations

import re
import statistics

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.analysis.classifier_runs import ClassifierRun, choose_first_seeds
from clinrep.analysis.inputs import Site
from clinrep.analysis.seeds import append_seed_means, format_mean, group_seeds
from tests.analysis.fake_runs import FakeSite, run_main
from tests.analysis.test_local_fine_tuning import OUTCOME, add_run

MEAN = "classifier, mean of 3 seeds"


def make_run(seed: int, recipe: str = "a", model: str = "m") -> ClassifierRun:
    return ClassifierRun("backbone", 1.0, seed, 10, 5, 9, 5, recipe=recipe, model=model)


def test_runs_of_one_recipe_are_averaged_and_no_others():
    runs = {
        "classifier from backbone seed 1 x 5": make_run(1),
        "classifier from backbone seed 2 x 5": make_run(2, model="n"),  # of the classifier of seed 2
        "classifier from backbone seed 1 x 6": make_run(1, "b"),
        "classifier backbone p seed 3": make_run(3, "c", "p"),
        "classifier backbone p seed 4": make_run(4, "c", "p"),
        "classifier backbone q seed 3": make_run(3, "c", "q"),  # a seed twice: two models, not one
    }
    assert group_seeds(runs) == {
        "classifier from backbone x 5, mean of 2 seeds": list(runs)[:2],
        "classifier backbone p, mean of 2 seeds": list(runs)[3:5],
    }


def test_mean_and_deviation_are_those_of_the_scores_by_hand():
    runs = {f"classifier seed {seed}": make_run(seed) for seed in (1, 2, 3)}
    site = Site("a", "backbone", *[pl.DataFrame()] * 4, {}, {}, {"x": runs})
    rows = [
        ("a", "x", model, metric, estimate, 0.1, 0.9, None if estimate else "too few events (1)", 50)
        for model, values in zip([*runs, "probe"], [(0.6, 0.2), (0.7, None), (0.9, 0.4), (0.5, 0.5)], strict=True)
        for metric, estimate in zip(("auroc", "auprc"), values, strict=True)
    ]
    names = ["site", "outcome", "model", "metric", "estimate", "low", "high", "reason", "num_subjects"]
    found = append_seed_means(pl.DataFrame(rows, schema=names, orient="row"), [site])
    assert found["model"].unique(maintain_order=True).to_list() == [*runs, MEAN, "probe"]
    auroc, auprc = found.filter(model=MEAN).iter_rows(named=True)
    assert auroc["estimate"] == pytest.approx((0.6 + 0.7 + 0.9) / 3)
    # deviations -2/15, -1/15, 1/6 from 11/15: their squares sum to 7/150, over 2
    assert auroc["sd"] == pytest.approx((7 / 300) ** 0.5)
    assert (auroc["num_seeds"], auroc["low"], auroc["high"], auroc["num_subjects"]) == (3, None, None, 50)
    assert (auprc["estimate"], auprc["sd"], auprc["reason"]) == (None, None, "too few events (1)")
    assert found.filter(pl.col("model") != MEAN)["sd"].null_count() == 8
    fewer = [row for row in rows if row[2:4] != ("classifier seed 2", "auroc")]
    for lacking in (fewer, [row for row in fewer if row[2:4] != ("classifier seed 3", "auroc")]):
        found = append_seed_means(pl.DataFrame(lacking, schema=names, orient="row"), [site])
        auroc = found.filter(model=MEAN, metric="auroc").row(0, named=True)
        assert (auroc["estimate"], auroc["sd"], auroc["num_seeds"]) == (None, None, 3)
        assert format_mean(auroc) == "no mean: a seed lacks this score"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> FakeSite:
    site = FakeSite(tmp_path_factory.mktemp("seeds"), num_stays=300)
    site.write_timelines()
    site.write_representations()
    for seed in (1, 2, 3):
        add_run(site, f"seed={seed}", 0.5, seed=seed, training_fraction=1.0, risk_over_time=["test"])
    add_run(site, "random_truncation=true", 0.8, seed=1, random_truncation=True)
    return site


def test_the_report_prints_mean_and_deviation_below_the_seeds(site, tmp_path):
    out = run_main(
        tmp_path / "out", *site.flags("here"), f"--outcomes=[{OUTCOME}]", "--sections=[performance,transfer_table]"
    )
    expected = []
    for seed in (1, 2, 3):
        rows = artifacts.read_table("predictions", site.predictions / f"seed={seed}").filter(split="test")
        expected.append(roc_auc_score(rows["label"].to_numpy(), rows["probability"].to_numpy()))
    mean, deviation = statistics.mean(expected), statistics.stdev(expected)
    for name in ("scores", "transfer_classifiers"):
        table = pl.read_csv(out / "tables" / f"{name}.csv").filter(metric="auroc")
        table = table.filter(subgroup="all") if "subgroup" in table.columns else table
        (row,) = table.filter(model=MEAN).iter_rows(named=True)
        assert (row["estimate"], row["sd"]) == (pytest.approx(mean), pytest.approx(deviation))
        assert row["low"] is None
        models = [model for model in table["model"].to_list() if model.startswith("classifier")]
        at = models.index(MEAN)
        assert models[at - 3 : at] == ["classifier seed 1", "classifier seed 2", "classifier seed 3"]
        latex = (out / "tables" / f"{name}.tex").read_text()
        assert f"{mean:.3f} $\\pm$ {deviation:.3f}" in latex
        assert "never of the predictions" in latex
    scores = pl.read_parquet(out / "scores.parquet")
    assert not scores["model"].str.contains("mean of").any(), "what was scored, and nothing else"


def test_without_several_seeds_no_table_says_a_word_of_them(tmp_path):
    home = FakeSite(tmp_path / "home").write()
    out = run_main(tmp_path / "out", *home.flags("here"), "--sections=[performance,transfer_table]")
    for path in (out / "tables").iterdir():
        assert not re.search(r"seeds|num_seeds|\bsd\b", path.read_text()), path.name


def test_figure_4_follows_the_lowest_seed_of_a_recipe(site):
    directories = [site.predictions / name for name in ("seed=2", "random_truncation=true", "seed=1", "seed=3")]
    assert choose_first_seeds(directories) == [directories[1], directories[2]]
    assert choose_first_seeds(directories[:1]) == directories[:1]
