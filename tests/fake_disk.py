"""A disk that knows what a loss of power would leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Disk:
    """Records what a loss of power would leave: contents and names that fsync has been asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        self.contents: dict[Path, bytes] = {}
        """What each file held when its name was given, synced before."""
        self._synced: dict[tuple[int, int], bytes] = {}
        self._fsync, self._replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", self.replace)

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.calls.append(("sync", str(path)))
        if path.is_file():
            found = path.stat()
            self._synced[found.st_dev, found.st_ino] = path.read_bytes()
        self._fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        self.calls.append(("replace", str(target)))
        for path in [source] if source.is_file() else sorted(source.rglob("*")):
            if path.is_file():
                found = path.stat()
                content = self._synced.get((found.st_dev, found.st_ino), b"nothing was synced")
                self.contents[target / path.relative_to(source) if path != source else target] = content
        self._replace(source, target)
