"""01_pretrain.py as a program: alone, under torchrun, stopped and resumed, and with wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from safetensors.torch import load_file

from clinrep.config import InputError
from clinrep.ehr.configs.pretrain import PretrainConfig
from clinrep.modality import load_stage
from tests.ehr.fake_timelines import write_fake_tokenizer_run

ROOT = Path(__file__).parents[1]
SCRIPT = "01_pretrain.py"
SETTINGS = {
    "block_size": 32,
    "model": {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "num_key_value_heads": 1,
        "max_positions": 64,
    },
    "training": {"learning_rate": 0.01, "batch_size": 4, "max_steps": 60, "eval_steps": 25, "warmup_fraction": 0.1},
}
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    *("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--shutdown-timeout", "120"),
]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-00 directory and a config file."""
    folder = tmp_path_factory.mktemp("pretrain")
    write_fake_tokenizer_run(folder / "00", num_subjects=40, seed=2)
    (folder / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "timelines_dir": str(folder / "00")}))
    return folder


@pytest.fixture(scope="module")
def alone(workshop: Path) -> Path:
    """An uninterrupted run of one process."""
    return finish(start(workshop, "alone"))


@pytest.fixture(scope="module")
def together(workshop: Path) -> Path:
    """An uninterrupted run of two processes, each with half the batch."""
    return finish(start(workshop, "together", TORCHRUN, "--training.batch_size", "2"))


class Job:
    """A running script and its output directory."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self.directory = directory
        self.log_path = directory.with_suffix(".log")
        # one thread a process: two cores, and sums in the same order every time
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> int:
        try:
            return self.process.wait(timeout=150)
        finally:
            self.process.kill()

    def stop_after(self, step: int, which: signal.Signals, is_for_all: bool = False) -> int:
        """Send a signal once `step` is done, to the process or to its children too, and return the exit code."""
        metrics = self.directory / "metrics.jsonl"
        deadline = time.monotonic() + 100
        while not (metrics.is_file() and f'"step": {step},' in metrics.read_text()):
            assert self.process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.02)
        if is_for_all:
            os.killpg(self.process.pid, which)
        else:
            self.process.send_signal(which)
        return self.wait()


def start(workshop: Path, name: str, launcher: list[str] | None = None, *flags: str) -> Job:
    directory = workshop / name
    arguments = ["--config", str(workshop / "config.yaml"), "--output_dir", str(directory), *flags]
    return Job([*(launcher or [sys.executable]), SCRIPT, *arguments], directory)


def finish(job: Job) -> Path:
    assert job.wait() == 0, job.log_path.read_text()
    assert (job.directory / "DONE").is_file()
    return job.directory


def read_metrics(directory: Path) -> dict[tuple[int, str], float]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {(record["step"], record["name"]): record["value"] for record in records}


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
    assert rows["blocks/train"] == -(-rows["tokens/train"] // 32)
    assert "Traceback" not in (workshop / "alone.log").read_text()


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
    far = {key: (one[key], two[key]) for key in one if key[1] in names and abs(one[key] - two[key]) > 3e-5}
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
    finish(start(workshop, "stopped"))
    assert not (job.directory / "STOPPED").exists()
    assert (job.directory / "metrics.jsonl").read_text() == (alone / "metrics.jsonl").read_text()
    weights = [(path / "backbone" / "model.safetensors").read_bytes() for path in (alone, job.directory)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_sigterm_to_every_process_does_not_kill_the_loader_before_the_run_is_saved(workshop: Path, alone: Path) -> None:
    """Slurm and torchrun signal whole groups; a worker of a DataLoader dies of SIGTERM by default."""
    job = start(workshop, "workers", None, "--training.num_workers", "2")
    assert job.stop_after(5, signal.SIGTERM, is_for_all=True) == 75, job.log_path.read_text()
    assert json.loads((job.directory / "STOPPED").read_text())["signal"] == "SIGTERM"
    finish(start(workshop, "workers", None, "--training.num_workers", "2"))
    assert (job.directory / "metrics.jsonl").read_text() == (alone / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_sigusr1_stops_two_ranks_at_one_step_and_the_same_command_continues(workshop: Path, together: Path) -> None:
    flags = ("--training.batch_size", "2")
    job = start(workshop, "stopped2", TORCHRUN, *flags)
    job.stop_after(30, signal.SIGUSR1)
    stopped = json.loads((job.directory / "STOPPED").read_text())
    assert stopped["signal"] == "SIGUSR1"
    assert 30 <= stopped["step"] < 60
    folder = job.directory / "checkpoints" / f"checkpoint-{stopped['step']}"
    assert json.loads((folder / "COMPLETE").read_text()) == {"step": stopped["step"], "world_size": 2}
    assert {path.name for path in folder.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    finish(start(workshop, "stopped2", TORCHRUN, *flags))
    assert (job.directory / "metrics.jsonl").read_text() == (together / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_an_empty_split_ends_with_2_and_leaves_nothing(workshop: Path) -> None:
    broken = workshop / "broken"
    shutil.copytree(workshop / "00", broken)
    path = broken / "timelines" / "val" / "part-00000.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    job = start(workshop, "refused", None, "--timelines_dir", str(broken))
    assert job.wait() == 2
    log = job.log_path.read_text()
    assert "error: " in log
    assert "the val split holds no timeline" in log
    assert "Traceback" not in log
    assert not (workshop / "refused").exists()


@pytest.mark.parametrize("name", ["configs/ehr/01_pretrain.yaml", "configs/ehr/demo/01_pretrain.yaml"])
def test_the_configs_in_the_repository_are_valid(name: str) -> None:
    _, config = load_stage("01_pretrain", "", ["--config", str(ROOT / name)])
    assert isinstance(config, PretrainConfig)
    assert config.block_size <= config.model.max_positions


def test_a_wrong_setting_is_named(workshop: Path) -> None:
    arguments = ["--config", str(workshop / "config.yaml"), "--output_dir", "unused"]
    with pytest.raises(InputError, match="block_size is 65 but must be at most"):
        load_stage("01_pretrain", "", [*arguments, "--block_size", "65"])
    with pytest.raises(InputError, match="blocksize"):
        load_stage("01_pretrain", "", [*arguments, "--blocksize", "64"])
