"""Pretraining stopped in the middle by preemption, time limit, a person: nothing lost, nothing queued without end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.jobs import read_metrics
from tests.slurm.cluster import Cluster, edit_site, read_provenance, read_stop, wait_for_step, wait_for_text

pytestmark = pytest.mark.slurm

NUM_STEPS = 500
LONG = (f"--training.max_steps={NUM_STEPS}", "--training.eval_steps=250")


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster, checkout: Path, tokenized: Path) -> dict[tuple[int, str], float]:
    """Run the pretraining of this module once without a stop and return its metrics."""
    job = cluster.submit(checkout, "slurm/01_pretrain.sbatch", *LONG, "--output_dir=runs/whole")
    (fields,) = cluster.wait(job)
    assert fields["JobState"] == "COMPLETED"
    metrics = read_metrics(checkout / "runs/whole")
    assert {step for step, name in metrics if name == "loss"} == set(range(1, NUM_STEPS + 1))
    return metrics


def start(cluster: Cluster, checkout: Path, name: str, *sbatch: str) -> tuple[str, Path]:
    """Submit the same pretraining with another directory and return the job when it has trained some steps."""
    directory = checkout / "runs" / name
    job = cluster.submit(checkout, *sbatch, "slurm/01_pretrain.sbatch", *LONG, f"--output_dir=runs/{name}")
    wait_for_step(directory, 20)
    return job, directory


def check_resumed(directory: Path, job: str, num_stops: int) -> None:
    """Assert that the run was taken up where it was saved, by the same job."""
    sessions = read_provenance(directory)["resumed"]
    assert len(sessions) == num_stops
    assert {session["slurm_job_id"] for session in [*sessions, read_provenance(directory)]} == {job}
    assert not (directory / "STOPPED").exists()
    assert (directory / "DONE").is_file()
    log = (directory / "run.log").read_text()
    assert log.count("resuming after step") == num_stops
    assert "are trained again" not in log


def read_log(checkout: Path, job: str) -> str:
    return (checkout / f"slurm/logs/01_pretrain-{job}.out").read_text()


def preempt(cluster: Cluster, checkout: Path, job: str) -> None:
    """Take the nodes from a job of `scavenge` and wait until it runs again."""
    preemptor = cluster.submit(checkout, "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_until_running(job, count=1)
    assert cluster.show(preemptor)[0]["JobState"] in ("COMPLETED", "COMPLETING")


SCAVENGE = ("--partition=scavenge", "--exclusive")


def test_preempted_by_usr1_it_queues_itself_again_and_loses_nothing(cluster, checkout, uninterrupted):
    job, directory = start(cluster, checkout, "preempted", *SCAVENGE)
    preempt(cluster, checkout, job)
    (fields,) = cluster.wait(job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    check_resumed(directory, job, num_stops=1)
    assert "stopped after saving; queued again" in read_log(checkout, job)
    assert read_metrics(directory) == uninterrupted


def test_preempted_by_term_it_leaves_requeueing_to_slurm(cluster, checkout, uninterrupted):
    # Slurm's default. A job that ended by itself in the grace time would be FAILED and never come back.
    cluster.configure("SlurmctldParameters=preempt_send_user_signal", "# no signal of the job at preemption")
    try:
        job, directory = start(cluster, checkout, "preempted_term", *SCAVENGE)
        preempt(cluster, checkout, job)
        (fields,) = cluster.wait(job)
    finally:
        cluster.configure("# no signal of the job at preemption", "SlurmctldParameters=preempt_send_user_signal")
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    check_resumed(directory, job, num_stops=1)
    log = read_log(checkout, job)
    assert "Slurm takes the nodes away" in log
    assert "queued again" not in log
    assert read_metrics(directory) == uninterrupted


def test_the_node_fails_and_the_job_goes_on_from_its_last_checkpoint(cluster, checkout, uninterrupted):
    job, directory = start(cluster, checkout, "requeued")
    wait_for_step(directory, 250)
    cluster.call("scontrol", "requeue", job, cwd=checkout)  # what Slurm does when a node is gone; nobody is asked
    cluster.wait_until_running(job, count=1)
    (fields,) = cluster.wait(job)
    assert fields["JobState"] == "COMPLETED"
    assert read_metrics(directory) == uninterrupted


def test_scancel_saves_and_ends_the_job(cluster, checkout, tokenized):
    job, directory = start(cluster, checkout, "cancelled")
    cluster.call("scancel", job, cwd=checkout)
    (fields,) = cluster.wait(job)
    assert (fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0")
    assert read_stop(directory)["signal"] == "SIGTERM"
    assert (directory / f"checkpoints/checkpoint-{read_stop(directory)['step']}/COMPLETE").is_file()
    assert not (directory / "DONE").exists()


def test_a_job_is_queued_again_no_more_often_than_the_site_says(cluster, checkout, tokenized):
    edit_site(checkout, MAX_REQUEUES="1")
    try:
        job, directory = start(cluster, checkout, "bounded")
        cluster.call("scancel", "--signal=USR1", job, cwd=checkout)  # reaches the step only, as before a time limit
        cluster.wait_until_running(job, count=1)
        (resumed_after,) = re.findall(
            r"resuming after step (\d+)", wait_for_text(directory / "run.log", "resuming after")
        )
        wait_for_step(directory, int(resumed_after) + 20)
        cluster.call("scancel", "--signal=USR1", job, cwd=checkout)
        (fields,) = cluster.wait(job)
    finally:
        edit_site(checkout, MAX_REQUEUES="10")
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "75:0", "1")
    assert "queued again 1 times already" in read_log(checkout, job)
    assert read_stop(directory)["signal"] == "SIGUSR1"


def test_of_an_array_only_the_stopped_task_is_queued_again(cluster, checkout, backbone):
    flags = ["--timelines_dir=runs/site/00_tokenize", "--backbone_dir=runs/site/01_pretrain"]
    flags += ["--training.max_steps=100", "--training.eval_steps=100", "--training.early_stopping_patience=null"]
    edit_site(checkout, RUN_DIR="runs/array")
    try:
        job = cluster.submit(checkout, "--array=2,3", "slurm/02_finetune.sbatch", *flags)
        last = f"{job}_3"  # the task with the array's own id: naming that would start both again
        wait_for_step(checkout / "runs/array/02_finetune/imv_event", 5)
        cluster.call("scancel", "--signal=USR1", last, cwd=checkout)
        cluster.wait(job)
    finally:
        edit_site(checkout, RUN_DIR="runs/site")
    shown = {fields["ArrayTaskId"]: fields for fields in cluster.show(job)}
    assert {task: (fields["JobState"], fields["Restarts"]) for task, fields in shown.items()} == {
        "2": ("COMPLETED", "0"),
        "3": ("COMPLETED", "1"),
    }
    check_resumed(checkout / "runs/array/02_finetune/imv_event", shown["3"]["JobId"], num_stops=1)


def test_at_a_real_time_limit_it_saves_and_goes_on(cluster, checkout, tokenized):
    # The header asks for USR1 300 s before the limit: of 6 minutes after 1, up to half a minute early.
    flags = ["--training.max_steps=2600", "--training.eval_steps=2600"]
    job = cluster.submit(checkout, "--time=6", "slurm/01_pretrain.sbatch", *flags, "--output_dir=runs/limit")
    (fields,) = cluster.wait(job, seconds=400)
    assert fields["JobState"] == "COMPLETED"
    assert int(fields["Restarts"]) >= 1
    check_resumed(checkout / "runs/limit", job, num_stops=int(fields["Restarts"]))
    metrics = read_metrics(checkout / "runs/limit")
    assert {step for step, name in metrics if name == "loss"} == set(range(1, 2601))
