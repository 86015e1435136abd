"""Refuses, before a job is submitted, what its stage would refuse when it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clinrep.config import InputError
from clinrep.modality import load_stage
from clinrep.run_directory import list_inputs
from clinrep.slurm.sbatch_file import ROOT, Command


def check_commands(commands: Sequence[Command], is_pending: bool = False) -> None:
    """Refuse settings that are wrong, inputs that do not exist and input runs that are not finished.

    Inputs that another of the commands writes are not looked at, and none where `is_pending`.

    Raises:
        InputError: names the stage, the setting and what was found.
    """
    configs = [(command, read_config(command)) for command in commands]
    by_output: dict[Path, Any] = {}
    for command, config in configs:
        output = ROOT / config.output_dir
        if output in by_output:
            raise InputError(f"two runs, the second of {command.stage}.py, would write {output}; give each its own")
        by_output[output] = config
    for command, config in configs:
        for name, path in ((name, ROOT / path) for name, path in list_inputs(config).items()):
            if not is_pending and not any(_touch(path, output) for output in by_output):
                _check_input(f"{command.stage}.py: --{name}", path)
        _check_outcome(command.stage, config, by_output)


def _check_outcome(stage: str, config: Any, by_output: Mapping[Path, Any]) -> None:
    """Refuse an outcome that the timelines will not have, or do not have."""
    if not hasattr(config, "outcome"):
        return
    timelines_dir = ROOT / config.timelines_dir
    if timelines_dir in by_output:
        known = by_output[timelines_dir].outcomes
    elif (timelines_dir / "config.yaml").is_file():
        known = yaml.safe_load((timelines_dir / "config.yaml").read_text()).get("outcomes", [])
    else:
        return
    if config.outcome not in known:
        raise InputError(
            f"{stage}.py: unknown outcome {config.outcome!r}; {timelines_dir} has {', '.join(known)}. "
            "Correct --outcome, or OUTCOMES in slurm/env.sh"
        )


def read_config(command: Command) -> Any:
    """Return the frozen config that a command's stage would run with, else raise an InputError."""
    try:
        return load_stage(command.stage, "", command.argv[1:])[1]
    except InputError as error:
        raise InputError(f"{command.stage}.py: {error}") from error


def _touch(one: Path, other: Path) -> bool:
    """Return whether one path is the other or lies in it."""
    one, other = one.resolve(), other.resolve()
    return one == other or one in other.parents or other in one.parents


def _check_input(name: str, path: Path) -> None:
    if not path.exists():
        raise InputError(f"{name} {path} does not exist; check slurm/env.sh, or run the stage that writes it first")
    if (path / "provenance.json").is_file() and not (path / "DONE").is_file():
        raise InputError(f"{name} {path} holds a run that is not finished (no DONE); run it to its end first")
