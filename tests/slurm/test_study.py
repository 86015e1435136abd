"""Studies without a Slurm: what is planned, refused, and run here in order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clinrep.config import InputError, parse_config
from clinrep.slurm.grid import Submission
from clinrep.slurm.study import plan_study
from clinrep.slurm.study_config import StudyConfig
from clinrep.slurm.study_runs import _list_jobs
from tests.jobs import write_workshop
from tests.slurm.test_grid_local import call, site

__all__ = ["site"]


def make_study(folder: Path, **steps: dict[str, Any]) -> Path:
    """Write a study of the steps given at the sites `here` and `there`, and return its file."""
    content = {
        "study_dir": str(folder / "study"),
        "clif_dir": dict.fromkeys(("here", "there"), "sample_data/clif_demo"),
        "run_dir": {site: str(folder / site) for site in ("here", "there")},
        "config_dirs": ["configs/ehr/manuscript", "configs/ehr/manuscript_small"],
        "steps": steps,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def plan(path: Path, *flags: str):
    return plan_study(parse_config(StudyConfig, [f"--config={path}", *flags], "study", ""))


CHAIN: dict[str, dict[str, Any]] = {
    "report": {"stage": "04_analyze", "site": "here", "other_sites": ["there"]},
    "extract": {"stage": "03_extract_reps", "site": "here"},
    "extract_there": {"stage": "03_extract_reps", "site": "there", "inputs": {"backbone_dir": "pretrain"}},
    "transfer": {
        "stage": "02_finetune", "site": "there", "folder": "training_fraction=0",
        "inputs": {"classifier_dir": "classify"},
        "vary": {"outcome": ["icu_admission", "imv_event"]},
        "settings": {"seed": 2, "training_fraction": 0, "backbone_dir": None},
    },
    "classify": {
        "stage": "02_finetune", "site": "here", "vary": {"outcome": ["icu_admission", "imv_event"], "seed": [1, 2]},
        "sbatch": {"time": "2:00:00"},
    },
    "pretrain": {"stage": "01_pretrain", "site": "here"},
    "tokenize": {"stage": "00_tokenize", "site": "here"},
    "tokenize_there": {"stage": "00_tokenize", "site": "there", "inputs": {"tokenizer_dir": "tokenize"}},
}  # fmt: skip


def test_runs_and_who_waits_for_whom_follow_from_what_is_read(tmp_path):
    study = plan(make_study(tmp_path, **CHAIN))
    counts = {step: len(grid.combinations) for step, grid in study.grids.items()}
    assert counts == dict.fromkeys(CHAIN, 1) | {"classify": 4, "transfer": 2}
    needed = {step: set(study.list_needed_steps(step)) for step in CHAIN}
    assert needed == {
        "tokenize": set(),
        "tokenize_there": {"tokenize"},
        "pretrain": {"tokenize"},
        "classify": {"tokenize", "pretrain"},
        "transfer": {"tokenize_there", "classify"},
        "extract": {"tokenize", "pretrain"},
        "extract_there": {"tokenize_there", "pretrain"},
        "report": {"tokenize", "tokenize_there", "classify", "transfer", "extract", "extract_there"},
    }
    order = list(study.grids)
    assert all(order.index(other) < order.index(step) for step, others in needed.items() for other in others)
    assert sorted(study.needs["transfer", "outcome=imv_event"]) == [
        ("classify", "seed=2/outcome=imv_event"),  # not the other seed, nor the other outcome
        ("tokenize_there", ""),
    ]
    assert study.grids["classify"].sbatch == {"time": "2:00:00"}
    assert study.grids["transfer"].find_output_dir("outcome=imv_event") == (
        tmp_path / "there/02_finetune/training_fraction=0/outcome=imv_event"
    )


def change(**steps: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: CHAIN[name] | steps.get(name, {}) for name in CHAIN}


def nest() -> dict[str, dict[str, Any]]:
    """A run of one step would hold those of another."""
    outer = {"stage": "02_finetune", "site": "here", "settings": {"outcome": "imv_event"}}
    inner = outer | {"folder": "seed=3", "settings": {"outcome": "imv_event", "seed": 3}}
    return {name: CHAIN[name] for name in ("tokenize", "pretrain")} | {"classify": outer, "inner": inner}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (change(extract={"stage": "03_extract_rep"}), "steps.extract: unknown stage '03_extract_rep'"),
        (change(extract={"site": "hier"}), "steps.extract: unknown site 'hier'; known: here, there"),
        (change(extract={"setings": {"layers": [1]}}), "unknown 'setings.layers'; known: stage, site, folder, vary"),
        (change(extract={"settings": {"layer": [1]}}), "steps.extract: 03_extract_reps.py: "),
        (change(transfer={"inputs": {"classifier_dir": "clasify"}}), "unknown step in inputs.classifier_dir 'clasify'"),
        (change(transfer={"inputs": {"classifier_dir": "pretrain"}}), "be a step of 02_finetune, not of 01_pretrain"),
        (change(transfer={"inputs": {"model_dir": "classify"}}), "unknown setting in inputs 'model_dir'"),
        (change(transfer={"settings": {"training_fraction": 0, "backbone_dir": None}}), "of whose 4 runs 2 fit"),
        (change(transfer={"vary": {"outcome": ["in_hospital_death"]}}), "of whose 4 runs 0 fit"),
        (change(extract_there={"inputs": {}}), "there/01_pretrain does not exist"),
        (change(extract={"folder": "second"}), "be parts called setting=value"),
        (change(extract={"settings": {"output_dir": "x"}}), "be left to the study"),
        (change(classify={"settings": {"seed": 3}}), "be named once in vary, settings and inputs"),
        (nest(), "within a run of steps.classify"),
        (change(extract={"other_sites": ["there"]}), "be of stage 04_analyze"),
        (change(classify={"sbatch": {"time": "soon"}}), "steps.classify: --time is 'soon'"),
        (change(classify={"vary": {"seed": [2]}}), "no outcome for array task"),
        (change(tokenize={"inputs": {"tokenizer_dir": "tokenize_there"}}), "steps wait for each other"),
        ({name: one for name, one in CHAIN.items() if name != "pretrain"}, "unknown step in inputs.backbone_dir"),
    ],
)  # fmt: skip
def test_a_study_is_refused_whole(tmp_path, steps, said):
    if said == "no outcome for array task":
        del steps["transfer"], steps["report"]
    with pytest.raises(InputError) as refused:
        plan(make_study(tmp_path, **steps))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "study").exists()


def test_jobs_wait_for_the_very_jobs_that_make_what_they_read(tmp_path):
    study = plan(make_study(tmp_path, **CHAIN))
    names = list(study.grids["classify"].combinations)
    jobs = {name: Submission("local", "elsewhere", f"7_{at}", "log") for at, name in enumerate(names)}
    grids = dict(study.grids)
    object.__setattr__(grids["classify"], "submissions", jobs)
    object.__setattr__(grids["tokenize_there"], "submissions", {"": Submission("local", "elsewhere", "5", "log")})
    wanted = ["outcome=imv_event"]
    place = names.index("seed=2/outcome=imv_event")
    assert sorted(_list_jobs(study, grids, "transfer", wanted, {})) == ["5", f"7_{place}"]
    assert sorted(_list_jobs(study, grids, "transfer", wanted, {"classify": "7"})) == ["5", "7"]
    done = tmp_path / "there/00_tokenize"
    done.mkdir(parents=True)
    (done / "DONE").touch()
    assert _list_jobs(study, grids, "transfer", wanted, {}) == [f"7_{place}"]


@pytest.mark.drill
@pytest.mark.slow
def test_a_study_runs_here_in_order_and_again_only_what_is_missing(site):
    write_workshop(site / "runs/other", {}, num_subjects=20)
    (site / "runs/other/00").rename(site / "runs/other/00_tokenize")
    steps = {
        "second": {
            "stage": "01_pretrain", "site": "other", "vary": {"seed": [1, 2]}, "inputs": {"backbone_dir": "first"},
        },
        "first": {"stage": "01_pretrain", "site": "site", "vary": {"seed": [1, 2]}},
        "bad": {"stage": "01_pretrain", "site": "site", "folder": "b=1", "settings": {"training.learning_rate": 1e30}},
        "after_bad": {"stage": "01_pretrain", "site": "other", "folder": "c=1", "inputs": {"backbone_dir": "bad"}},
    }  # fmt: skip
    content = {
        "study_dir": "runs/study", "clif_dir": dict.fromkeys(("site", "other"), "none"),
        "run_dir": {name: f"runs/{name}" for name in ("site", "other")}, "config_dirs": ["site_configs"],
        "steps": steps,
    }  # fmt: skip
    (site / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    words = ["study", "study.yaml", "--cluster", "local", "--max_parallel", "2"]
    printed = call(site, *words, code=1)
    ended = re.findall(r"^(finished|failed|not run) +(\S+?):? ?(?:$| )", printed, flags=re.MULTILINE)
    assert {name: word for word, name in ended} == {
        **{f"{step}/seed={seed}": "finished" for step in ("first", "second") for seed in (1, 2)},
        "bad": "failed", "after_bad": "not run",
    }  # fmt: skip
    order = [line.split()[1] for line in printed.splitlines() if line.startswith("starting ")]
    assert order.index("first/seed=2") < order.index("second/seed=2")
    made = site / "runs/other/01_pretrain/seed=2"
    started = json.loads((made / "provenance.json").read_text())
    assert str(started).count("runs/site/01_pretrain/seed=2")
    assert "2 finished" in call(site, "status", "--grid_dir", "runs/study/second")
    again = call(site, *words, code=1)
    assert [line.split()[1] for line in again.splitlines() if line.startswith("starting ")] == ["bad"]
    assert "4 runs in" not in again
    printed = call(site, *words, "--dry_run")
    assert printed.count("finished ") >= 4
    assert "6 runs in 4 steps" in printed
