"""Grids on this machine: what is refused, what runs, what is stopped and taken up again. No Slurm is needed."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from clinrep.slurm.jobs import StageJob
from tests.analysis.fake_runs import finish_again
from tests.jobs import write_workshop
from tests.slurm.cluster import copy_checkout, edit_site, wait_for_step

PYTHON = (sys.executable, "-m", "clinrep.slurm")


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
    (checkout / "runs/site/00_tokenize/config.yaml").write_text(yaml.safe_dump({"outcomes": ["icu_admission"]}))
    finish_again(checkout / "runs/site/00_tokenize")
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
        (["01_pretrain", "--grid", "seed=1,01"], "two runs would be the same"),
        (["01_pretrain", "--grid", "seed=1", "--print_config"], "--print_config runs nothing"),
        (["01_pretrain", "--grid", "seed=1", "--sbatch", "time=never"], "--time is 'never'"),
        (["01_pretrain", "--grid", "seed=1", "--sbatch", "wait"], "no option of sbatch for a grid"),
        (["01_pretrain", "--grid", "seed=1", "--grid_dir", "README.md/x"], "cannot be written"),
        (["01_pretrain", "--grid", f"backbone_dir={'x' * 300}"], "longer than a folder's name"),
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


def test_the_pipeline_is_checked_without_a_slurm_too(site):
    edit_site(site, OUTCOMES="(icu_admission icu_admision)", RUN_DIR="runs/fresh")
    try:
        done = subprocess.run(["slurm/pipeline.sh", "--dry_run"], cwd=site, capture_output=True, text=True, check=False)
    finally:
        edit_site(site, OUTCOMES="(in_hospital_death long_length_of_stay icu_admission imv_event)", RUN_DIR="runs/site")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "unknown outcome 'icu_admision'" in done.stderr  # stages 00 and 01 would have run before it was noticed


def test_where_nothing_could_be_submitted_no_grid_is_left(site):
    said = call(site, "submit", "01_pretrain", "--grid", "seed=1", code=2)
    assert "sbatch is not found here" in said or "sbatch refused" in said  # no Slurm, or none that answers
    assert not list((site / "runs/site").glob("*_grid"))


@pytest.mark.drill
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
    edit_site(site, CLIF_DIR="tables_of_another_site")
    try:
        said = call(site, "status", "01_pretrain", "--rerun", code=2)  # half of the grid would be of another site
    finally:
        edit_site(site, CLIF_DIR="sample_data/clif_demo")
    assert "CLIF_DIR was 'sample_data/clif_demo', now 'tables_of_another_site'" in said


@pytest.mark.drill
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


@pytest.mark.drill
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


def test_the_sites_edits_of_env_sh_do_not_make_the_code_another(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=x"]):
        subprocess.run([*git, *words], cwd=checkout, check=True)
    command = [sys.executable, "-c", "from clinrep.run.directory import is_code_changed as f; print(f())"]

    def ask() -> str:
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()

    edit_site(checkout, SITE="another")
    assert ask() == "False"
    (checkout / "slurm/launch.sh").write_text("# another\n")
    assert ask() == "True"
