"""Grids without a Slurm: what is combined, refused, started here, and told of the states."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clinrep.config import InputError
from clinrep.slurm.grid import Grid, Submission, combine, make_grid, parse_axes
from clinrep.slurm.jobs import StageJob, resolve_options
from clinrep.slurm.sbatch_file import parse_commands, parse_minutes, read_command, read_options
from clinrep.slurm.states import find_states
from tests.jobs import write_workshop
from tests.slurm.cluster import ROOT, copy_checkout, edit_site, wait_for_step

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
    changed = resolve_options(Grid("02_finetune", ROOT, [], {}, {"nodes": "2", "account": "ours"}))
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
        one = Grid("01_pretrain", queued.directory, [], {"failed": {}}, {}, {**queued.submissions, "failed": job})
        assert find_states(one)["failed"].word == word


def call(checkout: Path, *words: str, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    done = subprocess.run(
        [*PYTHON, *words], cwd=checkout, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose settings train a tiny model on made-up timelines."""
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    settings = {
        "block_size": 64,
        "global_batch_tokens": 128,
        "model": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_layers": 1,
            "num_heads": 1,
            "num_key_value_heads": 1,
        },
        "training": {"learning_rate": 0.01, "batch_size": 2, "max_steps": 4, "eval_steps": 2},
    }
    write_workshop(checkout / "runs/site", settings, num_subjects=20)
    (checkout / "runs/site/00").rename(checkout / "runs/site/00_tokenize")
    text = (checkout / "runs/site/config.yaml").read_text()
    (checkout / "site_configs/01_pretrain.yaml").write_text(re.sub("timelines_dir:.*", "", text))
    return checkout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["01_pretrian", "--grid", "seed=1"], "unknown stage '01_pretrian'; known: 00_tokenize, 01_pretrain"),
        (["01_pretrain", "--grid", "sed=1,2"], "did you mean 'seed'"),
        (["01_pretrain", "--grid", "seed=1,-2"], "seed is -2 but must be 0 or more"),
        (["01_pretrain", "--grid", "training.batch_size=1,many"], "--training.batch_size"),
        (["01_pretrain", "--grid", "seed=1", "--timelines_dir=nowhere"], "nowhere does not exist"),
        (["01_pretrain", "--grid", "seed=1", "--max_parallel", "0"], "--max_parallel is 0"),
        (["03_extract_reps", "--grid", "seed=1"], "01_pretrain does not exist"),
        (["02_finetune", "--grid", "outcome=a,b", "--sbatch", "dependency=afterok:1"], "unknown outcome 'a'"),
    ],
)
def test_a_grid_is_refused_whole_before_anything_is_submitted(site, words, said):
    assert said in call(site, "submit", *words, "--cluster", "local", code=2)
    assert not list((site / "runs/site").glob("*_grid"))


def test_dry_run_prints_every_command_and_writes_nothing(site):
    printed = call(site, "submit", "01_pretrain", "--grid", "seed=1,2", "block_size=32,64", "--dry_run")
    commands = re.findall(r"^ +01_pretrain.py .*$", printed, flags=re.MULTILINE)
    pairs = [re.findall(r"--seed=(\d) --block_size=(\d+)", command)[0] for command in commands]
    assert pairs == [("1", "32"), ("1", "64"), ("2", "32"), ("2", "64")]
    assert "--gres=gpu:8" in printed
    assert not list((site / "runs/site").glob("*_grid"))


@pytest.mark.slow
def test_the_same_grid_runs_on_this_machine_and_again_only_what_is_missing(site):
    words = ["submit", "01_pretrain", "--grid", "training.learning_rate=0.01,0.02,1e30", "--cluster", "local"]
    printed = call(site, *words, "--max_parallel", "2", code=1)
    grid = site / "runs/site/01_pretrain_grid"
    fine = [grid / f"training.learning_rate={rate}" for rate in ("0.01", "0.02")]
    assert all((folder / "backbone/model.safetensors").is_file() for folder in fine)
    assert printed.count("finished ") == 2
    assert printed.count("failed ") == 1
    assert "lower training.learning_rate" in printed
    assert "2 finished, 1 failed" in call(site, "status")
    made = (fine[0] / "backbone/model.safetensors").stat().st_mtime_ns
    (fine[1] / "DONE").unlink()
    printed = call(site, *words, "--max_parallel", "2", code=1)
    assert "1 finished, left alone" in printed
    assert len(re.findall(r"^starting ", printed, flags=re.MULTILINE)) == 2
    assert (fine[0] / "backbone/model.safetensors").stat().st_mtime_ns == made


@pytest.mark.slow
def test_ctrl_c_lets_a_local_run_save_and_starts_no_more(site):
    grid = site / "runs/interrupted"
    words = ["submit", "01_pretrain", "--grid", "seed=1,2", "--cluster", "local", "--grid_dir", str(grid)]
    command = [*PYTHON, *words, "--training.max_steps=100000", "--training.eval_steps=100000"]
    process = subprocess.Popen(command, cwd=site, start_new_session=True, stdout=subprocess.PIPE, text=True)
    wait_for_step(grid / "seed=1", 20)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that run in it
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped  seed=1: " in printed
    stopped = json.loads((grid / "seed=1/STOPPED").read_text())
    assert (grid / f"seed=1/checkpoints/checkpoint-{stopped['step']}/COMPLETE").is_file()
    assert not (grid / "seed=2").exists()
    assert "1 stopped, 1 missing" in call(site, "status", "--grid_dir", str(grid))


@pytest.mark.slow
def test_submitit_stops_a_local_run_by_checkpoint_and_takes_it_up_again(site, monkeypatch):
    output_dir = site / "runs/site/checkpointed"
    monkeypatch.setattr("clinrep.slurm.jobs.ROOT", site)
    monkeypatch.setattr("clinrep.slurm.sbatch_file.ROOT", site)
    flags = ("--training.max_steps=600", "--training.eval_steps=600", f"--output_dir={output_dir}")
    job = StageJob("01_pretrain", flags, output_dir, is_local=True)
    assert StageJob.__submitit_checkpoint__ is StageJob.checkpoint
    again = []

    def interrupt(number, frame):
        again.append(job.checkpoint())

    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        threading.Thread(target=signal_after_step, args=(output_dir, 20), daemon=True).start()
        with pytest.raises(SystemExit) as stopped:
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert stopped.value.code == 75
    assert json.loads((output_dir / "STOPPED").read_text())["signal"] == "SIGTERM"
    (submission,) = again
    resumed = pickle.loads(pickle.dumps(submission.function))
    assert (resumed.stage, resumed.flags, resumed.output_dir) == ("01_pretrain", flags, output_dir)
    resumed()
    assert (output_dir / "DONE").is_file()
    assert "resuming after step" in (output_dir / "run.log").read_text()


def signal_after_step(directory: Path, step: int) -> None:
    wait_for_step(directory, step)
    os.kill(os.getpid(), signal.SIGUSR2)


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


def test_the_sites_edits_of_env_sh_do_not_make_the_code_another(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=x"]):
        subprocess.run([*git, *words], cwd=checkout, check=True)
    command = [sys.executable, "-c", "from clinrep.run_directory import is_code_changed as f; print(f())"]

    def ask() -> str:
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()

    edit_site(checkout, SITE="another")
    assert ask() == "False"
    (checkout / "slurm/launch.sh").write_text("# another\n")
    assert ask() == "True"
