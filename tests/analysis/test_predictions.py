from __future__ import annotations

import shutil

import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.analysis.classifier_runs import name_runs
from clinrep.analysis.predictions import find_prediction_runs
from clinrep.config import InputError
from tests.analysis.fake_runs import FakeSite, run_main


@pytest.fixture
def site(tmp_path) -> FakeSite:
    return FakeSite(tmp_path / "site").write()


def add_run(site: FakeSite, folder: str, shift: float, **settings) -> None:
    """Copy the run of icu_admission with other probabilities and settings."""
    source, target = site.predictions / "icu_admission", site.predictions / folder
    shutil.copytree(source, target)
    table = artifacts.read_table("predictions", source)
    moved = (pl.col("probability") * (1 - shift)).cast(pl.Float32)
    artifacts.write_table("predictions", table.with_columns(moved), target)
    (target / "config.yaml").write_text(yaml.safe_dump({"outcome": "icu_admission", **settings}))
    artifacts.write_done(target, "02_finetune", {}, {})


def test_runs_of_a_grid_are_named_by_what_differs_and_scored_each(site, tmp_path):
    shutil.move(site.predictions / "icu_admission", tmp_path / "aside")
    shutil.copytree(tmp_path / "aside", site.predictions / "icu_admission")
    for seed in (1, 2):
        settings = {"output_dir": f"x{seed}", "seed": seed, "training": {"learning_rate": 0.1, "num_workers": seed}}
        add_run(site, f"seed={seed}/outcome=icu_admission", seed / 10, **settings)
    shutil.rmtree(site.predictions / "icu_admission")
    out = run_main(tmp_path / "out", *site.flags("demo"))
    scores = artifacts.read_table("scores", out).filter(probe="none")
    models = {outcome: set(scores.filter(outcome=outcome)["model"]) for outcome in scores["outcome"].unique()}
    assert models["icu_admission"] == {"classifier seed 1", "classifier seed 2"}
    assert models["in_hospital_death"] == {"classifier"}
    brier = scores.filter(outcome="icu_admission", metric="brier").sort("model")["estimate"].to_list()
    for seed, found in zip((1, 2), brier, strict=True):
        directory = site.predictions / f"seed={seed}" / "outcome=icu_admission"
        rows = artifacts.read_table("predictions", directory).filter(split="test")
        expected = ((rows["probability"].cast(pl.Float64) - rows["label"].cast(pl.Float64)) ** 2).mean()
        assert found == pytest.approx(expected)
    assert "Fine-tuned classifier seed 2" in (out / "report.html").read_text()


def test_the_same_settings_twice_are_refused(site, tmp_path):
    add_run(site, "again", 0.1)
    with pytest.raises(InputError, match=r"predictions of icu_admission occur twice .* with the same settings"):
        run_main(tmp_path / "out", *site.flags("demo"))


def test_runs_are_found_as_deep_as_a_grid_puts_them_and_never_inside_a_run(site):
    inner = site.predictions / "icu_admission" / "trials" / "trial-0000"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text("outcome: icu_admission\n")
    add_run(site, "seed=1/fraction=0.05/outcome=x", 0.1, seed=3)
    add_run(site, "aside/run", 0.1, seed=4)
    found = {str(path.relative_to(site.predictions)) for path in find_prediction_runs(site.predictions)}
    assert "seed=1/fraction=0.05/outcome=x" in found
    assert "icu_admission" in found
    assert not any("trial" in name or "aside" in name for name in found)


def test_an_input_of_deeper_runs_changes_with_them(site):
    add_run(site, "seed=3/outcome=x", 0.1, seed=3)
    before = artifacts.fingerprint(site.predictions)
    assert artifacts.fingerprint(site.predictions) == before
    shutil.rmtree(site.predictions / "seed=3")
    add_run(site, "seed=3/outcome=x", 0.2, seed=3)
    assert artifacts.fingerprint(site.predictions) != before


def test_names_leave_out_paths_and_settings_that_change_nothing(tmp_path):
    runs = [
        {"seed": 1, "outcome": "x", "output_dir": "a", "training": {"learning_rate": 1, "keep_checkpoints": 1}},
        {"seed": 1, "outcome": "x", "output_dir": "b", "training": {"learning_rate": 2, "keep_checkpoints": 3}},
        {"seed": 1, "outcome": "x", "output_dir": "c", "training": {"learning_rate": 2}, "training_fraction": 0.05},
        {"seed": 1, "backbone_dir": None, "classifier_dir": "/x", "training": {"learning_rate": 1}},
        {"seed": 1, "backbone_dir": "/an/other/path/to/it", "training": {"learning_rate": 1}},
    ]
    for number, settings in enumerate(runs):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.yaml").write_text(yaml.safe_dump(settings))
        start = {"classifier_dir": "abcdefgh"} if number == 3 else {"backbone_dir": "12345678"}
        artifacts.write_done(tmp_path / str(number), "02_finetune", {}, start)
    assert name_runs([tmp_path / "0"]) == ["classifier"]
    assert name_runs([tmp_path / "0", tmp_path / "1"]) == ["classifier learning_rate 1", "classifier learning_rate 2"]
    assert name_runs([tmp_path / "1", tmp_path / "2"])[1] == "classifier training_fraction 0.05"
    starts = name_runs([tmp_path / "0", tmp_path / "3"])
    assert starts == ["classifier from backbone", "classifier from classifier"]
    assert name_runs([tmp_path / "0", tmp_path / "4"]) == ["classifier", "classifier"], "one backbone, two paths"


def write_zero_shot(site: FakeSite, keep: float = 1.0, is_turned: bool = False) -> pl.DataFrame:
    """Write answers of the labelled test stays to icu_admission, or of a share of them."""
    labelled = site.outcomes.filter((pl.col("outcome") == "icu_admission") & pl.col("label").is_not_null())
    rows = labelled.join(site.stays.filter(split="test"), on="subject_id").select(
        "subject_id", "split", "outcome", "label"
    )
    rows = rows.head(int(keep * rows.height)).with_columns(
        probability=(pl.col("subject_id").hash(3) % 21 / 20).cast(pl.Float32),
        standard_error=pl.lit(0.1, pl.Float32),
        unfinished=pl.lit(0.0, pl.Float32),
    )
    written = rows.with_columns(~pl.col("label")) if is_turned else rows
    artifacts.write_table("zero_shot", written, site.representations, "test")
    return rows


def test_zero_shot_answers_of_all_stays_are_scored_beside_the_others(site, tmp_path):
    rows = write_zero_shot(site)
    out = run_main(tmp_path / "out", *site.flags("demo"))
    scores = artifacts.read_table("scores", out).filter(model="zero-shot")
    assert set(scores["outcome"]) == {"icu_admission"}
    expected = roc_auc_score(rows["label"].to_numpy(), rows["probability"].to_numpy())
    assert scores.filter(metric="auroc")["estimate"].item() == pytest.approx(expected)
    assert "Zero-shot from the backbone" in (out / "report.html").read_text()


@pytest.mark.parametrize("change", [{"keep": 0.5}, {"is_turned": True}])
def test_zero_shot_answers_of_some_stays_or_to_another_question_are_left_out_and_named(site, tmp_path, caplog, change):
    write_zero_shot(site, **change)
    with caplog.at_level("WARNING", logger="clinrep"):
        out = run_main(tmp_path / "out", *site.flags("demo"))
    assert artifacts.read_table("scores", out).filter(model="zero-shot").is_empty()
    assert "not scored: answers of" in caplog.text
