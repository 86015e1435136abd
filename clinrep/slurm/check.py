"""Refuses, before a job is submitted, what its stage would refuse when it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clinrep.config import FREE_SETTINGS, InputError, config_to_dict
from clinrep.modality import load_stage
from clinrep.run.directory import holds_run, list_inputs
from clinrep.slurm.sbatch_file import ROOT, Command


def check_commands(commands: Sequence[Command], is_pending: bool = False) -> None:
    """Refuse settings that are wrong, outputs that hold another run, and inputs that are missing or not finished.

    Inputs that another of the commands writes are not looked at, and none where `is_pending`.

    Raises:
        InputError: names the stage, the setting and what was found.
    """
    check_configs([(command.stage, read_config(command)) for command in commands], is_pending)


def check_configs(configs: Sequence[tuple[str, Any]], is_pending: bool = False) -> None:
    """Refuse what `check_commands` does, of pairs of a stage and its config."""
    outputs: dict[Path, Any] = {}
    known: dict[tuple[str, str], Path] = {}
    for stage, config in configs:
        output = (ROOT / config.output_dir).resolve()
        _check_output(stage, config, output)
        settings = {name: value for name, value in config_to_dict(config).items() if name not in FREE_SETTINGS}
        same = known.setdefault((stage, repr(settings)), output)
        if output in outputs or same != output:
            other = output if output in outputs else same
            raise InputError(f"{stage}.py: two runs would be the same, or write to {other}; give each its own settings")
        outputs[output] = config
    for stage, config in configs:
        for name, path in list_inputs(config).items():
            resolved = (ROOT / path).resolve()
            if not is_pending and not any(_is_nested(resolved, output) for output in outputs):
                _check_input(f"{stage}.py: --{name}", ROOT / path)
        _check_outcome(stage, config, outputs)


def read_config(command: Command) -> Any:
    """Return the frozen config that a command's stage would run with, else raise an InputError."""
    for word in command.argv:
        if word in ("-h", "--help", "--print_config"):
            raise InputError(f"{command.stage}.py: {word} runs nothing; call the script itself")
    try:
        return load_stage(command.stage, "", command.argv[1:])[1]
    except InputError as error:
        raise InputError(f"{command.stage}.py: {error}") from error


def _check_output(stage: str, config: Any, output: Path) -> None:
    """Refuse a directory that cannot be written or holds another run."""
    existing = next(path for path in (output, *output.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{stage}.py: --output_dir {output} cannot be written: {existing} is no folder of yours")
    try:
        holds_run(stage, config, output)  # inputs are compared by content when the stage starts
    except InputError as error:
        raise InputError(f"{stage}.py: {error}") from error


def _check_outcome(stage: str, config: Any, outputs: Mapping[Path, Any]) -> None:
    """Refuse an outcome that the timelines will not have, or do not have."""
    if not hasattr(config, "outcome"):
        return
    timelines_dir = ROOT / config.timelines_dir
    known = getattr(outputs.get(timelines_dir.resolve()), "outcomes", None)
    if known is None:
        try:
            known = list(yaml.safe_load((timelines_dir / "config.yaml").read_text())["outcomes"])
        except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
            return  # no run, not yet, or a damaged one: the stage will say
    if config.outcome not in known:
        raise InputError(
            f"{stage}.py: unknown outcome {config.outcome!r}; {timelines_dir} has {', '.join(map(str, known))}. "
            "Correct --outcome, or OUTCOMES in slurm/env.sh"
        )


def _is_nested(one: Path, other: Path) -> bool:
    """Return whether two paths are the same or one lies in the other."""
    return one == other or one in other.parents or other in one.parents


def _check_input(name: str, path: Path) -> None:
    if not path.exists():
        raise InputError(f"{name} {path} does not exist; check slurm/env.sh, or run the stage that writes it first")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{name} {path} is empty; check slurm/env.sh, or run the stage that writes it first")
    if (path / "provenance.json").is_file() and not (path / "DONE").is_file():
        raise InputError(f"{name} {path} holds a run that is not finished (no DONE); run it to its end first")
