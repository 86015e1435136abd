"""Settings of a study: the runs of several stages at several sites, as one YAML says them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clinrep.config import InputError, flatten, lookup, require
from clinrep.slurm.grid import FIXED
from clinrep.slurm.sbatch_file import find_file

# Setting -> stage whose run it reads.
READS = {
    "timelines_dir": "00_tokenize",
    "tokenizer_dir": "00_tokenize",
    "backbone_dir": "01_pretrain",
    "classifier_dir": "02_finetune",
}


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Runs of one stage at one site that differ in the settings they vary."""

    stage: str
    """Stem of the script, as 02_finetune."""
    site: str
    """Site whose tables it reads and in whose run_dir it writes."""
    folder: str = ""
    """Folder in run_dir.SITE/<stage> for its runs, as start=scratch; several steps of one stage and site need one."""
    vary: dict[str, list[Any]] = field(default_factory=dict)
    """Setting: its values; each combination is a run."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Setting: value, the same in all runs; wins over what slurm/<stage>.sbatch says, as backbone_dir: null."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Setting that names a run: the step that makes it. Of several runs it is the one in which what both steps name
    (outcome, seed) has the same value."""
    other_sites: list[str] = field(default_factory=list)
    """Sites that stage 04 analyzes beside its own."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Option of sbatch: value, in place of #SBATCH lines, as time: 2-00:00:00."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Settings of python -m clinrep.slurm study; a SITE is any short name, the same in each group."""

    study_dir: str
    """Folder that remembers what was submitted, and holds the logs of the jobs."""
    clif_dir: dict[str, str]
    """SITE: the folder of its CLIF tables."""
    run_dir: dict[str, str]
    """SITE: where its runs are written, each in <stage>/ or below."""
    config_dirs: list[str]
    """Folders of <stage>.yaml; later ones win."""
    steps: dict[str, StepConfig]
    """Name: runs of one stage. Who waits for whom follows from what they read."""

    def __post_init__(self) -> None:
        """Refuse names that nothing answers to."""
        require(bool(self.steps), "steps", self.steps, "name a step", "see configs/ehr/manuscript/study.yaml")
        require(bool(self.config_dirs), "config_dirs", self.config_dirs, "name a folder", "use [configs/ehr]")
        sites = sorted(self.run_dir)
        rule = f"name the sites of run_dir ({', '.join(sites)})"
        require(sorted(self.clif_dir) == sites, "clif_dir", self.clif_dir, rule, "give each site both")
        for group in (self.clif_dir, self.run_dir):
            for site, path in group.items():
                is_fine = re.fullmatch("[A-Za-z0-9_-]+", site) is not None and bool(path) and ":" not in path
                require(is_fine, f"site {site}", path, "be letters, digits, _ and - with a path without ':'", "rename")
        for name, step in self.steps.items():
            is_fine = re.fullmatch("[A-Za-z0-9_-]+", name) is not None
            require(is_fine, "the name of a step", name, "be of letters, digits, _ and -", "rename it")
            self._check_step(f"steps.{name}", step)

    def _check_step(self, name: str, step: StepConfig) -> None:
        try:
            find_file(step.stage)
            for site in (step.site, *step.other_sites):
                lookup(self.run_dir, site, "site")
            for setting, other in step.inputs.items():
                self._check_input(setting, other)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        is_fine = all("=" in part and part not in ("..", ".") for part in step.folder.split("/") if step.folder)
        rule = "be parts called setting=value, which stage 04 looks into"
        require(is_fine, f"{name}.folder", step.folder, rule, "write start=scratch, say")
        given = [*step.vary, *flatten(step.settings), *step.inputs]
        for setting in FIXED:
            require(setting not in given, name, setting, "be left to the study", "use folder, or config_dirs")
        twice = sorted({setting for setting in given if given.count(setting) > 1})
        require(not twice, name, twice, "be named once in vary, settings and inputs", "leave one out")
        for setting, values in step.vary.items():
            require(bool(values), f"{name}.vary.{setting}", values, "have values", "write seed: [1, 2, 3]")
        is_fine = step.stage == "04_analyze" or not step.other_sites
        require(is_fine, f"{name}.other_sites", step.other_sites, "be of stage 04_analyze", "leave it out")

    def _check_input(self, setting: str, other: str) -> None:
        """Refuse a step that is not there, or is of a stage that does not write what the setting reads."""
        stage = lookup(READS, setting, "setting in inputs")
        found = lookup(self.steps, other, f"step in inputs.{setting}").stage
        require(found == stage, f"inputs.{setting}", other, f"be a step of {stage}, not of {found}", "name another")


def to_text(value: Any) -> str:
    """Return a value as a flag has it, less the quotes that keep a sentence with a colon from being read as a group."""
    if not isinstance(value, str):
        return json.dumps(value)
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def list_flags(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return setting -> text of settings in groups or not."""
    return {key: to_text(value) for key, value in flatten(settings).items()}
