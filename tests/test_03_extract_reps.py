from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinrep import artifacts, extraction
from clinrep.ehr.sequences import load_sequences
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run
from tests.scripts import check_refused, load_main

STAGE = "03_extract_reps"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    timelines = write_fake_tokenizer_run(root / "00_tokenize", num_subjects=30, seed=5)
    write_fake_backbone_run(root / "01_pretrain", timelines)
    return root


def flags(root: Path, output: str, *more: str) -> list[str]:
    inputs = ["--timelines_dir", str(root / "00_tokenize"), "--backbone_dir", str(root / "01_pretrain")]
    return [*inputs, "--max_length", "64", "--output_dir", str(root / output), *more]


@pytest.fixture(scope="module")
def finished(root) -> Path:
    load_main(STAGE)(flags(root, "one"))
    return root / "one"


def test_every_stay_of_every_split_has_its_vectors(root, finished):
    table = artifacts.read_table("representations", finished)
    splits = pl.read_parquet(root / "00_tokenize" / "splits.parquet")
    assert table.height == 2 * splits.height
    for split in artifacts.SPLITS:
        expected = splits.filter(pl.col("split") == split)["subject_id"].to_list()
        rows = artifacts.read_table("representations", finished, split)
        assert sorted(rows["subject_id"].unique()) == sorted(expected)
        assert set(rows["split"]) == {split}
    assert set(table["pooling"]) == {"last_token", "mean"}
    assert set(table["layer"]) == {2}
    assert artifacts.read_done(finished, STAGE)["rows"]["representations/test"] == 2 * len(expected)


def test_parts_hold_at_most_what_the_setting_says_and_the_same_vectors(root, finished):
    load_main(STAGE)(flags(root, "parts", "--subjects_per_part", "4", "--batch_tokens", "100"))
    assert len(list((root / "parts" / "representations" / "train").iterdir())) > 3
    compare(finished, root / "parts")


def compare(one: Path, other: Path) -> None:
    keys = ["subject_id", "split", "layer", "pooling"]
    left, right = (artifacts.read_table("representations", path) for path in (one, other))
    both = left.join(right, on=keys, suffix="_other")
    assert left.height == right.height == both.height
    difference = both["representation"].to_numpy() - both["representation_other"].to_numpy()
    assert np.abs(difference).max() < 1e-4


ALL_TABLES = (
    *("--subjects_per_part", "4", "--trajectories", "true", "--hidden_states", "true", "--positions", "[2,40]"),
    *("--hidden_state_splits", "[val,test]", "--hidden_state_subjects", "2", "--layers", "[1,-1]"),
)


def list_tables(directory: Path) -> dict[str, bytes]:
    """Return path -> content of every table."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.parquet"))}


def test_a_run_cut_off_goes_on_where_it_was_and_ends_the_same(root, monkeypatch):
    whole = load_main(STAGE)
    whole(flags(root, "whole", *ALL_TABLES))
    rows = artifacts.read_done(root / "whole", STAGE)["rows"]
    num_stays = pl.read_parquet(root / "00_tokenize" / "splits.parquet").height
    assert rows["trajectories"] == num_stays
    extract, computed = extraction.Extractor.extract, []

    def cut_off(self, sequences, names):
        computed.append(sequences.subjects["subject_id"].to_list())
        if len(computed) == 4:
            raise OSError("killed")
        return extract(self, sequences, names)

    monkeypatch.setattr(extraction.Extractor, "extract", cut_off)
    with pytest.raises(OSError, match="killed"):
        load_main(STAGE)(flags(root, "cut", *ALL_TABLES))
    kept = {path: path.stat().st_mtime_ns for path in (root / "cut" / "representations").rglob("*.parquet")}
    assert len(kept) == 3
    load_main(STAGE)(flags(root, "cut", *ALL_TABLES))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    done = [one for part in (*computed[:3], *computed[4:]) for one in part]  # the fourth was not finished
    assert len(done) == len(set(done)) == num_stays
    assert list_tables(root / "cut") == list_tables(root / "whole")
    assert artifacts.read_done(root / "cut", STAGE)["rows"] == rows


def test_a_run_cut_off_between_two_tables_of_a_part_lacks_neither(root, monkeypatch):
    write_table, written = artifacts.write_table, []

    def cut_off(name, frame, directory, split="", part=0):
        written.append((name, split, part))
        if len(written) == 7:
            raise OSError("killed")
        return write_table(name, frame, directory, split, part)

    monkeypatch.setattr(artifacts, "write_table", cut_off)
    asked = [*ALL_TABLES, "--hidden_states", "false"]
    with pytest.raises(OSError, match="killed"):
        load_main(STAGE)(flags(root, "between", *asked))
    assert written[6][1:] == written[5][1:]  # the first table of that part was written, the second not
    load_main(STAGE)(flags(root, "between", *asked))
    num_stays = pl.read_parquet(root / "00_tokenize" / "splits.parquet").height
    assert artifacts.read_done(root / "between", STAGE)["rows"]["trajectories"] == num_stays
    assert artifacts.read_table("trajectories", root / "between")["subject_id"].n_unique() == num_stays


def test_hidden_states_are_of_as_many_stays_of_the_splits_as_asked_for(root):
    directory = root / "states"
    load_main(STAGE)(flags(root, "states", *ALL_TABLES, "--splits", "[val,test]", "--max_subjects", "3"))
    table = artifacts.read_table("hidden_states", directory)
    assert sorted(path.name for path in (directory / "hidden_states").iterdir()) == ["test", "val"]
    assert sorted(path.name for path in (directory / "representations").iterdir()) == ["test", "val"]
    stored = table.group_by("split").agg(pl.col("subject_id").n_unique()).sort("split")
    assert stored.rows() == [("test", 2), ("val", 2)]
    extracted = (
        artifacts.read_table("representations", directory).group_by("split").agg(pl.col("subject_id").n_unique())
    )
    assert dict(extracted.iter_rows()) == {"test": 3, "val": 3}
    last = table.filter(layer=2).sort("position").group_by("subject_id").last().sort("subject_id")
    vectors = artifacts.read_table("representations", directory).filter(layer=2, pooling="last_token")
    both = last.join(vectors, on="subject_id").sort("subject_id")
    difference = both["hidden_state"].to_numpy().astype(np.float32) - both["representation"].to_numpy()
    assert np.abs(difference).max() < 0.01


def test_a_sample_depends_on_ids_alone_and_a_smaller_one_is_part_of_it(root):
    whole = load_sequences(str(root / "00_tokenize"), 64)
    mixed = whole.take(np.random.default_rng(0).permutation(len(whole)))
    samples = []
    for sequences, size in ((whole, 9), (mixed, 9), (whole, 4)):
        rows = extraction.sample(sequences, size, 1)
        assert rows.tolist() == sorted(rows.tolist())
        samples.append(set(sequences.subjects["subject_id"][rows]))
    assert samples[0] == samples[1] > samples[2]
    assert [len(one) for one in samples] == [9, 9, 4]
    other = set(whole.subjects["subject_id"][extraction.sample(whole, 9, 2)])
    assert other != samples[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--poolings", "[max]"], "unknown pooling 'max'; known: last_token, mean, random_token"),
        (["--layers", "[7]"], "the model has layers 0 (embeddings) to 2"),
        (["--backbone_dir", "tests"], "tests"),
    ],
)
def test_bad_input_is_one_message_and_no_directory(root, more, words):
    check_refused(STAGE, flags(root, "bad", *more), words)
    assert not (root / "bad").exists()
