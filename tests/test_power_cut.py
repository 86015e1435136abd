"""Kills and losses of power at every moment of a small run, and two runs at once; `make drill` kills the stages."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts, directory_lock
from clinrep.artifacts import durable
from clinrep.config import InputError, StageConfig
from clinrep.run import open_run
from tests.drills.killer import Moments
from tests.fake_disk import Disk

STAGE = "00_tokenize"
SPLITS = pl.DataFrame({"patient_id": ["p1", "p2"], "subject_id": ["s1", "s2"], "split": ["train", "test"]})
CLOCK = {"provenance.json", "run.log"}


def in_child(action: Callable[[], None]) -> int:
    """Return how a process of its own ends: 0, 2 for an InputError, 1 for anything else, -9 for a kill."""
    child = os.fork()
    if not child:
        os.setsid()  # a kill of its process group must not be ours
        code = 1
        try:
            action()
            code = 0
        except InputError as error:
            print(error, file=sys.stderr)
            code = 2
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the runs here git and the list of packages."""

    def fail(*words: object, **named: object) -> None:
        raise OSError("no git")

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(importlib.metadata, "distributions", list)


def make(directory: Path) -> StageConfig:
    return StageConfig(output_dir=str(directory), log_level="WARNING")


def run_all(directory: Path) -> None:
    """Run a stage that writes a file, a file in a folder, and a folder at once, as the stages do."""
    with open_run(STAGE, make(directory)) as run:
        artifacts.write_text(run.directory / "leakage.csv", "a\n")
        artifacts.write_text(run.directory / "tables" / "scores.csv", "b\n")
        with artifacts.atomic_path(run.directory / "backbone") as temporary:
            temporary.mkdir()
            (temporary / "config.json").write_text("{}")
            (temporary / "model.safetensors").write_text("weights")


def read_tree(directory: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if path.name not in CLOCK
    }


# Power


