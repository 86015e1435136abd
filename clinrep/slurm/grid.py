"""A grid: the runs of one stage with every combination of some settings, and what was submitted of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from clinrep import artifacts, file_lock
from clinrep.config import InputError
from clinrep.slurm.sbatch_file import ROOT, Command, read_command

GRID_FILE, LOCK_FILE = "grid.json", ".lock"
LONGEST_NAME = 255  # bytes, on the usual file systems
ONCE = ("hold", "dependency", "begin")  # options of sbatch that are meant for one submission
FIXED = ("config", "output_dir")  # settings that name the run itself or stand for many


@dataclass(frozen=True)
class Submission:
    """One job that was asked to run a combination."""

    cluster: str
    """slurm or local."""
    host: str
    """Machine that submitted it; a local job's process is known there only."""
    job_id: str
    """Slurm's (12, or 12_3 in an array); locally the number of a process."""
    log: str
    """What the job prints."""


@dataclass(frozen=True)
class Grid:
    """What is to be run, as given."""

    stage: str
    directory: Path
    flags: list[str]
    """Flags of the stage that all runs have."""
    combinations: dict[str, dict[str, str]]
    """Name -> setting -> value, as text; the name is the run's folder in the grid."""
    site: dict[str, str] = field(default_factory=dict)
    """The paths of slurm/env.sh that the runs use; a grid is of one site."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Options of sbatch in place of #SBATCH lines, without dashes; a rerun asks for the same again."""
    submissions: dict[str, Submission] = field(default_factory=dict)
    """The last job of each combination, by its name."""
    pins: dict[str, str] = field(default_factory=dict)
    """Of a study: RUN_DIR, SITE and their kind in place of what slurm/env.sh says."""
    output_dir: str = ""
    """Of a study: the folder of its runs; '' is the grid's own."""

    def list_flags(self, name: str) -> list[str]:
        """Return the flags that the sbatch file gets for one combination."""
        varied = [f"--{key}={value}" for key, value in self.combinations[name].items()]
        return [*self.flags, *varied, f"--output_dir={self.find_output_dir(name)}"]

    def find_output_dir(self, name: str) -> Path:
        """Return the run directory of one combination."""
        return (ROOT / self.output_dir if self.output_dir else self.directory) / name

    def read_commands(self) -> dict[str, Command]:
        """Return combination -> its whole command.

        The sbatch file is read once an outcome, which alone changes what comes before the combination's own flags.
        """
        read: dict[str | None, Command] = {}
        commands: dict[str, Command] = {}
        for name, combination in self.combinations.items():
            flags, outcome = self.list_flags(name), combination.get("outcome")
            if outcome not in read:
                command = read_command(self.stage, flags, self.pins)
                self._check_site(command.site)
                read[outcome] = replace(command, argv=command.argv[: len(command.argv) - len(flags)])
            commands[name] = replace(read[outcome], argv=(*read[outcome].argv, *flags))
        return commands

    def _check_site(self, now: Mapping[str, str]) -> None:
        """Refuse to mix two sites in one grid."""
        changed = [
            f"{name} was {value!r}, now {now.get(name)!r}"
            for name, value in self.site.items()
            if value != now.get(name)
        ]
        if self.submissions and changed:
            raise InputError(
                f"{self.directory} holds runs made with another slurm/env.sh: {'; '.join(changed)}. "
                "Put that back, or choose another --grid_dir"
            )

    def save(self) -> None:
        """Write the grid into its directory."""
        content = {name: value for name, value in asdict(self).items() if name != "directory"}
        content["sbatch"] = {name: value for name, value in self.sbatch.items() if name not in ONCE}
        artifacts.write_text(self.directory / GRID_FILE, json.dumps(content, indent=2) + "\n")


