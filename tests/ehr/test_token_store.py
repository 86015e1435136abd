"""Flat arrays of tokens: what the Parquet parts hold, derived once, never half, shared by all."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from clinrep import artifacts, distributed
from clinrep.config import InputError
from clinrep.ehr import token_store
from clinrep.ehr.token_store import TokenStore, open_token_stores
from tests.ehr.fake_timelines import read_token_ids, write_fake_tokenizer_run

PAD = 2
SOME = [[[0, 4, 5, 1]]]  # one part of one timeline


def write_run(directory: Path, train: Sequence[Any] = SOME, val: Sequence[Any] = SOME) -> Path:
    """Write a stage-00 directory with these timelines, a list for each part."""
    write_fake_tokenizer_run(directory, num_subjects=4)
    for split, parts in {"train": train, "val": val}.items():
        shutil.rmtree(directory / "timelines" / split)
        for number, part in enumerate(parts):
            columns = {
                "subject_id": [f"H{number}-{row}" for row in range(len(part))],
                "token_ids": part,
                "times": [[datetime(2150, 1, 1)] * len(token_ids) for token_ids in part],
            }
            types = {"subject_id": pl.String, "token_ids": pl.List(pl.UInt32), "times": pl.List(pl.Datetime("us"))}
            artifacts.write_table("timelines", pl.DataFrame(columns, schema=types), directory, split, number)
    artifacts.write_done(directory, "00_tokenize", {}, {})
    return directory


def open_stores(run_dir: Path, store_dir: Path, vocabulary_size: int = 29) -> dict[str, TokenStore]:
    return open_token_stores(run_dir, store_dir, pl.DataFrame({"token_id": range(vocabulary_size)}), PAD)


def to_lists(store: TokenStore) -> list[list[int]]:
    return [store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist() for i in range(len(store))]


def list_files(directory: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every file under a folder."""
    found = {str(path.relative_to(directory)): path.stat() for path in directory.rglob("*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def test_the_store_holds_the_timelines_of_both_splits(tmp_path: Path) -> None:
    run_dir = write_fake_tokenizer_run(tmp_path / "00", num_subjects=30, seed=3)
    stores = open_stores(run_dir, tmp_path / "store")
    assert list(stores) == ["train", "val"]
    for split, store in stores.items():
        assert to_lists(store) == read_token_ids(run_dir, split)
        assert store.offsets.dtype == np.int64
        assert store.offsets[0] == 0
        assert store.offsets[-1] == len(store.tokens)


def test_parts_follow_one_another_and_empty_timelines_are_left_out(tmp_path: Path) -> None:
    parts = [[[], [3, 4], []], [], [[5]], [[]], [[6, 7, 8], [], [9, 10]]] + [[[11 + number]] for number in range(7)]
    store = open_stores(write_run(tmp_path / "00", train=parts), tmp_path / "store")["train"]
    assert to_lists(store) == [[3, 4], [5], [6, 7, 8], [9, 10], [11], [12], [13], [14], [15], [16], [17]]
    assert store.offsets.tolist() == [0, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("vocabulary_size", "data_type"), [(29, np.uint16), (65_536, np.uint16), (65_537, np.uint32), (300_000, np.uint32)]
)
def test_ids_take_two_bytes_where_they_fit(tmp_path: Path, vocabulary_size: int, data_type: type) -> None:
    timeline = [0, vocabulary_size - 1, 1]
    run_dir = write_run(tmp_path / "00", train=[[timeline]])
    stores = open_stores(run_dir, tmp_path / "store", vocabulary_size)
    assert to_lists(stores["train"]) == [timeline]
    assert stores["train"].tokens.dtype == stores["val"].tokens.dtype == data_type


def test_tokens_are_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    store = open_stores(write_run(tmp_path / "00"), tmp_path / "store")["train"]
    for array in (store.tokens, store.offsets):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_store_is_pickled_as_its_folder(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "00", train=[[[3] * 50_000, [4] * 7]])
    store = open_stores(run_dir, tmp_path / "store")["train"]
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    assert isinstance(copy.tokens, np.memmap)
    assert to_lists(copy) == to_lists(store)


def test_the_same_content_is_derived_once_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = write_run(tmp_path / "00")
    first = open_stores(run_dir, tmp_path / "store")["train"]
    before = list_files(tmp_path / "store")
    monkeypatch.setattr(token_store, "_derive", None)
    elsewhere = shutil.copytree(run_dir, tmp_path / "elsewhere")
    for directory in (run_dir, elsewhere):
        assert open_stores(directory, tmp_path / "store")["train"].folder == first.folder
    assert list_files(tmp_path / "store") == before


def test_other_timelines_get_a_folder_of_their_own(tmp_path: Path) -> None:
    first = open_stores(write_run(tmp_path / "a"), tmp_path / "store")
    second = open_stores(write_run(tmp_path / "b", val=[[[0, 4, 5, 6]]]), tmp_path / "store")
    assert first["val"].folder != second["val"].folder
    again = open_stores(tmp_path / "a", tmp_path / "store")
    assert [to_lists(stores["val"]) for stores in (first, second, again)] == [
        [[0, 4, 5, 1]],
        [[0, 4, 5, 6]],
        [[0, 4, 5, 1]],
    ]


LONG = [[[0, 4, 5, 1]] * 5]


@pytest.mark.parametrize(
    ("split", "parts", "message"),
    [
        ("train", [[]], "the train split holds no timeline; give 00_tokenize.py more patients"),
        ("val", [], "the val split holds no timeline"),
        ("val", [[[], []]], "the val split holds no timeline"),
        ("train", [[[4], [5], []]], "every timeline of the train split is one token long"),
        ("val", [[[4]], [[5]]], "every timeline of the val split is one token long"),
        ("train", [*SOME, [[0, 29, 1]]], r"part-00001\.parquet: token id 29 but the vocabulary ends at 28"),
        ("val", [[[0, 70_000]]], "token id 70000 but the vocabulary ends at 28"),
        ("val", [*SOME, *SOME, [[0, 4], [PAD, 4]]], r"part-00002\.parquet: PAD \(id 2\) occurs in timelines"),
    ],
)
def test_wrong_timelines_are_refused_and_nothing_is_left(tmp_path: Path, split: str, parts: Any, message: str) -> None:
    run_dir = write_run(tmp_path / "00", **{"train": LONG, "val": LONG, split: parts})
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            open_stores(run_dir, tmp_path / "store")
        assert list((tmp_path / "store").rglob("*")) == []


@pytest.mark.parametrize(("vocabulary_size", "pad", "message"), [(5, PAD, "ends at 4"), (29, 4, "PAD .* occurs")])
def test_a_vocabulary_that_does_not_match_is_refused_on_a_resume_too(
    tmp_path: Path, vocabulary_size: int, pad: int, message: str
) -> None:
    run_dir = write_run(tmp_path / "00")
    open_stores(run_dir, tmp_path / "store")
    vocabulary = pl.DataFrame({"token_id": range(vocabulary_size)})
    with pytest.raises(InputError, match=message):
        open_token_stores(run_dir, tmp_path / "store", vocabulary, pad)


def test_a_timeline_of_one_token_beside_longer_ones_is_kept(tmp_path: Path) -> None:
    store = open_stores(write_run(tmp_path / "00", train=[[[4], [5, 6]]]), tmp_path / "store")["train"]
    assert to_lists(store) == [[4], [5, 6]]


def test_an_unfinished_directory_is_refused(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "00")
    (run_dir / "DONE").unlink()
    with pytest.raises(InputError, match="no DONE"):
        open_stores(run_dir, tmp_path / "store")


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    run_dir = write_run(tmp_path / "00")
    with monkeypatch.context() as patch:
        derive_split = token_store._derive_split

        def fail_at_val(timelines_dir: Path, split: str, *rest: Any) -> None:
            derive_split(timelines_dir, split, *rest)
            if split == "val":
                raise failure

        patch.setattr(token_store, "_derive_split", fail_at_val)
        expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            open_stores(run_dir, tmp_path / "store")
    assert list((tmp_path / "store").rglob("*")) == []
    assert to_lists(open_stores(run_dir, tmp_path / "store")["val"]) == SOME[0]


def test_what_was_left_by_a_kill_is_removed_once_nobody_can_be_at_it(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "00")
    for name, age in (("old", 7200), ("new", 60)):
        left = tmp_path / "store" / f".{artifacts.fingerprint(run_dir)}.{name}.tmp"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age, time.time() - age))
    open_stores(run_dir, tmp_path / "store")
    assert [path.name.split(".")[2] for path in (tmp_path / "store").glob(".*")] == ["new"]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path: Path) -> None:
    """In a container the same command tends to have the same number."""
    run_dir = write_run(tmp_path / "00")
    left = tmp_path / "store" / f".{artifacts.fingerprint(run_dir)}.{os.getpid()}.tmp" / "train"
    left.mkdir(parents=True)
    (left / "tokens.npy").write_bytes(b"half")
    assert to_lists(open_stores(run_dir, tmp_path / "store")["train"]) == SOME[0]


