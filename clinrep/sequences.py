"""Sequences: what a model sees of each subject after cutting, whatever the modality.

B sequences of a batch, N sequences in all, T tokens in all. clinrep.batches makes tensors of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from clinrep.artifacts import list_tokenizer_files


@dataclass(frozen=True)
class Sequences:
    """N sequences of token ids as one flat array, with who they belong to."""

    subjects: pl.DataFrame
    """N rows: subject_id, patient_id, split and, where an outcome was asked for, label bool (never null)."""
    tokens: np.ndarray
    """u32 (T,)"""
    times: np.ndarray
    """datetime64[us] (T,): when each token was, UTC."""
    offsets: np.ndarray
    """i64 (N + 1,): sequence i is tokens[offsets[i]:offsets[i + 1]]."""
    pad_token_id: int
    vocabulary_path: Path
    """vocabulary.parquet of the tokens, beside its quantiles.parquet."""

    @property
    def companions(self) -> list[Path]:
        """Files that must lie beside a model of these sequences: the tokenizer they are written in."""
        return list_tokenizer_files(self.vocabulary_path.parent)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, i64 (N,)."""
        return np.diff(self.offsets)

    @property
    def labels(self) -> np.ndarray:
        """Labels, bool (N,)."""
        return self.subjects["label"].to_numpy()

    def get(self, index: int) -> np.ndarray:
        """Return the token ids of one sequence, u32 (length,)."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def get_times(self, index: int) -> np.ndarray:
        """Return the times of one sequence's tokens, datetime64[us] (length,)."""
        return self.times[self.offsets[index] : self.offsets[index + 1]]

    def select(self, split: str) -> Sequences:
        """Return the sequences of one split, in the same order."""
        return self.take(self.find_rows(split))

    def find_rows(self, split: str) -> np.ndarray:
        """Return the positions of the sequences of one split, i64 (n,)."""
        return np.flatnonzero((self.subjects["split"] == split).to_numpy())

    def take(self, rows: np.ndarray) -> Sequences:
        """Return the sequences at `rows`, in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        chosen = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return replace(
            self, subjects=self.subjects[rows], tokens=self.tokens[chosen], times=self.times[chosen], offsets=offsets
        )


def iterate_batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Yield positions (B,) of sequences of like length, longest first, until each was yielded once.

    A batch holds at most `batch_tokens` tokens with padding (but always one sequence). Longest first: what does
    not fit into memory fails at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size
