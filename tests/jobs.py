"""A numbered training script running in the background, watched, signalled, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.ehr.fake_timelines import write_fake_tokenizer_run

ROOT = Path(__file__).parent.parent
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    *("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--shutdown-timeout", "120"),
]
MEASURED = ("tokens_per_second", "data_seconds", "mfu")  # never twice the same


def read_metrics(directory: Path) -> dict[tuple[int, str], float]:
    """Return all numbers by step and name, each recorded once; those that depend on the clock as 0."""
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    metrics = {
        (record["step"], record["name"]): 0.0 if record["name"] in MEASURED else record["value"] for record in records
    }
    assert len(metrics) == len(records)
    return metrics


def write_workshop(folder: Path, settings: dict[str, Any], num_subjects: int) -> Path:
    """Write a made-up stage-00 directory and config.yaml, `settings` of stage 01 on it, and return `folder`."""
    write_fake_tokenizer_run(folder / "00", num_subjects=num_subjects, seed=2)
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "timelines_dir": str(folder / "00")}))
    return folder


class Job:
    """A running script and its output directory."""

    def __init__(
        self, command: list[str], directory: Path, log_path: Path | None = None, count_path: Path | None = None
    ) -> None:
        self.directory = directory
        self.log_path = log_path or directory.with_suffix(".log")
        self.count_path = count_path or directory.with_suffix(".count")
        # one thread a process: two cores, and sums in the same order every time
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> int:
        try:
            return self.process.wait(timeout=300)  # on a busy machine
        finally:
            self.process.kill()

    def kill(self) -> None:
        """Kill -9 the process and all it started, as a node that fails does."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(self.process.pid)]
            family += family[0].children(recursive=True)  # torchrun's ranks have sessions of their own
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family[1:], timeout=60)  # one that dies slowly still holds the directory
        self.process.wait()

    def stop_after(self, step: int, which: signal.Signals, is_for_all: bool = False) -> int:
        """Send a signal once `step` is done, to the process or to its children too, and return the exit code."""
        metrics = self.directory / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while not (metrics.is_file() and f'"step": {step},' in metrics.read_text()):
            assert self.process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.02)
        if is_for_all:
            os.killpg(self.process.pid, which)
        else:
            self.process.send_signal(which)
        return self.wait()
