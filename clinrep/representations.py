"""Hidden states to vectors: pooling and extraction, ids travelling with every vector.

B sequences, L positions, D width, N sequences in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from clinrep import distributed
from clinrep.artifacts import read_table_file
from clinrep.config import InputError, lookup
from clinrep.sequences import Sequences, iterate_batches, pad_right

Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pool_last_token(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the hidden state (B, D) at the last token of right-padded `hidden` (B, L, D), lengths (B,)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]


def pool_mean(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean hidden state (B, D) over the real tokens of right-padded `hidden` (B, L, D)."""
    is_real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return (hidden * is_real[..., None]).sum(1) / lengths[:, None]


POOLINGS: dict[str, Pooling] = {"last_token": pool_last_token, "mean": pool_mean}


def choose_layers(layers: list[int], num_layers: int) -> list[int]:
    """Return layer numbers 0 (embeddings) .. num_layers; negative ones count from the last."""
    chosen = []
    for layer in layers:
        number = layer + num_layers + 1 if layer < 0 else layer
        if not 0 <= number <= num_layers:
            raise InputError(f"layers holds {layer} but the model has layers 0 (embeddings) to {num_layers}")
        chosen.append(number)
    if len(set(chosen)) != len(chosen):
        raise InputError(f"layers {layers} name one layer twice; leave one out")
    return chosen


class Extractor:
    """Turns sequences into vectors.

    Batches are of like length and padded right without a mask, which a causal transformer allows; so
    a vector does not depend on the batch it was computed in.
    """

    def __init__(
        self,
        encoder: torch.nn.Module,
        layers: list[int],
        poolings: list[str],
        batch_tokens: int,
        precision: Literal["fp32", "bf16"] = "fp32",
        progress: Callable[[list[np.ndarray]], Iterable[np.ndarray]] = iter,
    ) -> None:
        """Keep what to compute.

        Args:
            encoder: gives `.hidden_states`, num_layers + 1 tensors (B, L, D), for input_ids (B, L).
            layers: layer numbers as in `choose_layers`.
            poolings: names in `POOLINGS`.
            batch_tokens: tokens of a forward pass, padding included.
            precision: compute type; pooling and vectors are fp32.
            progress: wraps the list of batches to show how far it is.

        Raises:
            InputError: an unknown layer or pooling.
        """
        self._encoder = encoder.eval()
        self._layers = choose_layers(layers, int(encoder.config.num_hidden_layers))  # type: ignore[union-attr, arg-type]
        self._poolings = {name: lookup(POOLINGS, name, "pooling") for name in poolings}
        self._batch_tokens, self._precision, self._progress = batch_tokens, precision, progress
        self._width = int(encoder.get_input_embeddings().weight.shape[1])  # type: ignore[operator]

    @property
    def num_vectors(self) -> int:
        """Vectors of each sequence."""
        return len(self._layers) * len(self._poolings)

    def extract(self, sequences: Sequences) -> pl.DataFrame:
        """Return table `representations` of N sequences: in their order, then layers', then poolings'."""
        vectors = np.empty((len(sequences), len(self._layers), len(self._poolings), self._width), dtype=np.float32)
        for rows in self._progress(list(iterate_batches(sequences.lengths, self._batch_tokens))):
            vectors[rows] = self._pool([sequences.get(row) for row in rows], sequences.pad_token_id)
        return self._to_table(sequences.subjects, vectors)

    @torch.no_grad()
    def _pool(self, batch: list[np.ndarray], pad_token_id: int) -> np.ndarray:
        """Return f32 (B, layers, poolings, D)."""
        device = next(self._encoder.parameters()).device
        input_ids = pad_right(batch, pad_token_id).to(device)
        lengths = torch.tensor([len(tokens) for tokens in batch], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            states = self._encoder(input_ids=input_ids, use_cache=False, output_hidden_states=True).hidden_states
        pooled = [
            torch.stack([pool(states[layer].float(), lengths) for pool in self._poolings.values()], dim=1)
            for layer in self._layers
        ]
        return torch.stack(pooled, dim=1).cpu().numpy()

    def _to_table(self, subjects: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
        layers, poolings = self._layers, list(self._poolings)
        rows = np.repeat(np.arange(subjects.height), self.num_vectors)
        flat = vectors.reshape(len(rows), self._width)
        return subjects[rows].select(
            "subject_id",
            "split",
            layer=pl.Series(np.tile(np.repeat(layers, len(poolings)), subjects.height), dtype=pl.Int16),
            pooling=pl.Series(poolings * (len(layers) * subjects.height), dtype=pl.String),
            representation=pl.Series(flat, dtype=pl.Array(pl.Float32, self._width)),
        )


def share_parts(num_sequences: int, sequences_per_part: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (part number, rows) of this rank's share: over all ranks every row occurs once.

    Without any sequence rank 0 has one empty part, so that the table exists.
    """
    world_size, rank = distributed.get_world_size(), distributed.get_rank()
    mine = np.array_split(np.arange(num_sequences), world_size)[rank]
    num_parts = -(-len(mine) // sequences_per_part) or (1 if num_sequences == 0 and rank == 0 else 0)
    for number in range(num_parts):
        yield number * world_size + rank, mine[number * sequences_per_part : (number + 1) * sequences_per_part]


def read_token_embeddings(encoder: torch.nn.Module, vocabulary_path: Path) -> pl.DataFrame:
    """Return table `token_embeddings`: the input embedding of every token."""
    vocabulary = read_table_file("vocabulary", vocabulary_path)
    weight = encoder.get_input_embeddings().weight.detach().float().cpu().numpy()  # type: ignore[operator]
    embedding = pl.Series("embedding", weight[: vocabulary.height], dtype=pl.Array(pl.Float32, weight.shape[1]))
    return vocabulary.select("token_id", "token", "kind").with_columns(embedding)
