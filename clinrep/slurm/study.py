"""What a study consists of: a grid for each step, and which runs wait for which, told from what they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from clinrep.config import InputError
from clinrep.run.directory import list_inputs
from clinrep.slurm import jobs
from clinrep.slurm.check import check_configs, read_config
from clinrep.slurm.grid import GRID_FILE, Grid, combine, read_grid
from clinrep.slurm.sbatch_file import ROOT, Command
from clinrep.slurm.study_config import StudyConfig, list_flags, to_text

Run = tuple[str, str]  # step and combination


@dataclass(frozen=True)
class Study:
    """All runs of a study, checked."""

    grids: dict[str, Grid]
    """By step, each after those it waits for."""
    commands: dict[Run, Command]
    needs: dict[Run, list[Run]]
    """The runs whose results a run reads."""

    def list_needed_steps(self, step: str) -> list[str]:
        """Return the steps that one waits for, in order."""
        needed = {other for run, others in self.needs.items() if run[0] == step for other, _ in others}
        return [name for name in self.grids if name in needed]


def plan_study(config: StudyConfig) -> Study:
    """Return all runs of a study, after checking the settings and inputs of each as its stage would.

    Raises:
        InputError: names the step, and what it lacks: a setting its stage knows, an input that neither exists nor is
            written by a step, a folder of its own.
    """
    grids = _make_grids(config)
    commands: dict[Run, Command] = {}
    configs: dict[Run, Any] = {}
    for step, grid in grids.items():
        try:
            jobs.resolve_options(grid)
            commands |= {(step, name): command for name, command in grid.read_commands().items()}
            configs |= {run: read_config(command) for run, command in commands.items() if run[0] == step}
        except InputError as error:
            raise InputError(f"steps.{step}: {error}") from error
    check_configs([(grids[run[0]].stage, found) for run, found in configs.items()])
    needs = _find_needs(configs)
    return take_up(Study({step: grids[step] for step in _sort_steps(list(grids), needs)}, commands, needs))


def take_up(study: Study) -> Study:
    """Return a study with what was submitted of it by now."""
    return replace(study, grids={step: _take_up(grid) for step, grid in study.grids.items()})


def _make_grids(config: StudyConfig) -> dict[str, Grid]:
    """Return step -> its grid, the runs of its inputs among the settings of each combination."""
    combinations = {
        step: combine({setting: [to_text(value) for value in values] for setting, values in one.vary.items()})
        for step, one in config.steps.items()
    }
    grids = {}
    for step, one in config.steps.items():
        pins = {
            "CLIF_DIR": config.clif_dir[one.site],
            "RUN_DIR": config.run_dir[one.site],
            "SITE": one.site,
            "CONFIG_DIR": config.config_dirs[0],
            "OTHER_SITES": ":".join(f"{site}={config.run_dir[site]}" for site in one.other_sites),
        }
        fixed = list_flags(one.settings)
        flags = [f"--config={folder}/{one.stage}.yaml" for folder in config.config_dirs[1:]]
        flags += [f"--{setting}={text}" for setting, text in fixed.items()]
        with_inputs = {
            name: values | _find_inputs(step, fixed | values, config, combinations)
            for name, values in combinations[step].items()
        }
        directory = (ROOT / config.study_dir / step).absolute()
        output_dir = _find_output_dir(config, step)
        grids[step] = Grid(
            one.stage, directory, flags, with_inputs, sbatch=one.sbatch, pins=pins, output_dir=output_dir
        )
    return grids


def _find_output_dir(config: StudyConfig, step: str) -> str:
    one = config.steps[step]
    return str(Path(config.run_dir[one.site], one.stage, one.folder))


def _find_inputs(
    step: str, values: Mapping[str, str], config: StudyConfig, combinations: Mapping[str, Mapping[str, dict[str, str]]]
) -> dict[str, str]:
    """Return setting -> directory of the run that `inputs` of a step means for a run with these values."""
    found = {}
    for setting, other in config.steps[step].inputs.items():
        fixed = list_flags(config.steps[other].settings)
        fits = []
        for name, theirs in combinations[other].items():
            shared = values.keys() & {**fixed, **theirs}.keys() & {*theirs, "outcome"}
            if all(values[key] == (fixed | theirs)[key] for key in shared):
                fits.append(name)
        if len(fits) != 1:
            keys = [key for key in dict.fromkeys([*config.steps[other].vary, "outcome"]) if key in values]
            raise InputError(
                f"steps.{step}: inputs.{setting} names {other}, of whose {len(combinations[other])} runs {len(fits)} "
                f"fit {' '.join(f'{key}={values[key]}' for key in keys) or 'this step'}, but one must; {other} varies "
                f"{', '.join(config.steps[other].vary) or 'nothing'}: name these here too, with values that it has"
            )
        found[setting] = str(Path(_find_output_dir(config, other), fits[0]))
    return found


def _find_needs(configs: Mapping[Run, Any]) -> dict[Run, list[Run]]:
    """Return which runs each reads: those that write where one of its inputs lies, or below."""
    outputs = {(ROOT / config.output_dir).resolve(): run for run, config in configs.items()}
    below: dict[Path, list[Run]] = {}
    for path, run in outputs.items():
        outer = next((outputs[parent] for parent in path.parents if parent in outputs), None)
        if outer is not None:
            raise InputError(f"steps.{run[0]} would write into {path}, within a run of steps.{outer[0]}; give a folder")
        for folder in (path, *path.parents):
            below.setdefault(folder, []).append(run)
    needs: dict[Run, list[Run]] = {}
    for run, config in configs.items():
        needed: dict[Run, None] = {}
        for path in list_inputs(config).values():
            resolved = (ROOT / path).resolve()
            inside = [outputs[parent] for parent in resolved.parents if parent in outputs]
            needed |= dict.fromkeys([*below.get(resolved, []), *inside])
        needs[run] = list(needed)
    return needs


def _sort_steps(steps: list[str], needs: Mapping[Run, list[Run]]) -> list[str]:
    """Return the steps so that each comes after those it waits for."""
    before: dict[str, dict[str, None]] = {step: {} for step in steps}
    for (step, _), others in needs.items():
        before[step] |= dict.fromkeys(other for other, _ in others)
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as error:
        circle = " <- ".join(dict.fromkeys(error.args[1]))
        raise InputError(
            f"steps wait for each other or for themselves: {circle}; make two steps of one, with folders of their own"
        ) from error


def _take_up(grid: Grid) -> Grid:
    """Return a grid with what was submitted of it before."""
    if not (grid.directory / GRID_FILE).is_file():
        return grid
    saved = read_grid(grid.directory)
    if (saved.stage, saved.output_dir) != (grid.stage, grid.output_dir):
        raise InputError(
            f"{grid.directory} remembers runs of {saved.stage} in {saved.output_dir}, now {grid.stage} in "
            f"{grid.output_dir}; choose another study_dir, or another name for the step"
        )
    return replace(grid, submissions=saved.submissions)
