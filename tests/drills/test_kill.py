"""Kill -9 at random moments, also while saving: the run that comes out of it is the uninterrupted one.

Not part of `make test`: `make drill` runs it.
"""

from __future__ import annotations

import random
import re
import sys
import time
from pathlib import Path

import pytest

from tests.jobs import TORCHRUN, Job, read_metrics, write_workshop

pytestmark = [pytest.mark.drill, pytest.mark.slow]

SAVE_STEPS, NUM_STEPS = 4, 60
SETTINGS = {
    "block_size": 64,
    "global_batch_tokens": 512,
    "packing": {"repeat_static_tokens": True},
    "model": {"hidden_size": 256, "intermediate_size": 512, "num_layers": 4, "num_heads": 4, "num_key_value_heads": 2},
    "training": {
        "learning_rate": 0.001,
        "batch_size": 4,
        "max_steps": NUM_STEPS,
        "eval_steps": 20,
        "save_steps": SAVE_STEPS,  # often, so that many kills hit a save of its 40 MB
        "warmup_fraction": 0.1,
    },
}
LAUNCHERS = {1: [sys.executable], 2: TORCHRUN}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workshop(tmp_path_factory.mktemp("drill"), SETTINGS, num_subjects=60)


def start(workshop: Path, name: str, ranks: int, num_workers: int) -> Job:
    directory = workshop / name
    flags = ["--config", str(workshop / "config.yaml"), "--output_dir", str(directory)]
    flags += ["--training.num_workers", str(num_workers)]
    return Job([*LAUNCHERS[ranks], "01_pretrain.py", *flags], directory)


def is_saving(directory: Path) -> bool:
    """Return whether a checkpoint is there that nobody may resume from."""
    folders = directory.glob("checkpoints/checkpoint-*")
    return any(not (folder / "COMPLETE").exists() for folder in folders)


def count_steps(directory: Path) -> int:
    """Return the last step recorded."""
    path = directory / "metrics.jsonl"
    steps = re.findall(r'"step": (\d+), "split": "train", "name": "loss"', path.read_text()) if path.exists() else []
    return int(steps[-1]) if steps else 0


def wait_for_a_bad_moment(job: Job, rng: random.Random) -> bool:
    """Return once a random time has passed, or a random while after a save has begun; False: the run has ended."""
    first_step = count_steps(job.directory)
    is_for_a_save, deadline = rng.random() < 0.6, time.monotonic() + 200
    while job.process.poll() is None and time.monotonic() < deadline:
        if count_steps(job.directory) > first_step + SAVE_STEPS and (not is_for_a_save or is_saving(job.directory)):
            time.sleep(rng.random() * (0.03 if is_for_a_save else 0.6))
            return job.process.poll() is None
        time.sleep(0.001)
    assert job.process.poll() is not None, "the run hangs"
    return False


@pytest.mark.parametrize(("ranks", "num_workers"), [(1, 0), (1, 2), (2, 0)])
def test_a_run_killed_again_and_again_is_the_uninterrupted_one(workshop: Path, ranks: int, num_workers: int) -> None:
    whole = start(workshop, f"whole{ranks}{num_workers}", ranks, 0)
    assert whole.wait() == 0, whole.log_path.read_text()
    rng, kills_while_saving, num_kills = random.Random(ranks * 10 + num_workers), 0, 0
    for _ in range(40):
        job = start(workshop, f"killed{ranks}{num_workers}", ranks, num_workers)
        if not wait_for_a_bad_moment(job, rng):
            break
        job.kill()
        num_kills += 1
        kills_while_saving += is_saving(job.directory)
        # What is lost: at most the steps since the last save, one save interval and the one being written.
        complete = job.directory.glob("checkpoints/checkpoint-*/COMPLETE")
        newest = max((int(path.parent.name.partition("-")[2]) for path in complete), default=0)
        assert count_steps(job.directory) - newest <= 2 * SAVE_STEPS
    assert job.wait() == 0, job.log_path.read_text()
    print(f"{ranks} ranks, {num_workers} workers: {num_kills} kills, {kills_while_saving} of them while saving")
    assert num_kills >= 3
    assert kills_while_saving >= 1
    assert read_metrics(job.directory) == read_metrics(whole.directory)
    weights = [(one.directory / "backbone" / "model.safetensors").read_bytes() for one in (job, whole)]
    assert weights[0] == weights[1]
