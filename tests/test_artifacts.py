from __future__ import annotations

import re
import shutil
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.artifacts import ArtifactError, atomic_path, describe_tables, fingerprint, read_done, read_table
from clinrep.config import InputError

SPLITS = pl.DataFrame({"patient_id": ["p1", "p2"], "subject_id": ["s1", "s2"], "split": ["train", "test"]})


def finish(directory: Path, stage: str = "00_tokenize") -> Path:
    artifacts.write_done(directory, stage, {"splits": 2}, {"clif_dir": "abc"})
    return directory


def test_a_table_reads_back_equal_in_the_schema_order(tmp_path):
    artifacts.write_table("splits", SPLITS.select("split", "subject_id", "patient_id"), tmp_path)
    finish(tmp_path)
    assert read_table("splits", tmp_path).equals(SPLITS)
    assert pl.read_parquet(tmp_path / "splits.parquet").columns == ["patient_id", "subject_id", "split"]


def test_parts_are_read_in_order_and_by_split(tmp_path):
    times = [[datetime(2020, 1, 1)], [datetime(2020, 1, 2)]]
    frame = pl.DataFrame(
        {"subject_id": ["a", "b"], "token_ids": [[1], [2]], "times": times},
        schema_overrides={"token_ids": pl.List(pl.UInt32), "times": pl.List(pl.Datetime("us"))},
    )
    for part in (1, 0):
        artifacts.write_table("timelines", frame[part : part + 1], tmp_path, "train", part)
    artifacts.write_table("timelines", frame[:0], tmp_path, "val")
    finish(tmp_path)
    assert read_table("timelines", tmp_path, "train")["subject_id"].to_list() == ["a", "b"]
    assert read_table("timelines", tmp_path, "val").height == 0
    with pytest.raises(ArtifactError, match=r"does not exist; 00_tokenize\.py writes it"):
        read_table("timelines", tmp_path, "test")


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (SPLITS.drop("split"), ["'split'", "should be str", "no such column", "00_tokenize.py writes it"]),
        (SPLITS.with_columns(split=pl.lit(1)), ["'split'", "should be str", "Int32"]),
        (SPLITS.with_columns(split=pl.lit(None, pl.String)), ["'split'", "must not be null", "2 nulls"]),
    ],
)
def test_a_wrong_column_says_expected_found_and_who_writes_it(tmp_path, frame, words):
    with pytest.raises(AssertionError):
        artifacts.write_table("splits", frame, tmp_path)
    assert not list(tmp_path.iterdir())
    frame.write_parquet(tmp_path / "splits.parquet")
    finish(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        read_table("splits", tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_vectors_of_any_width_are_one_type(tmp_path):
    frame = pl.DataFrame(
        {"subject_id": ["a"], "split": ["val"], "layer": [4], "pooling": ["mean"], "representation": [[1.0, 2.0]]},
        schema_overrides={"layer": pl.Int16, "representation": pl.Array(pl.Float32, 2)},
    )
    artifacts.write_table("representations", frame, tmp_path, "val")
    as_list = frame.with_columns(pl.col("representation").cast(pl.List(pl.Float32)))
    with pytest.raises(AssertionError, match=re.escape("should be array[f32]")):
        artifacts.write_table("representations", as_list, tmp_path, "val")


def test_a_directory_without_done_or_of_another_stage_is_refused(tmp_path):
    artifacts.write_table("splits", SPLITS, tmp_path)
    with pytest.raises(ArtifactError, match="holds no DONE"):
        read_table("splits", tmp_path)
    finish(tmp_path, "03_extract_reps")
    with pytest.raises(ArtifactError, match=r"was written by 03_extract_reps\.py, expected a directory of 00_tokenize"):
        read_table("splits", tmp_path)
    (tmp_path / "DONE").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        read_done(tmp_path, "00_tokenize")
    with pytest.raises(ArtifactError, match="is not a directory"):
        read_done(tmp_path / "none", "00_tokenize")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "splits.parquet").write_bytes(b"PAR1 not really")
    finish(tmp_path)
    with pytest.raises(ArtifactError, match=r"splits\.parquet is not a readable Parquet file"):
        read_table("splits", tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    for content in ("old", "new"):
        with atomic_path(tmp_path / "backbone") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [path.name for path in (tmp_path / "backbone").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]


def test_equal_content_has_equal_fingerprint_wherever_it_lies(tmp_path):
    for name in ("one", "two"):
        artifacts.write_table("splits", SPLITS, tmp_path / name)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    (tmp_path / "two" / "splits.parquet").write_bytes(b"changed")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
    with pytest.raises(InputError, match="does not exist"):
        fingerprint(tmp_path / "three")


def test_a_finished_run_is_fingerprinted_by_its_tables_not_its_log(tmp_path):
    artifacts.write_table("splits", SPLITS, tmp_path / "one")
    finish(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "run.log").write_text("other words")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    artifacts.write_table("splits", SPLITS[:1], tmp_path / "two")
    finish(tmp_path / "two")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")


def test_the_tables_of_a_run_count_wherever_it_lies(tmp_path):
    for name, frame in (("a", SPLITS), ("b", SPLITS[:1])):
        artifacts.write_table("splits", frame, tmp_path / "checkpoints" / name)
        finish(tmp_path / "checkpoints" / name)
    assert fingerprint(tmp_path / "checkpoints" / "a") != fingerprint(tmp_path / "checkpoints" / "b")


def test_a_folder_of_runs_is_fingerprinted_by_them(tmp_path):
    for name in ("death", "icu"):
        artifacts.write_table("splits", SPLITS, tmp_path / name)
        finish(tmp_path / name)
    before = fingerprint(tmp_path)
    artifacts.write_table("splits", SPLITS[:1], tmp_path / "icu")
    finish(tmp_path / "icu")
    assert fingerprint(tmp_path) != before


def make_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "vocabulary.parquet", "quantiles.parquet"):
        (directory / name).write_text("{}")
    return directory


def test_a_model_is_found_in_its_run_or_alone_but_not_in_an_unfinished_run(tmp_path):
    alone = make_model(tmp_path / "copied")
    assert artifacts.find_model(alone, "backbone", "01_pretrain") == alone
    run = tmp_path / "01_pretrain"
    backbone = make_model(run / "backbone")
    (run / "config.yaml").write_text("seed: 1")
    for given in (run, backbone):
        with pytest.raises(ArtifactError, match="holds no DONE"):
            artifacts.find_model(given, "backbone", "01_pretrain")
    finish(run, "01_pretrain")
    for given in (run, backbone):
        assert artifacts.find_model(given, "backbone", "01_pretrain") == backbone
    (backbone / "vocabulary.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"vocabulary\.parquet does not exist"):
        artifacts.find_model(run, "backbone", "01_pretrain")
    with pytest.raises(ArtifactError, match="is not a directory"):
        artifacts.find_model(tmp_path / "none", "backbone", "01_pretrain")


def test_the_documentation_of_the_tables_is_current():
    documented = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    assert documented == describe_tables(), "run `make docs`"
