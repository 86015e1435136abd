"""What has become of the runs of a grid: told from their directories and Slurm's queue, not from memory."""

from __future__ import annotations

import getpass
import json
import re
import shutil
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
    done = {name for name in grid.combinations if (grid.find_output_dir(name) / "DONE").is_file()}
    open_jobs = {name: job for name, job in grid.submissions.items() if name not in done}
    queue = _read_queue() if any(job.cluster == "slurm" for job in open_jobs.values()) else {}
    states = {}
    for name in grid.combinations:
        if name in done:
            states[name] = State(FINISHED)
        elif name not in open_jobs:
            states[name] = State(MISSING)
        else:
            states[name] = _find_state(open_jobs[name], grid.find_output_dir(name), queue)
    return states


def _find_state(job: Submission, output_dir: Path, queue: Mapping[str, str]) -> State:
    if job.cluster == "slurm" and job.job_id in queue:
        word = queue[job.job_id]
        return State(WAITING if word in ("PENDING", "REQUEUED", "REQUEUE_HOLD") else RUNNING, word.lower())
    if job.cluster == "local" and _is_alive(int(job.job_id)):
        return State(RUNNING)
    if (output_dir / "STOPPED").is_file():
        return State(STOPPED, _explain_stop(output_dir / "STOPPED"))
    return State(FAILED, _find_error(Path(job.log)))


def _read_queue() -> dict[str, str]:
    """Return job id (12, or 12_3 in an array) -> state of all of this user's jobs that Slurm has not ended."""
    if shutil.which("squeue") is None:
        raise InputError("squeue is not found here, and jobs of this grid were submitted to Slurm; call this there")
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%F|%K|%T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"squeue failed, so nobody knows what runs: {done.stderr.strip()}; try again later")
    queue = {}
    for line in done.stdout.splitlines():
        job_id, task, state = line.strip().split("|")
        queue[f"{job_id}_{task}" if task.isdigit() else job_id] = state
    return queue


def _is_alive(pid: int) -> bool:
    """Return whether the submitit process of a local job still runs."""
    try:
        return b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _explain_stop(path: Path) -> str:
    try:
        content = json.loads(path.read_text())
        return f"saved at step {content['step']} after {content['signal']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _find_error(log: Path) -> str:
    """Return the last line of a job's log that says what went wrong, else its last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - BYTES_OF_LOG))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return f"no log at {log}"
    telling = [line for line in lines if re.search(r"error: |failed: |Error: ", line) and not line.startswith("srun:")]
    return (telling or lines or ["its log is empty"])[-1]
