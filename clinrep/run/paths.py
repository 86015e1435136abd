"""The paths that a run's settings name, looked at before anything is read or made."""

from __future__ import annotations

import os
from pathlib import Path

from clinrep import artifacts
from clinrep.config import InputError, StageConfig, config_to_dict, flatten
from clinrep.run.inputs import list_inputs


def check_paths(config: StageConfig) -> None:
    """Refuse paths that no run can read or write, and an output directory that would change what the run reads.

    Raises:
        InputError: which of them, why, and what to do.
    """
    _check_characters(config)
    _check_folders(config.run_dir)
    _check_links(config.run_dir)
    _check_inputs(config)


def _check_characters(config: StageConfig) -> None:
    """Refuse names that no file can have, and those that libraries, which take text for a path, cannot open."""
    for key, value in flatten(config_to_dict(config)).items():
        if not isinstance(value, str) or not any(part.endswith(("_dir", "_path")) for part in key.split(".")):
            continue
        if "\0" in value:
            raise InputError(f"--{key} holds a NUL character, which no path can; correct it")
        try:
            f"{key} {value}".encode()
        except UnicodeEncodeError as error:
            name = f"--{key} {value}".encode(errors="backslashreplace").decode()
            raise InputError(f"{name} is a name with bytes that are not UTF-8; rename it") from error


def _check_folders(directory: Path) -> None:
    """Refuse an output directory that is, or would lie in, what is there but is no folder."""
    for path in (directory, *directory.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                what = "a link to nothing" if path.is_symlink() and not path.exists() else "no folder"
                raise InputError(f"--output_dir {directory} cannot be written: {path} is {what}; give a directory")
            return


def _check_links(directory: Path) -> None:
    """Refuse an output directory whose links would let a run write elsewhere."""
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder) / name for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
                raise InputError(
                    f"{path} is a link to outside of --output_dir, where nothing may be written; replace it by what it "
                    "links to, or choose another --output_dir"
                )


def _check_inputs(config: StageConfig) -> None:
    """Refuse an output directory within an input whose digest would be another once the run is there.

    The same command again would find another input, and refuse the run that it made itself.
    """
    directory = config.run_dir
    for key, path in list_inputs(config).items():
        if artifacts.would_be_found(path, directory):
            raise InputError(
                f"--output_dir {directory} lies in --{key} {path}, which would no longer be what was read once a run "
                "is there; choose an --output_dir outside of it"
            )
