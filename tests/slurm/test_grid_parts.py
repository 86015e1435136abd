"""Grids without a Slurm: what is combined, refused, started here, and told of the states."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from clinrep.config import InputError
from clinrep.slurm.grid import Grid, Submission, combine, make_grid, parse_axes
from clinrep.slurm.jobs import StageJob, resolve_options
from clinrep.slurm.sbatch_file import parse_commands, parse_minutes, read_command, read_options
from clinrep.slurm.states import find_states
from tests.slurm.cluster import ROOT

PYTHON = (sys.executable, "-m", "clinrep.slurm")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("30", 30),
        ("90:01", 91),
        ("12:00:00", 720),
        ("0:00:01", 1),
        ("2-00:00:00", 2880),
        ("1-6", 1800),
        ("1-0:30", 1470),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, minutes):
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "x", "1:2:3:4", "-1", "1-"])
def test_other_time_limits_are_refused(text):
    with pytest.raises(ValueError, match="--time"):
        parse_minutes(text)


def test_resources_are_those_of_the_sbatch_file():
    assert read_options("00_tokenize") == {
        "job-name": "00_tokenize", "nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "16", "mem": "32G",
        "time": "12:00:00", "requeue": "", "open-mode": "append", "output": "slurm/logs/%x-%j.out",
    }  # fmt: skip
    changed = resolve_options(Grid("02_finetune", ROOT, [], {}, sbatch={"nodes": "2", "account": "ours"}))
    assert (changed["nodes"], changed["account"], changed["gres"]) == ("2", "ours", "gpu:8")
    assert "array" not in changed


def test_the_command_is_that_of_the_launch_line():
    command = read_command("02_finetune", ["--outcome=imv_event", "--seed=", "--x", "a b"])
    assert command.argv[:3] == ("02_finetune.py", "--config", "configs/ehr/02_finetune.yaml")
    assert command.argv[-4:] == ("--outcome=imv_event", "--seed=", "--x", "a b")
    assert command.stage == "02_finetune"


def test_commands_and_what_the_site_tells_sbatch_are_kept_apart():
    printed = b"2\0a.py\0\0001\0SBATCH_ACCOUNT=x=y\0001\0b.py\0000\0"
    first, second = parse_commands(printed)
    assert (first.argv, first.environment) == (("a.py", ""), {"SBATCH_ACCOUNT": "x=y"})
    assert (second.argv, second.environment) == (("b.py",), {})


def test_axes_are_split_at_commas_outside_of_brackets():
    assert parse_axes(["seed=1,2", "layers=[-1],[0,-1]", "x={a: 1, b: [2,3]}"]) == {
        "seed": ["1", "2"],
        "layers": ["[-1]", "[0,-1]"],
        "x": ["{a: 1, b: [2,3]}"],
    }


@pytest.mark.parametrize("word", ["seed", "seed=", "=1", "seed=1,,2", "output_dir=a,b", "config=a.yaml"])
def test_what_is_no_axis_is_refused(word):
    with pytest.raises(InputError, match="--grid"):
        parse_axes([word])


def test_every_combination_has_a_folder_and_outcomes_lie_side_by_side():
    named = combine({"outcome": ["a", "b"], "seed": ["1", "2"], "backbone_dir": ["runs/x"]})
    assert list(named) == [
        "backbone_dir=runs_x,seed=1/outcome=a",
        "backbone_dir=runs_x,seed=2/outcome=a",
        "backbone_dir=runs_x,seed=1/outcome=b",
        "backbone_dir=runs_x,seed=2/outcome=b",
    ]
    assert named.keys() == combine({"backbone_dir": ["runs/x"], "seed": ["2", "1"], "outcome": ["b", "a"]}).keys()
    assert named["backbone_dir=runs_x,seed=2/outcome=a"] == {"outcome": "a", "seed": "2", "backbone_dir": "runs/x"}
    with pytest.raises(InputError, match="twice"):
        combine({"seed": ["1", "1"]})


def test_a_grid_is_kept_grows_and_refuses_other_flags(tmp_path):
    folder = tmp_path / "grid"
    grid = make_grid("01_pretrain", folder, {"seed": ["1"]}, ["--block_size=64"])
    grid.submissions["seed=1"] = Submission("local", "here", "1", "log")
    grid.sbatch["nodes"] = "2"
    grid.save()
    grown = make_grid("01_pretrain", folder, {"seed": ["2"]}, ["--block_size=64"])
    assert (list(grown.combinations), list(grown.submissions)) == (["seed=1", "seed=2"], ["seed=1"])
    assert grown.sbatch == {"nodes": "2"}  # a rerun on another number of nodes could not resume
    with pytest.raises(InputError, match="holds a grid of 01_pretrain with the flags --block_size=64"):
        make_grid("01_pretrain", folder, {"seed": ["2"]}, [])
    with pytest.raises(InputError, match="--seed stands beside --grid"):
        make_grid("01_pretrain", folder, {"seed": ["2"]}, ["--seed=4"])
    with pytest.raises(InputError, match="holds no grid"):
        make_grid("01_pretrain", tmp_path, {"seed": ["2"]}, [])


@pytest.fixture
def queued(tmp_path, monkeypatch) -> Grid:
    """A grid of six runs at different points, and a squeue that knows two of their jobs."""
    names = ["done", "running", "waiting", "stopped", "failed", "missing"]
    grid = Grid("01_pretrain", tmp_path, [], {name: {} for name in names})
    for place, name in enumerate(names):
        (tmp_path / name).mkdir()
        if name != "missing":
            grid.submissions[name] = Submission("slurm", "login1", f"12_{place}", str(tmp_path / name / "log"))
    (tmp_path / "done/DONE").touch()
    (tmp_path / "stopped/log").write_text(
        "slurm: job 1 on n1, start 1: x\n12:00 W stopped by SIGTERM after saving step 7\n"
    )
    (tmp_path / "failed/STOPPED").write_text('{"step": 7, "signal": "SIGUSR1"}')  # of its first start
    (tmp_path / "failed/log").write_text(
        "slurm: job 1 on n1, start 1: x\n12:00 W stopped by SIGUSR1 after saving step 7\n"
        "slurm: job 1 on n2, start 2: x\n01_pretrain.py: error: no such thing\n"
        "srun: error: n1: exit 2\nslurm: failed with exit code 2\n"
    )
    (tmp_path / "bin").mkdir()
    write_squeue(grid, "printf 'CLUSTER: c\\n12|1|RUNNING\\n12|2|PENDING\\n9|N/A|RUNNING\\n'")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return grid


def write_squeue(grid: Grid, text: str) -> None:
    path = grid.directory / "bin/squeue"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_states_are_told_from_directories_logs_and_the_queue(queued):
    states = find_states(queued)
    words = {name: state.word for name, state in states.items()}
    assert words == {"done": "finished"} | {name: name for name in queued.combinations if name != "done"}
    assert states["failed"].reason == "01_pretrain.py: error: no such thing"
    assert states["stopped"].reason.endswith("stopped by SIGTERM after saving step 7")


def test_a_queue_that_does_not_answer_is_no_empty_queue(queued):
    write_squeue(queued, "echo 'slurm_load_jobs error' >&2; exit 1")
    with pytest.raises(InputError, match="squeue failed"):
        find_states(queued)


def test_a_run_that_ends_while_the_queue_is_asked_has_not_failed(queued):
    write_squeue(queued, f"touch {queued.directory}/running/DONE")
    assert find_states(queued)["running"].word == "finished"


def test_the_queue_is_asked_for_this_user_without_filters(queued, monkeypatch):
    for name in ("USER", "LOGNAME", "SQUEUE_STATES"):
        monkeypatch.setenv(name, "somebody")
    write_squeue(queued, f'echo "$* ${{SQUEUE_STATES:-unset}}" > {queued.directory}/asked')
    find_states(queued)
    words = (queued.directory / "asked").read_text().split()
    assert f"--user={os.getuid()}" in words
    assert words[-1] == "unset"


def test_local_runs_are_known_on_their_machine_only_and_need_no_queue(queued, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    log = str(queued.directory / "failed/log")
    for host, word in ((socket.gethostname(), "failed"), ("elsewhere", "running")):
        job = Submission("local", host, "999999999", log)
        one = Grid(
            "01_pretrain", queued.directory, [], {"failed": {}}, submissions=queued.submissions | {"failed": job}
        )
        assert find_states(one)["failed"].word == word


def test_a_checkpoint_that_saved_nothing_is_not_queued_again(tmp_path, monkeypatch):
    process = subprocess.Popen(["sleep", "100"])
    job = StageJob("01_pretrain", (), tmp_path, is_local=True, _pid=process.pid)
    assert job.checkpoint() is None
    assert process.wait() == -signal.SIGTERM


def test_the_place_in_submitits_array_means_nothing_to_the_stage(monkeypatch):
    for name, value in {
        "JOB_ID": "31003",
        "ARRAY_JOB_ID": "31000",
        "ARRAY_TASK_ID": "3",
        "ARRAY_TASK_COUNT": "4",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    environment = StageJob("01_pretrain", (), ROOT)._environment()
    assert not [name for name in environment if name.startswith("SLURM_ARRAY")]
    assert environment["REQUEUE_ID"] == "31000_3"
    assert environment["SLURM_JOB_ID"] == "31003"
