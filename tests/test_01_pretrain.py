"""01_pretrain.py as a program: alone, under torchrun, stopped and resumed, and with wrong input."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file

from clinrep.config import InputError
from clinrep.ehr.configs.pretrain import PretrainConfig
from clinrep.modality import load_stage
from tests.analysis.fake_runs import finish_again
from tests.jobs import TORCHRUN, Job, read_metrics, write_workshop
from tests.scripts import check_refused, load_main

ROOT = Path(__file__).parents[1]
SCRIPT = "01_pretrain.py"
SETTINGS = {
    "block_size": 32,
    "global_batch_tokens": 128,
    "packing": {"repeat_static_tokens": True},
    "model": {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "num_key_value_heads": 1,
        "max_positions": 64,
    },
    "training": {"learning_rate": 0.01, "batch_size": 2, "max_steps": 60, "eval_steps": 25, "warmup_fraction": 0.1},
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-00 directory and a config file."""
    return write_workshop(tmp_path_factory.mktemp("pretrain"), SETTINGS, num_subjects=40)


@pytest.fixture(scope="module")
def alone(workshop: Path) -> Path:
    """An uninterrupted run, in this process: others are compared with it."""
    return run_here(workshop, "alone")


@pytest.fixture(scope="module")
def together(workshop: Path) -> Path:
    """An uninterrupted run of two processes by the same command, so each with half of every step."""
    return finish(start(workshop, "together", TORCHRUN))


def start(workshop: Path, name: str, launcher: list[str] | None = None, *flags: str) -> Job:
    directory = workshop / name
    return Job([*(launcher or [sys.executable]), SCRIPT, *give_flags(workshop, name, *flags)], directory)


def give_flags(workshop: Path, name: str, *flags: str) -> list[str]:
    return ["--config", str(workshop / "config.yaml"), "--output_dir", str(workshop / name), *flags]


def run_here(workshop: Path, name: str, *flags: str) -> Path:
    """Run the stage in this process: to load torch takes longer than all the rest."""
    load_main("01_pretrain")(give_flags(workshop, name, *flags))
    assert (workshop / name / "DONE").is_file()
    return workshop / name


def finish(job: Job) -> Path:
    assert job.wait() == 0, job.log_path.read_text()
    assert (job.directory / "DONE").is_file()
    return job.directory


