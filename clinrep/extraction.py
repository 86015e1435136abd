"""What stage 03 computes of every stay, in one forward pass: vectors, trajectories, hidden states.

B sequences, L positions, D width, N sequences in all.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from clinrep.config import lookup
from clinrep.distributed import derive_seed
from clinrep.extraction_config import ExtractionConfig
from clinrep.hidden_states import Collector, StateCollector, choose_layers, compute_states
from clinrep.representations import POOLINGS, RepresentationCollector
from clinrep.sequences import Sequences, iterate_batches
from clinrep.trajectories import TrajectoryCollector

logger = logging.getLogger("clinrep")

STORED = "is_stored"  # column of `subjects`: whether this stay's hidden states are stored


def choose_stays(sequences: Sequences, config: ExtractionConfig) -> dict[str, Sequences]:
    """Return the stays to extract by split, `subjects` with a column that says whose hidden states are stored."""
    chosen = {}
    for split in config.splits:
        some = sequences.select(split)
        some = some.take(sample(some, config.max_subjects, config.seed))
        is_stored = np.zeros(len(some), dtype=bool)
        if "hidden_states" in config.list_tables(split):
            is_stored[sample(some, config.hidden_state_subjects, config.seed)] = True
            num_tokens = some.lengths[is_stored].sum()
            logger.info("%s: hidden states of %d stays, %d tokens, are stored", split, is_stored.sum(), num_tokens)
        for position in config.positions:
            num_lacking = int((some.lengths < (-position if position < 0 else position + 1)).sum())
            logger.info("%s: %d of %d stays have no token at position %d", split, num_lacking, len(some), position)
        subjects = some.subjects.with_columns(pl.Series(STORED, is_stored))
        chosen[split] = replace(some, subjects=subjects)
    return chosen


def sample(sequences: Sequences, size: int | None, seed: int) -> np.ndarray:
    """Return the positions of at most `size` sequences (None: all), i64, rising.

    Which ones depends on seed and subject_id alone; a smaller sample is part of a larger one.
    """
    if size is None or size >= len(sequences):
        return np.arange(len(sequences))
    generator = derive_seed(seed, "subjects")
    draws = np.array([derive_seed(generator, one) for one in sequences.subjects["subject_id"]])
    return np.sort(np.argsort(draws, kind="stable")[:size])


def round_weights(encoder: Any) -> Any:
    """Return a copy of `encoder` with weights in bf16, 1.3 times as fast as autocast (docs/performance.md).

    Not `.to(torch.bfloat16)`: that rounds the frequencies of the rotary positions too, and a thousand tokens
    on the states are off four times as far.
    """
    rounded = copy.deepcopy(encoder)
    for weight in rounded.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return rounded


PRECISIONS: dict[str, Callable[[Any], Any]] = {"fp32": lambda encoder: encoder, "bf16": round_weights}


class Extractor:
    """Turns sequences into tables.

    Batches are of like length and padded right without a mask, which a causal transformer allows; so
    a vector does not depend on the batch it was computed in.
    """

    def __init__(
        self,
        encoder: Any,
        config: ExtractionConfig,
        progress: Callable[[list[np.ndarray]], Iterable[np.ndarray]] = iter,
    ) -> None:
        """Keep what to compute.

        Args:
            encoder: as `compute_states` takes it.
            config: what to compute.
            progress: wraps the list of batches to show how far it is.

        Raises:
            InputError: an unknown layer or pooling.
        """
        self._encoder = PRECISIONS[config.precision](encoder).eval()
        self._config, self._progress = config, progress
        num_layers = len(encoder.layers)
        self._layers = choose_layers(config.layers, num_layers)
        self._trajectory_layer = choose_layers([config.trajectory_layer], num_layers)[0]
        for name in config.poolings:
            lookup(POOLINGS, name, "pooling")
        self._width = int(encoder.get_input_embeddings().weight.shape[1])
        self._collectors: dict[str, Callable[[Sequences], Collector]] = {
            "trajectories": self._collect_trajectories,
            "hidden_states": self._collect_hidden_states,
            "representations": self._collect_representations,
        }

    @torch.no_grad()
    def extract(self, sequences: Sequences, names: list[str]) -> dict[str, pl.DataFrame]:
        """Return the tables called `names` of N sequences, in that order; vectors and jumps are fp32."""
        collectors = {name: self._collectors[name](sequences) for name in names}
        layers = {*self._layers, self._trajectory_layer} if "trajectories" in names else self._layers
        for rows in self._progress(list(iterate_batches(sequences.lengths, self._config.batch_tokens))):
            batch = [sequences.get(row) for row in rows]
            states, lengths = compute_states(self._encoder, sorted(layers), batch, sequences.pad_token_id)
            for collector in collectors.values():
                collector.add(rows, lengths, states)
        return {name: collector.to_table() for name, collector in collectors.items()}

    def _collect_representations(self, sequences: Sequences) -> Collector:
        config = self._config
        return RepresentationCollector(
            sequences, self._layers, config.poolings, config.positions, self._width, config.seed
        )

    def _collect_trajectories(self, sequences: Sequences) -> Collector:
        return TrajectoryCollector(sequences, self._trajectory_layer)

    def _collect_hidden_states(self, sequences: Sequences) -> Collector:
        is_stored = sequences.subjects[STORED].to_numpy()
        return StateCollector(sequences, self._layers, self._width, is_stored)
