"""Kill -9 each stage while it uses its output directory: the same command ends with the uninterrupted run's bytes.

A reader beside it never sees half a file, and a second run started on the directory refuses. `make drill` runs it;
DRILL_KILLS=30 make drill kills more often, DRILL_SEED=2 at other moments.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import ROOT, TORCHRUN, Job, read_metrics

pytestmark = [pytest.mark.drill, pytest.mark.slow]

NUM_KILLS = int(os.environ.get("DRILL_KILLS", "4"))
SEED = int(os.environ.get("DRILL_SEED", "1"))
DEMO = ROOT / "configs" / "ehr" / "demo"
STOP = "stop_reading"
NUM_FIRST = 20  # moments of the files that describe a run
# never twice the same: times of day, or what the clock measured
UNEQUAL = {"run.log", "provenance.json", "metrics.jsonl", "report.html"}
TRAINING = ["--training.batch_size=8", "--training.eval_steps=4", "--training.save_steps=2"]
STAGES: dict[str, list[str]] = {
    "00_tokenize": ["--clif_dir={root}/simulate"],
    "01_pretrain": [
        *("--timelines_dir={out}/00_tokenize", "--block_size=64", "--global_batch_tokens=1024", *TRAINING),
        *("--model.hidden_size=32", "--model.intermediate_size=64", "--model.num_layers=2", "--model.head_dim=8"),
        "--training.max_steps=12",
    ],
    "02_finetune": [
        *("--timelines_dir={out}/00_tokenize", "--backbone_dir={out}/01_pretrain", "--outcome=icu_admission"),
        *("--max_length=64", *TRAINING, "--training.num_epochs=1"),
    ],
    "03_extract_reps": [
        *("--timelines_dir={out}/00_tokenize", "--backbone_dir={out}/01_pretrain"),
        *("--max_length=64", "--subjects_per_part=40", "--trajectories=true", "--information=true"),
    ],
    "04_analyze": [
        *("--timelines_dir.demo={out}/00_tokenize", "--representations_dir.demo={out}/03_extract_reps"),
        *("--predictions_dir.demo={out}/02_finetune", "--num_bootstraps=20", "--baselines=[event_counts]"),
        "--sections=[cohort,performance,curves,timelines,model_card]",
    ],
    "export": [
        *("--timelines_dir={out}/00_tokenize", "--backbone_dir={out}/01_pretrain"),
        *("--classifier_dir={out}/02_finetune", "--analyze_dir={out}/04_analyze", "--min_cell_count=0"),
    ],
}


@dataclass
class Workshop:
    """Where all stages run: out/STAGE, and whole/STAGE, the uninterrupted run of the same command moved away."""

    root: Path
    jobs: list[Job] = field(default_factory=list)

    def start(self, stage: str, launcher: list[str] | None = None, **plan: Any) -> Job:
        """Start a stage on out/STAGE that does what `plan` says (tests/drills/killer.py)."""
        out = self.root / "out"
        script = ["-m", "clinrep.export"] if stage == "export" else [f"{stage}.py", f"--config={DEMO / stage}.yaml"]
        flags = [flag.format(out=out, root=self.root) for flag in STAGES[stage]]
        number = len(list(self.root.glob("*.count")))
        count_path = self.root / f"{number}.count"
        count_path.touch()
        killer = ["tests/drills/killer.py", str(out / stage), json.dumps(plan), str(count_path)]
        command = [*(launcher or [sys.executable]), *killer, *script, *flags, f"--output_dir={out / stage}"]
        job = Job(command, out / stage, log_path=self.root / f"{number}.{stage}.log", count_path=count_path)
        self.jobs.append(job)
        return job

    def run(self, stage: str) -> None:
        """Run a stage to its end where it is not there yet."""
        if not (self.root / "out" / stage / "DONE").exists():
            job = self.start(stage)
            assert job.wait() == 0, job.log_path.read_text()

    def run_two_at_once(self, stage: str, launcher: list[str] | None = None) -> tuple[Job, Job]:
        """Start a stage twice, and let none go far before one has ended; return that one and the other, ended."""
        go = self.root / f"go.{stage}"
        go.unlink(missing_ok=True)
        jobs = [self.start(stage, launcher, **{"wait_at": NUM_FIRST, "for": str(go)}) for _ in range(2)]
        deadline = time.monotonic() + 150
        while all(job.process.poll() is None for job in jobs):
            assert time.monotonic() < deadline, [job.log_path.read_text() for job in jobs]
            time.sleep(0.02)
        jobs.sort(key=lambda job: job.process.poll() is None)
        go.touch()
        for job in jobs:
            job.wait()
        return jobs[0], jobs[1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("drill")
    (root / "out").mkdir()
    (root / "whole").mkdir()
    command = [sys.executable, "-m", "clinrep.ehr.simulate", "--num_stays=300", f"--output_dir={root}/simulate"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return Workshop(root)


@pytest.fixture
def workshop(shared: Workshop) -> Iterator[Workshop]:
    """The workshop, in which nothing goes on after a test that failed."""
    yield shared
    (shared.root / STOP).touch()
    for job in shared.jobs:
        job.kill()


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_killed_again_and_again_writes_what_the_uninterrupted_one_does(workshop: Workshop, stage: str) -> None:
    for earlier in list(STAGES)[: list(STAGES).index(stage)]:
        workshop.run(earlier)
    directory, whole = workshop.root / "out" / stage, workshop.root / "whole" / stage
    reader = start_reader(workshop.root, stage)
    refused, done = workshop.run_two_at_once(stage)
    assert done.process.returncode == 0, done.log_path.read_text()
    check_refusal(refused, exit_code=2)
    directory.rename(whole)

    num_moments = int(done.count_path.read_text())
    kills = kill_again_and_again(workshop, stage, num_moments)
    last = workshop.start(stage)
    assert last.wait() == 0, last.log_path.read_text()
    print(f"{stage}: {num_moments} moments, killed at {kills}")
    assert len(kills) >= min(2, NUM_KILLS)
    compare(directory, whole)
    check_reading(workshop.root, stage, reader, whole)


def test_two_runs_of_two_ranks_started_at_once(workshop: Workshop) -> None:
    workshop.run("00_tokenize")
    shutil.rmtree(workshop.root / "out" / "01_pretrain", ignore_errors=True)
    refused, done = workshop.run_two_at_once("01_pretrain", TORCHRUN)
    assert done.process.returncode == 0, done.log_path.read_text()
    check_refusal(refused, exit_code=1)  # torchrun's own; what it tells of its ranks is ours
    assert "exitcode  : 2" in refused.log_path.read_text()


def kill_again_and_again(workshop: Workshop, stage: str, num_moments: int) -> list[tuple[int, float]]:
    """Kill a stage at random moments, the first ones among those in which it describes itself; return them."""
    rng = random.Random(f"{SEED} {stage}")
    bounds = [0, NUM_FIRST] + [
        NUM_FIRST + (num_moments - NUM_FIRST) * n // (NUM_KILLS - 1) for n in range(1, NUM_KILLS)
    ]
    kills = []
    for first, end in itertools.pairwise(bounds):
        number = rng.randrange(first, max(first + 1, end)) + 1
        delay = rng.choice([0.0, 0.0, rng.random() * 0.05])
        job = workshop.start(stage, kill_at=number, after_seconds=delay)
        code = job.wait()
        if code == 0:
            break  # it went on from so far that it ended before
        assert code == -9, job.log_path.read_text()
        kills.append((number, round(delay, 3)))
    return kills


def check_refusal(job: Job, exit_code: int) -> None:
    log = job.log_path.read_text()
    assert job.process.returncode == exit_code, log
    assert len([line for line in log.splitlines() if "error:" in line and "is in use by another run" in line]) == 1, log
    # torchrun tells its own way out by a traceback, which is of none of our files
    assert exit_code == 1 or "Traceback" not in log
    assert f'File "{ROOT}/clinrep' not in log
    assert f'File "{ROOT}/0' not in log


def list_files(directory: Path) -> dict[str, Path]:
    return {
        path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.name != ".lock"
    }


def read(path: Path) -> Any:
    """Return what a file holds; DONE without the digests of files that are never twice the same."""
    if path.name != "DONE":
        return path.read_bytes()
    content = json.loads(path.read_text())
    content["files"] = {name: digest for name, digest in content["files"].items() if Path(name).name not in UNEQUAL}
    return content


def compare(directory: Path, whole: Path) -> None:
    """Assert that two runs left the same files with the same bytes; what a clock decides is left out."""
    ours, theirs = list_files(directory), list_files(whole)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if "/." in f"/{name}"]
    differing = [
        name
        for name, path in ours.items()
        if path.is_file() and path.name not in UNEQUAL and read(path) != read(theirs[name])
    ]
    assert not differing
    if "metrics.jsonl" in ours:
        assert read_metrics(directory) == read_metrics(whole)
    if "report.html" in ours:
        started = [json.loads((run / "provenance.json").read_text())["started"] for run in (directory, whole)]
        texts = [(run / "report.html").read_text() for run in (directory, whole)]
        assert texts[0].replace(started[0], "") == texts[1].replace(started[1], "")


def start_reader(root: Path, stage: str) -> subprocess.Popen[bytes]:
    (root / STOP).unlink(missing_ok=True)
    paths = [root / "out" / stage, root / f"{stage}.seen", root / STOP]
    command = [sys.executable, "tests/drills/reader.py", *map(str, paths)]
    return subprocess.Popen(command, cwd=ROOT)


def check_reading(root: Path, stage: str, reader: subprocess.Popen[bytes], whole: Path) -> None:
    """Assert that a reader found nothing half-written, and of each file none but the bytes of the whole run."""
    (root / STOP).touch()
    assert reader.wait(timeout=120) == 0
    result = json.loads((root / f"{stage}.seen").read_text())
    print(f"reader: {result['num_rounds']} rounds, {result['num_read']} files")
    assert not result["faults"]
    final = list_files(whole)
    for name, digests in result["seen"].items():
        if Path(name).name not in {*UNEQUAL, "DONE"} and "checkpoints/" not in name:
            assert name in final, f"{name} was there for a while"
            assert len(digests) == 1, f"{name} was {len(digests)} different files"
