"""One run of one stage: its directory, log, provenance, inputs and DONE."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import polars as pl
import yaml
from tqdm import tqdm

from clinrep import artifacts, distributed
from clinrep.config import FREE_SETTINGS, InputError, StageConfig, config_to_dict, config_to_yaml, flatten

EXIT_INPUT = 2
EXIT_STOPPED = 75

logger = logging.getLogger("clinrep")
ItemT = TypeVar("ItemT")


@dataclass
class Run:
    """The directory a stage writes, opened by `open_run`."""

    stage: str
    config: StageConfig
    directory: Path
    inputs: dict[str, str]
    rows: dict[str, int] = field(default_factory=dict)
    is_stopped: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return _is_main()

    def write(self, name: str, frame: pl.DataFrame, split: str = "", part: int = 0) -> None:
        """Write a table of the contract and count its rows for DONE."""
        artifacts.write_table(name, frame, self.directory, split, part)
        key = f"{name}/{split}" if split else name
        self.rows[key] = self.rows.get(key, 0) + frame.height

    def stop(self, step: int, signal_name: str) -> None:
        """Say in the directory that the run was stopped after saving; launchers decide on that file."""
        self.is_stopped = True
        if self.is_main:
            content = json.dumps({"step": step, "signal": signal_name})
            artifacts.write_text(self.directory / "STOPPED", content + "\n")
        logger.warning("stopped by %s after saving step %d; the same command continues", signal_name, step)


def run_stage(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a stage's `main` as a program: one message and exit code 2 for what a user can mend."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        if _is_main():
            print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    sys.exit(0)


@contextmanager
def open_run(stage: str, config: Any) -> Iterator[Run]:
    """Open the run directory of a stage, and close it with DONE.

    Nothing there: start. No DONE and the same config and inputs: resume. DONE and the same: say so
    and exit 0. Anything else: InputError. A directory this call made is removed again when the
    inputs turn out wrong, so nothing half-written is left. Every rank calls it; rank 0 looks and
    writes, and all act on what it found.

    Raises:
        InputError: the directory holds another run or other files, or an input does not exist.
        SystemExit: 0 when already done, 75 when the run was stopped by a signal after saving.
    """
    _log_to_screen(config.log_level)
    distributed.start_process_group()
    directory = Path(config.output_dir)
    state = distributed.share_from_main(_inspect(stage, config, directory) if _is_main() else None)
    if state.error:
        distributed.end_process_group()
        raise InputError(state.error)
    if state.is_done:
        logger.info("%s: already done, same settings and inputs: %s", stage, directory)
        distributed.end_process_group()
        raise SystemExit(0)
    run = Run(stage, config, directory, state.inputs)
    made = _list_missing(directory) if run.is_main else []
    was_empty = run.is_main and directory.is_dir() and not any(directory.iterdir())
    if run.is_main:
        _describe_run(run)
    handler = _log_to_file(directory, run.is_main)
    try:
        logger.info("%s: %s", stage, directory)
        yield run
        distributed.wait_for_all()  # DONE comes after the last file of every rank
        if run.is_main and not run.is_stopped:
            artifacts.write_done(directory, stage, run.rows, run.inputs)
            logger.info("%s: done: %s", stage, directory)
        distributed.end_process_group()
    except InputError:
        _remove(made)
        if was_empty:
            _empty(directory)
        distributed.end_process_group(is_failing=True)
        raise
    except Exception:
        logger.exception("%s failed", stage)
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
    if run.is_stopped:
        raise SystemExit(EXIT_STOPPED)


@dataclass(frozen=True)
class _State:
    """What rank 0 found before the run: what is wrong, or whether it is done, and the inputs' digests."""

    error: str = ""
    is_done: bool = False
    inputs: dict[str, str] = field(default_factory=dict)


def _is_main() -> bool:
    return distributed.get_rank() == 0


def _inspect(stage: str, config: Any, directory: Path) -> _State:
    try:
        inputs = _fingerprint_inputs(config)
        return _State(is_done=_is_already_done(stage, config, directory, inputs), inputs=inputs)
    except InputError as error:
        return _State(error=str(error))


def show_progress(items: Iterable[ItemT], config: StageConfig, title: str, total: int | None = None) -> Iterable[ItemT]:
    """Return `items` with a progress bar on rank 0 where the screen is a terminal."""
    is_shown = config.show_progress and _is_main() and sys.stderr.isatty()
    return tqdm(items, desc=title, total=total, disable=not is_shown, leave=False)


def _list_missing(directory: Path) -> list[Path]:
    """Return the folders that making `directory` makes, the innermost first."""
    return [path for path in (directory, *directory.parents) if not path.exists()]


