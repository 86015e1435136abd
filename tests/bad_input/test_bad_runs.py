"""Stages 01 to 03 on directories of earlier stages and saved models with everything that can be wrong with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bad_input import run_cases
from tests.bad_input.workshop import Case, check, parametrize, run_main
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run

PRETRAIN = {
    "block_size": 32,
    "global_batch_tokens": 64,
    "model": {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 2, "num_key_value_heads": 1,
              "max_positions": 64},
    "training": {"learning_rate": 0.01, "batch_size": 2, "max_steps": 1, "eval_steps": 1},
}  # fmt: skip
FINETUNE = {
    "outcome": "icu_admission",
    "max_length": 64,
    "metric_for_best": "loss",
    "global_batch_size": 4,
    "training": {"learning_rate": 0.01, "max_steps": 1, "batch_size": 4, "eval_steps": 1},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "01_pretrain": PRETRAIN,
    "02_finetune": {"backbone_dir": "unused"} | FINETUNE,
    "03_extract_reps": {"backbone_dir": "unused", "max_length": 64},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished directories of stages 00 and 01, and settings of the stages that read them."""
    root = tmp_path_factory.mktemp("runs")
    timelines = write_fake_tokenizer_run(root / "00", num_subjects=20, seed=2)
    write_fake_backbone_run(root / "01", timelines)
    for stage, settings in SETTINGS.items():
        fixed = {"timelines_dir": "unused", "output_dir": "unused", "show_progress": False}
        (root / f"{stage}.yaml").write_text(yaml.safe_dump(fixed | settings))
    return root


def run(stage: str, sound: Path, folder: Path, output: Path) -> None:
    paths = {"timelines_dir": str(folder / "00"), "output_dir": str(output)}
    if stage != "01_pretrain":
        paths["backbone_dir"] = str(folder / "01")
    run_main(stage, paths, (f"--config={sound / f'{stage}.yaml'}",))


def copy(sound: Path, folder: Path) -> Path:
    shutil.copytree(sound, folder)
    for name in ("00", "01"):  # DONE is the youngest, as a stage leaves it
        os.utime(folder / name / "DONE")
    return folder


@parametrize(run_cases.TIMELINES)
def test_bad_timelines_are_refused_by_stage_03(case: Case, sound: Path, tmp_path: Path) -> None:
    folder = copy(sound, tmp_path / "runs")
    case.damage(folder)
    check(case, lambda: run("03_extract_reps", sound, folder, tmp_path / "out"), tmp_path / "out")


@parametrize(run_cases.MODELS)
def test_bad_models_are_refused_by_stage_03(case: Case, sound: Path, tmp_path: Path) -> None:
    folder = copy(sound, tmp_path / "runs")
    case.damage(folder)
    check(case, lambda: run("03_extract_reps", sound, folder, tmp_path / "out"), tmp_path / "out")