@pytest.mark.slow
def test_a_run_learns_and_leaves_a_backbone(workshop: Path, alone: Path) -> None:
    metrics = read_metrics(alone)
    assert {step for step, name in metrics if name == "loss"} == set(range(1, 61))
    assert {step for step, name in metrics if name == "eval_loss"} == {25, 50, 60}
    assert metrics[60, "eval_loss"] < metrics[25, "eval_loss"] < metrics[1, "loss"] - 0.5
    folder = alone / "backbone"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocabulary.parquet",
        "quantiles.parquet",
    }
    assert {str(tensor.dtype) for tensor in load_file(folder / "model.safetensors").values()} == {"torch.float32"}
    assert pl.read_parquet(folder / "vocabulary.parquet").equals(pl.read_parquet(workshop / "00/vocabulary.parquet"))
    rows = json.loads((alone / "DONE").read_text())["rows"]
    assert rows["timelines/train"] == 28
    assert -(-rows["tokens/train"] // 32) <= rows["blocks/train"] <= rows["tokens/train"] // 32 * 1.5
    assert "Traceback" not in (alone / "run.log").read_text()


@pytest.mark.slow
def test_the_same_command_again_says_done(workshop: Path, alone: Path) -> None:
    before = (alone / "metrics.jsonl").read_text()
    finish(start(workshop, "alone"))
    assert "already done" in (workshop / "alone.log").read_text()
    assert (alone / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_two_ranks_with_half_the_batch_are_one_with_the_whole(alone: Path, together: Path) -> None:
    one, two = read_metrics(alone), read_metrics(together)
    assert one.keys() == two.keys()
    names = {"loss", "eval_loss", "learning_rate"}
    far = {key: (one[key], two[key]) for key in one if key[1] in names and abs(one[key] - two[key]) > 1e-5}
    assert not far


@pytest.mark.slow
def test_sigterm_stops_one_process_with_75_and_the_same_command_continues(workshop: Path, alone: Path) -> None:
    job = start(workshop, "stopped")
    assert job.stop_after(5, signal.SIGTERM) == 75, job.log_path.read_text()
    stopped = json.loads((job.directory / "STOPPED").read_text())
    assert stopped["signal"] == "SIGTERM"
    assert 5 <= stopped["step"] < 60
    assert not (job.directory / "DONE").exists()
    assert not (job.directory / "backbone").exists()
    assert "Traceback" not in job.log_path.read_text()
    run_here(workshop, "stopped")
    assert not (job.directory / "STOPPED").exists()
    assert read_metrics(job.directory) == read_metrics(alone)
    weights = [(path / "backbone" / "model.safetensors").read_bytes() for path in (alone, job.directory)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_sigterm_to_every_process_does_not_kill_the_loader_before_the_run_is_saved(workshop: Path, alone: Path) -> None:
    """Slurm and torchrun signal whole groups; a worker of a DataLoader dies of SIGTERM by default."""
    job = start(workshop, "workers", None, "--training.num_workers", "2")
    assert job.stop_after(5, signal.SIGTERM, is_for_all=True) == 75, job.log_path.read_text()
    assert json.loads((job.directory / "STOPPED").read_text())["signal"] == "SIGTERM"
    run_here(workshop, "workers", "--training.num_workers", "2")
    assert read_metrics(job.directory) == read_metrics(alone)


@pytest.mark.slow
def test_sigusr1_stops_two_ranks_at_one_step_and_the_same_command_continues(workshop: Path, together: Path) -> None:
    job = start(workshop, "stopped2", TORCHRUN)
    job.stop_after(30, signal.SIGUSR1)
    stopped = json.loads((job.directory / "STOPPED").read_text())
    assert stopped["signal"] == "SIGUSR1"
    assert 30 <= stopped["step"] < 60
    folder = job.directory / "checkpoints" / f"checkpoint-{stopped['step']}"
    marker = json.loads((folder / "COMPLETE").read_text())
    assert (marker["step"], marker["world_size"]) == (stopped["step"], 2)
    assert {path.name for path in folder.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    finish(start(workshop, "stopped2", TORCHRUN))
    assert read_metrics(job.directory) == read_metrics(together)


@pytest.mark.slow
def test_a_patient_in_two_splits_ends_with_1_before_training(workshop: Path) -> None:
    broken = workshop / "leaky"
    shutil.copytree(workshop / "00", broken)
    splits = pl.read_parquet(broken / "splits.parquet")
    others = splits.filter(pl.col("split") != "train")["subject_id"][0]
    patient = splits.filter(split="train")["patient_id"][0]
    is_one = pl.col("subject_id") == others
    splits.with_columns(patient_id=pl.when(is_one).then(pl.lit(patient)).otherwise("patient_id")).write_parquet(
        broken / "splits.parquet"
    )
    finish_again(broken)
    job = start(workshop, "leaky_run", None, "--timelines_dir", str(broken))
    assert job.wait() == 1
    log = job.log_path.read_text()
    assert "patient in two splits" in log
    assert "Traceback" not in log
    assert not (workshop / "leaky_run" / "checkpoints").exists()


@pytest.mark.slow
def test_an_empty_split_is_refused_and_leaves_nothing(workshop: Path) -> None:
    broken = workshop / "broken"
    shutil.copytree(workshop / "00", broken)
    path = broken / "timelines" / "val" / "part-00000.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    finish_again(broken)
    flags = give_flags(workshop, "refused", "--timelines_dir", str(broken))
    check_refused("01_pretrain", flags, "the val split holds no timeline")
    assert not (workshop / "refused").exists()


@pytest.mark.slow
def test_another_number_of_ranks_is_refused_at_the_start(
    workshop: Path, together: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = workshop / "ranks"
    shutil.copytree(together, folder)
    (folder / "DONE").unlink()
    with caplog.at_level("INFO", logger="clinrep"):
        check_refused("01_pretrain", give_flags(workshop, "ranks"), "was saved by 2 processes and this run has 1")
    assert "model:" not in caplog.text, "it should be refused before a model is built"
    assert read_metrics(folder) == read_metrics(together), "nothing may be lost"


@pytest.mark.slow
def test_a_changed_setting_is_refused_with_the_difference(workshop: Path, alone: Path) -> None:
    flags = give_flags(workshop, "alone", "--training.learning_rate", "0.02")
    check_refused("01_pretrain", flags, "training.learning_rate was 0.01, now 0.02")


@pytest.mark.slow
def test_a_signal_before_torch_is_loaded_still_ends_with_stopped(workshop: Path, alone: Path) -> None:
    job = start(workshop, "early")
    while not (job.directory / "config.yaml").is_file():
        assert job.process.poll() is None, job.log_path.read_text()
        time.sleep(0.005)
    job.process.send_signal(signal.SIGUSR1)
    assert job.wait() == 75, job.log_path.read_text()
    assert json.loads((job.directory / "STOPPED").read_text()) == {"step": 1, "signal": "SIGUSR1"}
    run_here(workshop, "early")
    assert read_metrics(job.directory) == read_metrics(alone)


@pytest.mark.slow
def test_timelines_that_run_into_one_another_train_too(workshop: Path, alone: Path) -> None:
    """The manuscript's packing: with its PADs as targets the loss is another, and lower."""
    flags = ["--packing.method", "cross_document", "--packing.repeat_static_tokens", "false"]
    flags += ["--packing.predict_padding", "true", "--packing.drop_tail", "true", "--training.max_steps", "10"]
    metrics = read_metrics(run_here(workshop, "crossing", *flags))
    assert {step for step, name in metrics if name == "loss"} == set(range(1, 11))
    assert metrics[1, "loss"] != read_metrics(alone)[1, "loss"]


PATHS = ["--timelines_dir", "runs/x/00_tokenize", "--output_dir", "unused"]
CONFIGS = ROOT / "configs" / "ehr"


def load_config(*names: str) -> PretrainConfig:
    words = [word for name in names for word in ("--config", str(CONFIGS / name))]
    config = load_stage("01_pretrain", "", [*words, *PATHS])[1]
    assert isinstance(config, PretrainConfig)
    return config


@pytest.mark.parametrize("name", ["01_pretrain.yaml", "demo/01_pretrain.yaml", "manuscript/01_pretrain.yaml"])
@pytest.mark.parametrize("size", [None, "demo", "67m", "1b"])
def test_the_configs_in_the_repository_are_valid(name: str, size: str | None) -> None:
    config = load_config(name, *([] if size is None else [f"model_sizes/{size}.yaml"]))
    assert config.block_size <= config.model.max_positions


def test_the_sizes_are_those_of_the_configs() -> None:
    assert load_config("01_pretrain.yaml").model == load_config("01_pretrain.yaml", "model_sizes/67m.yaml").model
    for folder, size in (("demo", "demo"), ("manuscript", "1b")):
        name = f"{folder}/01_pretrain.yaml"
        assert load_config(name).model == load_config(name, f"model_sizes/{size}.yaml").model


@pytest.mark.parametrize("ranks", [1, 4, 8])
def test_one_recipe_fits_one_four_and_eight_gpus(ranks: int) -> None:
    for name in ("01_pretrain.yaml", "manuscript/01_pretrain.yaml"):
        config = load_config(name)
        assert config.global_batch_tokens % (config.block_size * ranks) == 0
        for choice in config.search.space.values():
            assert all(tokens % (config.block_size * ranks) == 0 for tokens in choice.choices or [])


def test_a_wrong_setting_is_named(workshop: Path) -> None:
    arguments = ["--config", str(workshop / "config.yaml"), "--output_dir", "unused"]
    with pytest.raises(InputError, match="block_size is 65 but must be at most"):
        load_stage("01_pretrain", "", [*arguments, "--block_size", "65"])
    with pytest.raises(InputError, match="blocksize"):
        load_stage("01_pretrain", "", [*arguments, "--blocksize", "64"])
    with pytest.raises(InputError, match=r"global_batch_tokens is 100 but must be a multiple of block_size \(32\)"):
        load_stage("01_pretrain", "", [*arguments, "--global_batch_tokens", "100"])
    with pytest.raises(InputError, match=r"packing\.drop_tail is True but must be false with packing.method isolated"):
        load_stage("01_pretrain", "", [*arguments, "--packing.drop_tail", "true"])
