"""Probabilities of a sequence classifier, and how good they are on validation.

B sequences, L positions, N sequences in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from clinrep import distributed
from clinrep.analysis.metrics import compute_auprc, compute_auroc, rank
from clinrep.config import InputError
from clinrep.sequences import IGNORED, Item, LabelledItems, Sequences, iterate_batches, pad_left

Precision = Literal["fp32", "bf16"]


class LeftPaddedCollator:
    """Makes a left-padded batch with labels i64 (B,) of a list of items."""

    def __init__(self, pad_token_id: int) -> None:
        """Keep the id that fills the left."""
        self._pad_token_id = pad_token_id

    def __call__(self, items: Iterable[Item]) -> dict[str, Any]:
        """Return input_ids, attention_mask, position_ids (B, L), labels (B,) and the counts of training/throughput.py.

        The counts leave out padding and items without a label, which only fill a batch.
        """
        items = list(items)
        batch = pad_left([item["tokens"] for item in items], self._pad_token_id)
        lengths = [len(item["tokens"]) for item in items if item["label"] != IGNORED]
        counts = {
            "num_tokens": sum(lengths),
            "attention_pairs": sum(length * (length + 1) // 2 for length in lengths),
        }
        return {**batch, "labels": torch.tensor([item["label"] for item in items]), **counts}


def check_classes(sequences: Sequences, outcome: str, metric_for_best: str) -> None:
    """Refuse labels nothing can be learned from, or that leave the validation metric undefined."""
    for split, remedy in (
        ("train", "no classifier can learn from one class; take another outcome or more data"),
        ("val", f"{metric_for_best} is undefined then: use --metric_for_best loss"),
    ):
        labels = sequences.labels[sequences.find_rows(split)]
        if len(labels) == 0:
            raise InputError(f"outcome {outcome}: the {split} split has no labelled stay; give 00 other fractions")
        needs_both = split == "train" or metric_for_best != "loss"
        if needs_both and labels.all() | ~labels.any():
            counts = f"{int(labels.sum())} of {len(labels)} stays with the event"
            raise InputError(f"outcome {outcome}: the {split} split has {counts}; {remedy}")


@torch.no_grad()
def predict_probabilities(
    model: torch.nn.Module, sequences: Sequences, batch_size: int, precision: Precision = "fp32"
) -> np.ndarray:
    """Return the probability of class 1, f64 (N,), in the order of `sequences`, on every rank.

    Sequences are batched by length; each rank does its share, and the shares are added up.
    """
    model.eval()
    device = next(model.parameters()).device
    mine = np.arange(distributed.get_rank(), len(sequences), distributed.get_world_size())
    probabilities = torch.zeros(len(sequences), dtype=torch.float64, device=device)
    for rows in iterate_batches(sequences.lengths[mine], batch_tokens=batch_size * 1024, batch_size=batch_size):
        chosen = mine[rows]
        batch = pad_left([sequences.get(row) for row in chosen], sequences.pad_token_id)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = model(**batch, use_cache=False).logits
        probabilities[torch.from_numpy(chosen).to(device)] = logits.double().softmax(-1)[:, 1]
    return distributed.sum_over_ranks(probabilities).cpu().numpy()


def score_validation(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return eval_loss (mean negative log-likelihood, nats) and, with both classes, eval_auroc and eval_auprc.

    labels bool (N,), probabilities f64 (N,) of class 1.
    """
    of_label = np.where(labels, probabilities, 1 - probabilities)
    smallest = np.finfo(np.float64).tiny  # a certain mistake costs 708 nats, not infinity
    scores = {"eval_loss": float(-np.log(np.maximum(of_label, smallest)).mean())}
    if labels.any() and not labels.all():
        tally = rank(labels, probabilities).tally(np.ones((1, len(labels))))
        scores["eval_auroc"] = float(compute_auroc(tally)[0])
        scores["eval_auprc"] = float(compute_auprc(tally)[0])
    return scores


class Classification:
    """One outcome's sequences as the training loop and the predictions need them."""

    def __init__(self, sequences: Sequences, batch_size: int, precision: Precision) -> None:
        """Keep labelled sequences of every split, and how many to predict at once in which compute type."""
        self._sequences, self._batch_size, self._precision = sequences, batch_size, precision
        self._val = sequences.select("val")
        self.train_items = LabelledItems(sequences.select("train"))
        self.collate = LeftPaddedCollator(sequences.pad_token_id)

    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        """Return the metrics of `score_validation` on val, the same on every rank."""
        probabilities = predict_probabilities(model, self._val, self._batch_size, self._precision)
        return score_validation(self._val.labels, probabilities)

    def predict(self, model: torch.nn.Module, outcome: str) -> pl.DataFrame:
        """Return table `predictions`: every labelled stay of every split, with its id."""
        probabilities = predict_probabilities(model, self._sequences, self._batch_size, self._precision)
        return self._sequences.subjects.select("subject_id", "split", "label").with_columns(
            outcome=pl.lit(outcome), probability=pl.Series(probabilities, dtype=pl.Float32)
        )
