"""Blocks for the language model: timelines packed so that none sees another, or as in the manuscript.

B blocks, L = block_size, T = B * L.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import polars as pl
import torch
from torch.utils.data import Dataset

from clinrep import artifacts
from clinrep.batches import IGNORED
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from clinrep.ehr.configs.pretrain import PackingConfig, PretrainConfig
from clinrep.ehr.packing import cut_into_pieces, deal_pieces, draw_paddings, pack_best_fit
from clinrep.ehr.token_store import TokenStore, open_token_stores
from clinrep.ehr.tokenizer import find_pad_id, load_settings, read_vocabulary
from clinrep.training import Task, mean_token_loss

logger = logging.getLogger("clinrep")

Batch = dict[str, Any]


class Block(TypedDict):
    """One packed row."""

    input_ids: np.ndarray
    """i64 (L,)"""
    labels: np.ndarray
    """i64 (L,): the token to predict at each place, not shifted; -100 for none."""
    lengths: list[int]
    """Of the documents, padding at the end being one: they add up to L."""
    num_tokens: int
    """Tokens that are no padding."""


class Blocks(Dataset[Block]):
    """The blocks of one split; another epoch has the same number of blocks, of the same timelines dealt anew."""

    def __init__(self, store: TokenStore, block_size: int, pad_token_id: int, seed: int) -> None:
        """Keep the tokens; `seed` decides which timelines meet in a block."""
        self.store, self.block_size, self.pad_token_id = store, block_size, pad_token_id
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Deal the timelines anew: a function of seed and epoch alone."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def collate(self, blocks: Sequence[Block]) -> Batch:
        """Return a batch for the model; `num_tokens` and `attention_pairs` are for the loop that measures."""
        raise NotImplementedError

    def make_filler(self) -> Block:
        """Return a block of padding alone: it has no target, so it changes neither loss nor gradient."""
        return {
            "input_ids": np.full(self.block_size, self.pad_token_id, dtype=np.int64),
            "labels": np.full(self.block_size, IGNORED, dtype=np.int64),
            "lengths": [self.block_size],
            "num_tokens": 0,
        }

    def _epoch_seed(self, epoch: int) -> int:
        return derive_seed(self._seed, f"epoch/{epoch}")


class IsolatedBlocks(Blocks):
    """Whole timelines side by side, each seeing only itself; those longer than a block in several pieces.

    Every token is in exactly one block of an epoch. The first token of a piece is no target, for want of
    anything to predict it from, nor are static tokens that open a later piece a second time.
    """

    def __init__(self, store: TokenStore, block_size: int, pad_token_id: int, seed: int, num_static: int) -> None:
        """Pack `store`; `num_static` tokens of a timeline open each of its later pieces (0: none)."""
        self._pieces = cut_into_pieces(store.offsets, block_size, num_static)
        self._total_lengths = self._pieces.total_lengths
        self._groups = pack_best_fit(np.sort(self._total_lengths)[::-1], block_size)
        super().__init__(store, block_size, pad_token_id, seed)

    def set_epoch(self, epoch: int) -> None:
        """Deal pieces of equal length among their places anew."""
        self._dealt = deal_pieces(self._total_lengths, self._epoch_seed(epoch))

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = self.make_filler()
        slots = self._groups.slots[self._groups.offsets[index] : self._groups.offsets[index + 1]]
        lengths, place = [], 0
        for piece in self._dealt[slots].tolist():
            start, tokens = place, self.store.tokens
            opening = int(self._pieces.openings[piece])
            if opening >= 0:
                place += self._pieces.num_static
                block["input_ids"][start:place] = tokens[opening : opening + self._pieces.num_static]
            begin, length = int(self._pieces.begins[piece]), int(self._pieces.lengths[piece])
            block["input_ids"][place : place + length] = tokens[begin : begin + length]
            block["labels"][place : place + length] = tokens[begin : begin + length]
            block["labels"][start] = IGNORED
            place += length
            lengths.append(place - start)
        padding = self.block_size - place
        block["lengths"] = [*lengths, padding] if padding else lengths
        block["num_tokens"] = place
        return block

    def collate(self, blocks: Sequence[Block]) -> Batch:
        """Return one row of T tokens with the bounds of its documents.

        input_ids, position_ids (from 0 in each document) and labels i64 (1, T); cu_seq_lens_q and _k i32
        (2 ** n + 1,), from 0 to T and padded with T, so that a compiled model meets few shapes; max_length_q
        and _k, which are L.
        """
        lengths = np.concatenate([block["lengths"] for block in blocks]).astype(np.int64)
        ends = np.cumsum(lengths)
        total = len(blocks) * self.block_size
        room = 1 << max(len(lengths), 4 * len(blocks)).bit_length()
        bounds = np.full(room + 1, total, dtype=np.int32)
        bounds[0] = 0
        bounds[1 : len(ends) + 1] = ends
        positions = np.arange(total) - np.repeat(ends - lengths, lengths)
        cu_seq_lens = torch.from_numpy(bounds)
        paddings = np.array([self.block_size - block["num_tokens"] for block in blocks], dtype=np.int64)
        return {
            "input_ids": torch.from_numpy(np.concatenate([block["input_ids"] for block in blocks]))[None],
            "position_ids": torch.from_numpy(positions)[None],
            "labels": torch.from_numpy(np.concatenate([block["labels"] for block in blocks]))[None],
            "cu_seq_lens_q": cu_seq_lens,
            "cu_seq_lens_k": cu_seq_lens,
            "max_length_q": self.block_size,
            "max_length_k": self.block_size,
            "num_tokens": int(total - paddings.sum()),
            "attention_pairs": int(_count_pairs(lengths) - _count_pairs(paddings)),
        }


class CrossDocumentBlocks(Blocks):
    """Timelines end to end with a few PADs after each, cut every L tokens; attention crosses them, as in the paper.

    Burkhart et al., arXiv 2504.10422 (spec/manuscript.md section 1): positions and attention are not reset.
    The number of PADs after a timeline stays with it over the epochs, so that each has as many blocks.
    """

    def __init__(
        self, store: TokenStore, block_size: int, pad_token_id: int, seed: int, packing: PackingConfig
    ) -> None:
        """Pack `store` as `packing` says."""
        self._packing = packing
        self._lengths = np.diff(store.offsets)
        seed_of_paddings = derive_seed(seed, "paddings")
        self._spans = self._lengths + draw_paddings(len(store), packing.mean_padding_tokens, seed_of_paddings)
        super().__init__(store, block_size, pad_token_id, seed)

    def set_epoch(self, epoch: int) -> None:
        """Order the timelines anew."""
        self._order = np.random.default_rng(self._epoch_seed(epoch)).permutation(len(self._spans))
        self._places = np.concatenate([[0], np.cumsum(self._spans[self._order])])

    def __len__(self) -> int:
        total = int(self._spans.sum())
        return total // self.block_size if self._packing.drop_tail else -(-total // self.block_size)

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin, end = index * self.block_size, (index + 1) * self.block_size
        block = self.make_filler()
        if self._packing.predict_padding:
            block["labels"][: int(self._places[-1]) - begin] = self.pad_token_id
        first = int(np.searchsorted(self._places, begin, side="right")) - 1
        last = int(np.searchsorted(self._places[:-1], end, side="left"))
        for number in range(first, last):
            timeline, place = self._order[number], int(self._places[number])
            low, high = max(place, begin), min(place + int(self._lengths[timeline]), end)
            if low < high:
                source = int(self.store.offsets[timeline]) - place
                tokens = self.store.tokens[source + low : source + high]
                block["input_ids"][low - begin : high - begin] = tokens
                block["labels"][low - begin : high - begin] = tokens
                block["num_tokens"] += high - low
        block["labels"][0] = IGNORED
        return block

    def collate(self, blocks: Sequence[Block]) -> Batch:
        """Return input_ids and labels, i64 (B, L); without document bounds the model attends to all before."""
        return {
            "input_ids": torch.from_numpy(np.stack([block["input_ids"] for block in blocks])),
            "labels": torch.from_numpy(np.stack([block["labels"] for block in blocks])),
            "num_tokens": sum(block["num_tokens"] for block in blocks),
            "attention_pairs": _count_pairs(np.array([self.block_size for block in blocks if block["num_tokens"]])),
        }


def _count_pairs(lengths: np.ndarray) -> int:
    """Return how many (query, key) pairs causal attention within documents of `lengths` has."""
    return int((lengths * (lengths + 1) // 2).sum())


@dataclass(frozen=True)
class PretrainingData:
    """What the language model learns from and is validated on."""

    train: Blocks
    val: Blocks
    vocabulary: pl.DataFrame
    timelines_dir: Path

    @property
    def companions(self) -> list[Path]:
        """Files that must lie beside the saved weights."""
        return artifacts.list_tokenizer_files(self.timelines_dir)

    def make_task(self, config: PretrainConfig) -> Task:
        """Return what the training loop needs to know: predict the next token, validated by its mean loss."""
        return Task(
            dataset=self.train,
            filler=self.train.make_filler(),
            evaluate=partial(
                mean_token_loss,
                dataset=self.val,
                batch_size=config.training.batch_size,
                collate=self.val.collate,
            ),
            items_per_step=config.items_per_step,
            collate=self.train.collate,
        )

    def count_rows(self) -> dict[str, int]:
        """Return the counts that DONE records."""
        splits = {"train": self.train, "val": self.val}
        return {
            **{f"timelines/{split}": len(blocks.store) for split, blocks in splits.items()},
            **{f"tokens/{split}": len(blocks.store.tokens) for split, blocks in splits.items()},
            **{f"blocks/{split}": len(blocks) for split, blocks in splits.items()},
        }


def load_blocks(config: PretrainConfig) -> PretrainingData:
    """Return the train and val timelines of a finished stage-00 directory, checked and packed.

    Raises:
        InputError: a split without timelines, a token id the vocabulary does not hold, no dedicated PAD.
    """
    directory = Path(config.timelines_dir)
    vocabulary = read_vocabulary(directory)
    pad_token_id = find_pad_id(vocabulary, directory)
    pack = _choose_packing(config, directory)
    stores = open_token_stores(directory, config.find_store_dir(), vocabulary, pad_token_id)
    blocks = {}
    for split, store in stores.items():
        seed = derive_seed(config.seed, f"packing/{split}")
        blocks[split] = packed = pack(store, config.block_size, pad_token_id, seed)
        logger.info(
            "%s: %d timelines, %d tokens in %d blocks of %d",
            *(split, len(store), len(store.tokens), len(packed), config.block_size),
        )
        if not len(packed):
            raise InputError(f"{directory}: the {split} split does not fill one block; lower block_size")
    return PretrainingData(blocks["train"], blocks["val"], vocabulary, directory)


def _choose_packing(config: PretrainConfig, directory: Path) -> Callable[[TokenStore, int, int, int], Blocks]:
    """Return what makes blocks of a store, the block size, the id of PAD and a seed, by `packing.method`."""
    num_static = (
        len(load_settings(directory, "static_tokens")["static_tokens"]) if config.packing.repeat_static_tokens else 0
    )
    if num_static >= config.block_size:
        raise InputError(
            f"block_size is {config.block_size} but the static tokens alone are {num_static}; raise block_size, or "
            "set packing.repeat_static_tokens to false"
        )
    methods: dict[str, Callable[[TokenStore, int, int, int], Blocks]] = {
        "isolated": partial(IsolatedBlocks, num_static=num_static),
        "cross_document": partial(CrossDocumentBlocks, packing=config.packing),
    }
    return methods[config.packing.method]
