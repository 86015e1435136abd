"""Blocks of a stage-00 directory, and what is refused."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.blocks import load_blocks
from clinrep.ehr.configs.pretrain import LlamaShape, PackingConfig
from tests.ehr.fake_timelines import read_token_ids, write_fake_tokenizer_run
from tests.ehr.tiny_blocks import (
    PAD,
    make_config,
    read,
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_fake_tokenizer_run(tmp_path / "00", num_subjects=30, seed=3)


# From a stage-00 directory


@pytest.mark.parametrize("method", ["isolated", "cross_document"])
@pytest.mark.parametrize("block_size", [2, 7, 32, 4096])
def test_every_token_of_both_splits_is_there(run_dir: Path, block_size: int, method: str) -> None:
    data = load_blocks(make_config(run_dir, block_size=block_size, packing=PackingConfig(method=method)))
    counts = data.count_rows()
    for split, blocks in {"train": data.train, "val": data.val}.items():
        expected = [token for timeline in read_token_ids(run_dir, split) for token in timeline]
        for epoch in range(2):
            blocks.set_epoch(epoch)
            found = [token for block in blocks for token in block["input_ids"].tolist() if token != PAD]
            assert sorted(found) == sorted(expected)
        assert counts[f"tokens/{split}"] == len(expected)
        assert counts[f"timelines/{split}"] == len(read_token_ids(run_dir, split))
        assert counts[f"blocks/{split}"] == len(blocks)


@pytest.mark.parametrize("method", ["isolated", "cross_document"])
def test_validation_is_the_same_every_time(run_dir: Path, method: str) -> None:
    """In the reference its PADs were drawn anew each time."""
    config = make_config(run_dir, packing=PackingConfig(method=method))
    data = load_blocks(config)
    before = read(data.val)
    data.train.set_epoch(3)
    list(data.train)
    assert read(data.val) == before
    assert read(load_blocks(config).val) == before


def test_the_seed_decides_which_timelines_meet(run_dir: Path) -> None:
    first, again, other = (read(load_blocks(make_config(run_dir, seed=seed)).train) for seed in (1, 1, 2))
    assert first == again != other


def test_the_test_split_is_not_read(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "timelines" / "test")
    (run_dir / "outcomes.parquet").unlink()
    assert len(load_blocks(make_config(run_dir)).train)


def test_the_stores_lie_where_the_settings_say(run_dir: Path, tmp_path: Path) -> None:
    load_blocks(make_config(run_dir))
    assert len(list((run_dir / "out/token_store").iterdir())) == 1
    load_blocks(make_config(run_dir, token_store_dir=str(tmp_path / "fast_disk")))
    assert len(list((tmp_path / "fast_disk").iterdir())) == 1


def rewrite(run_dir: Path, split: str, token_ids: list[list[int]]) -> None:
    frame = artifacts.read_table("timelines", run_dir, split).head(len(token_ids))
    frame = frame.with_columns(
        pl.Series("token_ids", token_ids, dtype=pl.List(pl.UInt32)),
        times=pl.Series([[datetime(2150, 1, 1)] * len(ids) for ids in token_ids], dtype=pl.List(pl.Datetime("us"))),
    )
    artifacts.write_table("timelines", frame, run_dir, split)


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([[0, 29, 1]], "vocabulary ends at 28"),
        ([[0, PAD, 1]], "PAD .* occurs"),
        ([], "val split holds no timeline"),
        ([[], []], "val split holds no timeline"),
        ([[0], [1]], "every timeline of the val split is one token long"),
    ],
)
def test_wrong_timelines_are_refused(run_dir: Path, token_ids: list[list[int]], message: str) -> None:
    rewrite(run_dir, "val", token_ids)
    with pytest.raises(InputError, match=message):
        load_blocks(make_config(run_dir))


def test_a_vocabulary_without_dedicated_pad_or_with_gaps_is_refused(run_dir: Path) -> None:
    vocabulary = artifacts.read_table("vocabulary", run_dir)
    no_special = vocabulary.with_columns(kind=pl.lit("labs"))
    artifacts.write_table("vocabulary", no_special, run_dir)
    with pytest.raises(InputError, match="no token PAD of kind special"):
        load_blocks(make_config(run_dir))
    artifacts.write_table("vocabulary", vocabulary.filter(pl.col("token_id") != 7), run_dir)
    with pytest.raises(InputError, match=r"should be 0\.\.27"):
        load_blocks(make_config(run_dir))


def test_a_vocabulary_shorter_than_the_timelines_need_is_refused(run_dir: Path) -> None:
    vocabulary = artifacts.read_table("vocabulary", run_dir)
    artifacts.write_table("vocabulary", vocabulary.head(20), run_dir)
    with pytest.raises(InputError, match="the vocabulary ends at 19"):
        load_blocks(make_config(run_dir))


def test_an_unfinished_directory_is_refused(run_dir: Path) -> None:
    (run_dir / "DONE").unlink()
    with pytest.raises(InputError, match="no DONE"):
        load_blocks(make_config(run_dir))


def test_static_tokens_that_fill_a_block_are_refused(run_dir: Path) -> None:
    repeating = PackingConfig(repeat_static_tokens=True)
    with pytest.raises(InputError, match=r"block_size is 5 but the static tokens alone are 5; .*repeat_static_tokens"):
        load_blocks(make_config(run_dir, block_size=5, packing=repeating))
    assert len(load_blocks(make_config(run_dir, block_size=6, packing=repeating)).train)
    assert len(load_blocks(make_config(run_dir, block_size=5)).train)


def test_a_split_that_is_all_tail_is_refused(run_dir: Path) -> None:
    packing = PackingConfig(method="cross_document", drop_tail=True)
    with pytest.raises(InputError, match="the val split does not fill one block; lower block_size"):
        load_blocks(make_config(run_dir, block_size=1024, packing=packing))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 1}, "block_size"),
        ({"block_size": 8193}, r"block_size.*8193.*max_positions \(8192\)"),
        ({"block_size": 64, "global_batch_tokens": 100}, r"multiple of block_size \(64\).*128"),
        ({"block_size": 64, "global_batch_tokens": 32}, r"multiple of block_size \(64\).*64"),
        ({"block_size": 64, "model": LlamaShape(max_positions=63)}, "max_positions"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_tail": True}, "drop_tail.*method isolated"),
        ({"predict_padding": True}, "predict_padding.*method isolated"),
        ({"method": "cross_document", "repeat_static_tokens": True}, "repeat_static_tokens.*method cross_document"),
        ({"method": "cross_document", "mean_padding_tokens": -1.0}, "mean_padding_tokens"),
    ],
)
def test_packing_that_would_change_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackingConfig(**settings)