def _remove(made: list[Path]) -> None:
    """Remove the run directory this run made, and of its parents those that nobody else uses by now."""
    if made:
        shutil.rmtree(made[0], ignore_errors=True)
    for parent in made[1:]:
        with contextlib.suppress(OSError):
            parent.rmdir()


def _empty(directory: Path) -> None:
    """Remove what this run wrote into a folder that was there, and empty, before."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(exist_ok=True)


def _is_already_done(stage: str, config: StageConfig, directory: Path, inputs: dict[str, str]) -> bool:
    """Return whether this very run is finished; refuse a directory that holds anything else."""
    if directory.is_file():
        raise InputError(f"--output_dir {directory} is a file; give a directory")
    if not directory.is_dir() or not any(directory.iterdir()):
        return False
    if not (directory / "config.yaml").is_file():
        raise InputError(f"--output_dir {directory} holds files but no run of {stage}.py; choose another directory")
    differences = _compare_with_saved(stage, config, directory, inputs)
    if differences:
        raise InputError(
            f"--output_dir {directory} holds another run: {'; '.join(differences)}. "
            f"Choose another --output_dir, or remove that directory to start over"
        )
    return (directory / "DONE").is_file()


def _compare_with_saved(stage: str, config: StageConfig, directory: Path, inputs: dict[str, str]) -> list[str]:
    """Return how the run in `directory` differs from this one, in words."""
    try:
        saved = flatten(yaml.safe_load((directory / "config.yaml").read_text()))
        provenance = json.loads((directory / "provenance.json").read_text())
    except (OSError, ValueError, yaml.YAMLError, AttributeError) as error:
        return [f"its config.yaml or provenance.json cannot be read ({error})"]
    if provenance.get("stage") != stage:
        return [f"it was made by {provenance.get('stage')}.py"]
    now = flatten(config_to_dict(config))
    saved_inputs = provenance.get("inputs", {})
    differences = []
    for key in sorted(saved.keys() | now.keys()):
        if key.rpartition(".")[2] in FREE_SETTINGS or saved.get(key) == now.get(key):
            continue
        if key in inputs and key in saved_inputs:
            continue  # a path: what counts is what lies there, compared below
        differences.append(f"{key} was {saved.get(key)!r}, now {now.get(key)!r}")
    for key in sorted(inputs.keys() & saved_inputs.keys()):
        if inputs[key] != saved_inputs[key]:
            differences.append(f"the content of {key} has changed")
    return differences


def _fingerprint_inputs(config: Any) -> dict[str, str]:
    """Return the content digest of every path the settings name; a missing path is an InputError."""
    inputs = {}
    for key, value in flatten(config_to_dict(config)).items():
        is_path = any(part.endswith(("_dir", "_path")) for part in key.split("."))
        if key == "output_dir" or not is_path or not value:
            continue
        if not Path(value).exists():
            raise InputError(f"--{key} {value} does not exist; check the path (now in {Path.cwd()})")
        inputs[key] = artifacts.fingerprint(Path(value))
    return inputs


def _describe_run(run: Run) -> None:
    """Write what a later reader needs to rerun and to trust the run."""
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / "STOPPED").unlink(missing_ok=True)
    artifacts.write_text(run.directory / "config.yaml", config_to_yaml(run.config))
    packages = sorted({f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()})
    artifacts.write_text(run.directory / "environment.txt", "\n".join(packages) + "\n")
    provenance = {
        "stage": run.stage,
        "inputs": run.inputs,
        "command": sys.argv,
        "commit": _ask_git("rev-parse", "HEAD"),
        "is_dirty": bool(_ask_git("status", "--porcelain", "--untracked-files=no")),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "num_cpus": os.cpu_count(),
        "world_size": distributed.get_world_size(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "python": platform.python_version(),
    }
    artifacts.write_text(run.directory / "provenance.json", json.dumps(provenance, indent=2) + "\n")


def _ask_git(*words: str) -> str | None:
    """Return what git says of the code's folder; None where there is no git or no repository."""
    try:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _log_to_screen(level: str) -> None:
    is_main = _is_main()
    root = logging.getLogger()
    if not any(getattr(handler, "is_clinrep", False) for handler in root.handlers):
        screen = logging.StreamHandler()
        screen.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
        screen.is_clinrep = True  # type: ignore[attr-defined]
        root.addHandler(screen)
    root.setLevel(logging.WARNING if is_main else logging.ERROR)
    logger.setLevel(level if is_main else logging.ERROR)


def _log_to_file(directory: Path, is_main: bool) -> logging.Handler:
    """Append messages to run.log on rank 0."""
    handler: logging.Handler = logging.NullHandler()
    if is_main:
        handler = logging.FileHandler(directory / "run.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    return handler
