"""Hidden states of the layers asked for, batch by batch, and how they are stored where all are wanted.

B sequences, L positions, D width, N sequences, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch

from clinrep.batches import pad_right
from clinrep.config import InputError
from clinrep.run import RunError
from clinrep.sequences import Sequences

States = dict[int, torch.Tensor]
"""Layer number -> hidden states f32 (B, L, D), right padded: what stands at padding means nothing."""


class Collector(Protocol):
    """Makes one table of the hidden states that stream by."""

    def add(self, rows: np.ndarray, lengths: torch.Tensor, states: States) -> None:
        """Take one batch: `rows` i64 (B,) of the sequences, their lengths i64 (B,) and states."""

    def to_table(self) -> pl.DataFrame:
        """Return the table, when every sequence has been added."""


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


def compute_states(
    encoder: Any, layers: Sequence[int], batch: list[np.ndarray], pad_token_id: int
) -> tuple[States, torch.Tensor]:
    """Return the hidden states of `layers` and the lengths i64 (B,) of a batch of token ids.

    Only these layers are kept in memory. There is no mask and padding stands right, which a causal
    transformer allows: no token sees what follows.

    Args:
        encoder: a transformer without head, with .layers, whose output has .last_hidden_state (after the norm).
        layers: numbers as `choose_layers` returns.
        batch: token ids u32 (T,) of each sequence.
        pad_token_id: what fills up shorter sequences.
    """
    device = next(encoder.parameters()).device
    lengths = torch.tensor([len(tokens) for tokens in batch])
    with _watch(encoder, layers) as states:
        output = encoder(input_ids=pad_right(batch, pad_token_id).to(device), use_cache=False)
    states[len(encoder.layers)] = output.last_hidden_state
    return {layer: states[layer].float() for layer in layers}, lengths.to(device)


@contextmanager
def _watch(encoder: Any, layers: Sequence[int]) -> Iterator[States]:
    """Yield a dictionary that a forward pass fills with the states of `layers`, but for the last layer's."""
    states: States = {}
    modules = [encoder.get_input_embeddings(), *encoder.layers[:-1]]

    def watch(layer: int) -> Callable[..., None]:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [modules[layer].register_forward_hook(watch(layer)) for layer in layers if layer < len(modules)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


class StateCollector:
    """Makes table `hidden_states`: in order of layers, then of sequences, then of tokens."""

    def __init__(self, sequences: Sequences, layers: Sequence[int], width: int, is_stored: np.ndarray) -> None:
        """Keep the states of the sequences where `is_stored`, bool (N,), in float16."""
        self._sequences, self._is_stored = sequences, is_stored
        lengths = np.where(is_stored, sequences.lengths, 0)
        self._ends = np.cumsum(lengths)
        self._arrays = {layer: np.empty((int(lengths.sum()), width), dtype=np.float16) for layer in layers}

    def add(self, rows: np.ndarray, lengths: torch.Tensor, states: States) -> None:
        """Take one batch, as `Collector` says.

        Raises:
            RunError: a state is too large for float16.
        """
        chosen = np.flatnonzero(self._is_stored[rows])
        for layer, array in self._arrays.items():
            for index in chosen:
                length, end = int(lengths[index]), self._ends[rows[index]]
                rounded = states[layer][index, :length].half()
                if not bool(torch.isfinite(rounded).all()):
                    raise RunError(
                        f"layer {layer} has hidden states beyond 65504, the most float16 holds, or NaN; "
                        "leave the layer out of layers, or hidden_states out"
                    )
                array[end - length : end] = rounded.cpu().numpy()

    def to_table(self) -> pl.DataFrame:
        """Return the table, one row per layer, sequence and token."""
        kept = self._sequences.take(np.flatnonzero(self._is_stored))
        row = np.repeat(np.arange(len(kept)), kept.lengths)
        position = np.arange(len(row)) - kept.offsets[:-1][row]
        ids = (
            kept.subjects[row]
            .select("subject_id", "split")
            .with_columns(
                position=pl.Series(position, dtype=pl.UInt32), time=pl.Series(kept.times, dtype=pl.Datetime("us"))
            )
        )
        return pl.concat(
            ids.with_columns(
                layer=pl.lit(layer, pl.Int16),
                hidden_state=pl.Series(array, dtype=pl.Array(pl.Float16, array.shape[1])),
            )
            for layer, array in self._arrays.items()
        )
