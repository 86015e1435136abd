"""Input that changes while it is read, and disks that are full, read-only or broken."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from safetensors import SafetensorError

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr import events, scan, tokenize
from clinrep.failures import DiskError, explain_disk
from clinrep.run.stage_run import _LogFile
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


def end_run(folder: Path) -> None:
    artifacts.write_text(folder / "run" / "metrics.jsonl", "")
    artifacts.write_done(folder / "run", "02_finetune", {}, {})


@pytest.mark.parametrize("change", [change_value, add_file, remove_file, end_run])
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


def test_what_nobody_reads_may_come_beside_the_tables(
    folder: Path,
    sound: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    read = events.read_events

    def read_and_add(*args: object) -> object:
        (folder / "README.md").touch()
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenize.event_rows, "read_events", read_and_add)
    with caplog.at_level("WARNING", "clinrep"):
        run(folder, sound, tmp_path / "out")
    assert (tmp_path / "out" / "DONE").is_file()
    assert "README.md came while this ran" in caplog.text


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


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        RuntimeError("unable to write to file </torch_1>: No space left on device (28)"),  # shared memory
        RuntimeError("NCCL: Call to bind failed : Permission denied"),
        ValueError("category 'permission denied'"),
        pl.exceptions.InvalidOperationError("conversion failed for value 'Permission denied'"),
        pl.exceptions.ComputeError("could not parse `os error 5`"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    ],
)
def test_errors_that_are_not_of_a_disk_stay_failures(error: Exception, tmp_path: Path) -> None:
    assert explain_disk(error, tmp_path) == ""


def test_libraries_tell_of_a_disk_in_words(tmp_path: Path) -> None:
    words = "I/O error: No space left on device (os error 28)"
    for error in (SafetensorError(words), pl.exceptions.ComputeError(words), OSError(words)):
        assert "make room" in explain_disk(error, tmp_path)


def test_an_error_of_an_input_is_not_laid_on_the_output(tmp_path: Path) -> None:
    path = tmp_path / "clif" / "clif_labs.parquet"
    words = explain_disk(PermissionError(errno.EACCES, "Permission denied", str(path)), tmp_path / "out")
    assert words == f"{path} cannot be used: Permission denied; allow it; then the same command goes on"
    full = explain_disk(OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), tmp_path / "out")
    assert full == "/tmp/x cannot be used: No space left on device; make room there; then the same command goes on"
    assert "--output_dir" in explain_disk(OSError(errno.EIO, "Input/output error", 3), tmp_path / "out")


def test_a_network_that_fails_while_a_table_is_read_is_no_damage_and_what_was_written_stays(
    folder: Path, sound: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **named: object) -> object:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(scan.pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(DiskError, match=r"clif_\w+\.parquet cannot be read: .*the network's file system failed"):
        run(folder, sound, tmp_path / "out")
    assert (tmp_path / "out" / "config.yaml").is_file()


def test_a_log_that_cannot_be_written_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    handler = _LogFile("/dev/full")
    for number in range(3):
        handler.handle(logging.LogRecord("clinrep", logging.INFO, "", 0, f"line {number}", None, None))
    handler.close()
    assert capsys.readouterr().err.splitlines() == [
        "/dev/full: a message cannot be written ([Errno 28] No space left on device)"
    ]


def test_a_wrong_message_silences_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = _LogFile(tmp_path / "run.log")
    for words in ("%d items", "%s items"):
        handler.handle(logging.LogRecord("clinrep", logging.INFO, "", 0, words, ("three",), None))
    handler.close()
    assert (tmp_path / "run.log").read_text() == "three items\n"
    assert "Traceback" not in capsys.readouterr().err


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


def make_finished_run(directory: Path) -> Path:
    artifacts.write_table(
        "splits", pl.DataFrame({"patient_id": ["p"], "subject_id": ["s"], "split": ["train"]}), directory
    )
    (directory / "config.yaml").write_text("seed: 1\n")
    artifacts.write_done(directory, "00_tokenize", {}, {})
    return directory


def test_an_older_file_moved_over_an_output_is_found(tmp_path: Path) -> None:
    source = make_finished_run(tmp_path / "00")
    other = tmp_path / "other.parquet"
    pl.read_parquet(source / "splits.parquet").with_columns(split=pl.lit("test")).write_parquet(other)
    os.utime(other, (1, 1))
    artifacts.check_outputs(source)
    other.replace(source / "splits.parquet")
    with pytest.raises(artifacts.ArtifactError, match=r"splits\.parquet is not what 00_tokenize\.py wrote"):
        artifacts.check_outputs(source)


def test_edited_settings_of_a_finished_run_are_found(tmp_path: Path) -> None:
    source = make_finished_run(tmp_path / "00")
    (source / "config.yaml").write_text("seed: 2\n")
    with pytest.raises(artifacts.ArtifactError, match=r"config\.yaml is not what 00_tokenize\.py wrote"):
        artifacts.check_outputs(source)


def test_a_whole_run_copied_without_its_times_is_taken(tmp_path: Path) -> None:
    source = make_finished_run(tmp_path / "00")
    artifacts.check_outputs(Path(shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)))