def parse_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """Return setting -> values of words such as seed=1,2,3; commas within brackets or braces separate nothing.

    Raises:
        InputError: no word of that form, a setting that stands twice or cannot vary.
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        values = _split_at_commas(text)
        if not (key and equals and all(values)):
            raise InputError(f"--grid {word!r} must be SETTING=VALUE,VALUE; write outcome=icu_admission,imv_event")
        if key in axes:
            raise InputError(f"--grid names {key} twice; list its values once, as {key}=VALUE,VALUE")
        if key in FIXED:
            raise InputError(f"--grid cannot vary {key}; name settings of the stage, as seed=1,2,3")
        axes[key] = values
    return axes


def _split_at_commas(text: str) -> list[str]:
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return values


def combine(axes: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """Return name -> {setting: value} of every combination, the last setting varying fastest.

    A name is key=value,key=value in alphabetical order, and in that folder one folder an outcome, so that stage 04
    can be given the folder above as predictions_dir.
    """
    named: dict[str, dict[str, str]] = {}
    for values in product(*axes.values()):
        combination = dict(zip(axes, values, strict=True))
        outer = [f"{key}={value}" for key, value in sorted(combination.items()) if key != "outcome"]
        inner = [f"outcome={value}" for key, value in combination.items() if key == "outcome"]
        name = "/".join(part.replace("/", "_") for part in [",".join(outer), *inner] if part)
        if name in named:
            raise InputError(f"--grid gives {name} twice; give each value once")
        if any(len(part.encode()) > LONGEST_NAME for part in name.split("/")):
            raise InputError(
                f"--grid: {name[:60]}... is longer than a folder's name may be; put long values into a YAML"
            )
        named[name] = combination
    return named


def make_grid(stage: str, directory: Path, axes: dict[str, list[str]], flags: Sequence[str]) -> Grid:
    """Return the grid asked for, with what was submitted of it before.

    Raises:
        InputError: the directory holds a grid with other flags, or something else; a flag repeats an axis.
    """
    for key in [*axes, "output_dir"]:
        if any(word == f"--{key}" or word.startswith(f"--{key}=") for word in flags):
            remedy = "give it once" if key in axes else "each run has its own; name the grid's folder by --grid_dir"
            raise InputError(f"--{key} stands beside --grid, which sets it; {remedy}")
    grid = Grid(stage, directory, list(flags), combine(axes))
    if not (directory / GRID_FILE).is_file():
        if directory.exists() and (not directory.is_dir() or {path.name for path in directory.iterdir()} - {LOCK_FILE}):
            raise InputError(f"--grid_dir {directory} exists and holds no grid; choose another folder")
        return grid
    saved = read_grid(directory)
    if not saved.submissions:  # checked and refused by sbatch, say: nothing ran with other flags
        return grid
    if (saved.stage, saved.flags) != (stage, list(flags)):
        raise InputError(
            f"--grid_dir {directory} holds a grid of {saved.stage} with the flags {' '.join(saved.flags) or '(none)'}, "
            f"now {stage} with {' '.join(flags) or '(none)'}; choose another --grid_dir"
        )
    return replace(saved, combinations=saved.combinations | grid.combinations)


def read_grid(directory: Path) -> Grid:
    """Return the grid saved in a directory, else raise an InputError."""
    path = directory / GRID_FILE
    if not path.is_file():
        raise InputError(f"{directory} holds no {GRID_FILE}; submit a grid there first")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        submissions = {name: Submission(**values) for name, values in content.pop("submissions").items()}
        texts = [text for job in submissions.values() for text in asdict(job).values()]
        texts += [text for values in content["combinations"].values() for text in values.values()]
        if not all(isinstance(text, str) for text in [content["stage"], *texts, *content["flags"]]):
            raise ValueError("a value is no text")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in content["combinations"]):
            raise ValueError("a run lies outside of the grid")
        return Grid(**(content | {"directory": directory, "submissions": submissions}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or choose another --grid_dir") from error


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep others from submitting in the same grid meanwhile; the folder is made.

    Raises:
        InputError: another process does so now.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT)  # NFS locks what is open for writing only
    except OSError as error:
        raise InputError(f"--grid_dir {directory} cannot be written ({error.strerror}); choose another") from error
    try:
        file_lock.lock(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"{directory} is being submitted or run by another process; wait for it") from error
    except OSError as error:
        print(f"{directory} cannot be locked ({error.strerror}): submit nothing else there meanwhile", file=sys.stderr)
    try:
        yield
    finally:
        file_lock.unlock(descriptor)


def find_default_dir(stage: str) -> Path:
    """Return where a grid of a stage lies by habit: RUN_DIR/<stage>_grid, with RUN_DIR of slurm/env.sh."""
    command = read_command(stage, ["--outcome=none"] if stage == "02_finetune" else [])
    return name_default_dir(stage, command.site)


def name_default_dir(stage: str, site: Mapping[str, str]) -> Path:
    """Return `find_default_dir` of a site whose paths are known."""
    return ROOT / site["RUN_DIR"] / f"{stage}_grid"
