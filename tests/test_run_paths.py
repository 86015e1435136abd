"""Paths that no run can read or write are refused before anything is made."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.run import open_run
from tests.tiny_inputs import Config


def run(source: Path, output: Path) -> None:
    with open_run("01_pretrain", Config(output_dir=str(output), timelines_dir=str(source))):
        pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of files that no stage wrote."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_text("data")
    return tmp_path / "in"


@pytest.mark.parametrize("place", ["out", "rate=1/out", "link/out"])
def test_a_run_that_would_change_its_own_input_is_refused(source: Path, place: str) -> None:
    (source.parent / "link").symlink_to(source)
    output = source.parent / place if place.startswith("link") else source / place
    with pytest.raises(
        InputError, match=r"--output_dir .*out lies in --timelines_dir .*in, .*; choose an --output_dir"
    ):
        run(source, output)
    assert [path.name for path in source.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("place", ["deeper/out", ".hidden", ".rate=1/out"])
def test_a_run_in_a_folder_of_its_input_that_nobody_reads_may_be_asked_for_again(source: Path, place: str) -> None:
    run(source, source / place)
    with pytest.raises(SystemExit) as again:
        run(source, source / place)
    assert again.value.code == 0


def test_a_run_may_lie_in_a_finished_run_that_it_reads(source: Path) -> None:
    (source / "config.yaml").write_text("seed: 1\n")
    artifacts.write_done(source, "00_tokenize", {}, {})
    run(source, source / "01")
    with pytest.raises(SystemExit) as again:
        run(source, source / "01")
    assert again.value.code == 0


def test_a_name_that_is_not_utf_8_is_refused(source: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    source.rename(odd)
    words = r"--{} .*\\udcff is a name with bytes that are not UTF-8; rename it$"
    with pytest.raises(InputError, match=words.format("timelines_dir")):
        run(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=words.format("output_dir")):
        run(tmp_path, odd)


@pytest.mark.parametrize("place", ["", "x"])
def test_what_is_no_folder_is_said_to_be_none(source: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "device").symlink_to("/dev/null")
    for name, words in (("dangling", "a link to nothing"), ("device", "no folder")):
        path = tmp_path / name
        message = f"--output_dir {path / place} cannot be written: {path} is {words}; give a directory"
        with pytest.raises(InputError, match=re.escape(message)):
            run(source, path / place)


@pytest.mark.parametrize("function", ["fingerprint", "stamp_files"])
def test_an_input_that_may_not_be_read_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """Simulated: root, who may run these tests, may read everything."""

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path / "a.parquet"))

    monkeypatch.setattr(artifacts, function, refuse)
    message = f"--timelines_dir: {source / 'a.parquet'} cannot be read: Permission denied; allow it (chmod, or ask"
    with pytest.raises(InputError, match=re.escape(message)):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_may_not_be_written_is_not_laid_on_the_inputs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(artifacts, "make_folder", refuse)
    message = f"--output_dir {tmp_path / 'out'} cannot be written: Permission denied; allow it, or give an --output_dir"
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        run(source, tmp_path / "out")