def test_content_then_name_then_the_folder_reach_the_disk(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    path = tmp_path / "new" / "a.csv"
    artifacts.write_text(path, "whole\n")
    temporary = tmp_path / "new" / f".a.csv.{os.getpid()}.tmp"
    assert disk.calls == [
        ("sync", str(tmp_path)),  # the new folder's name
        ("sync", str(temporary)),
        ("replace", str(path)),
        ("sync", str(path.parent)),
    ]
    assert disk.contents == {path: b"whole\n"}


def test_a_folder_reaches_the_disk_with_all_that_is_in_it(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    with artifacts.atomic_path(tmp_path / "backbone") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "a").write_text("a")
        (temporary / "b").write_text("b")
    names = [(what, path.replace(str(temporary), "*")) for what, path in disk.calls]
    assert names == [
        *(("sync", "*/deep/a"), ("sync", "*/deep"), ("sync", "*/b"), ("sync", "*")),
        *(("replace", str(tmp_path / "backbone")), ("sync", str(tmp_path))),
    ]


def test_all_that_done_lists_is_on_the_disk_before_done(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    with open_run(STAGE, make(tmp_path / "run")) as run:
        run.write("splits", SPLITS)
        artifacts.write_frames("splits", [SPLITS, SPLITS], run.directory / "joined")
        with artifacts.atomic_path(run.directory / "backbone") as temporary:
            temporary.mkdir()
            (temporary / "model.safetensors").write_text("weights")
    outputs = artifacts.read_done(run.directory, STAGE)["outputs"]
    assert len(outputs) == 3
    for name in outputs:
        assert disk.contents[run.directory / name] == (run.directory / name).read_bytes()
    last = disk.calls.index(("replace", str(run.directory / "DONE")))
    assert max(n for n, (what, _) in enumerate(disk.calls) if what == "replace") == last
    for folder in (tmp_path, run.directory, run.directory / "joined"):
        assert ("sync", str(folder)) in disk.calls[:last]
    assert disk.calls[-1] == ("sync", str(run.directory))


def test_what_the_disk_cannot_keep_takes_no_name(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    artifacts.write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        artifacts.write_text(path, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.csv", "old")]


def test_a_file_system_that_syncs_no_folders_is_good_enough(tmp_path, monkeypatch):
    sync = os.fsync

    def fail_for_folders(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    artifacts.write_text(tmp_path / "a.csv", "new")
    assert (tmp_path / "a.csv").read_text() == "new"


def test_a_folder_is_whole_whenever_it_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "backbone"
    seen, remove = [], shutil.rmtree

    def look_and_remove(folder: Path, *more: object, **named: object) -> None:
        seen.append(sorted(one.name for one in path.iterdir()))
        remove(folder)

    for names in (["a", "b"], ["c", "d"]):
        monkeypatch.setattr(shutil, "rmtree", look_and_remove if names == ["c", "d"] else remove)
        with artifacts.atomic_path(path) as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).touch()
    assert seen == [["c", "d"]]  # the old one is removed when the new one is there
    assert [one.name for one in tmp_path.iterdir()] == ["backbone"]


def test_what_a_killed_process_of_the_same_number_left_is_no_part_of_a_folder(tmp_path):
    left = tmp_path / f".backbone.{os.getpid()}.tmp"
    left.mkdir()
    (left / "optimizer.pt").touch()
    with artifacts.atomic_path(tmp_path / "backbone") as temporary:
        temporary.mkdir()
        (temporary / "model.safetensors").touch()
    assert [path.name for path in (tmp_path / "backbone").iterdir()] == ["model.safetensors"]


# Kills


@pytest.mark.usefixtures("is_fast")
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path):
    assert in_child(lambda: run_all(tmp_path / "whole")) == 0
    whole = read_tree(tmp_path / "whole")
    for number in range(1, 200):
        directory = tmp_path / str(number)

        def run_and_die(directory: Path = directory, number: int = number) -> None:
            sys.addaudithook(Moments(str(directory), {"kill_at": number}, "").see)
            run_all(directory)

        code = in_child(run_and_die)
        if code == 0:
            break
        assert code == -9
        if directory.is_dir():  # nothing that has its final name is half of it
            for name, content in read_tree(directory).items():
                is_ours = name not in {"config.yaml", "DONE"} and "/." not in f"/{name}"
                assert not is_ours or content == whole[name], (number, name)
        assert in_child(lambda directory=directory: run_all(directory)) == 0, number
        again = read_tree(directory)
        again.pop(directory_lock.LOCK_FILE, None)  # of a kill after DONE
        assert again.keys() == whole.keys(), number
        # one names its output_dir, the other holds the digest of that
        assert {name for name in whole if again[name] != whole[name]} <= {"config.yaml", "DONE"}
    assert number > 30


def test_leftovers_go_but_not_those_of_the_workers_of_a_search(tmp_path):
    directory = tmp_path / "run"
    with pytest.raises(RuntimeError), open_run(STAGE, make(directory)):
        raise RuntimeError("crash")
    mine = [directory / ".scores.csv.123.tmp", directory / "tables" / ".a.tex.9.tmp"]
    others = [directory / "trials" / "trial-0001" / ".backbone.5.tmp", directory / "search" / ".trials.csv.6.tmp"]
    for path in (*mine, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (directory / ".backbone.77.tmp" / "deep").mkdir(parents=True)
    (directory / ".backbone.77.tmp" / "deep" / "model.safetensors").touch()
    with open_run(STAGE, make(directory)):
        pass
    assert [path for path in sorted(directory.rglob(".*")) if path.name != ".parts"] == sorted(others)
    assert artifacts.read_done(directory, STAGE)["outputs"] == {}


def test_leftovers_stay_where_another_run_could_be_at_work(tmp_path, monkeypatch):
    def cannot(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    directory = tmp_path / "run"
    with pytest.raises(RuntimeError), open_run(STAGE, make(directory)):
        raise RuntimeError("crash")
    (directory / ".scores.csv.123.tmp").touch()
    monkeypatch.setattr("clinrep.file_lock.lock", cannot)
    with open_run(STAGE, make(directory)):
        pass
    assert (directory / ".scores.csv.123.tmp").exists()


@pytest.mark.parametrize("name", [".bashrc", ".hidden.tmp", "a.1.tmp", "DONE"])
def test_only_names_of_unfinished_files_are_leftovers(name):
    assert not durable.is_temporary(Path(name))


def test_a_list_of_packages_alone_is_somebody_elses(tmp_path):
    (tmp_path / "environment.txt").write_text("numpy==2\n")
    with pytest.raises(InputError, match="holds files but no run"), open_run(STAGE, make(tmp_path)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["environment.txt"]


# Two at once


@pytest.mark.usefixtures("is_fast")
def test_of_two_runs_started_at_once_one_refuses(tmp_path):
    for attempt in range(10):
        directory, refused = tmp_path / str(attempt), tmp_path / f"{attempt}.refused"
        start = time.monotonic() + 0.05

        def race(directory: Path = directory, refused: Path = refused, start: float = start) -> None:
            while time.monotonic() < start:
                pass
            try:
                with open_run(STAGE, make(directory)):
                    deadline = time.monotonic() + 60
                    while not refused.exists() and time.monotonic() < deadline:
                        time.sleep(0.001)
            except InputError as error:
                refused.write_text(str(error))
                raise

        children = [_start(race) for _ in range(2)]
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert codes == [0, 2]
        assert "is in use by another run" in refused.read_text()
        assert (directory / "DONE").is_file()


def _start(action: Callable[[], None]) -> int:
    """Start a process of its own that ends as `in_child` says, and return its number."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = in_child(action)
        finally:
            os._exit(code)
    return child


def test_a_run_that_another_one_finished_meanwhile_is_not_run_again(tmp_path, monkeypatch):
    directory, hold = tmp_path / "run", directory_lock.hold

    def hold_late(path: Path) -> int:
        monkeypatch.setattr(directory_lock, "hold", hold)
        with open_run(STAGE, make(directory)):
            pass
        return hold(path)

    monkeypatch.setattr(directory_lock, "hold", hold_late)
    with pytest.raises(SystemExit) as caught, open_run(STAGE, make(directory)):
        pytest.fail("it ran again")
    assert caught.value.code == 0


def test_the_file_that_holds_a_directory_goes_with_the_run_and_one_left_by_a_kill_stops_none(tmp_path):
    (tmp_path / directory_lock.LOCK_FILE).touch()
    with open_run(STAGE, make(tmp_path)):
        assert (tmp_path / directory_lock.LOCK_FILE).exists()
    assert not (tmp_path / directory_lock.LOCK_FILE).exists()


def test_what_holds_a_directory_is_open_for_writing_as_network_file_systems_ask(tmp_path):
    descriptor = directory_lock.hold(tmp_path)
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    directory_lock.let_go(descriptor, tmp_path)


def test_a_refused_run_lets_others_in_only_when_it_has_removed_what_it_wrote(tmp_path, monkeypatch):
    unlink, removed = Path.unlink, []

    def note(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    with pytest.raises(InputError), open_run(STAGE, make(tmp_path / "run")):
        raise InputError("wrong")
    assert removed[-1] == directory_lock.LOCK_FILE
    assert removed.count(directory_lock.LOCK_FILE) == 1
    assert not (tmp_path / "run").exists()


def test_whoever_opened_the_file_of_a_run_that_then_ended_opens_it_anew(tmp_path, monkeypatch):
    lock = directory_lock._lock

    def lock_old(path: Path) -> int:
        monkeypatch.setattr(directory_lock, "_lock", lock)
        descriptor = lock(path)
        (path / directory_lock.LOCK_FILE).unlink()  # as the run does that ends
        return descriptor

    monkeypatch.setattr(directory_lock, "_lock", lock_old)
    held = directory_lock.hold(tmp_path)
    assert os.path.samestat(os.fstat(held), (tmp_path / directory_lock.LOCK_FILE).stat())
    directory_lock.let_go(held, tmp_path)


def test_a_directory_removed_while_it_was_opened_is_made_anew(tmp_path, monkeypatch):
    directory, lock = tmp_path / "run", directory_lock._lock

    def lock_removed(path: Path) -> int:
        monkeypatch.setattr(directory_lock, "_lock", lock)
        descriptor = lock(path)
        shutil.rmtree(path)  # as a run that ends there with a wrong input does
        return descriptor

    monkeypatch.setattr(directory_lock, "_lock", lock_removed)
    with (
        open_run(STAGE, make(directory)),
        pytest.raises(InputError, match="is in use by another run"),
        open_run(STAGE, make(directory)),
    ):
        pass
    assert (directory / "DONE").is_file()
