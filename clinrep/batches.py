"""Sequences as tensors: items with labels for the training loop, and padding.

B sequences, L positions (the longest of the batch).
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch

from clinrep.sequences import Sequences

IGNORED = -100  # the label that losses leave out


class Item(TypedDict):
    """One sequence on its way into a batch."""

    tokens: np.ndarray
    label: int


class LabelledItems(torch.utils.data.Dataset[Item]):
    """Sequences with their labels, as the training loop takes them: whole, or cut anew each epoch.

    Cut, a sequence of T tokens keeps its first 1 to T, each number as likely (uniformly random truncation, URT).
    What is drawn depends on the seed, the epoch and the sequence's place alone, so it is the same on every rank, in
    every worker and after a resume.
    """

    def __init__(self, sequences: Sequences, truncation_seed: int | None = None) -> None:
        """Keep `sequences`, which must have labels; with a seed they are cut."""
        self._sequences, self._labels = sequences, sequences.labels.astype(np.int64)
        self._truncation_seed = truncation_seed
        self.lengths = sequences.lengths
        """Tokens of each item in this epoch, i64 (N,)."""
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw where the sequences end in `epoch`."""
        if self._truncation_seed is not None:
            generator = np.random.default_rng((self._truncation_seed, epoch))
            self.lengths = generator.integers(1, self._sequences.lengths, endpoint=True)

    @property
    def labels(self) -> np.ndarray:
        """Labels, bool (N,)."""
        return self._sequences.labels

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> Item:
        tokens = self._sequences.get(index)[: self.lengths[index]]
        return {"tokens": tokens, "label": int(self._labels[index])}

    def make_filler(self) -> Item:
        """Return a sequence that no loss counts."""
        return {"tokens": self._sequences.get(0)[:1], "label": IGNORED}


def pad_left(sequences: list[np.ndarray], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return input_ids, attention_mask and position_ids, each i64 (B, L), every sequence ending at L.

    Positions count from 0 at a sequence's first token, so padding changes nothing for any
    architecture. (A classifier that attends to padding is off by 1 to 3 logits: spec/stack.md, 3.)
    """
    longest = max(len(tokens) for tokens in sequences)
    input_ids = np.full((len(sequences), longest), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, tokens in enumerate(sequences):
        start = longest - len(tokens)
        input_ids[row, start:] = tokens
        attention_mask[row, start:] = 1
    position_ids = np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def pad_right(sequences: list[np.ndarray], pad_token_id: int) -> torch.Tensor:
    """Return input_ids i64 (B, L), every sequence beginning at 0.

    A causal transformer needs no mask for it: no token sees what follows.
    """
    longest = max(len(tokens) for tokens in sequences)
    input_ids = np.full((len(sequences), longest), pad_token_id, dtype=np.int64)
    for row, tokens in enumerate(sequences):
        input_ids[row, : len(tokens)] = tokens
    return torch.from_numpy(input_ids)
