"""Jobs of a grid by submitit: one combination each, started by the sbatch file of its stage."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmJobEnvironment

from clinrep.config import InputError
from clinrep.slurm.grid import Grid, Submission
from clinrep.slurm.sbatch_file import (
    ROOT,
    UNLIMITED_MINUTES,
    Command,
    find_file,
    job_environment,
    parse_minutes,
    read_options,
)

SECONDS_BETWEEN_LOOKS = 0.5


@dataclass
class StageJob:
    """What submitit calls in the job: the stage's sbatch file with the flags of one combination.

    The sbatch file starts the stage and queues the job again after a stop, as it does for a plain sbatch. The state
    of a run is in the stage's own checkpoints and nowhere else.
    """

    stage: str
    flags: tuple[str, ...]
    output_dir: Path
    visible_gpus: str | None = None
    """CUDA_VISIBLE_DEVICES of who called, for a local run: submitit sets its own."""
    is_local: bool = False
    num_threads: int | None = None
    """Threads of a local run that shares the machine with others; None: all."""
    _pid: int | None = None

    def __call__(self) -> None:
        """Run the stage to its end; its exit code becomes the job's.

        Raises:
            SystemExit: the stage failed, refused its input, or was stopped after saving.
        """
        process = subprocess.Popen(
            ["bash", str(find_file(self.stage)), *self.flags],
            cwd=ROOT,
            env=self._environment(),
            preexec_fn=_heed_interrupt if self.is_local else None,
        )
        self._pid = process.pid
        # Looks instead of waiting: `checkpoint` interrupts this, and Popen.wait holds a lock while it waits.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if process.wait():
            raise SystemExit(process.returncode if process.returncode > 0 else 128 - process.returncode)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Stop the stage so that it saves, and return the job that goes on from there; None where nothing was saved.

        submitit calls this when it gets its signal: locally before the time limit, on Slurm only where somebody
        signals the batch script (Slurm's own signals go to the stage, which needs no help).
        """
        before = _read_stamp(self.output_dir)
        if self._pid is not None:
            if self.is_local:
                os.kill(self._pid, signal.SIGTERM)
            else:
                subprocess.run(["scancel", "--signal=TERM", SlurmJobEnvironment().job_id], check=True)
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
            is_saved = _read_stamp(self.output_dir) not in (before, None) or (self.output_dir / "DONE").is_file()
            if not is_saved:
                return None
        return submitit.helpers.DelayedSubmission(replace(self, _pid=None))

    # submitit documents this name and looks for the other one too before it calls either.
    __submitit_checkpoint__ = checkpoint

    def _environment(self) -> dict[str, str]:
        """Return the job's environment, in which the place in submitit's array means no outcome and no worker."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_ARRAY_")}
        environment["SLURM_SUBMIT_DIR"] = str(ROOT)
        if not self.is_local:
            return environment | {"REQUEUE_ID": SlurmJobEnvironment().job_id}
        for key in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
            environment.pop(key, None)
        if self.visible_gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.visible_gpus
        if self.num_threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.num_threads)
        return environment


def _read_stamp(directory: Path) -> tuple[int, int] | None:
    """Return what tells one STOPPED from another; None where there is none."""
    try:
        stat = (directory / "STOPPED").stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def resolve_options(grid: Grid) -> dict[str, str]:
    """Return what a job asks for: the #SBATCH lines of the stage, some changed, less what submitit writes.

    submitit writes a --signal for every stage: its own would kill those that know none before their time limit.
    USR1@0 is none before a limit (and at a preemption as deadly as TERM).

    Raises:
        InputError: there is no time limit, or none that Slurm knows.
    """
    options = {"signal": "USR1@0"} | read_options(grid.stage) | grid.sbatch
    if "time" not in options:
        raise InputError(f"slurm/{grid.stage}.sbatch has no line #SBATCH --time=...; add one")
    parse_minutes(options["time"])
    for name in ("array", "output", "open-mode"):
        options.pop(name, None)
    return options


def submit_to_slurm(grid: Grid, names: Sequence[str], max_parallel: int | None) -> dict[str, Submission]:
    """Submit one job, or an array of them, and return combination -> job.

    Args:
        grid: what the runs are of.
        names: combinations to run.
        max_parallel: jobs of the array at the same time; None: as many as Slurm starts.

    Raises:
        InputError: sbatch is not here or refuses; its message is passed on.
    """
    options = resolve_options(grid)
    if shutil.which("sbatch") is None:
        raise InputError("sbatch is not found here; call this where jobs are submitted, or give --cluster local")
    executor = _make_executor(grid, "slurm")
    told = {name.replace("-", "_"): value or True for name, value in options.items()}
    executor.update_parameters(
        timeout_min=parse_minutes(options["time"]),
        slurm_use_srun=False,  # the sbatch file calls srun itself
        slurm_array_parallelism=max_parallel or len(names),
        slurm_additional_parameters={"wckey": "", **told},  # submitit's own wckey is refused where they are checked
    )
    try:
        with redirect_stderr(StringIO()), executor.batch():  # submitit prints what the error below says
            jobs = [executor.submit(_make_job(grid, name)) for name in names]
    except (FailedJobError, FailedSubmissionError) as error:
        raise InputError(f"sbatch refused: {' '.join(str(error).split())}") from error
    return {name: _record("slurm", job) for name, job in zip(names, jobs, strict=True)}


@dataclass(frozen=True)
class Task:
    """One combination of a grid that is to run here."""

    grid: Grid
    name: str
    command: Command
    """What its sbatch file starts, with what slurm/env.sh says."""


def run_here(
    tasks: Sequence[Task],
    max_parallel: int | None,
    on_change: Callable[[Task, Submission, bool], None],
    choose: Callable[[list[Task]], Task | None] = lambda waiting: waiting[0],
) -> None:
    """Run combinations on this machine, `max_parallel` (1) at a time, and return when none can be started any more.

    Ctrl-C stops those that run, which save, and starts no more.

    Args:
        tasks: what to run.
        max_parallel: runs at the same time; they share the GPUs.
        on_change: called with the task and its job when it starts (False) and when it has ended (True).
        choose: given those that wait, returns the one to start next, or None while there is none.
    """
    num_threads = max(1, (os.cpu_count() or 1) // max_parallel) if max_parallel else None
    waiting, running = list(tasks), list[tuple[Task, Any, Submission]]()
    is_interrupted = False
    while waiting or running:
        try:
            while waiting and len(running) < (max_parallel or 1) and (task := choose(waiting)) is not None:
                waiting.remove(task)
                job = _start_here(task, num_threads)
                running.append((task, job, _record("local", job)))
                on_change(task, running[-1][2], False)
            if not running:
                break  # what waits, waits for something that did not finish
            for entry in [entry for entry in running if entry[1].done()]:
                running.remove(entry)
                on_change(entry[0], entry[2], True)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            if is_interrupted:
                raise
            is_interrupted = True
            waiting.clear()
    if is_interrupted:
        raise KeyboardInterrupt


def _start_here(task: Task, num_threads: int | None) -> Any:
    """Start a combination and return submitit's job."""
    executor = _make_executor(task.grid, "local")
    executor.update_parameters(timeout_min=UNLIMITED_MINUTES)
    job = replace(_make_job(task.grid, task.name), is_local=True, num_threads=num_threads)
    with job_environment(task.command, task.grid.sbatch), _ignore_interrupt():
        return executor.submit(job)


@contextmanager
def _ignore_interrupt() -> Iterator[None]:
    """Let submitit's processes started meanwhile ignore Ctrl-C: it is for the stages, which save, and for us."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _heed_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _record(cluster: str, job: Any) -> Submission:
    return Submission(cluster, socket.gethostname(), job.job_id, str(job.paths.stdout))


def _make_job(grid: Grid, name: str) -> StageJob:
    visible_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    return StageJob(grid.stage, tuple(grid.list_flags(name)), grid.find_output_dir(name), visible_gpus)


def _make_executor(grid: Grid, cluster: str) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder=grid.directory / "jobs", cluster=cluster)
    executor.update_parameters(stderr_to_stdout=True)
    return executor
