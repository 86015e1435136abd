"""A sequence classifier's training data and probabilities, and how good they are on validation.

B sequences, L positions, N sequences in all, T tokens in all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from clinrep import distributed
from clinrep.analysis.metrics import compute_auprc, compute_auroc, rank
from clinrep.artifacts import make_lists
from clinrep.batches import IGNORED, Item, LabelledItems, pad_left, pad_right
from clinrep.class_losses import ItemLoss, make_loss
from clinrep.config import InputError
from clinrep.patient_shares import choose_patients
from clinrep.run import Run
from clinrep.sequences import Sequences, iterate_batches
from clinrep.training import Task, save_model

Precision = Literal["fp32", "bf16"]

logger = logging.getLogger("clinrep")


class LeftPaddedCollator:
    """Makes left-padded batches with labels of a list of items."""

    def __init__(self, pad_token_id: int, pass_tokens: int | None = None) -> None:
        """Keep the id that fills the left, and the most tokens, padding counted, of one forward pass."""
        self._pad_token_id, self._pass_tokens = pad_token_id, pass_tokens

    def __call__(self, items: Iterable[Item]) -> dict[str, Any]:
        """Return input_ids, attention_mask, position_ids (B, L), labels (B,) and the counts of training/throughput.py.

        With `pass_tokens` the first three are in batches of their own, under `passes`, with their labels; a sequence
        longer than that has a pass to itself. The counts leave out padding and items without a label, which only
        fill a batch.
        """
        items = list(items)
        lengths = [len(item["tokens"]) for item in items if item["label"] != IGNORED]
        counts = {
            "num_tokens": sum(lengths),
            "attention_pairs": sum(length * (length + 1) // 2 for length in lengths),
        }
        if self._pass_tokens is None:
            return self._pad(items) | counts
        labels = torch.tensor([item["label"] for item in items])
        return {
            "passes": [self._pad(some) for some in divide_items(items, self._pass_tokens)],
            "labels": labels,
        } | counts

    def _pad(self, items: list[Item]) -> dict[str, Any]:
        batch: dict[str, Any] = pad_left([item["tokens"] for item in items], self._pad_token_id)
        return batch | {"labels": torch.tensor([item["label"] for item in items])}


def divide_items(items: list[Item], most_tokens: int) -> list[list[Item]]:
    """Return the items in groups of like length, longest first: size x longest is at most `most_tokens`, or size 1."""
    groups: list[list[Item]] = []
    for item in sorted(items, key=lambda item: -len(item["tokens"])):
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0]["tokens"]) <= most_tokens:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def check_classes(train: Sequences, val: Sequences, outcome: str, metric_for_best: str) -> None:
    """Refuse labels nothing can be learned from, or that leave the validation metric undefined."""
    remedies = {
        "train": "no classifier can learn from one class; take another outcome or more data",
        "val": f"{metric_for_best} is undefined then: use --metric_for_best loss",
    }
    for split, labels in (("train", train.labels), ("val", val.labels)):
        if len(labels) == 0:
            raise InputError(f"outcome {outcome}: the {split} split has no labelled stay; give 00 other fractions")
        needs_both = split == "train" or metric_for_best != "loss"
        if needs_both and labels.all() | ~labels.any():
            counts = f"{int(labels.sum())} of {len(labels)} stays with the event"
            raise InputError(f"outcome {outcome}: the {split} split has {counts}; {remedies[split]}")


def take_fraction(sequences: Sequences, fraction: float, seed: int) -> Sequences:
    """Return the sequences of a share of their patients, as `choose_patients`; all stays of a patient stay together."""
    if fraction == 1:
        return sequences
    patients = sequences.subjects["patient_id"].unique()
    chosen = choose_patients(patients, fraction, seed)
    rows = np.flatnonzero(sequences.subjects["patient_id"].is_in(chosen.implode()).to_numpy())
    words = "train: %d of %d patients and %d of %d stays are learned from (training_fraction %g)"
    logger.info(words, len(chosen), len(patients), len(rows), len(sequences), fraction)
    return sequences.take(rows)


@torch.no_grad()
def predict_probabilities(
    model: torch.nn.Module, sequences: Sequences, batch_size: int, precision: Precision = "fp32"
) -> np.ndarray:
    """Return the probability of class 1, f64 (N,), in the order of `sequences`, on every rank.

    Sequences are batched by length; each rank does its share, and the shares are added up.
    """
    model.eval()
    device = next(model.parameters()).device
    probabilities = torch.zeros(len(sequences), dtype=torch.float64, device=device)
    for chosen in _iterate_share(sequences, batch_size):
        batch = pad_left([sequences.get(row) for row in chosen], sequences.pad_token_id)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = model(**batch, use_cache=False).logits
        probabilities[torch.from_numpy(chosen).to(device)] = logits.double().softmax(-1)[:, 1]
    return distributed.sum_over_ranks(probabilities).cpu().numpy()


@torch.no_grad()
def predict_over_time(
    model: torch.nn.Module, sequences: Sequences, batch_size: int, precision: Precision = "fp32"
) -> np.ndarray:
    """Return the probability of class 1 after every token, f32 (T,) in the order of `sequences`, on every rank.

    One causal pass: the state at a token knows the tokens up to it and no other, so this is what a sequence that
    ended there would get. `model` gives `.score_positions`, logits (B, L, 2) of right-padded input_ids (B, L).
    """
    model.eval()
    device = next(model.parameters()).device
    probabilities = torch.zeros(len(sequences.tokens), dtype=torch.float32, device=device)
    for chosen in _iterate_share(sequences, batch_size):
        input_ids = pad_right([sequences.get(row) for row in chosen], sequences.pad_token_id).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = model.score_positions(input_ids)  # type: ignore[operator]
        found = logits.double().softmax(-1)[..., 1].float()
        for row, values in zip(chosen, found, strict=True):
            start, end = sequences.offsets[row : row + 2]
            probabilities[start:end] = values[: end - start]
    return distributed.sum_over_ranks(probabilities).cpu().numpy()


def _iterate_share(sequences: Sequences, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the positions (B,) of this rank's every so many sequences, in batches of like length."""
    mine = np.arange(distributed.get_rank(), len(sequences), distributed.get_world_size())
    for rows in iterate_batches(sequences.lengths[mine], batch_tokens=batch_size * 1024):
        yield mine[rows]


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

    def __init__(self, sequences: Sequences, config: Any) -> None:
        """Keep labelled sequences of every split and the settings of stage 02.

        Raises:
            InputError: labels nothing can be learned from, or that leave the validation metric undefined.
        """
        self._sequences, self._config = sequences, config
        self._val = sequences.select("val")
        train = take_fraction(sequences.select("train"), config.training_fraction, config.seed)
        self.is_learned_from = config.training_fraction > 0
        """False where the classifier only predicts."""
        if self.is_learned_from:
            check_classes(train, self._val, config.outcome, config.metric_for_best)
        seed = distributed.derive_seed(config.seed, "truncation") if config.random_truncation else None
        self.train_items = LabelledItems(train, seed)
        self.companions = sequences.companions

    def make_task(self, find_rate_factor: Callable[[str], float] | None) -> Task:
        """Return what is learned and how it is validated."""
        metric, should_rise = choose_metric(self._config)
        return Task(
            dataset=self.train_items,
            filler=self.train_items.make_filler(),
            evaluate=self.validate,
            items_per_step=self._config.global_batch_size,
            collate=LeftPaddedCollator(self._sequences.pad_token_id, self._config.pass_tokens),
            is_divided_by_collate=self._config.pass_tokens is not None,
            metric_for_best=metric,
            greater_is_better=should_rise,
            find_rate_factor=find_rate_factor,
        )

    def make_loss(self) -> ItemLoss:
        """Return the loss to minimize."""
        return make_loss(self.train_items.labels, self._config)

    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        """Return the metrics of `score_validation` on val, the same on every rank."""
        return score_validation(self._val.labels, self._predict(predict_probabilities, model, self._val))

    def predict(self, model: torch.nn.Module) -> pl.DataFrame:
        """Return table `predictions`: every labelled stay of every split, with its id."""
        probabilities = self._predict(predict_probabilities, model, self._sequences)
        return self._sequences.subjects.select("subject_id", "split", "label").with_columns(
            outcome=pl.lit(self._config.outcome), probability=pl.Series(probabilities, dtype=pl.Float32)
        )

    def predict_over_time(self, model: torch.nn.Module) -> pl.DataFrame:
        """Return table `risk_over_time`: every labelled stay of the splits that the settings name."""
        is_asked = self._sequences.subjects["split"].is_in(self._config.risk_over_time).to_numpy()
        sequences = self._sequences.take(np.flatnonzero(is_asked))
        probabilities = self._predict(predict_over_time, model, sequences)
        return sequences.subjects.select("subject_id", "split").with_columns(
            times=make_lists(pl.Series(sequences.times, dtype=pl.Datetime("us")), sequences.lengths),
            probability=make_lists(pl.Series(probabilities), sequences.lengths),
            outcome=pl.lit(self._config.outcome),
            model=pl.lit("classifier_urt" if self._config.random_truncation else "classifier"),
        )

    def write(self, model: torch.nn.Module, run: Run) -> None:
        """Write `classifier/`, `predictions.parquet` and what else is asked for; every rank calls it."""
        predictions = self.predict(model)
        over_time = self.predict_over_time(model) if self._config.risk_over_time else None
        save_model(model, run, "classifier", self.companions)
        if run.is_main:
            run.write("predictions", predictions)
            if over_time is not None:
                run.write("risk_over_time", over_time)

    def _predict(self, predict: Callable[..., np.ndarray], model: torch.nn.Module, sequences: Sequences) -> np.ndarray:
        return predict(model, sequences, self._config.prediction_batch_size, self._config.training.precision)


def choose_metric(config: Any) -> tuple[str, bool]:
    """Return the metric of `Classification.validate` that chooses the best weights, and whether it should rise."""
    return f"eval_{config.metric_for_best}", config.metric_for_best != "loss"


def list_outputs(config: Any) -> list[str]:
    """Return the names of what `Classification.write` writes with these settings."""
    return ["classifier", "predictions.parquet"] + (["risk_over_time.parquet"] if config.risk_over_time else [])
