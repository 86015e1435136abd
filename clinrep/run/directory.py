"""A run's directory before the run: whether it may be used, and what is written into it first."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from clinrep import artifacts, directory_lock, distributed, file_lock
from clinrep.config import FREE_SETTINGS, InputError, StageConfig, config_to_dict, config_to_yaml, flatten
from clinrep.failures import explain_disk
from clinrep.run.inputs import Stamps, fingerprint_inputs, list_inputs, stamp_inputs
from clinrep.run.origins import describe_input_runs
from clinrep.run.paths import check_paths

logger = logging.getLogger("clinrep")

NUM_TRIALS = "search.num_trials"  # may grow: more trials change none of those before
BATCH_SIZE = "training.batch_size"  # may shrink after memory ran out, as long as nothing is saved that it decided


@dataclass(frozen=True)
class Preparation:
    """What rank 0 found and made before the run; every rank acts on it."""

    error: str = ""
    """Why the run cannot be; '' where it can."""
    is_done: bool = False
    """Whether this very run is finished."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Content digest of every path the settings name."""
    stamps: Stamps = field(default_factory=dict)
    """Of each of these paths, the size and time of every file that its digest is of."""
    made: tuple[Path, ...] = ()
    """Folders that did not exist, the innermost first."""
    was_empty: bool = False
    """Whether the directory was there and empty."""
    lock: int = -1
    """Rank 0's file descriptor that holds the directory; -1 for none."""


def prepare(stage: str, config: StageConfig) -> Preparation:
    """Look at the directory and the inputs of a run; where it can go ahead, write what describes it."""
    directory, lock = config.run_dir, -1
    try:
        check_paths(config)
        stamps = stamp_inputs(config)
        inputs = fingerprint_inputs(config)
        if _is_already_done(stage, config, directory, inputs):
            return Preparation(is_done=True, inputs=inputs)
        made = tuple(path for path in (directory, *directory.parents) if not path.exists())
        was_empty = directory.is_dir() and _is_barely_begun(directory)
        lock = directory_lock.hold(directory)
        if _is_already_done(stage, config, directory, inputs):  # by a run that held it until now
            directory_lock.let_go(lock, directory)
            return Preparation(is_done=True, inputs=inputs)
        _remove_leftovers(config, lock)
        _describe_run(stage, config, directory, inputs)
    except (InputError, OSError) as error:
        if lock >= 0:
            directory_lock.let_go(lock, directory)
        if isinstance(error, InputError):
            return Preparation(error=str(error))
        return Preparation(
            error=explain_disk(error, directory) or f"--output_dir {directory} cannot be written: {error}"
        )
    return Preparation(inputs=inputs, stamps=stamps, made=made, was_empty=was_empty, lock=lock)


def _remove_leftovers(config: StageConfig, lock: int) -> None:
    """Remove what a killed run left unfinished, where no other run can be at work."""
    if not file_lock.is_held(lock):
        return
    others = {"search", "trials", "workers"} | config.shared_folders
    found = artifacts.remove_leftovers(config.run_dir, others)
    if found:
        logger.info("%d unfinished files or folders of a run that was killed: removed", len(found))


def release(directory: Path, preparation: Preparation) -> None:
    """Let other runs use the directory."""
    if preparation.lock >= 0:
        directory_lock.let_go(preparation.lock, directory)


def undo(directory: Path, preparation: Preparation) -> None:
    """Remove what a run with wrong input left, so that the corrected command can use the directory.

    Only what this run itself made goes: of the parents it made those that nobody else uses by now, and
    never a checkpoint or a trial. The lock goes last: until then nobody else has begun here.
    """
    if not (preparation.made or preparation.was_empty) or _holds_training(directory):
        return
    for path in list(directory.iterdir()):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != directory_lock.LOCK_FILE:
            path.unlink(missing_ok=True)
    (directory / directory_lock.LOCK_FILE).unlink(missing_ok=True)
    for path in preparation.made:
        with contextlib.suppress(OSError):
            path.rmdir()


def _holds_training(directory: Path) -> bool:
    """Return whether hours of work lie there: checkpoints, or trials of a search that have begun to train."""
    return any(any(directory.glob(pattern)) for pattern in ("checkpoints/*", "trials/*/metrics.jsonl"))


def _is_already_done(stage: str, config: StageConfig, directory: Path, inputs: dict[str, str]) -> bool:
    """Return whether this very run is finished; refuse a directory that holds anything else."""
    if not holds_run(stage, config, directory, inputs):
        return False
    _warn_of_other_code(directory)
    _reopen_search(config, directory)
    return (directory / "DONE").is_file() and _holds_outputs(stage, directory)


def holds_run(stage: str, config: StageConfig, directory: Path, inputs: dict[str, str] | None = None) -> bool:
    """Return whether a directory holds this very run, ended or not; False where it is new.

    Args:
        stage: stem of the script.
        config: settings the run would have.
        directory: where it would be.
        inputs: digest of every input; None: inputs are not compared.

    Raises:
        InputError: it holds another run, or other files.
    """
    if directory.is_file():
        raise InputError(f"--output_dir {directory} is a file; give a directory")
    if not directory.is_dir() or _is_barely_begun(directory, config.shared_folders):
        return False
    if not (directory / "config.yaml").is_file():
        raise InputError(f"--output_dir {directory} holds files but no run of {stage}.py; choose another directory")
    if inputs is None:
        inputs = _read_provenance(directory).get("inputs", {})
    differences = _compare_with_saved(stage, config, directory, inputs)
    if differences:
        raise InputError(
            f"--output_dir {directory} holds another run: {'; '.join(differences)}. "
            f"Choose another --output_dir, or remove that directory to start over"
        )
    return True


