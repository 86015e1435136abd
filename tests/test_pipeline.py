"""The five scripts in a row on the sample, with the demo's configs cut short: does each read what the last wrote?"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts
from tests.scripts import ROOT, load_main

DEMO = ROOT / "configs" / "ehr" / "demo"
STAGES = ("00_tokenize", "01_pretrain", "02_finetune", "03_extract_reps", "04_analyze")
pytestmark = pytest.mark.slow


def run(stage: str, *flags: str) -> None:
    load_main(stage)(["--config", str(DEMO / f"{stage}.yaml"), *flags])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Run all stages, 02 for two outcomes, and return the directory with one folder a stage."""
    root = tmp_path_factory.mktemp("pipeline")
    timelines, backbone = ["--timelines_dir", str(root / "00_tokenize")], ["--backbone_dir", str(root / "01_pretrain")]
    short = ["--training.max_steps", "2", "--training.eval_steps", "2"]
    run("00_tokenize", "--clif_dir", str(ROOT / "sample_data/clif_demo"), "--output_dir", str(root / "00_tokenize"))
    run("01_pretrain", *timelines, *short, "--output_dir", str(root / "01_pretrain"))
    for outcome in ("long_length_of_stay", "imv_event"):
        output = ["--output_dir", str(root / "02_finetune" / outcome)]
        run("02_finetune", *timelines, *backbone, *short, "--outcome", outcome, *output)
    run("03_extract_reps", *timelines, *backbone, "--output_dir", str(root / "03_extract_reps"))
    inputs = ["--timelines_dir.demo", str(root / "00_tokenize")]
    inputs += ["--representations_dir.demo", str(root / "03_extract_reps")]
    inputs += ["--predictions_dir.demo", str(root / "02_finetune")]
    run("04_analyze", *inputs, "--num_bootstraps", "50", "--output_dir", str(root / "04_analyze"))
    return root


def test_every_stage_is_done_and_names_its_inputs_by_content(runs):
    for stage in STAGES:
        directory = runs / stage / "imv_event" if stage == "02_finetune" else runs / stage
        done = artifacts.read_done(directory, stage)
        for name in ("config.yaml", "provenance.json", "environment.txt", "run.log"):
            assert (directory / name).is_file(), (stage, name)
        for key, digest in done["inputs"].items():
            path = json.loads((directory / "provenance.json").read_text())["inputs"]
            assert path[key] == digest
    made_from = artifacts.read_done(runs / "03_extract_reps", "03_extract_reps")["inputs"]
    assert made_from["timelines_dir"] == artifacts.fingerprint(runs / "00_tokenize")
    assert made_from["backbone_dir"] == artifacts.fingerprint(runs / "01_pretrain")


def test_every_stay_goes_all_the_way_under_its_own_id(runs):
    kept = set(artifacts.read_table("subjects", runs / "00_tokenize")["subject_id"])
    assert len(kept) == 245
    representations = artifacts.read_table("representations", runs / "03_extract_reps")
    assert set(representations["subject_id"]) == kept
    predictions = artifacts.read_table("predictions", runs / "02_finetune" / "imv_event")
    outcomes = artifacts.read_table("outcomes", runs / "00_tokenize").filter(pl.col("outcome") == "imv_event")
    at_risk = outcomes.filter(pl.col("label").is_not_null())
    assert set(predictions["subject_id"]) == set(at_risk["subject_id"])
    assert predictions["label"].sum() == 19


def test_scores_say_how_many_and_are_null_where_one_event_cannot_make_a_number(runs):
    scores = artifacts.read_table("scores", runs / "04_analyze").filter(pl.col("subgroup") == "all")
    counts = {row[0]: row[1:] for row in scores.select("outcome", "num_subjects", "num_events").unique().iter_rows()}
    assert counts == {
        "in_hospital_death": (50, 3),
        "long_length_of_stay": (50, 10),
        "icu_admission": (26, 2),
        "imv_event": (39, 1),
    }
    of_ventilation, of_stay = (
        scores.filter(pl.col("outcome") == name) for name in ("imv_event", "long_length_of_stay")
    )
    assert of_ventilation["estimate"].null_count() == of_ventilation.height > 0
    assert of_stay["estimate"].null_count() == of_stay["low"].null_count() == 0
    vectors = {"backbone layer 4 last_token", "backbone layer 4 mean"}
    assert set(of_ventilation["model"]) == {"classifier", "token counts", "last values", *vectors}


def test_the_report_is_one_file_with_every_figure(runs):
    text = (runs / "04_analyze" / "report.html").read_text()
    figures = {path.stem for path in (runs / "04_analyze" / "figures").glob("*.png")}
    assert text.count("data:image/png;base64,") == len(figures)
    assert figures > {"roc_demo", "calibration_demo", "flow_demo", "token_embeddings", "map_pca"}
    assert "too few events (1)" in text
    assert "Open Database License" in text
    assert 'src="http' not in text
