"""How fast a training step is: tokens a second, seconds waited for data, use of the hardware (MFU).

Model FLOPs are counted as in PaLM (Chowdhery et al. 2022, appendix B), 6 for each matmul weight and token
and 12 x layers x heads x head width for each pair of tokens that attend, where attention counts only the
pairs that a causal mask within documents needs. Neither padding nor what gradient checkpointing computes
again is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from clinrep import distributed

# What a collate function may add to a batch for this module, as plain numbers; no model takes them.
NUM_TOKENS = "num_tokens"
"""Tokens of the batch that are no padding."""
ATTENTION_PAIRS = "attention_pairs"
"""Sum of l (l + 1) / 2 over its documents of l tokens."""


@dataclass(frozen=True)
class ModelFlops:
    """What forward and backward cost, from a model's shape."""

    matmul_weights: int
    attention_width: int
    """Layers x heads x width of a head."""
    frozen_weights: int = 0
    """Those of the matmul weights that are not trained: no gradient of theirs is computed."""

    def count(self, num_tokens: float, attention_pairs: float) -> float:
        """Return the floating-point operations of forward and backward over so many tokens and pairs."""
        return (
            6.0 * self.matmul_weights - 2.0 * self.frozen_weights
        ) * num_tokens + 12.0 * self.attention_width * attention_pairs


def measure_model(model: PreTrainedModel) -> ModelFlops:
    """Return the cost of a transformer: its 2-D weights, the input embedding only where it is the output layer too."""
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    is_tied = head is not None and head.weight is embedding
    weights = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)
    frozen = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2 and not weight.requires_grad)
    if not is_tied and not embedding.requires_grad:
        frozen -= embedding.numel()
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelFlops(
        matmul_weights=weights if is_tied else weights - embedding.numel(),
        attention_width=config.num_hidden_layers * config.num_attention_heads * width,
        frozen_weights=frozen,
    )


def pop_counts(batch: dict[str, Any]) -> tuple[int | None, int | None]:
    """Take the token and pair counts out of a batch; None where the collate function gives none."""
    return batch.pop(NUM_TOKENS, None), batch.pop(ATTENTION_PAIRS, None)


class StepMeter:
    """Counts and times one optimizer step after another, on every rank."""

    def __init__(
        self, flops: ModelFlops, peak_tflops: float | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Measure against `peak_tflops` of one device; without it there is no mfu."""
        self._flops, self._peak_tflops, self._clock = flops, peak_tflops, clock
        self._last_end: float | None = None
        self.start()

    def start(self) -> None:
        """Begin a step: its time runs from the end of the one before, or after a pause from here."""
        self._started = self._clock() if self._last_end is None else self._last_end
        self._data_seconds = 0.0
        self._num_tokens: int | None = 0
        self._pairs: int | None = 0

    def pause(self) -> None:
        """Leave out of every step what is done between the last and the next, as validation and saving."""
        self._last_end = None

    def watch(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield `batches` without their counts, which are added up, and with the wait for each timed."""
        while True:
            asked = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._data_seconds += self._clock() - asked
            num_tokens, pairs = pop_counts(batch)
            self._num_tokens = _add(self._num_tokens, num_tokens)
            self._pairs = _add(self._pairs, pairs)
            yield batch

    def finish(self) -> dict[str, float]:
        """Return what is known of the step, the same on every rank but for the clock.

        tokens_per_second over all ranks, data_seconds as their mean, mfu where the peak and the pairs are
        known; nothing where the batches do not say their tokens. Every rank calls it.
        """
        self._last_end = self._clock()
        if self._num_tokens is None:
            return {}
        ranks, seconds = distributed.get_world_size(), self._last_end - self._started
        num_tokens, pairs, waited = distributed.sum_numbers([self._num_tokens, self._pairs or 0, self._data_seconds])
        values = {"tokens_per_second": num_tokens / seconds, "data_seconds": waited / ranks}
        if self._peak_tflops is not None and self._pairs is not None:
            values["mfu"] = self._flops.count(num_tokens, pairs) / (seconds * ranks * self._peak_tflops * 1e12)
        return values


def _add(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + int(more)


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of weights, a tied one once."""
    return sum(weight.numel() for weight in model.parameters())
