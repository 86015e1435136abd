"""Stages 00 to 02 on bad tokenizers, timelines, outcomes, classifiers and checkpoints; export and known risk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import LlamaConfig

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.known_risk.__main__ import main as report_known_risk
from clinrep.ehr.models import LlamaClassifier
from clinrep.export.__main__ import main as export
from tests.analysis.fake_runs import FakeSite
from tests.bad_input import export_cases, later_cases
from tests.bad_input.test_bad_runs import sound as sound  # a fixture
from tests.bad_input.workshop import Case, check, parametrize, run_main, write_clif, write_tokenize_settings


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tables with a finished tokenizer of it in 00."""
    root = tmp_path_factory.mktemp("tokenizer")
    write_clif(root / "clif")
    write_tokenize_settings(root / "settings.yaml")
    paths = {"clif_dir": str(root / "clif"), "output_dir": str(root / "00")}
    run_main("00_tokenize", paths, (f"--config={root / 'settings.yaml'}",))
    return root


def copy(sound: Path, folder: Path, *runs: str) -> Path:
    shutil.copytree(sound, folder)
    for name in runs:
        os.utime(folder / name / "DONE")
    return folder


@parametrize(later_cases.TOKENIZERS)
def test_bad_tokenizers_are_refused_by_stage_00(case: Case, tokenizer: Path, tmp_path: Path) -> None:
    folder = copy(tokenizer, tmp_path / "x", "00")
    case.damage(folder)
    paths = {"clif_dir": str(folder / "clif"), "tokenizer_dir": str(folder / "00"), "output_dir": str(tmp_path / "out")}
    flags = (f"--config={tokenizer / 'settings.yaml'}",)
    check(case, lambda: run_main("00_tokenize", paths, flags), tmp_path / "out")


@parametrize(later_cases.PRETRAINING)
def test_bad_timelines_are_refused_by_stage_01(case: Case, sound: Path, tmp_path: Path) -> None:
    folder = copy(sound, tmp_path / "x", "00", "01")
    case.damage(folder)
    paths = {"timelines_dir": str(folder / "00"), "output_dir": str(tmp_path / "out")}
    flags = (f"--config={sound / '01_pretrain.yaml'}",)
    check(case, lambda: run_main("01_pretrain", paths, flags), tmp_path / "out")


@pytest.fixture(scope="module")
def classified(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a classifier in 02, as stage 02 leaves it."""
    root = tmp_path_factory.mktemp("classified")
    shutil.copytree(sound, root / "x")
    torch.manual_seed(0)
    run_dir = root / "x" / "02"
    shape = LlamaConfig.from_pretrained(sound / "01" / "backbone")
    LlamaClassifier(shape).save_pretrained(run_dir / "classifier")
    for name in ("vocabulary.parquet", "quantiles.parquet"):
        shutil.copy(sound / "00" / name, run_dir / "classifier")
    (run_dir / "config.yaml").write_text(f"timelines_dir: {sound / '00'}\noutcome: icu_admission\n")
    artifacts.write_done(run_dir, "02_finetune", {}, {"timelines_dir": artifacts.fingerprint(sound / "00")})
    return root / "x"


@parametrize(later_cases.FINETUNING)
def test_bad_outcomes_and_classifiers_are_refused_by_stage_02(case: Case, classified: Path, tmp_path: Path) -> None:
    folder = copy(classified, tmp_path / "x", "00", "01", "02")
    case.damage(folder)
    is_of_labels = case.name.startswith("labels")
    paths: dict[str, Any] = {"timelines_dir": str(folder / "00"), "output_dir": str(tmp_path / "out")}
    paths["backbone_dir"] = str(folder / "01") if is_of_labels else None
    paths["classifier_dir"] = None if is_of_labels else str(folder / "02")
    flags = (f"--config={classified / '02_finetune.yaml'}",)
    check(case, lambda: run_main("02_finetune", paths, flags), tmp_path / "out")


@pytest.fixture(scope="module")
def trained(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of three steps in `out`, as a kill after its second checkpoint leaves it."""
    root = tmp_path_factory.mktemp("trained")
    train(sound, root / "out")
    (root / "out" / "DONE").unlink()
    for name in ("backbone", "checkpoints/checkpoint-3"):
        shutil.rmtree(root / "out" / name)
    return root


def train(sound: Path, output: Path) -> None:
    paths = {"timelines_dir": str(sound / "00"), "output_dir": str(output)}
    flags = (f"--config={sound / '01_pretrain.yaml'}", "--training.max_steps=3", "--training.keep_checkpoints=3")
    run_main("01_pretrain", paths, flags)


@parametrize(later_cases.CHECKPOINTS)
def test_bad_checkpoints_are_refused_and_kept(case: Case, sound: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    case.damage(tmp_path)
    with pytest.raises(InputError) as refusal:
        train(sound, tmp_path / "out")
    assert not [word for word in case.words if word not in str(refusal.value)], refusal.value
    assert "\n" not in str(refusal.value)
    assert {path.name for path in (tmp_path / "out/checkpoints").iterdir()} == {"checkpoint-1", "checkpoint-2"}


@parametrize(export_cases.EXPORTS)
def test_bad_models_are_refused_by_the_export(case: Case, sound: Path, tmp_path: Path) -> None:
    folder = copy(sound, tmp_path / "x", "00", "01")
    case.damage(folder)
    flags = [f"--timelines_dir={folder / '00'}", f"--backbone_dir={folder / '01'}", f"--output_dir={tmp_path / 'out'}"]
    check(case, lambda: export(flags), tmp_path / "out")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site and the truth of its stays."""
    root = tmp_path_factory.mktemp("simulated")
    site = FakeSite(root, num_stays=60).write()
    truth = site.outcomes.select("subject_id", "outcome", "label").with_columns(
        probability_given_state=pl.lit(0.5), probability_given_tables=pl.lit(0.5)
    )
    (root / "simulate").mkdir()
    truth.write_parquet(root / "simulate" / "truth.parquet")
    artifacts.write_done(root / "simulate", "simulate", {}, {})
    return root


@parametrize(export_cases.TRUTHS)
def test_bad_truths_are_refused_by_the_known_risk_report(case: Case, simulated: Path, tmp_path: Path) -> None:
    folder = copy(simulated, tmp_path / "x", "simulate", "00", "03")
    case.damage(folder)
    flags = [f"--simulate_dir={folder / 'simulate'}", f"--timelines_dir.s={folder / '00'}", "--num_bootstraps=20"]
    flags += [f"--representations_dir.s={folder / '03'}", f"--output_dir={tmp_path / 'out'}", "--layers=[2]"]
    check(case, lambda: report_known_risk([*flags, "--poolings=[mean]", "--baselines=[]"]), tmp_path / "out")
