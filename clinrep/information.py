"""Bits of information of every token, given those before it.

B sequences, L positions, V tokens of the vocabulary, T tokens of one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from clinrep.artifacts import make_lists
from clinrep.batches import pad_right
from clinrep.sequences import Sequences, iterate_batches

LOGITS_AT_ONCE = 2**24  # fp32 numbers


class InformationMeter:
    """Scores sequences by a causal language model."""

    def __init__(
        self,
        model: torch.nn.Module,
        batch_tokens: int,
        precision: Literal["fp32", "bf16"] = "fp32",
        progress: Callable[[list[np.ndarray]], Iterable[np.ndarray]] = iter,
    ) -> None:
        """Keep how to score.

        Args:
            model: gives `.logits` (B, L, V) for input_ids (B, L), causally and without a mask.
            batch_tokens: tokens of a forward pass, padding included.
            precision: compute type; the softmax is fp32 and sums are f64 in either.
            progress: wraps the list of batches to show how far it is.
        """
        self._model, self._precision, self._progress = model.eval(), precision, progress
        self._batch_tokens = min(batch_tokens, max(1, LOGITS_AT_ONCE // int(model.config.vocab_size)))  # type: ignore[union-attr, arg-type]

    def measure(self, sequences: Sequences) -> pl.DataFrame:
        """Return table `information`, in the order of `sequences`.

        bits[t] is -log2 of the probability of token t + 1 given tokens 0..t, from the logits at position t; the
        first token, which nothing precedes, has none.
        """
        bits: list[np.ndarray] = [np.empty(0)] * len(sequences)
        for rows in self._progress(list(iterate_batches(sequences.lengths, self._batch_tokens))):
            for row, values in zip(rows, self._score([sequences.get(row) for row in rows]), strict=True):
                bits[row] = values
        lengths, flat = sequences.lengths, np.concatenate([np.empty(0), *bits]).astype(np.float32)
        return sequences.subjects.select(
            "subject_id",
            "split",
            token_ids=make_lists(pl.Series(sequences.tokens, dtype=pl.UInt32), lengths),
            times=make_lists(pl.Series(sequences.times, dtype=pl.Datetime("us")), lengths),
            bits=make_lists(pl.Series(flat), np.array([len(values) for values in bits], dtype=np.int64)),
            total_bits=pl.Series([values.sum() for values in bits], dtype=pl.Float64),
        )

    @torch.no_grad()
    def _score(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        """Return f64 (T - 1,) of each sequence of the batch."""
        device = next(self._model.parameters()).device
        input_ids = pad_right(batch, 0).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            output: Any = self._model(input_ids=input_ids, use_cache=False)
        logits = output.logits[:, :-1].float()
        chosen = logits.gather(2, input_ids[:, 1:, None])[..., 0]
        bits = ((logits.logsumexp(-1) - chosen) / math.log(2)).double().cpu().numpy()
        return [bits[row, : len(tokens) - 1] for row, tokens in enumerate(batch)]
