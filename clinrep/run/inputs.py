"""What a run's settings name to be read: its paths, their digests, and whether they changed while they were read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clinrep import artifacts
from clinrep.config import InputError, StageConfig, config_to_dict
from clinrep.failures import explain_unreadable
from clinrep.run.origins import select_paths

logger = logging.getLogger("clinrep")

Stamps = dict[str, dict[str, tuple[int, ...]]]
"""Setting -> file -> size and time of change."""


def list_inputs(config: StageConfig) -> dict[str, Path]:
    """Return setting -> path of everything the settings name to be read."""
    return select_paths(config_to_dict(config))


def fingerprint_inputs(config: StageConfig) -> dict[str, str]:
    """Return the content digest of every path the settings name; a missing path is an InputError."""
    inputs = {}
    for key, path in list_inputs(config).items():
        with _naming(key, path):
            if not path.exists():
                raise InputError(f"--{key} {path} does not exist; check the path (now in {Path.cwd()})")
            inputs[key] = artifacts.fingerprint(path)
            if not config.reads_changed_runs:
                artifacts.check_outputs(path)
    return inputs


@contextmanager
def _naming(key: str, path: Path) -> Iterator[None]:
    """Turn the system's refusal to read an input into an InputError that names the setting and the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--{key}: {explain_unreadable(error, error.filename or path)}") from error


def stamp_inputs(config: StageConfig) -> Stamps:
    """Return setting -> file -> size and time, of what `fingerprint_inputs` is to digest; nothing is read."""
    stamps: Stamps = {}
    for key, path in list_inputs(config).items():
        with _naming(key, path):
            if path.exists() and not path.resolve().is_relative_to(config.run_dir.resolve()):
                stamps[key] = artifacts.stamp_files(path)
    return stamps


def find_changed_input(config: StageConfig, inputs: dict[str, str], began: Stamps) -> str:
    """Return what to say of an input that changed while it was read, '' where none did; rank 0 calls it at the end.

    Digests are taken again only where a file has another size or time than at the start.
    """
    paths = list_inputs(config)
    for key, stamps in began.items():
        now = artifacts.stamp_files(paths[key])
        new = now.keys() - stamps.keys()
        # of what comes new a reader may have taken a table of a hospital, or a run of a folder of runs that ended
        harmless = {name for name in new if not name.endswith((".parquet", "DONE"))}
        if harmless:
            words = "--%s %s: %s came while this ran, and is nothing that is read"
            logger.warning(words, key, paths[key], ", ".join(sorted(harmless)[:3]))
        changed = [name for name, stamp in now.items() if stamps.get(name) != stamp and name not in harmless]
        gone = [name for name in stamps if not (paths[key] / name).is_file()] if paths[key].is_dir() else []
        if not changed and not gone and paths[key].exists():
            continue
        try:
            is_same = artifacts.fingerprint(paths[key]) == inputs[key]
            artifacts.check_outputs(paths[key])
        except (InputError, OSError) as error:
            return f"--{key} {paths[key]} changed while it was read: {error}"
        if not is_same:
            some = ", ".join(sorted({*changed, *gone})[:3])
            return (
                f"--{key} {paths[key]} changed while it was read ({some}): what came of it is of neither state; "
                "wait until it is written, then run again"
            )
    return ""
