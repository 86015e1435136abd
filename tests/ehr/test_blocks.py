"""Isolated blocks: every token once an epoch, documents apart, padding never a target."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clinrep.ehr.blocks import Block
from tests.ehr.tiny_blocks import (
    NONE,
    PAD,
    cut_by_loop,
    isolate,
    join,
    make_store,
    make_timelines,
    read,
    split_documents,
)

# Isolated


def test_isolated_blocks_by_hand(tmp_path: Path) -> None:
    store = make_store(tmp_path, [[11, 12, 13, 14, 15, 16, 17], [21, 22, 23], [31]])
    blocks = isolate(store, 5, num_static=2)
    assert read(blocks) == [
        ([11, 12, 13, 14, 15], [NONE, 12, 13, 14, 15], [5], 5),
        ([11, 12, 16, 17, 31], [NONE, NONE, 16, 17, NONE], [4, 1], 5),
        ([21, 22, 23, PAD, PAD], [NONE, 22, 23, NONE, NONE], [3, 2], 3),
    ]
    batch = blocks.collate([*blocks, blocks.make_filler()])
    assert batch["input_ids"].tolist() == [[*range(11, 16), 11, 12, 16, 17, 31, 21, 22, 23, *[PAD] * 7]]
    labels = [NONE, 12, 13, 14, 15, NONE, NONE, 16, 17, NONE, NONE, 22, 23, *[NONE] * 7]
    assert batch["labels"].tolist() == [labels]
    positions = [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 1, 2, 0, 1, 0, 1, 2, 3, 4]
    assert batch["position_ids"].tolist() == [positions]
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 9, 10, 13, 15, *[20] * 27]
    assert batch["cu_seq_lens_k"].tolist() == batch["cu_seq_lens_q"].tolist()
    assert batch["max_length_q"] == batch["max_length_k"] == 5
    assert batch["num_tokens"] == 13
    assert batch["attention_pairs"] == 15 + 10 + 1 + 6
    types = {name: value.dtype for name, value in batch.items() if isinstance(value, torch.Tensor)}
    assert types == {
        **dict.fromkeys(("input_ids", "labels", "position_ids"), torch.int64),
        **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), torch.int32),
    }


@pytest.mark.parametrize(
    ("block_size", "num_static"), [(2, 0), (2, 1), (3, 0), (7, 0), (7, 5), (16, 3), (32, 0), (500, 4)]
)
def test_every_token_is_in_one_document_and_predicted_once(tmp_path: Path, block_size: int, num_static: int) -> None:
    timelines = make_timelines(60, 50)
    expected = sorted(piece for timeline in timelines for piece in cut_by_loop(timeline, block_size, num_static))
    num_pieces = sum(1 for _ in expected)
    blocks = isolate(make_store(tmp_path, timelines), block_size, num_static)
    for epoch in range(3):
        blocks.set_epoch(epoch)
        assert sorted(piece for block in blocks for piece in split_documents(block, block_size)) == expected
        targets = Counter(label for block in blocks for label in block["labels"].tolist() if label != NONE)
        assert set(targets.values()) == {1}
        unpredicted = len(timelines) if num_static else num_pieces
        assert len(targets) == sum(map(len, timelines)) - unpredicted, "all but those with nothing before them"


def test_isolated_tables_of_all_kinds(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for trial in range(40):
        block_size = int(rng.integers(2, 40))
        num_static = int(rng.integers(0, block_size))
        timelines = make_timelines(int(rng.integers(1, 25)), int(rng.integers(1, 80)), seed=trial)
        blocks = isolate(make_store(tmp_path / str(trial), timelines), block_size, num_static, seed=trial)
        expected = sorted(piece for timeline in timelines for piece in cut_by_loop(timeline, block_size, num_static))
        items = list(blocks)
        assert sorted(piece for block in items for piece in split_documents(block, block_size)) == expected
        loads = sorted(block["num_tokens"] for block in items)
        assert len(loads) == 1 or loads[0] + loads[1] > block_size, "no two blocks could be one"
        chosen = [items[i] for i in rng.integers(0, len(items), size=3)] + [blocks.make_filler()]
        check_batch(blocks.collate(chosen), chosen, block_size)


def check_batch(batch: dict[str, Any], blocks: list[Block], block_size: int) -> None:
    """Compare a batch with what loops over its blocks give."""
    positions, bounds, pairs = [], [0], 0
    for block in blocks:
        left = block["num_tokens"]
        for length in block["lengths"]:
            positions += range(length)
            bounds.append(bounds[-1] + length)
            pairs += sum(range(1, length + 1)) if left > 0 else 0
            left -= length
    total = len(blocks) * block_size
    assert batch["position_ids"].tolist() == [positions]
    found = batch["cu_seq_lens_q"].tolist()
    assert found[: len(bounds)] == bounds
    assert set(found[len(bounds) :]) <= {total}
    room = len(found) - 1
    assert room & (room - 1) == 0, "a power of two"
    assert batch["num_tokens"] == sum(block["num_tokens"] for block in blocks)
    assert batch["attention_pairs"] == pairs
    for name in ("input_ids", "labels"):
        assert batch[name].tolist() == [[int(token) for block in blocks for token in block[name]]]


def test_the_order_of_a_timelines_pieces_can_be_told(tmp_path: Path) -> None:
    """Pieces are consecutive, and each that is no first one names its timeline by the static tokens."""
    timelines = make_timelines(20, 90, seed=1)
    blocks = isolate(make_store(tmp_path, timelines), 16, num_static=3)
    rebuilt = {}
    later = []
    for ids, _ in (document for block in blocks for document in split_documents(block, 16)):
        if ids == list(range(ids[0], ids[0] + len(ids))):
            rebuilt[ids[0]] = ids
        else:
            later.append((ids[0], ids[3:]))
    assert len(later) > 20
    for first, own in sorted(later):
        rebuilt[first] = rebuilt[first] + own
    assert sorted(rebuilt.values()) == timelines


@pytest.mark.parametrize("method", ["isolated", "cross_document"])
def test_an_epoch_is_a_function_of_seed_and_epoch_alone(tmp_path: Path, method: str) -> None:
    store = make_store(tmp_path, make_timelines(80, 12))
    make = isolate if method == "isolated" else join
    blocks = make(store, 16)
    epochs = []
    for epoch in range(4):
        blocks.set_epoch(epoch)
        epochs.append(read(blocks))
    assert len({len(epoch) for epoch in epochs}) == 1
    contents = [{frozenset(block[0]) for block in epoch} for epoch in epochs]
    for first in range(4):
        for second in range(first):
            assert len(contents[first] & contents[second]) < 0.7 * len(contents[first]), "dealt anew"
    fresh = make(store, 16)
    assert read(fresh) == epochs[0], "a fresh one is at epoch 0"
    for epoch in (3, 1, 3, 0, 2):
        fresh.set_epoch(epoch)
        assert read(fresh) == read(fresh) == epochs[epoch]
    other = make(store, 16, seed=6)
    assert {frozenset(block[0]) for block in read(other)} != contents[0]


@pytest.mark.parametrize("method", ["isolated", "cross_document"])
def test_blocks_have_an_end(tmp_path: Path, method: str) -> None:
    blocks = (isolate if method == "isolated" else join)(make_store(tmp_path, make_timelines(9, 9)), 8)
    assert len(list(blocks)) == len(blocks) > 0
    for index in (-1, len(blocks)):
        with pytest.raises(IndexError):
            blocks[index]


@pytest.mark.parametrize("method", ["isolated", "cross_document"])
def test_filler_has_no_target_and_counts_for_nothing(tmp_path: Path, method: str) -> None:
    blocks = (isolate if method == "isolated" else join)(make_store(tmp_path, make_timelines(9, 9)), 8)
    filler = blocks.make_filler()
    assert filler["labels"].tolist() == [NONE] * 8
    assert filler["input_ids"].tolist() == [PAD] * 8
    assert filler.keys() == blocks[0].keys()
    alone, both = blocks.collate([blocks[0]]), blocks.collate([blocks[0], filler])
    for name in ("num_tokens", "attention_pairs"):
        assert alone[name] == both[name] > 0
        assert blocks.collate([filler, filler])[name] == 0
