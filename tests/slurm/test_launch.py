"""The sbatch files and what they source, with stand-ins for srun and scontrol: no Slurm is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, edit_site, reset_site

# Each stand-in appends a line to the file `calls`; srun then does as $STOP and $CODE say.
SRUN = """#!/bin/bash
echo "srun $* | $MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS ${SLURM_TRES_PER_TASK:-unset}" >> calls
if [ -n "$STOP" ]; then
  mkdir -p "$STOPPED_IN"
  echo "{\\"step\\": 3, \\"signal\\": \\"$STOP\\"}" > "$STOPPED_IN/STOPPED"
fi
exit "${CODE:-0}"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> calls
case "$1 $2" in
  "show hostnames") printf 'alpha\\nbeta\\n' ;;
  "show job") echo "JobId=7 PreemptTime=${PREEMPT_TIME:-None} Reason=None" ;;
  requeue*) exit "${REQUEUE_CODE:-0}" ;;
esac
"""
JOB = {
    "SLURM_JOB_ID": "31007",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_CPUS_PER_TASK": "32",
    "SLURM_GPUS_ON_NODE": "8",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A checkout of nothing but slurm/, whose srun, scontrol, sleep and python only take notes."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm", ignore=shutil.ignore_patterns("logs"))
    (tmp_path / "bin").mkdir()
    scripts = {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "sleep": '#!/bin/sh\necho "sleep $*" >> calls\n',
        "nvidia-smi": "#!/bin/sh\necho 1\necho 2\n",
    }
    scripts |= {name: f'#!/bin/sh\necho "{name} $*" >> calls\n' for name in ("python", "torchrun")}
    for name, text in scripts.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    reset_site(tmp_path, f"PATH={tmp_path}/bin:$PATH")
    return tmp_path


def run(site: Path, stage: str, *flags: str, **environment: str) -> tuple[int, str, list[str]]:
    """Run an sbatch file and return its exit code, what it printed and what it called."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CUDA", "OMP"))}
    (site / "calls").unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", f"slurm/{stage}.sbatch", *flags], cwd=site, env=clean | environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    calls = (site / "calls").read_text().splitlines() if (site / "calls").exists() else []
    return done.returncode, done.stdout + done.stderr, calls


def test_one_task_a_gpu_with_its_share_of_the_cpus(site):
    code, _, calls = run(site, "01_pretrain", "--seed", "7", **JOB, SLURM_TRES_PER_TASK="cpu:32")
    threads = max(1, min(32, os.cpu_count() or 1) // 8)
    assert code == 0
    assert calls == [
        "srun --nodes=1 --ntasks=8 --ntasks-per-node=8 --cpus-per-task=4 --mpi=none --kill-on-bad-exit=0 --wait=60 "
        "--unbuffered --label python 01_pretrain.py --config configs/ehr/01_pretrain.yaml "
        "--timelines_dir runs/main/00_tokenize --output_dir runs/main/01_pretrain --seed 7 "
        f"| localhost 21007 {threads} unset"
    ]


def test_several_nodes_meet_at_the_first(site):
    _, _, calls = run(site, "01_pretrain", **JOB | {"SLURM_JOB_NUM_NODES": "2"})
    assert calls[0] == "scontrol show hostnames n[1-2]"
    assert "srun --nodes=2 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=4" in calls[1]
    assert "| alpha 21007 " in calls[1]


def test_stages_without_gpus_are_one_task_with_all_cpus(site):
    edit_site(site, THREADS_PER_PROCESS="5")
    _, _, calls = run(site, "00_tokenize", **JOB | {"SLURM_JOB_NUM_NODES": "2"})
    assert "| localhost 21007 5 unset" in calls[0]
    assert "srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=32" in calls[0]
    assert "--label" not in calls[0]


def test_each_task_of_the_array_has_its_outcome(site):
    edit_site(site, OUTCOMES="(first second)")
    for task, outcome in (("0", "first"), ("1", "second")):
        _, _, calls = run(site, "02_finetune", **JOB, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT="2")
        assert f"--outcome {outcome} " in calls[0]
        assert f"--output_dir runs/main/02_finetune/{outcome} " in calls[0]
    code, said, calls = run(site, "02_finetune", **JOB, SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_TASK_COUNT="3")
    assert (code, calls) == (2, [])
    assert "no outcome for array task '2'; submit an array within 0-1" in said


def test_an_outcome_by_name_is_one_run(site):
    one = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}
    _, _, calls = run(site, "02_finetune", "--outcome", "imv_event", **JOB, **one)
    assert "--output_dir runs/main/02_finetune/imv_event --outcome imv_event" in calls[0]
    code, said, calls = run(site, "02_finetune", "--outcome=imv_event", **JOB, **one | {"SLURM_ARRAY_TASK_COUNT": "4"})
    assert (code, calls) == (2, [])
    assert "--outcome imv_event is one run" in said


