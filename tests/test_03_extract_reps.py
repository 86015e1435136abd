from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinrep import artifacts
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run
from tests.scripts import TWO_RANKS, check_refused, load_main, run_script

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


@pytest.mark.slow
def test_two_ranks_share_the_work(root, finished):
    done = run_script(STAGE, *flags(root, "ranks"), launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr
    assert len(list((root / "ranks" / "representations" / "train").iterdir())) == 2
    compare(finished, root / "ranks")
    assert artifacts.read_done(root / "ranks", STAGE)["rows"] == artifacts.read_done(finished, STAGE)["rows"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--poolings", "[max]"], "unknown pooling 'max'; known: last_token, mean"),
        (["--layers", "[7]"], "the model has layers 0 (embeddings) to 2"),
        (["--backbone_dir", "tests"], "tests"),
    ],
)
def test_bad_input_is_one_message_exit_code_2_and_no_directory(root, more, words):
    check_refused(STAGE, flags(root, "bad", *more), words)
    assert not (root / "bad").exists()
