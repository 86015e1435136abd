"""Input that changes while it is read, and disks that are full, read-only or broken."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr import events, tokenize
from clinrep.failures import DiskError, explain_disk
from tests.bad_input import clif_cases
from tests.bad_input.workshop import run_main, write_clif, write_tokenize_settings
from tests.scripts import ROOT


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("clif")
    return write_clif(root / "clif"), write_tokenize_settings(root / "settings.yaml")


@pytest.fixture
def folder(sound: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(sound[0], tmp_path / "clif")
    return tmp_path / "clif"


def run(folder: Path, sound: tuple[Path, Path], output: Path) -> None:
    run_main("00_tokenize", {"clif_dir": str(folder), "output_dir": str(output)}, (f"--config={sound[1]}",))


def add_file(folder: Path) -> None:
    pl.DataFrame({"x": [1]}).write_parquet(folder / "clif_crrt_therapy.parquet")


def remove_file(folder: Path) -> None:
    (folder / "clif_position.parquet").unlink()


def change_value(folder: Path) -> None:
    path = folder / clif_cases.VITALS
    pl.read_parquet(path).with_columns(pl.col("vital_value") + 1).write_parquet(path)


@pytest.mark.parametrize("change", [change_value, add_file, remove_file])
def test_a_folder_that_changes_while_it_is_read_is_refused(
    change: Callable[[Path], None],
    folder: Path,
    sound: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = events.read_events

    def read_and_change(*args: object) -> object:
        log = read(*args)  # type: ignore[arg-type]
        change(folder)
        return log

    monkeypatch.setattr(tokenize.event_rows, "read_events", read_and_change)
    with pytest.raises(InputError, match=r"--clif_dir .*changed while it was read .*; wait until it is written"):
        run(folder, sound, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_written_again_with_the_same_content_is_no_change(
    folder: Path, sound: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = events.read_events

    def read_and_touch(*args: object) -> object:
        os.utime(folder / clif_cases.LABS)
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenize.event_rows, "read_events", read_and_touch)
    run(folder, sound, tmp_path / "out")
    assert (tmp_path / "out" / "DONE").is_file()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EROFS, "Read-only file system; give an --output_dir that can be written"),
        (errno.EACCES, "Permission denied; allow it"),
        (errno.EIO, "Input/output error; the disk or its network failed"),
        (errno.EFBIG, "File too large; allow larger files"),
        (errno.EMFILE, "allow more open files"),
    ],
)
def test_a_disk_that_fails_is_refused_in_words_and_what_was_written_stays(
    number: int, words: str, folder: Path, sound: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = artifacts.write_table

    def fail(name: str, *args: object) -> object:
        if name == "outcomes":
            raise OSError(number, os.strerror(number), str(tmp_path / "out" / "outcomes.parquet"))
        return write(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(artifacts, "write_table", fail)
    with pytest.raises(DiskError, match=words) as refusal:
        run(folder, sound, tmp_path / "out")
    assert str(tmp_path / "out") in str(refusal.value)
    assert "Traceback" not in (tmp_path / "out" / "run.log").read_text()
    assert words.partition(";")[0] in (tmp_path / "out" / "run.log").read_text()
    assert (tmp_path / "out" / "splits.parquet").is_file()
    assert not (tmp_path / "out" / "DONE").exists()
    monkeypatch.undo()
    run(folder, sound, tmp_path / "out")  # the same command goes on
    assert (tmp_path / "out" / "DONE").is_file()


def test_errors_that_are_not_of_a_disk_stay_failures(tmp_path: Path) -> None:
    assert explain_disk(ValueError("wrong"), tmp_path) == ""
    assert explain_disk(FileNotFoundError(errno.ENOENT, "no such file"), tmp_path) == ""
    assert "make room" in explain_disk(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 KB, where this user may mount one."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_ends_with_code_2(sound: tuple[Path, Path], small_disk: Path) -> None:
    command = [sys.executable, "00_tokenize.py", f"--config={sound[1]}", f"--clif_dir={sound[0]}"]
    done = subprocess.run(
        [*command, f"--output_dir={small_disk / 'out'}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_disk / "out" / "DONE").exists()


def test_a_limit_on_files_ends_with_code_2(sound: tuple[Path, Path], tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    command = [sys.executable, "00_tokenize.py", f"--config={sound[1]}", f"--clif_dir={sound[0]}"]
    done = subprocess.run(
        [*command, f"--output_dir={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_finished_run_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    from clinrep.run import open_run
    from tests.tiny_inputs import Config

    splits = pl.DataFrame({"patient_id": ["p"], "subject_id": ["s"], "split": ["train"]})
    source = tmp_path / "00"
    artifacts.write_table("splits", splits, source)
    artifacts.write_done(source, "00_tokenize", {}, {})
    with (
        pytest.raises(
            InputError, match=r"--timelines_dir .*changed while it was read: .*is not what 00_tokenize\.py wrote"
        ),
        open_run("03_extract_reps", Config(output_dir=str(tmp_path / "out"), timelines_dir=str(source))),
    ):
        artifacts.write_table("splits", splits.with_columns(split=pl.lit("test")), source)
    assert json.loads((source / "DONE").read_text())["stage"] == "00_tokenize"
    assert not (tmp_path / "out").exists()
