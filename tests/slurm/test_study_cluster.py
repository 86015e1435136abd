"""A study on a real Slurm: who waits for whom, what is cancelled, what the same command submits again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from clinrep import artifacts
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm

PYTHON = (sys.executable, "-m", "clinrep.slurm")
SETTINGS = {"training.max_steps": 4, "training.eval_steps": 2}
STEPS = {
    "classify": {
        "stage": "02_finetune", "site": "site", "folder": "a=1", "inputs": {"backbone_dir": "pretrain"},
        "vary": {"outcome": ["icu_admission"], "seed": [1, 2]},
    },
    "pretrain": {
        "stage": "01_pretrain", "site": "site", "folder": "a=1", "vary": {"seed": [1, 2]}, "settings": SETTINGS,
    },
    "bad": {
        "stage": "01_pretrain", "site": "site", "folder": "b=1",
        "settings": SETTINGS | {"training.learning_rate": 1e30},
    },
    "after_bad": {
        "stage": "02_finetune", "site": "site", "folder": "b=1", "inputs": {"backbone_dir": "bad"},
        "settings": {"outcome": "icu_admission"},
    },
}  # fmt: skip


def test_jobs_run_after_those_they_read_and_what_failed_is_submitted_again(
    cluster: Cluster, checkout: Path, tokenized: Path
):
    content = {
        "study_dir": "runs/study", "clif_dir": {"site": "sample_data/clif_demo"}, "run_dir": {"site": "runs/site"},
        "config_dirs": ["site_configs"], "steps": STEPS,
    }  # fmt: skip
    (checkout / "study.yaml").write_text(yaml.safe_dump(content))
    printed = cluster.call(*PYTHON, "study", "study.yaml", cwd=checkout)
    jobs = re.findall(r"^  job (\d+): (\d) runs?(?:, after (\S+))?$", printed, flags=re.MULTILINE)
    steps = re.findall(r"^(\w+): \d to start$", printed, flags=re.MULTILINE)
    ids = dict(zip(steps, (job for job, _, _ in jobs), strict=True))
    assert {step: after for step, (_, _, after) in zip(steps, jobs, strict=True)} == {
        "pretrain": "", "bad": "", "classify": ids["pretrain"], "after_bad": ids["bad"],
    }  # fmt: skip
    states = {step: {fields["JobState"] for fields in cluster.wait(job)} for step, job in ids.items()}
    assert states == {
        "pretrain": {"COMPLETED"}, "classify": {"COMPLETED"}, "bad": {"FAILED"}, "after_bad": {"CANCELLED"},
    }  # fmt: skip
    for seed in (1, 2):
        directory = checkout / f"runs/site/02_finetune/a=1/seed={seed}/outcome=icu_admission"
        artifacts.read_done(directory, "02_finetune")
        saved = yaml.safe_load((directory / "config.yaml").read_text())
        assert (saved["seed"], saved["backbone_dir"]) == (seed, f"runs/site/01_pretrain/a=1/seed={seed}")
    again = cluster.call(*PYTHON, "study", "study.yaml", cwd=checkout)
    assert re.findall(r"^(\w+): (.*)$", again, flags=re.MULTILINE)[-1][0] != "pretrain"
    assert again.count("  job ") == 2
    assert "pretrain: 2 finished" in again
    cluster.wait(*re.findall(r"^  job (\d+)", again, flags=re.MULTILINE))
    plan = cluster.call(*PYTHON, "study", "study.yaml", "--dry_run", cwd=checkout)
    assert plan.count("finished ") >= 4
