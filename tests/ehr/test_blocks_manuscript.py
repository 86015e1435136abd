"""Blocks as in the manuscript: timelines end to end, PADs between, attention across."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clinrep.ehr.blocks import CrossDocumentBlocks
from clinrep.ehr.token_store import TokenStore
from tests.ehr.tiny_blocks import (
    MANY,
    NONE,
    PAD,
    join,
    make_store,
    make_timelines,
    read,
)

# As in the manuscript


def find_stream(blocks: CrossDocumentBlocks) -> list[int]:
    return [token for block in blocks for token in block["input_ids"].tolist()]


def find_paddings(stream: list[int], timelines: list[list[int]]) -> tuple[list[int], list[int]]:
    """Return the order of the timelines in a stream, and the number of PADs after each."""
    number_of = {timeline[0]: number for number, timeline in enumerate(timelines)}
    order, paddings = [], []
    place = 0
    while place < len(stream):
        number = number_of[stream[place]]
        timeline = timelines[number]
        assert stream[place : place + len(timeline)] == timeline, "whole and in order"
        place += len(timeline)
        order.append(number)
        paddings.append(0)
        while place < len(stream) and stream[place] == PAD:
            paddings[-1] += 1
            place += 1
    return order, paddings


@pytest.mark.parametrize("block_size", [2, 3, 7, 32, 5000])
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_timelines_follow_one_another_and_none_is_lost(tmp_path: Path, block_size: int, mean: float) -> None:
    timelines = make_timelines(60, 50)
    blocks = join(make_store(tmp_path, timelines), block_size, mean_padding_tokens=mean)
    orders, all_paddings = [], []
    for epoch in range(3):
        blocks.set_epoch(epoch)
        order, paddings = find_paddings(find_stream(blocks), timelines)
        assert sorted(order) == list(range(60))
        orders.append(order)
        all_paddings.append([count for _, count in sorted(zip(order[:-1], paddings[:-1], strict=True))])
        targets = Counter(label for block in blocks for label in block["labels"].tolist() if label != NONE)
        firsts = [int(block["input_ids"][0]) for block in blocks]
        tokens = {token for timeline in timelines for token in timeline}
        assert set(targets.values()) == {1}
        assert set(targets) == tokens - set(firsts), "all but the first of each block"
        for block in blocks:
            assert block["num_tokens"] == (block["input_ids"] != PAD).sum()
    assert orders[0] != orders[1] != orders[2] != orders[0]
    if mean == 0:
        assert not np.any(all_paddings)


def test_paddings_stay_with_their_timeline_and_have_the_mean_of_the_paper(tmp_path: Path) -> None:
    timelines = [[MANY + number] for number in range(4000)]
    blocks = join(make_store(tmp_path, timelines), 1024)
    found = []
    for epoch in range(2):
        blocks.set_epoch(epoch)
        order, paddings = find_paddings(find_stream(blocks), timelines)
        of_timeline = dict(zip(order, paddings, strict=True))
        del of_timeline[order[-1]]  # the block's own padding follows it
        found.append(of_timeline)
        counts = np.array(list(of_timeline.values()))
        assert abs(counts.mean() - 7) < 0.2
        assert abs(counts.var() - 7) < 0.8
    both = found[0].keys() & found[1].keys()
    assert len(both) >= 3998
    assert all(found[0][number] == found[1][number] for number in both)


def test_cross_document_blocks_by_hand(tmp_path: Path) -> None:
    blocks = join(make_store(tmp_path, [[11, 12, 13, 14], [21, 22, 23]]), 4, mean_padding_tokens=0.0)
    first = ([11, 12, 13, 14], [NONE, 12, 13, 14], [4], 4), ([21, 22, 23, PAD], [NONE, 22, 23, NONE], [4], 3)
    second = ([21, 22, 23, 11], [NONE, 22, 23, 11], [4], 4), ([12, 13, 14, PAD], [NONE, 13, 14, NONE], [4], 3)
    seen = []
    for epoch in range(12):
        blocks.set_epoch(epoch)
        seen.append(tuple(read(blocks)))
    assert set(map(str, seen)) == {str(first), str(second)}
    blocks.set_epoch(seen.index(first))
    batch = blocks.collate([*blocks, blocks.make_filler()])
    assert batch.keys() == {"input_ids", "labels", "num_tokens", "attention_pairs"}, "no bounds, no positions"
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14], [21, 22, 23, PAD], [PAD] * 4]
    assert batch["labels"].tolist() == [[NONE, 12, 13, 14], [NONE, 22, 23, NONE], [NONE] * 4]
    assert batch["num_tokens"] == 7
    assert batch["attention_pairs"] == 10 + 10


@pytest.mark.parametrize("block_size", [3, 16, 4000])
def test_padding_is_predicted_where_the_manuscript_asks(tmp_path: Path, block_size: int) -> None:
    """All between and after the timelines, but not what fills the last block beyond them."""
    store = make_store(tmp_path, make_timelines(50, 20))
    num_places = len(store.tokens) + sum_paddings(store)
    pairs = zip(join(store, block_size), join(store, block_size, predict_padding=True), strict=True)
    for index, (plain, predicting) in enumerate(pairs):
        ids = plain["input_ids"].tolist()
        assert predicting["input_ids"].tolist() == ids
        in_stream = [place > 0 and index * block_size + place < num_places for place in range(block_size)]
        expected = [token if is_inside else NONE for token, is_inside in zip(ids, in_stream, strict=True)]
        assert predicting["labels"].tolist() == expected
        assert plain["labels"].tolist() == [NONE if label == PAD else label for label in expected]


@pytest.mark.parametrize("block_size", [3, 7, 32, 100])
def test_the_tail_is_kept_or_dropped(tmp_path: Path, block_size: int) -> None:
    store = make_store(tmp_path, make_timelines(40, 20))
    whole, cut = join(store, block_size), join(store, block_size, drop_tail=True)
    for epoch in range(3):
        whole.set_epoch(epoch)
        cut.set_epoch(epoch)
        kept = read(cut)
        assert kept == read(whole)[: len(cut)]
        num_places = len(store.tokens) + sum_paddings(store)
        assert len(whole) == -(-num_places // block_size)
        assert len(cut) == num_places // block_size


def sum_paddings(store: TokenStore) -> int:
    """Return the PADs of seed 5, from blocks so short that they leave nothing to fill."""
    return len(find_stream(join(store, 1, seed=5))) - len(store.tokens)
