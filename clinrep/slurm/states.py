"""What has become of the runs of a grid: told from their directories and Slurm's queue, not from memory."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clinrep.config import InputError
from clinrep.slurm.grid import Grid, Submission

FINISHED, RUNNING, WAITING = "finished", "running", "waiting"
STOPPED, FAILED, MISSING = "stopped", "failed", "missing"
UNDER_WAY = frozenset({FINISHED, RUNNING, WAITING})  # nothing to submit
BYTES_OF_LOG = 50_000


@dataclass(frozen=True)
class State:
    """What one run is at."""

    word: str
    """finished, running, waiting, stopped (saved, and not queued again), failed, or missing (never submitted)."""
    reason: str = ""
    """Why it failed or stopped, as far as its files tell."""


def find_states(grid: Grid) -> dict[str, State]:
    """Return combination -> state.

    Raises:
        InputError: Slurm cannot be asked about a job that is not known to have finished.
    """
    open_jobs = {name: job for name, job in grid.submissions.items() if name in grid.combinations}
    open_jobs = {name: job for name, job in open_jobs.items() if not _is_done(grid, name)}
    # Before DONE is looked for again: a job that ends meanwhile is in the queue as it was, or has DONE.
    queue = _read_queue() if any(job.cluster == "slurm" for job in open_jobs.values()) else {}
    states = {}
    for name in grid.combinations:
        if _is_done(grid, name):
            states[name] = State(FINISHED)
        elif name not in open_jobs:
            states[name] = State(MISSING)
        else:
            states[name] = _find_state(open_jobs[name], queue)
    return states


def _is_done(grid: Grid, name: str) -> bool:
    return (grid.find_output_dir(name) / "DONE").is_file()


def _find_state(job: Submission, queue: Mapping[str, str]) -> State:
    if job.cluster == "slurm" and job.job_id in queue:
        word = queue[job.job_id]
        return State(WAITING if word in ("PENDING", "REQUEUED", "REQUEUE_HOLD") else RUNNING, word.lower())
    if job.cluster == "local" and job.host != socket.gethostname():
        return State(RUNNING, f"or ended: it was started on {job.host}, ask there")
    if job.cluster == "local" and _is_alive(job.job_id):
        return State(RUNNING)
    return _explain(Path(job.log))


def _read_queue() -> dict[str, str]:
    """Return job id (12, or 12_3 in an array) -> state of all of this user's jobs that Slurm has not ended."""
    if shutil.which("squeue") is None:
        raise InputError("squeue is not found here, and jobs of this grid were submitted to Slurm; call this there")
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%F|%K|%T"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}  # filters
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"squeue failed, so nobody knows what runs: {done.stderr.strip()}; try again later")
    queue = {}
    for line in done.stdout.splitlines():
        if line.count("|") == 2:  # of several clusters, each begins with its name
            job_id, task, state = line.strip().split("|")
            queue[f"{job_id}_{task}" if task.isdigit() else job_id] = state
    return queue


def _is_alive(pid: str) -> bool:
    """Return whether the submitit process of a local job still runs."""
    try:
        return b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _explain(log: Path) -> State:
    """Tell a run that was stopped after saving from one that failed, by what its last start has printed."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - BYTES_OF_LOG))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return State(FAILED, f"no log at {log}")
    lines = [line for line in lines if line and not line.startswith("submitit ")]
    starts = [place for place, line in enumerate(lines) if re.match(r"slurm: job \S+ on ", line)]
    lines = lines[starts[-1] :] if starts else lines
    stops = [line for line in lines if "after saving step" in line]
    if stops:
        return State(STOPPED, stops[-1])
    telling = [line for line in lines if re.search(r"error: |failed: |Error: ", line) and not line.startswith("srun:")]
    return State(FAILED, (telling or lines or ["its log is empty"])[-1])
