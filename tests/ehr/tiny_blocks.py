"""Small stores and blocks, and plain loops that say what blocks should hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinrep.ehr.blocks import Block, Blocks, CrossDocumentBlocks, IsolatedBlocks
from clinrep.ehr.configs.pretrain import PackingConfig, PretrainConfig
from clinrep.ehr.token_store import TokenStore

PAD = 2  # its place in fake_timelines.TOKEN_KINDS
NONE = -100
MANY = 10  # tokens above this are counted up from it, so that each is the only one of its kind


def make_config(run_dir: Path, **settings: object) -> PretrainConfig:
    sizes = {"block_size": 32, **settings}
    sizes.setdefault("global_batch_tokens", sizes["block_size"])
    return PretrainConfig(output_dir=str(run_dir / "out"), timelines_dir=str(run_dir), **sizes)


def make_store(folder: Path, timelines: Sequence[Sequence[int]]) -> TokenStore:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", np.concatenate(timelines).astype(np.uint32))
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, timelines)]))
    return TokenStore(folder)


def make_timelines(num: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Return timelines of random length in which no token occurs twice."""
    lengths = np.random.default_rng(seed).integers(1, longest + 1, size=num)
    ends = MANY + np.cumsum(lengths)
    return [list(range(end - length, end)) for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)]


def isolate(store: TokenStore, block_size: int, num_static: int = 0, seed: int = 5) -> IsolatedBlocks:
    return IsolatedBlocks(store, block_size, PAD, seed, num_static)


def join(store: TokenStore, block_size: int, seed: int = 5, **packing: Any) -> CrossDocumentBlocks:
    return CrossDocumentBlocks(store, block_size, PAD, seed, PackingConfig(method="cross_document", **packing))


def read(blocks: Blocks) -> list[tuple[Any, ...]]:
    return [(block["input_ids"].tolist(), block["labels"].tolist(), *list(block.values())[2:]) for block in blocks]


def split_documents(block: Block, block_size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield ids and labels of each document but the padding at the end, which is checked here."""
    assert block["input_ids"].shape == block["labels"].shape == (block_size,)
    assert block["input_ids"].dtype == block["labels"].dtype == np.int64
    assert sum(block["lengths"]) == block_size
    assert min(block["lengths"]) >= 1
    begin = 0
    for length in block["lengths"]:
        ids, labels = (block[name][begin : begin + length].tolist() for name in ("input_ids", "labels"))
        begin += length
        if begin <= block["num_tokens"]:
            yield ids, labels
        else:
            assert begin == block_size, "padding is the last document"
            assert length == block_size - block["num_tokens"]
            assert set(ids) == {PAD}
            assert set(labels) == {NONE}


def cut_by_loop(timeline: list[int], block_size: int, num_static: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield ids and labels of each piece of a timeline."""
    yield timeline[:block_size], [NONE, *timeline[1:block_size]]
    done = block_size
    while done < len(timeline):
        own = timeline[done : done + block_size - num_static]
        done += len(own)
        if num_static:
            yield timeline[:num_static] + own, [NONE] * num_static + own
        else:
            yield own, [NONE, *own[1:]]
