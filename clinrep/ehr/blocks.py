"""Timelines packed into blocks for the language model.

L is block_size. Timelines follow one another in a seeded order and are cut every L tokens, so each
token is seen once per epoch. Positions restart at each timeline, which is how transformers' Llama
knows where attention must not pass (spec: only without a 2-D mask and without a cache).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch.utils.data import Dataset

from clinrep import artifacts
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from clinrep.ehr.configs.pretrain import PretrainConfig
from clinrep.ehr.configs.tokenize import PAD_TOKEN
from clinrep.sequences import IGNORED

logger = logging.getLogger("clinrep")

Item = dict[str, torch.Tensor]


class PackedBlocks(Dataset[Item]):
    """Blocks cut on the fly from one flat array of tokens.

    Item `i` holds int64 tensors (L,): `input_ids`, `position_ids` (restarting at every timeline, at the
    block's start and at the padding) and `labels` (the tokens; -100 where there is nothing to predict
    from: at the start of each piece, and at padding). The model shifts labels itself.
    """

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, block_size: int, pad_token_id: int) -> None:
        """Keep `tokens` (N,), any unsigned type, and `starts` (num_timelines,), where each timeline begins."""
        self.tokens = tokens
        self.starts = starts
        self.block_size = block_size
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        return -(-self.num_tokens // self.block_size)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin = index * self.block_size
        piece = self.tokens[begin : begin + self.block_size]
        first, last = np.searchsorted(self.starts, [begin, begin + len(piece)])
        return self._make_item(piece, self.starts[first:last] - begin)

    @property
    def num_tokens(self) -> int:
        """Tokens of all timelines, padding not counted."""
        return len(self.tokens)

    def make_filler(self) -> Item:
        """Return a block of padding alone: it has no target, so it changes neither loss nor gradient."""
        return self._make_item(self.tokens[:0], self.starts[:0])

    def _make_item(self, piece: np.ndarray, starts: np.ndarray) -> Item:
        """Return the block whose `piece` (at most L tokens) begins new timelines at `starts`."""
        input_ids = np.full(self.block_size, self.pad_token_id, dtype=np.int64)
        input_ids[: len(piece)] = piece
        is_start = np.zeros(self.block_size, dtype=bool)
        is_start[0] = True
        is_start[starts] = True
        is_start[len(piece) : len(piece) + 1] = True
        places = np.arange(self.block_size)
        position_ids = places - np.maximum.accumulate(np.where(is_start, places, 0))
        labels = np.where(is_start, IGNORED, input_ids)
        labels[len(piece) :] = IGNORED
        return {
            "input_ids": torch.from_numpy(input_ids),
            "position_ids": torch.from_numpy(position_ids),
            "labels": torch.from_numpy(labels),
        }


@dataclass(frozen=True)
class PretrainingData:
    """What the language model learns from and is validated on."""

    train: PackedBlocks
    val: PackedBlocks
    vocabulary: pl.DataFrame
    timelines_dir: Path

    @property
    def companions(self) -> list[Path]:
        """Files that must lie beside the saved weights."""
        return artifacts.list_tokenizer_files(self.timelines_dir)

    def count_rows(self) -> dict[str, int]:
        """Return the counts that DONE records."""
        splits = {"train": self.train, "val": self.val}
        return {
            **{f"timelines/{split}": len(blocks.starts) for split, blocks in splits.items()},
            **{f"tokens/{split}": blocks.num_tokens for split, blocks in splits.items()},
            **{f"blocks/{split}": len(blocks) for split, blocks in splits.items()},
        }


def load_blocks(config: PretrainConfig) -> PretrainingData:
    """Read the train and val timelines of a finished stage-00 directory, checked and packed.

    Raises:
        InputError: a split without timelines, a token id the vocabulary does not hold, no dedicated PAD.
    """
    directory = Path(config.timelines_dir)
    vocabulary = read_vocabulary(directory)
    blocks = {}
    for split in ("train", "val"):
        seed = derive_seed(config.seed, f"packing/{split}")
        blocks[split] = _pack_split(directory, split, vocabulary, config.block_size, seed)
        logger.info(
            "%s: %d timelines, %d tokens in %d blocks of %d",
            split,
            len(blocks[split].starts),
            blocks[split].num_tokens,
            len(blocks[split]),
            config.block_size,
        )
    return PretrainingData(blocks["train"], blocks["val"], vocabulary, directory)


def read_vocabulary(directory: Path) -> pl.DataFrame:
    """Return the vocabulary of a stage-00 directory, its ids checked to be 0..V-1 with a special PAD.

    Raises:
        ArtifactError: the ids have gaps, or no token PAD of kind special.
    """
    vocabulary = artifacts.read_table("vocabulary", directory)
    ids = vocabulary["token_id"].to_numpy()
    if not np.array_equal(ids, np.arange(len(ids))):
        raise ArtifactError(
            f"{directory / 'vocabulary.parquet'}: token_id should be 0..{len(ids) - 1} in order; "
            "run 00_tokenize.py again"
        )
    find_pad_id(vocabulary, directory)
    return vocabulary


def find_pad_id(vocabulary: pl.DataFrame, source: Path) -> int:
    """Return the id of the token PAD; an ArtifactError names `source` where there is none of kind special."""
    pad = vocabulary.filter((pl.col("token") == PAD_TOKEN) & (pl.col("kind") == "special"))
    if pad.height != 1:
        raise ArtifactError(f"the vocabulary of {source} holds no token PAD of kind special; run 00_tokenize.py again")
    return int(pad["token_id"][0])


def _pack_split(directory: Path, split: str, vocabulary: pl.DataFrame, block_size: int, seed: int) -> PackedBlocks:
    """Return the blocks of one split, its timelines in an order that `seed` decides."""
    timelines = artifacts.read_table("timelines", directory, split).select("token_ids")
    timelines = timelines.filter(pl.col("token_ids").list.len() > 0)
    if timelines.is_empty():
        raise InputError(
            f"{directory}: the {split} split holds no timeline; give 00_tokenize.py more patients or other fractions"
        )
    order = np.random.default_rng(seed).permutation(timelines.height)
    shuffled = timelines["token_ids"].gather(order)
    lengths = shuffled.list.len().to_numpy().astype(np.int64)
    if lengths.max() < 2:
        raise InputError(f"{directory}: every timeline of the {split} split is one token long: nothing to predict")
    tokens = shuffled.explode().to_numpy()
    pad_token_id = find_pad_id(vocabulary, directory)
    _check_tokens(tokens, vocabulary.height, pad_token_id, f"{directory}, split {split}")
    narrow = tokens.astype(np.uint16 if vocabulary.height <= 1 << 16 else np.uint32)
    return PackedBlocks(narrow, np.cumsum(lengths) - lengths, block_size, pad_token_id)


def _check_tokens(tokens: np.ndarray, vocabulary_size: int, pad_token_id: int, source: str) -> None:
    """Refuse ids outside the vocabulary, and padding inside timelines, which would become a target."""
    if tokens.max() >= vocabulary_size:
        raise ArtifactError(
            f"{source}: token id {tokens.max()} but the vocabulary ends at {vocabulary_size - 1}; "
            "timelines and vocabulary are of different runs: run 00_tokenize.py again"
        )
    if (tokens == pad_token_id).any():
        raise ArtifactError(f"{source}: PAD (id {pad_token_id}) occurs in timelines; run 00_tokenize.py again")
