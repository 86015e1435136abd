"""A grid on a real Slurm, by submitit: what is asked for, what ran, what is rerun."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from clinrep import artifacts
from tests.slurm.cluster import ROOT, Cluster, read_provenance, wait_for_step

pytestmark = pytest.mark.slurm

FINE, BAD = "training.learning_rate=0.001", "training.learning_rate=1e30"
PYTHON = (sys.executable, "-m", "clinrep.slurm")


def read_lines(text: str) -> dict[str, str]:
    """Return the #SBATCH options of an sbatch file, by a reader of its own."""
    lines = re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", text, flags=re.MULTILINE)
    assert len(lines) == text.count("#SBATCH") == len(dict(lines))
    return {name: value.strip("'") for name, value in lines}


def read_states(printed: str) -> dict[str, str]:
    return {name: word for word, name in re.findall(r"^  (\w+) +\S+ +([^:\s]+)", printed, flags=re.MULTILINE)}


@pytest.fixture(scope="module")
def grid(cluster: Cluster, checkout: Path, backbone: Path) -> str:
    """Submit a grid of which two runs must fail, wait for its end and return what was printed."""
    words = ["--grid", "outcome=icu_admission,imv_event", "--grid", "training.learning_rate=0.001,1e30"]
    printed = cluster.call(*PYTHON, "submit", "02_finetune", *words, "--max_parallel", "2", cwd=checkout)
    cluster.wait(re.findall(r"job (\d+)_0", printed)[0])
    return printed


def test_a_job_asks_for_what_the_sbatch_file_says(grid, cluster, checkout):
    asked = read_lines((ROOT / "slurm/02_finetune.sbatch").read_text())
    (path,) = (checkout / "runs/site/02_finetune_grid/jobs").glob("*_submission.sh")
    written = read_lines(path.read_text())
    for name in asked.keys() - {"array", "output"}:
        assert written[name] == asked[name], name
    assert written.keys() - asked.keys() == {"wckey"}
    assert written["array"] == "0-3%2"
    for fields in cluster.show(re.findall(r"job (\d+)_0", grid)[0]):
        assert fields["TresPerNode"] == "gres:gpu:8"
        assert fields["CPUs/Task"] == "32"
        assert fields["MinMemoryNode"] == "256G"
        assert fields["TimeLimit"] == "12:00:00"
        assert fields["Requeue"] == "1"
        assert fields.get("WCKey", "") in ("", "*")


def test_every_combination_ran_with_its_own_settings(grid, checkout):
    for outcome in ("icu_admission", "imv_event"):
        directory = checkout / f"runs/site/02_finetune_grid/{FINE}/outcome={outcome}"
        artifacts.read_done(directory, "02_finetune")
        text = (directory / "config.yaml").read_text()
        assert "\n  learning_rate: 0.001\n" in text
        assert f"\noutcome: {outcome}\n" in text
        assert set(artifacts.read_table("predictions", directory)["outcome"]) == {outcome}


def test_status_tells_failed_from_finished_and_reruns_only_what_is_missing(grid, cluster, checkout):
    printed = cluster.call(*PYTHON, "status", "02_finetune", cwd=checkout)
    outcomes = ("icu_admission", "imv_event")
    assert read_states(printed) == {f"{FINE}/outcome={outcome}": "finished" for outcome in outcomes} | {
        f"{BAD}/outcome={outcome}": "failed" for outcome in outcomes
    }
    assert "lower training.learning_rate" in printed  # why, from its log
    before = read_provenance(checkout / f"runs/site/02_finetune_grid/{FINE}/outcome=imv_event")
    rerun = cluster.call(*PYTHON, "status", "02_finetune", "--rerun", "--sbatch", "hold", cwd=checkout)
    assert "2 finished, left alone" in rerun
    started = re.findall(r"^job (\d+_\d) +(\S+)", rerun, flags=re.MULTILINE)
    assert sorted(name for _, name in started) == [f"{BAD}/outcome={outcome}" for outcome in outcomes]
    assert list(read_states(cluster.call(*PYTHON, "status", cwd=checkout)).values()).count("waiting") == 2
    again = cluster.call(*PYTHON, "status", "02_finetune", "--rerun", cwd=checkout)
    assert re.findall(r"^\d.*left alone", again, flags=re.MULTILINE) == [
        "2 finished, left alone",
        "2 waiting, left alone",
    ]
    assert "job " not in again
    (array,) = {job.partition("_")[0] for job, _ in started}
    cluster.call("scontrol", "release", array, cwd=checkout)
    cluster.wait(array)
    assert read_provenance(checkout / f"runs/site/02_finetune_grid/{FINE}/outcome=imv_event") == before