OPEN_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
import polars as pl
from clinrep.ehr.token_store import open_token_stores
print("ready", flush=True)
sys.stdin.readline()
stores = open_token_stores(Path(sys.argv[1]), Path(sys.argv[2]), pl.DataFrame({"token_id": range(29)}), 2)
print(*stores["train"].tokens.tolist(), flush=True)
"""


def start_process(run_dir: Path, store_dir: Path) -> subprocess.Popen[str]:
    """Start a process that opens the stores when told to, and then prints the tokens of train."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_IN_ANOTHER_PROCESS, str(run_dir), str(store_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, errors
    return output.strip()


def test_another_process_opens_what_is_there(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "00")
    store = open_stores(run_dir, tmp_path / "store")["train"]
    before = list_files(tmp_path / "store")
    assert finish(start_process(run_dir, tmp_path / "store")) == "0 4 5 1"
    assert list_files(tmp_path / "store") == before
    assert to_lists(store) == SOME[0]


def test_a_process_that_comes_second_leaves_the_folder_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a search begin together: what one has mapped must not be replaced below it."""
    run_dir, store_dir = write_run(tmp_path / "00"), tmp_path / "store"
    other = start_process(run_dir, store_dir)
    derive_split = token_store._derive_split
    seen: list[dict[str, tuple[int, int]]] = []

    def derive_slowly(timelines_dir: Path, split: str, *rest: Any) -> None:
        derive_split(timelines_dir, split, *rest)
        if split == "val":
            assert finish(other) == "0 4 5 1"
            (folder,) = [path for path in store_dir.iterdir() if not path.name.startswith(".")]
            seen.append(list_files(folder))

    monkeypatch.setattr(token_store, "_derive_split", derive_slowly)
    stores = open_stores(run_dir, store_dir)
    assert to_lists(stores["train"]) == SOME[0]
    assert list_files(stores["train"].folder.parent) == seen[0]
    assert len(list(store_dir.iterdir())) == 1, "the second's own is gone"


class FakeRanks:
    """Ranks as threads: numbers, sharing and waiting as `distributed` has them, for machines of two ranks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_ranks: int) -> None:
        self._here = threading.local()
        self._num_ranks = num_ranks
        self._barrier = threading.Barrier(num_ranks, timeout=20)
        self._box: Any = None
        monkeypatch.setattr(distributed, "get_rank", lambda: self._here.rank)
        monkeypatch.setattr(distributed, "get_local_rank", lambda: self._here.rank % 2)
        monkeypatch.setattr(distributed, "get_world_size", lambda: num_ranks)
        monkeypatch.setattr(distributed, "share_from_main", lambda value: self._gather(value)[0])
        monkeypatch.setattr(distributed, "sum_numbers", self._sum_numbers)
        monkeypatch.setattr(distributed, "wait_for_all", self._barrier.wait)

    def _gather(self, value: Any) -> list[Any]:
        self._barrier.wait()
        if self._here.rank == 0:
            self._box = [None] * self._num_ranks
        self._barrier.wait()
        self._box[self._here.rank] = value
        self._barrier.wait()
        return list(self._box)

    def _sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        return [sum(column) for column in zip(*self._gather(numbers), strict=True)]

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        """Return what `function(rank)` returns, or raises, on every rank."""

        def call(rank: int) -> Any:
            self._here.rank = rank
            try:
                return function(rank)
            except Exception as error:
                return error

        with ThreadPoolExecutor(self._num_ranks) as pool:
            return list(pool.map(call, range(self._num_ranks)))


