"""Reads everything under a directory, again and again, beside the runs that write it, and says what was not whole.

    python tests/drills/reader.py DIR RESULT_PATH STOP_PATH        until STOP_PATH exists

RESULT_PATH gets JSON: "faults", and "seen": each file's digests in the order they appeared.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import yaml


def check_parquet(content: bytes) -> None:
    pyarrow.parquet.read_table(io.BytesIO(content))


def check_safetensors(content: bytes) -> None:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    assert len(content) == 8 + length + end, "tensors are cut off"


def check_csv(content: bytes) -> None:
    assert content.endswith(b"\n"), "the last line is cut off"
    assert len({len(row) for row in csv.reader(io.StringIO(content.decode())) if row}) == 1, "rows differ in length"


def ends_with(*endings: bytes) -> Callable[[bytes], None]:
    def check(content: bytes) -> None:
        assert content.rstrip().endswith(endings), f"ends with {content[-20:]!r}"

    return check


# suffix, or whole name, -> what fails for half of such a file
CHECKS: dict[str, Callable[[bytes], Any]] = {
    ".parquet": check_parquet,
    ".safetensors": check_safetensors,
    ".csv": check_csv,
    ".json": json.loads,
    "DONE": json.loads,
    "COMPLETE": json.loads,
    ".yaml": yaml.safe_load,
    ".html": ends_with(b"</html>"),
    ".png": ends_with(b"IEND\xaeB`\x82"),
    ".pdf": ends_with(b"%%EOF"),
    ".tex": ends_with(b"\n", b"}"),
}


class Reader:
    """What was read so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.seen: dict[str, list[str]] = {}
        self.stamps: dict[Path, tuple[int, int, int]] = {}
        """Of the content last read: what is written to in place gets another."""
        self.done: dict[Path, Any] = {}
        self.faults: list[str] = []
        self.num_rounds = self.num_read = 0

    def read_all(self) -> None:
        """Read every file that has its final name."""
        paths = self._list_files()
        for path in paths:
            check = CHECKS.get(path.suffix) or CHECKS.get(path.name)
            if check and self._may_be_read(path):
                self._read(path, path.relative_to(self.directory).as_posix(), check)
        self._check_done([path for path in paths if path.name == "DONE"])
        self.num_rounds += 1

    def _list_files(self) -> list[Path]:
        """Return all but hidden files and those in hidden folders."""
        paths = []
        for folder, folders, files in os.walk(self.directory):  # passes over what is removed meanwhile
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths += [Path(folder) / name for name in files if not name.startswith(".")]
        return sorted(paths)

    def _may_be_read(self, path: Path) -> bool:
        """Return whether a file is no part of a checkpoint that nobody may load yet, or any more."""
        if path.parent.parent.name != "checkpoints":
            return True
        return (path.parent / "COMPLETE").exists()

    def _read(self, path: Path, name: str, check: Callable[[bytes], Any]) -> None:
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                stamp = found.st_ino, found.st_size, found.st_mtime_ns
                if self.stamps.get(path) == stamp:
                    return
                content = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return  # removed meanwhile
        self.stamps[path] = stamp
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        digests = self.seen.setdefault(name, [])
        self.num_read += 1
        if digest in digests:
            return
        try:
            check(content)
        except Exception as error:
            if self._may_be_read(path):
                self.faults.append(f"{name}: {type(error).__name__}: {error}")
        digests.append(digest)

    def _check_done(self, paths: list[Path]) -> None:
        """Compare what DONE lists with what is there; a run that has it changes nothing any more."""
        for path in paths:
            try:
                done = json.loads(path.read_bytes())
            except FileNotFoundError:
                continue
            if self.done.get(path) == done:
                continue
            self.done[path] = done
            for name, digest in done.get("outputs", {}).items():
                try:
                    found = hashlib.blake2b((path.parent / name).read_bytes(), digest_size=16).hexdigest()
                except FileNotFoundError:
                    found = "not there"
                if found != digest and path.exists():
                    self.faults.append(f"{name}: DONE says {digest}, found {found}")


def main(directory: str, result_path: str, stop_path: str) -> None:
    """Read until told to stop."""
    reader = Reader(Path(directory))
    while not Path(stop_path).exists():
        reader.read_all()
        time.sleep(0.03)
    reader.read_all()
    content = {name: getattr(reader, name) for name in ("faults", "seen", "num_rounds", "num_read")}
    Path(result_path).write_text(json.dumps(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
