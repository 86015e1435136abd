"""Stage 00 on CLIF folders with everything that can be wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bad_input import clif_cases
from tests.bad_input.workshop import Case, check, parametrize, run_main, write_clif, write_tokenize_settings


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder without faults, and the settings."""
    root = tmp_path_factory.mktemp("clif")
    return write_clif(root / "clif"), write_tokenize_settings(root / "settings.yaml")


def run(folder: Path, output: Path, settings: Path, flags: tuple[str, ...] = ()) -> None:
    run_main("00_tokenize", {"clif_dir": str(folder), "output_dir": str(output)}, (f"--config={settings}", *flags))


@parametrize([case for cases in clif_cases.ALL.values() for case in cases])
def test_bad_folders_are_refused_or_counted(case: Case, sound: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "clif"
    shutil.copytree(sound[0], folder)
    case.damage(folder)
    check(case, lambda: run(folder, tmp_path / "out", sound[1], case.flags), tmp_path / "out")