def count_derivations(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    derive, folders = token_store._derive, []

    def count(timelines_dir: Path, folder: Path, *rest: Any) -> None:
        folders.append(folder.parent)
        derive(timelines_dir, folder, *rest)

    monkeypatch.setattr(token_store, "_derive", count)
    return folders


def test_rank_0_derives_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir, folders = write_run(tmp_path / "00"), count_derivations(monkeypatch)
    results = FakeRanks(monkeypatch, 4).run(lambda rank: open_stores(run_dir, tmp_path / "store"))
    assert [to_lists(stores["val"]) for stores in results] == [SOME[0]] * 4
    assert folders == [tmp_path / "store"]


def test_on_disks_of_their_own_one_rank_a_machine_derives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir, folders = write_run(tmp_path / "00"), count_derivations(monkeypatch)
    results = FakeRanks(monkeypatch, 4).run(lambda rank: open_stores(run_dir, tmp_path / f"machine-{rank // 2}"))
    assert [to_lists(stores["val"]) for stores in results] == [SOME[0]] * 4
    assert folders == [tmp_path / "machine-0", tmp_path / "machine-1"]


def test_an_error_of_rank_0_reaches_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = write_run(tmp_path / "00", val=[[]])
    results = FakeRanks(monkeypatch, 2).run(lambda rank: open_stores(run_dir, tmp_path / "store"))
    assert [type(error) for error in results] == [InputError] * 2
    assert {str(error) for error in results} == {str(results[0])}
    assert "the val split holds no timeline" in str(results[0])


def test_an_error_on_another_machine_reaches_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy of the timelines may lack a file."""
    machines = [tmp_path / "machine-0", tmp_path / "machine-1"]
    for machine in machines:
        write_run(machine / "00")
    shutil.rmtree(machines[1] / "00/timelines/val")

    def open_here(rank: int) -> Any:
        return open_stores(machines[rank // 2] / "00", machines[rank // 2] / "store")

    results = FakeRanks(monkeypatch, 4).run(open_here)
    assert [type(error) for error in results] == [InputError] * 4
    assert "the val split holds no timeline" in str(results[2])


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_damaged_store_is_laid_out_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, is_cut: bool) -> None:
    """Cut off, or with another token in it that exists: it would be trained on."""
    run_dir = write_run(tmp_path / "00")
    path = open_stores(run_dir, tmp_path / "store")["train"].folder / "tokens.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-3] if is_cut else content[:-2] + b"\x05\x00")
    assert to_lists(open_stores(run_dir, tmp_path / "store")["train"]) == SOME[0]
    assert path.read_bytes() == content
    assert "is damaged: laid out anew" in caplog.text


def test_a_full_disk_is_wrong_input_and_not_the_end_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing into a map of a full disk would end it with SIGBUS."""
    asked: list[int] = []

    def refuse(descriptor: int, offset: int, num_bytes: int) -> None:
        asked.append(num_bytes)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(InputError, match=r"No space left on device.*give another --token_store_dir"):
        open_stores(write_run(tmp_path / "00"), tmp_path / "store")
    assert asked == [2 * sum(map(len, SOME[0]))]
    assert not list((tmp_path / "store").iterdir())


def test_colleagues_may_read_a_store(tmp_path: Path) -> None:
    folder = open_stores(write_run(tmp_path / "00"), tmp_path / "store")["train"].folder
    (tmp_path / "any").write_text("")
    mode = (tmp_path / "any").stat().st_mode & 0o777
    assert {path.stat().st_mode & 0o777 for path in folder.parent.glob("*/*")} == {mode}