def _holds_outputs(stage: str, directory: Path) -> bool:
    """Return True; an InputError names an output of a finished run that is gone."""
    for name in artifacts.read_done(directory, stage).get("outputs", {}):
        if not (directory / name).is_file():
            raise InputError(
                f"{directory} is finished but {directory / name} is gone; remove that directory to run anew"
            )
    return True


def _is_barely_begun(directory: Path, others: Collection[str] = ()) -> bool:
    """Return whether a directory is empty, but for `others` and what a run killed in `_describe_run` leaves."""
    names = {path.name for path in directory.iterdir() if not artifacts.is_temporary(path)}
    names -= {directory_lock.LOCK_FILE, *others}
    # provenance.json comes first: a folder that holds environment.txt alone is somebody else's
    return names <= {"provenance.json"} or (names == {"provenance.json", "environment.txt"})


def _reopen_search(config: StageConfig, directory: Path) -> None:
    """Take DONE away from a search that has as many trials as were asked for then, but not as are asked for now."""
    saved = flatten(yaml.safe_load((directory / "config.yaml").read_text())).get(NUM_TRIALS)
    now = flatten(config_to_dict(config)).get(NUM_TRIALS)
    if saved != now:
        logger.info("%s: %s was %s, now %s: the search goes on", directory, NUM_TRIALS, saved, now)
        (directory / "DONE").unlink(missing_ok=True)


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
    free = {NUM_TRIALS} if _holds_training(directory) or (directory / "DONE").is_file() else {NUM_TRIALS, BATCH_SIZE}
    differences = []
    for key in sorted(saved.keys() | now.keys()):
        if key.rpartition(".")[2] in FREE_SETTINGS or key in free or saved.get(key) == now.get(key):
            continue
        if key in inputs and key in saved_inputs:
            continue  # a path: what counts is what lies there, compared below
        words = f"{key} was {saved.get(key)!r}, now {now.get(key)!r}"
        differences.append(f"{key} are others" if key.endswith("subject_ids") else words)
    for key in sorted(inputs.keys() & saved_inputs.keys()):
        if inputs[key] != saved_inputs[key]:
            differences.append(f"the content of {key} has changed")
    return differences


def _warn_of_other_code(directory: Path) -> None:
    """Say when the run in `directory` was made by another commit: its results may not be today's."""
    made_by, now = _read_provenance(directory).get("commit"), _ask_git("rev-parse", "HEAD")
    if made_by != now:
        logger.warning("%s was made by commit %s, the code is now %s; remove it to run anew", directory, made_by, now)


def _read_provenance(directory: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((directory / "provenance.json").read_text())
    except (OSError, ValueError):
        return {}
    return content


def _describe_run(stage: str, config: StageConfig, directory: Path, inputs: dict[str, str]) -> None:
    """Write what a later reader needs to rerun and to trust the run; a resumed run keeps its earlier sessions.

    config.yaml, which makes a folder a run's, comes last: the others are there then, whenever this is cut off.
    """
    (directory / "STOPPED").unlink(missing_ok=True)
    environment, settings = "\n".join(_list_packages()) + "\n", config_to_yaml(config)
    session = {
        "command": sys.argv,
        "commit": _ask_git("rev-parse", "HEAD"),
        "is_dirty": is_code_changed(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "num_cpus": os.cpu_count(),
        "world_size": distributed.get_world_size(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "python": platform.python_version(),
        "working_dir": str(Path.cwd()),
        "config": artifacts.fingerprint_text(settings),
        "environment": artifacts.fingerprint_text(environment),
    }
    earlier = _read_provenance(directory) if (directory / "config.yaml").is_file() else {}
    resumed = [*earlier.get("resumed", []), {key: earlier[key] for key in session if key in earlier}] if earlier else []
    input_runs = describe_input_runs(list_inputs(config))
    provenance = {"stage": stage, "inputs": inputs, "input_runs": input_runs, **session, "resumed": resumed}
    artifacts.write_text(directory / "provenance.json", json.dumps(provenance, indent=2) + "\n")
    artifacts.write_text(directory / "environment.txt", environment)
    artifacts.write_text(directory / "config.yaml", settings)


@functools.cache
def _list_packages() -> tuple[str, ...]:
    """Return the installed packages as NAME==VERSION; read once, as trials of a search open many runs."""
    return tuple(sorted({f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}))


def is_code_changed() -> bool | None:
    """Return whether tracked files differ from the commit, None where git cannot tell.

    slurm/env.sh, which every site edits, does not count.
    """
    words = ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)slurm/env.sh")
    changes = _ask_git(*words)
    return None if changes is None else bool(changes)


def _ask_git(*words: str) -> str | None:
    """Return what git says of the code's folder; None where there is no git or no repository."""
    try:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