def test_a_stopped_run_of_a_grid_is_queued_again_and_goes_on(cluster, checkout, tokenized):
    words = ["--grid", "seed=5", "--training.max_steps=500", "--training.eval_steps=250"]
    printed = cluster.call(*PYTHON, "submit", "01_pretrain", *words, cwd=checkout)
    (job,) = re.findall(r"job (\d+) ", printed)
    directory = checkout / "runs/site/01_pretrain_grid/seed=5"
    wait_for_step(directory, 20)
    assert read_states(cluster.call(*PYTHON, "status", "01_pretrain", cwd=checkout)) == {"seed=5": "running"}
    cluster.call("scancel", "--signal=USR1", job, cwd=checkout)
    cluster.wait_until_running(job, count=1)
    (fields,) = cluster.wait(job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    assert (directory / "run.log").read_text().count("resuming after step") == 1
    assert read_states(cluster.call(*PYTHON, "status", "01_pretrain", cwd=checkout)) == {"seed=5": "finished"}
    assert "1 finished, left alone" in cluster.call(*PYTHON, "submit", "01_pretrain", *words, cwd=checkout)


def test_what_sbatch_refuses_is_said_and_can_be_tried_again(cluster, checkout, tokenized):
    words = ["submit", "01_pretrain", "--grid", "seed=1,2", "--grid_dir", "runs/refused"]
    said = cluster.call(*PYTHON, *words, "--sbatch", "partition=nowhere", cwd=checkout, code=2)
    assert said.count("\n") == 1
    assert said.startswith("clinrep.slurm: error: sbatch refused: sbatch: error: invalid partition")
    printed = cluster.call(*PYTHON, *words, "--dry_run", cwd=checkout)
    assert printed.count("to start") == 2


def test_what_is_given_by_hand_wins_over_what_env_sh_tells_sbatch(cluster, checkout, tokenized):
    path = checkout / "slurm/env.sh"
    text = path.read_text()
    path.write_text(text.replace("# export SBATCH_PARTITION=gpu", "export SBATCH_PARTITION=gpu SBATCH_TIMELIMIT=40"))
    words = ["submit", "01_pretrain", "--grid", "seed=9", "--grid_dir", "runs/by_hand", "--sbatch", "hold"]
    try:
        printed = cluster.call(*PYTHON, *words, "partition=scavenge", cwd=checkout)
    finally:
        path.write_text(text)
    (job,) = re.findall(r"job (\d+) ", printed)
    (fields,) = cluster.show(job)
    cluster.call("scancel", job, cwd=checkout)
    assert (fields["Partition"], fields["TimeLimit"]) == ("scavenge", "00:40:00")
    cluster.wait(job)
    printed = cluster.call(*PYTHON, "status", "--grid_dir", "runs/by_hand", "--rerun", cwd=checkout)
    (again,) = re.findall(r"job (\d+) ", printed)  # asks for the same, but is not held
    fields = cluster.wait_until_running(again)
    cluster.call("scancel", again, cwd=checkout)
    cluster.wait(again)
    assert fields["Partition"] == "scavenge"
