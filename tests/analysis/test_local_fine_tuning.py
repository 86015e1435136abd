"""Local fine-tuning: runs as data, their names, curves and table, on fake runs with known probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.analysis.classifier_runs import describe_run, find_main, name_runs
from clinrep.analysis.local_fine_tuning import average_runs
from clinrep.analysis.predictions import read_predictions
from clinrep.patient_shares import choose_patients
from tests.analysis.fake_runs import FakeSite, run_main

OUTCOME = "in_hospital_death"
SOURCE = "abcdef0123"


def add_run(site: FakeSite, folder: str, noise: float, start: str = "backbone", **settings) -> Path:
    """Write a run of stage 02 whose probabilities follow the risk, blurred by `noise`."""
    rng = np.random.default_rng(sum(map(ord, folder)))
    probability = 1 / (1 + np.exp(1 - site.risk - noise * rng.normal(size=site.num_stays)))
    of_stay = site.stays.select("subject_id", "split", probability=pl.Series(probability.astype(np.float32)))
    labelled = site.outcomes.filter((pl.col("outcome") == OUTCOME) & pl.col("label").is_not_null())
    rows = labelled.select("subject_id", "outcome", "label").join(of_stay, on="subject_id")
    directory = site.predictions / folder
    artifacts.write_table("predictions", rows, directory)
    content = {"outcome": OUTCOME, "from_scratch": start == "scratch", **settings}
    artifacts.write_text(directory / "config.yaml", yaml.safe_dump(content))
    models = (
        {"classifier_dir": settings.pop("digest", SOURCE)} if start == "classifier" else {"backbone_dir": "0123456"}
    )
    artifacts.write_done(directory, "02_finetune", {}, models)
    return directory


@pytest.fixture
def site(tmp_path) -> FakeSite:
    """A second site: the classifier of another applied, and three starts at two shares."""
    site = FakeSite(tmp_path / "site", num_stays=300)
    site.write_timelines()
    site.write_representations()
    add_run(site, "training_fraction=0", 1.0, "classifier", training_fraction=0.0, seed=42)
    for start in ("scratch", "backbone", "classifier"):
        for fraction in (0.3, 1.0):
            add_run(
                site, f"start={start}/training_fraction={fraction}", 0.5, start, training_fraction=fraction, seed=42
            )
    return site


def read_runs(site: FakeSite):
    outcomes = artifacts.read_table("outcomes", site.timelines).join(site.stays, on="subject_id")
    return read_predictions(str(site.predictions), site.timelines, outcomes)[1][OUTCOME]


def test_start_share_and_stays_are_known_as_data(site):
    runs = read_runs(site)
    assert set(runs) == {
        "classifier",
        *(
            f"classifier from {start} training_fraction {fraction}"
            for start in ("scratch", "backbone", "classifier")
            for fraction in (0.3, 1.0)
        ),
    }
    assert [model for model, run in runs.items() if run.is_main] == ["classifier"]
    applied = runs["classifier"]
    assert (applied.is_applied, applied.num_stays, applied.num_events) == (True, 0, 0)
    train = site.outcomes.filter(outcome=OUTCOME).join(site.stays.filter(split="train"), on="subject_id")
    chosen = choose_patients(train["patient_id"], 0.3, 42)
    expected = train.filter(pl.col("patient_id").is_in(chosen.implode()))
    run = runs["classifier from scratch training_fraction 0.3"]
    assert (run.start, run.training_fraction, run.seed) == ("scratch", 0.3, 42)
    assert (run.num_stays, run.num_events) == (expected.height, expected["label"].sum())
    events = expected.filter("label")
    assert run.num_patients == expected["patient_id"].n_unique() < run.num_stays
    assert run.num_event_patients == events["patient_id"].n_unique()
    assert 0 < run.num_stays < runs["classifier from scratch training_fraction 1.0"].num_stays == train.height


def test_an_applied_classifier_has_the_name_it_has_at_home(tmp_path):
    """Two source classifiers, plain and URT, at home and applied elsewhere: pairs that tables can join."""
    site = FakeSite(tmp_path / "site")
    home = [
        add_run(site, "plain", 1, seed=42, random_truncation=False, risk_over_time=["test"]),
        add_run(site, "urt", 1, seed=42, random_truncation=True, risk_over_time=[]),
    ]
    away = [
        add_run(site, "a", 1, "classifier", digest=digest, training_fraction=0.0, seed=42, random_truncation=is_urt)
        for digest, is_urt in (("aaaaaaa", False),)
    ]
    away.append(
        add_run(
            site, "b", 1, "classifier", digest="bbbbbbb", training_fraction=0.0, seed=42, random_truncation=True,
            training={"learning_rate": 0.1},
        )
    )  # fmt: skip
    assert name_runs(home) == name_runs(away) == ["classifier", "classifier random_truncation"]
    local = add_run(site, "c", 1, "backbone", training_fraction=1.0, seed=42)
    assert name_runs([*away, local])[2] == "classifier from backbone training_fraction 1.0"
    assert name_runs([local]) == ["classifier"]


def test_without_an_applied_run_the_largest_share_is_the_main_one(tmp_path):
    site = FakeSite(tmp_path / "site")
    stays = site.stays
    runs = [
        describe_run(directory, artifacts.read_table("predictions", directory), stays)
        for directory in (add_run(site, str(share), 1, training_fraction=share) for share in (0.1, 1.0))
    ]
    assert find_main(runs) == [False, True]
    assert find_main([]) == []


def test_several_runs_give_mean_and_range_and_one_its_interval():
    points = pl.DataFrame(
        {
            "site": "b", "outcome": "x", "start": ["backbone", "backbone", "unchanged", "scratch", "scratch"],
            "training_fraction": [0.1, 0.1, 0.0, 0.1, 0.1], "metric": "auroc", "num_train_stays": [10, 13, 0, 10, 10],
            "num_train_events": [4, 5, 0, 4, 4], "num_train_patients": [10, 13, 0, 10, 10],
            "num_train_event_patients": [4, 5, 0, 4, 4], "num_subjects": 50, "num_events": 20,
            "estimate": [0.6, 0.8, 0.5, None, 0.7], "low": [0.5, 0.7, 0.4, None, 0.6],
            "high": [0.7, 0.9, 0.6, None, 0.8], "reason": [None, None, None, "too few events (1)", None],
        }
    )  # fmt: skip
    rows = {row["start"]: row for row in average_runs(points).iter_rows(named=True)}
    assert list(rows) == ["unchanged", "scratch", "backbone"]
    found = [rows["backbone"][name] for name in ("num_runs", "estimate", "low", "high", "num_train_stays")]
    assert found == [2, pytest.approx(0.7), 0.6, 0.8, 12]
    assert [rows["unchanged"][name] for name in ("num_runs", "estimate", "low", "high")] == [1, 0.5, 0.4, 0.6]
    assert [rows["scratch"][name] for name in ("estimate", "low", "high")] == [None] * 3
    assert rows["scratch"]["reason"] == "too few events (1)"


def test_the_section_has_a_row_a_start_and_share_with_the_scores_of_that_run(site, tmp_path):
    home = FakeSite(tmp_path / "home", prefix="h").write()
    flags = [*home.flags("home"), *site.flags("away"), f"--outcomes=[{OUTCOME}]"]
    out = run_main(tmp_path / "out", *flags, "--sections=[performance,curves,local_fine_tuning]")
    table = pl.read_csv(out / "tables" / "local_fine_tuning.csv")
    assert table["site"].unique().to_list() == ["away"]
    assert table["start"].to_list() == ["unchanged", *["scratch"] * 2, *["backbone"] * 2, *["classifier"] * 2]
    assert table["training_fraction"].to_list() == [0, 0.3, 1, 0.3, 1, 0.3, 1]
    rows = artifacts.read_table("predictions", site.predictions / "start=scratch" / "training_fraction=0.3")
    rows = rows.filter(split="test")
    found = table.filter(start="scratch", training_fraction=0.3)["estimate_auroc"].item()
    assert found == pytest.approx(roc_auc_score(rows["label"].to_numpy(), rows["probability"].to_numpy()))
    assert (out / "figures" / "local_fine_tuning_away.pdf").is_file()
    assert not (out / "figures" / "local_fine_tuning_home.pdf").exists()


def test_without_such_runs_the_section_says_how_to_make_them(tmp_path):
    home = FakeSite(tmp_path / "home").write()
    out = run_main(tmp_path / "out", *home.flags("home"), "--sections=[local_fine_tuning]")
    assert "02_finetune.py with --training_fraction, --from_scratch" in (out / "report.html").read_text()
    assert not (out / "tables" / "local_fine_tuning.csv").exists()
