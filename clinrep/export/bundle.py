"""The folder that leaves: only files of a list can get in, and each is in the manifest."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from clinrep import file_access
from clinrep.export.private import PATIENT_COLUMNS, find_private

MANIFEST, README = "MANIFEST.json", "README.md"
_MODEL = r"(config\.json|model\.safetensors|vocabulary\.parquet|quantiles\.parquet)"
# all that may be in a bundle; whatever else stages write (predictions, timelines, logs) has no place in it
ALLOWED = (
    r"README\.md|MANIFEST\.json|model_card\.md|tripod_ai\.md",
    rf"backbone/{_MODEL}",
    rf"classifiers/[\w=-][\w.=-]*/{_MODEL}",
    r"tokenizer/((vocabulary|quantiles|categories)\.parquet|config\.yaml|DONE)",
    r"settings/(0[0-4]_\w+(\.[\w.=-]+)?\.yaml|provenance\.json)",
    r"scores/scores\.csv",
    r"tables/\w+\.csv",
)


class Bundle:
    """Writes the files of a bundle and keeps account of what was hidden and left out."""

    def __init__(self, directory: Path) -> None:
        """Begin an empty bundle."""
        self.directory = directory
        self.suppressed: dict[str, int] = {}
        self.left_out: dict[str, str] = {}
        directory.mkdir()

    def place(self, name: str) -> Path:
        """Return where a file goes; one that is not of the list is our mistake."""
        assert is_allowed(name), f"{name} has no place in a bundle"
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_text(self, name: str, text: str) -> None:
        """Write a text that names no path, machine or user."""
        found = find_private(text)
        assert not found, f"{name} holds {found}"
        self.place(name).write_text(text, encoding="utf-8")

    def write_frame(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table that has no column of single patients."""
        found = PATIENT_COLUMNS & set(frame.columns)
        assert not found, f"{name} has {found}"
        if name.endswith(".csv"):
            frame.write_csv(self.place(name))
        else:
            frame.write_parquet(self.place(name), compression="zstd")

    def copy(self, name: str, source: Path) -> None:
        """Copy a file byte for byte."""
        shutil.copyfile(source, self.place(name))

    def leave_out(self, name: str, reason: str) -> None:
        """Say in the manifest what is not there, and why."""
        self.left_out[name] = reason

    def close(self, facts: dict[str, Any]) -> None:
        """Check every file against the list and write MANIFEST.json, the last one."""
        files = {path.relative_to(self.directory).as_posix(): path for path in find_files(self.directory)}
        strange = [name for name, path in files.items() if not is_allowed(name) or path.is_symlink()]
        assert not strange, f"{strange} have no place in a bundle"
        content = {
            **facts,
            "suppressed": self.suppressed,
            "left_out": self.left_out,
            "files": {
                name: {"sha256": compute_sha256(path), "num_bytes": path.stat().st_size} for name, path in files.items()
            },
        }
        self.write_text(MANIFEST, json.dumps(content, indent=2) + "\n")
        file_access.apply_access(self.directory)


def is_allowed(name: str) -> bool:
    """Return whether a file of this path, relative to the bundle, may be in it."""
    return any(re.fullmatch(pattern, name) for pattern in ALLOWED)


def find_files(directory: Path) -> list[Path]:
    """Return every file of a bundle, in order."""
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


def compute_sha256(path: Path) -> str:
    """Return the digest that `sha256sum` prints."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
