"""Hidden states to vectors: pooling, ids travelling with every vector.

B sequences, L positions, D width, N sequences in all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from clinrep.artifacts import read_table_file
from clinrep.config import lookup
from clinrep.distributed import derive_seed
from clinrep.hidden_states import States
from clinrep.sequences import Sequences

Pooling = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Hidden states (B, L, D), lengths i64 (B,), one random position of each i64 (B,) -> vectors (B, D)."""

NUM_DRAWS = 2**31  # derive_seed returns 31 bits


def pool_last_token(hidden: torch.Tensor, lengths: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return the hidden state (B, D) at the last token of right-padded `hidden` (B, L, D), lengths (B,)."""
    return _pick(hidden, lengths - 1)


def pool_mean(hidden: torch.Tensor, lengths: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return the mean hidden state (B, D) over the real tokens of right-padded `hidden` (B, L, D)."""
    is_real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return torch.where(is_real[..., None], hidden, 0).sum(1) / lengths[:, None]


def pool_random_token(hidden: torch.Tensor, lengths: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return the hidden state (B, D) at the drawn position: what a probe that sees every prefix is fitted on."""
    return _pick(hidden, drawn)


def pool_position(hidden: torch.Tensor, lengths: torch.Tensor, drawn: torch.Tensor, position: int) -> torch.Tensor:
    """Return the hidden state (B, D) at one position, negative from the end; anything where there is none."""
    return _pick(hidden, (lengths + position).clamp(min=0) if position < 0 else (lengths - 1).clamp(max=position))


def _pick(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), positions]


POOLINGS: dict[str, Pooling] = {"last_token": pool_last_token, "mean": pool_mean, "random_token": pool_random_token}


def draw_positions(sequences: Sequences, seed: int) -> np.ndarray:
    """Return one position 0 .. T - 1 of each sequence, each as likely, i64 (N,).

    It depends on seed, subject_id and T alone: not on order, rank, split or batch.
    """
    generator = derive_seed(seed, "random_token")
    draws = np.array([derive_seed(generator, one) for one in sequences.subjects["subject_id"]], dtype=np.int64)
    return draws * sequences.lengths // NUM_DRAWS


class RepresentationCollector:
    """Makes table `representations`: in order of sequences, then of layers, then of poolings, then of positions."""

    def __init__(
        self, sequences: Sequences, layers: list[int], poolings: list[str], positions: list[int], width: int, seed: int
    ) -> None:
        """Pool the states of `layers`.

        Args:
            sequences: N sequences.
            layers: layer numbers, from 0.
            poolings: names in `POOLINGS`.
            positions: tokens to keep as they are; a sequence without that token has no row of it.
            width: D.
            seed: of the random positions.

        Raises:
            InputError: an unknown pooling.
        """
        self._sequences, self._layers = sequences, layers
        self._poolings = {name: lookup(POOLINGS, name, "pooling") for name in poolings}
        self._poolings |= {f"position_{number}": partial(pool_position, position=number) for number in positions}
        self._drawn = torch.from_numpy(draw_positions(sequences, seed))
        shape = (len(sequences), len(layers), len(self._poolings))
        self._vectors = np.empty((*shape, width), dtype=np.float32)
        self._is_there = np.ones(shape, dtype=bool)
        for index, number in enumerate(positions, start=len(poolings)):
            self._is_there[:, :, index] = (sequences.lengths >= (-number if number < 0 else number + 1))[:, None]

    def add(self, rows: np.ndarray, lengths: torch.Tensor, states: States) -> None:
        """Take one batch, as `Collector` says."""
        drawn = self._drawn[torch.from_numpy(rows)].to(lengths.device)
        pooled = [
            torch.stack([pool(states[layer], lengths, drawn) for pool in self._poolings.values()], dim=1)
            for layer in self._layers
        ]
        self._vectors[rows] = torch.stack(pooled, dim=1).cpu().numpy()

    def to_table(self) -> pl.DataFrame:
        """Return the table."""
        rows, layers, poolings = np.nonzero(self._is_there)
        flat = self._vectors[self._is_there]
        return self._sequences.subjects[rows].select(
            "subject_id",
            "split",
            layer=pl.Series(np.array(self._layers)[layers], dtype=pl.Int16),
            pooling=pl.Series(np.array(list(self._poolings), dtype=object)[poolings], dtype=pl.String),
            representation=pl.Series(flat, dtype=pl.Array(pl.Float32, flat.shape[1])),
        )


def read_token_embeddings(encoder: Any, vocabulary_path: Path) -> pl.DataFrame:
    """Return table `token_embeddings`: the input embedding of every token."""
    vocabulary = read_table_file("vocabulary", vocabulary_path)
    weight = encoder.get_input_embeddings().weight.detach().float().cpu().numpy()
    embedding = pl.Series("embedding", weight[: vocabulary.height], dtype=pl.Array(pl.Float32, weight.shape[1]))
    return vocabulary.select("token_id", "token", "kind").with_columns(embedding)
