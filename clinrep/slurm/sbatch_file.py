"""What slurm/<stage>.sbatch says: the resources in its #SBATCH lines and the command of its launch line."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from clinrep.config import InputError, lookup

ROOT = Path(__file__).parents[2]
UNLIMITED_MINUTES = 365 * 24 * 60  # submitit wants a number

_OPTION = re.compile(r"#SBATCH --([a-z-]+)(?:=(\S+))?\s*(?:#.*)?$")
# sbatch's variables that are not named as their options (man sbatch, INPUT ENVIRONMENT VARIABLES)
_VARIABLES = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE"}
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<numbers>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Command:
    """What a launch line starts, without python or torchrun before it."""

    argv: tuple[str, ...]
    """The script's name and its flags."""
    environment: Mapping[str, str]
    """What jobs are to see: the SBATCH_* variables of slurm/env.sh, and PIN_*, its paths as they are now."""

    @property
    def site(self) -> dict[str, str]:
        """The paths of slurm/env.sh, by name."""
        names = ("CLIF_DIR", "RUN_DIR", "SITE", "CONFIG_DIR")
        return {name: self.environment[f"PIN_{name}"] for name in names}

    @property
    def stage(self) -> str:
        """Stem of the script."""
        return Path(self.argv[0]).stem


def find_file(stage: str) -> Path:
    """Return the sbatch file of a stage; an unknown one is an InputError listing the known."""
    return lookup({path.stem: path for path in (ROOT / "slurm").glob("*.sbatch")}, stage, "stage")


def read_options(stage: str) -> dict[str, str]:
    """Return the #SBATCH lines of a stage: long option without dashes -> value, '' for one without."""
    lines = [line for line in find_file(stage).read_text().splitlines() if line.startswith("#SBATCH")]
    options = {}
    for line in lines:
        match = _OPTION.fullmatch(line)
        if match is None:
            raise InputError(f"slurm/{stage}.sbatch: cannot read {line!r}; write #SBATCH --option=value")
        options[match[1]] = match[2] or ""
    return options


def parse_minutes(text: str) -> int:
    """Return a Slurm time limit (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; man sbatch) in minutes, rounded up."""
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return UNLIMITED_MINUTES
    match = _TIME.fullmatch(text)
    if match is None:
        raise InputError(f"--time is {text!r} but must be a time limit of Slurm; write 12:00:00 or 2-00:00:00")
    numbers = [int(number) for number in match["numbers"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return (int(match["days"] or 0) * 24 + hours) * 60 + minutes + (seconds > 0)


def read_command(stage: str, flags: Sequence[str], pins: Mapping[str, str] | None = None) -> Command:
    """Return what the launch line of a stage starts when the sbatch file is given `flags`.

    Args:
        stage: stem of the script.
        flags: of the stage.
        pins: RUN_DIR, SITE and their kind in place of what slurm/env.sh says.

    Raises:
        InputError: slurm/env.sh or the sbatch file fails here; the message is theirs.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PIN_"))}
    with NamedTemporaryFile() as printed:
        environment |= {"PRINT_COMMAND": printed.name, "SLURM_SUBMIT_DIR": str(ROOT)}
        environment |= {f"PIN_{name}": value for name, value in (pins or {}).items()}
        done = subprocess.run(
            ["bash", str(find_file(stage)), *flags], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        if done.returncode:
            said = " ".join(done.stderr.decode().split()) or "it said nothing; is a command in slurm/env.sh failing?"
            raise InputError(f"slurm/{stage}.sbatch, or slurm/env.sh, ended with code {done.returncode} here: {said}")
        (command,) = parse_commands(printed.read())
    return command


@contextmanager
def job_environment(command: Command, options: Iterable[str]) -> Iterator[None]:
    """Let jobs submitted or started meanwhile see what slurm/env.sh says now.

    Args:
        command: read from the sbatch file.
        options: options of sbatch given by hand, without dashes: a SBATCH_* variable of env.sh would win over them.
    """
    before = dict(os.environ)
    os.environ.update(command.environment)
    for option in options:
        name = _VARIABLES.get(option, option.upper().replace("-", "_"))
        os.environ.pop(f"SBATCH_{name}", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def parse_commands(printed: bytes) -> Iterator[Command]:
    """Yield the commands that print_command of slurm/launch.sh printed."""
    words = iter(printed.decode().split("\0")[:-1])
    for count in words:
        argv = tuple(next(words) for _ in range(int(count)))
        settings = (next(words).partition("=") for _ in range(int(next(words))))
        yield Command(argv, {name: value for name, _, value in settings})
