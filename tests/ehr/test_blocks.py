"""Packing: every token once, timelines apart, padding never a target."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.blocks import PackedBlocks, load_blocks
from clinrep.ehr.configs.pretrain import PretrainConfig
from tests.ehr.fake_timelines import read_token_ids, write_fake_tokenizer_run

PAD, TL_START = 2, 0  # places in fake_timelines.TOKEN_KINDS


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_fake_tokenizer_run(tmp_path / "00", num_subjects=30, seed=3)


def make_config(run_dir: Path, **settings: object) -> PretrainConfig:
    return PretrainConfig(output_dir="unused", timelines_dir=str(run_dir), **{"block_size": 32, **settings})


def unpack(blocks: PackedBlocks) -> list[list[int]]:
    """Return the timelines of a split again: the fake ones begin with TL_START and hold no other."""
    stream = [token for item in blocks for token in item["input_ids"].tolist() if token != PAD]
    timelines: list[list[int]] = []
    for token in stream:
        if token == TL_START:
            timelines.append([])
        timelines[-1].append(token)
    return timelines


@pytest.mark.parametrize("block_size", [2, 7, 32, 4096])
def test_every_token_of_every_timeline_is_in_exactly_one_block(run_dir: Path, block_size: int) -> None:
    data = load_blocks(make_config(run_dir, block_size=block_size))
    for split, blocks in {"train": data.train, "val": data.val}.items():
        expected = read_token_ids(run_dir, split)
        assert sorted(unpack(blocks)) == sorted(expected)
        assert len(blocks) == int(np.ceil(sum(map(len, expected)) / block_size))


def test_positions_and_labels_are_those_of_a_plain_loop() -> None:
    timelines = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]
    tokens = np.concatenate(timelines).astype(np.uint16)
    starts = np.cumsum([0, 3, 1, 6])
    blocks = PackedBlocks(tokens, starts, block_size=5, pad_token_id=PAD)
    ids, positions, labels = [], [], []
    for timeline in timelines:
        position = 0
        for token in timeline:
            if len(ids) % 5 == 0:
                position = 0
            ids.append(token)
            positions.append(position)
            labels.append(-100 if position == 0 else token)
            position += 1
    padding = -len(ids) % 5
    found = {name: torch.cat([item[name] for item in blocks]).tolist() for name in blocks[0]}
    assert found["input_ids"] == ids + [PAD] * padding
    assert found["position_ids"] == positions + list(range(padding))
    assert found["labels"] == labels + [-100] * padding


def test_filler_has_no_target(run_dir: Path) -> None:
    blocks = load_blocks(make_config(run_dir)).train
    filler = blocks.make_filler()
    assert filler["labels"].tolist() == [-100] * 32
    assert filler["input_ids"].tolist() == [PAD] * 32
    assert {name: value.dtype for name, value in filler.items()} == {
        name: value.dtype for name, value in blocks[0].items()
    }


def test_a_timeline_sees_no_other(run_dir: Path) -> None:
    """Logits of packed rows are those of each piece alone; with running positions they are not."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=29, pad_token_id=PAD, initializer_range=0.3, **sizes)).eval()
    blocks = load_blocks(make_config(run_dir, block_size=128)).train
    batch = torch.utils.data.default_collate([blocks[0], blocks[1]])
    ids, positions = batch["input_ids"], batch["position_ids"]
    assert (positions == 0).sum() > 4, "the rows should hold several timelines"
    running = torch.arange(128).expand(2, -1)
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        bled = model(input_ids=ids, position_ids=running, use_cache=False).logits
        apart = torch.empty_like(packed)
        for row in range(2):
            bounds = [*torch.nonzero(positions[row] == 0).flatten().tolist(), 128]
            for begin, end in pairwise(bounds):
                apart[row, begin:end] = model(input_ids=ids[row : row + 1, begin:end], use_cache=False).logits[0]
    assert packed.std() > 0.1
    assert (packed - apart).abs().max() < 1e-5
    assert (bled - apart).abs().max() > 0.1


def test_the_seed_decides_the_order_and_nothing_else_does(run_dir: Path) -> None:
    first = load_blocks(make_config(run_dir, seed=1)).train.tokens
    assert np.array_equal(first, load_blocks(make_config(run_dir, seed=1, block_size=64)).train.tokens)
    other = load_blocks(make_config(run_dir, seed=2)).train.tokens
    assert not np.array_equal(first, other)
    assert np.array_equal(np.sort(first), np.sort(other))
    files = [ids for timeline in read_token_ids(run_dir, "train") for ids in timeline]
    assert not np.array_equal(first, files), "timelines should not be in the order of the file"


def test_the_test_split_is_not_read(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "timelines" / "test")
    (run_dir / "outcomes.parquet").unlink()
    assert len(load_blocks(make_config(run_dir)).train)


def rewrite(run_dir: Path, split: str, token_ids: list[list[int]]) -> None:
    frame = artifacts.read_table("timelines", run_dir, split).head(len(token_ids))
    frame = frame.with_columns(pl.Series("token_ids", token_ids, dtype=pl.List(pl.UInt32)))
    artifacts.write_table("timelines", frame, run_dir, split)


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [([[0, 29, 1]], "vocabulary ends at 28"), ([[0, PAD, 1]], "PAD .* occurs"), ([], "val split holds no timeline")],
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


def test_an_unfinished_directory_is_refused(run_dir: Path) -> None:
    (run_dir / "DONE").unlink()
    with pytest.raises(InputError, match="no DONE"):
        load_blocks(make_config(run_dir))


def test_ids_need_two_bytes_or_four() -> None:
    """The flat array is narrow, and items are wide enough for torch."""
    tokens = np.array([0, 70_000], dtype=np.uint32)
    item = PackedBlocks(tokens, np.array([0]), block_size=2, pad_token_id=PAD)[0]
    assert item["input_ids"].tolist() == [0, 70_000]
