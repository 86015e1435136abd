"""Trajectories: how far the hidden state moves from token to token, computed while the states stream by.

B sequences, L positions, D width, N sequences, T tokens of a sequence.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from clinrep.artifacts import make_lists
from clinrep.hidden_states import States
from clinrep.sequences import Sequences


def measure_jumps(hidden: torch.Tensor) -> torch.Tensor:
    """Return ||h[t + 1] - h[t]||_2, f32 (B, L - 1), of hidden states (B, L, D).

    Differences and norms are taken in fp32: in float16 norms above 50 come in steps of 1/32 and above
    256 overflow, as in the manuscript's code (spec/manuscript.md, D22).
    """
    hidden = hidden.float()
    return torch.linalg.vector_norm(hidden[:, 1:] - hidden[:, :-1], dim=-1)


class TrajectoryCollector:
    """Makes table `trajectories`: one row per sequence, in their order."""

    def __init__(self, sequences: Sequences, layer: int) -> None:
        """Measure the states of one layer."""
        self._sequences, self._layer = sequences, layer
        self._jumps: list[np.ndarray] = [np.empty(0, np.float32)] * len(sequences)

    def add(self, rows: np.ndarray, lengths: torch.Tensor, states: States) -> None:
        """Take one batch, as `Collector` says."""
        jumps = measure_jumps(states[self._layer]).cpu().numpy()
        for row, length, of_row in zip(rows, lengths.tolist(), jumps, strict=True):
            self._jumps[row] = of_row[: length - 1].copy()

    def to_table(self) -> pl.DataFrame:
        """Return the table; the path length is added up in f64."""
        lengths = [float(jumps.sum(dtype=np.float64)) for jumps in self._jumps]
        largest = [float(jumps.max()) if jumps.size else None for jumps in self._jumps]
        means = [total / jumps.size if jumps.size else None for total, jumps in zip(lengths, self._jumps, strict=True)]
        num_jumps = np.array([jumps.size for jumps in self._jumps])
        flat = pl.Series(np.concatenate([np.empty(0, np.float32), *self._jumps]))
        return self._sequences.subjects.select("subject_id", "split").with_columns(
            times=make_lists(pl.Series(self._sequences.times, dtype=pl.Datetime("us")), self._sequences.lengths),
            jumps=make_lists(flat, num_jumps),
            path_length=pl.Series(lengths, dtype=pl.Float64),
            max_jump=pl.Series(largest, dtype=pl.Float32),
            mean_jump=pl.Series(means, dtype=pl.Float32),
        )