def test_tasks_of_an_array_share_a_search(site):
    flags = ["--output_dir", "runs/x"]
    stop = {"STOP": "SIGUSR1", "CODE": "75", "STOPPED_IN": "runs/x/workers/worker-3"}
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "31000"}
    code, _, calls = run(site, "01_pretrain", *flags, **JOB, **stop, **array)
    assert "--search.worker 3" in calls[0]
    assert (code, calls[1]) == (75, "scontrol requeue 31000_3")
    _, _, calls = run(site, "01_pretrain", *flags, **JOB, **array, CODE="1")
    assert calls[1] == "scontrol show job --oneliner 31000_3"  # 31000 may be the id of all tasks


# What the run left, where, and what the job does then.
CASES = {
    "done": ({"CODE": "0"}, 0, [], ""),
    "failed": ({"CODE": "1"}, 1, ["show"], "failed with exit code 1"),
    "wrong input": ({"CODE": "2"}, 2, ["show"], "failed with exit code 2"),
    "failed while preempted": ({"CODE": "143", "PREEMPT_TIME": "2026-11-26"}, 143, ["show", "infinity"], "failed with"),
    "time limit": ({"CODE": "75", "STOP": "SIGUSR1"}, 75, ["requeue", "infinity"], "saving; queued again"),
    "a launcher that hides 75": ({"CODE": "1", "STOP": "SIGUSR1"}, 1, ["requeue", "infinity"], "saving; queued again"),
    "requeue refused": (
        {"CODE": "75", "STOP": "SIGUSR1", "REQUEUE_CODE": "1"}, 75, ["requeue", "show"], "submit the same to continue",
    ),
    "often enough": (
        {"CODE": "75", "STOP": "SIGUSR1", "SLURM_RESTART_COUNT": "10"}, 75, ["show"], "queued again 10 times already",
    ),
    "often enough, but preempted": (
        {"CODE": "75", "STOP": "SIGUSR1", "SLURM_RESTART_COUNT": "10", "PREEMPT_TIME": "2026-11-26"},
        75, ["show", "infinity"], "Slurm takes the nodes",
    ),
    "once more": (
        {"CODE": "75", "STOP": "SIGUSR1", "SLURM_RESTART_COUNT": "9"}, 75, ["requeue", "infinity"], "queued again",
    ),
    "scancel": ({"CODE": "75", "STOP": "SIGTERM"}, 75, ["show"], "not queued again"),
    "preempted by TERM": (
        {"CODE": "75", "STOP": "SIGTERM", "PREEMPT_TIME": "2026-11-26"}, 75, ["show", "infinity"],
        "Slurm takes the nodes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_file_stopped_decides_what_becomes_of_the_job(site, case):
    environment, expected_code, expected_calls, words = CASES[case]
    stopped_in = {"STOPPED_IN": "runs/main/01_pretrain"}
    code, said, calls = run(site, "01_pretrain", **JOB, **environment, **stopped_in)
    assert code == expected_code
    assert [call.split()[1] for call in calls[1:]] == expected_calls
    assert words in said


def test_an_old_stopped_is_not_taken_for_a_new_one(site):
    (site / "runs/main/01_pretrain").mkdir(parents=True)
    (site / "runs/main/01_pretrain/STOPPED").write_text('{"step": 3, "signal": "SIGUSR1"}')
    code, said, calls = run(site, "01_pretrain", **JOB, CODE="1")
    assert code == 1
    assert not any("requeue" in call for call in calls)
    assert "failed with exit code 1" in said


def test_outside_of_slurm_the_same_file_runs_the_stage_here(site):
    _, _, calls = run(site, "00_tokenize", "--seed=3")
    assert re.fullmatch(r"python 00_tokenize.py --config .* --output_dir runs/main/00_tokenize --seed=3", calls[0])
    _, _, calls = run(site, "01_pretrain")
    assert calls[-1].startswith("torchrun --standalone --nproc_per_node=2 01_pretrain.py ")
    for visible in ("3", ""):
        _, _, calls = run(site, "01_pretrain", CUDA_VISIBLE_DEVICES=visible)
        assert calls[0].startswith("python 01_pretrain.py ")


def test_ranks_here_get_the_signals_where_torchrun_can_pass_them_on(site):
    (site / "bin/torchrun").write_text('#!/bin/sh\necho "torchrun $*" >> calls\necho --signals-to-handle\n')
    _, _, calls = run(site, "01_pretrain", CUDA_VISIBLE_DEVICES="0,1,2")
    assert calls[-1].startswith(
        "torchrun --standalone --nproc_per_node=3 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 "
        "--shutdown-timeout=240 01_pretrain.py "
    )


def test_stage_00_stays_within_three_quarters_of_the_memory_of_the_job(site):
    _, _, calls = run(site, "00_tokenize", **JOB, SLURM_MEM_PER_NODE="32768")
    assert "--memory_gb 24 " in calls[0]
    _, _, calls = run(site, "00_tokenize", **JOB, SLURM_MEM_PER_NODE="0")  # all of the node
    assert "--memory_gb" not in calls[0]


def test_a_job_uses_what_it_was_submitted_with_and_not_what_env_sh_says_by_now(site):
    pins = {"PIN_RUN_DIR": "runs/then", "PIN_CLIF_DIR": "a b", "PIN_SITE": "then", "PIN_CONFIG_DIR": "c/then"}
    _, _, calls = run(site, "00_tokenize", **JOB, **pins)
    assert "--config c/then/00_tokenize.yaml --clif_dir a b --output_dir runs/then/00_tokenize" in calls[0]
    _, _, calls = run(site, "04_analyze", **JOB, **pins)
    assert "--timelines_dir.then runs/then/00_tokenize" in calls[0]
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "PIN_OUTCOMES": "first second"}
    _, _, calls = run(site, "02_finetune", **JOB, **pins, **array)
    assert "--outcome second " in calls[0]


def test_stage_04_gets_the_other_sites_also_those_it_was_submitted_with(site):
    _, _, calls = run(site, "04_analyze", **JOB)
    assert calls[0].count("--timelines_dir.") == 1
    edit_site(site, OTHER_SITES='(ucmc=runs/ucmc "third=/data/a b")')
    _, _, calls = run(site, "04_analyze", **JOB)
    assert (
        "--predictions_dir.main runs/main/02_finetune "
        "--timelines_dir.ucmc runs/ucmc/00_tokenize --representations_dir.ucmc runs/ucmc/03_extract_reps "
        "--predictions_dir.ucmc runs/ucmc/02_finetune --timelines_dir.third /data/a b/00_tokenize "
    ) in calls[0]
    _, _, calls = run(site, "04_analyze", **JOB, PIN_OTHER_SITES="")
    assert calls[0].count("--timelines_dir.") == 1
    _, _, calls = run(site, "04_analyze", **JOB, PIN_OTHER_SITES="x=runs/x:y=runs/y z")
    assert "--timelines_dir.x runs/x/00_tokenize " in calls[0]
    assert "--timelines_dir.y runs/y z/00_tokenize " in calls[0]


def test_steps_see_the_environment_also_where_sbatch_exports_none(site):
    (site / "bin/srun").write_text('#!/bin/sh\necho "export $SLURM_EXPORT_ENV" >> calls\n')
    _, _, calls = run(site, "00_tokenize", **JOB, SLURM_EXPORT_ENV="NONE")
    assert calls == ["export ALL"]


def test_the_array_of_the_file_is_refused_for_another_number_of_outcomes(site):
    array = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MAX": "3"}
    assert run(site, "02_finetune", **JOB, **array)[0] == 0
    edit_site(site, OUTCOMES="(a b c d e)")
    code, said, calls = run(site, "02_finetune", **JOB, **array)  # e would be missing, and nobody would notice
    assert (code, calls) == (2, [])
    assert "has 5 names; submit with --array=0-4" in said


@pytest.mark.parametrize("stage", ["00_tokenize", "01_pretrain", "02_finetune", "03_extract_reps", "04_analyze"])
def test_every_file_is_resources_the_site_and_one_launch_line(stage):
    lines = (ROOT / f"slurm/{stage}.sbatch").read_text().splitlines()
    code = [line for line in lines if line and not line.startswith("#")]
    assert code[:3] == ["set -e", 'cd "${SLURM_SUBMIT_DIR:-.}"', "source slurm/env.sh"]
    launches = [line for line in code if line.startswith("launch")]
    assert len(launches) == 1
    assert code[-1].endswith('"$@"')
    assert f"{stage}.py --config" in launches[0]
    header = [line for line in lines if line.startswith("#SBATCH")]
    assert any(line == f"#SBATCH --job-name={stage}" for line in header)
    assert "#SBATCH --requeue" in header
    assert "#SBATCH --open-mode=append" in header  # a requeued job writes on in the same log
    assert ("#SBATCH --signal=USR1@300" in header) == (stage in ("01_pretrain", "02_finetune"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"RUN_DIR": ""}, "RUN_DIR is empty"),  # would write to /
        ({"CLIF_DIR": ""}, "CLIF_DIR is empty"),
        ({"OUTCOMES": "()"}, "OUTCOMES is empty"),
        ({"OTHER_SITES": "(runs/ucmc)"}, "OTHER_SITES in slurm/env.sh holds 'runs/ucmc'; write NAME=RUN_DIR"),
        ({"MAX_REQUEUES": ""}, "MAX_REQUEUES is empty"),
        ({"MAX_REQUEUES": "often"}, "MAX_REQUEUES is 'often'"),
        ({"PROCESSES_PER_NODE": "many"}, "PROCESSES_PER_NODE is 'many'"),
    ],
)
def test_wrong_values_in_env_sh_are_refused_when_it_is_read(site, values, said):
    edit_site(site, **values)
    code, printed, calls = run(site, "00_tokenize", **JOB)
    assert (code, calls) == (2, [])
    assert said in printed
    assert printed.count("error:") == 1
