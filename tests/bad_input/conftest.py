"""What takes time and is not what is tested here: names of installed packages, and git."""

from __future__ import annotations

import logging

import pytest

from clinrep.run import directory


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_list_packages", tuple)
    monkeypatch.setattr(directory, "_ask_git", lambda *_: "0" * 40)
    logging.getLogger("clinrep").setLevel(logging.WARNING)
