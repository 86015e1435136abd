"""A model of a few hundred weights and rows to train it on, for the tests of the training loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate
from transformers import LlamaConfig, LlamaForCausalLM

from clinrep.config import StageConfig
from clinrep.run import Run
from clinrep.stop_signal import StopSignal
from clinrep.training import Task, mean_token_loss, train
from clinrep.training_config import TrainingConfig

VOCABULARY, LENGTH = 11, 6
CONFIG = TrainingConfig(learning_rate=0.01, batch_size=2, max_steps=12, eval_steps=4, scheduler="constant_with_warmup")
FILLER = {"input_ids": torch.zeros(LENGTH, dtype=torch.int64), "labels": torch.full((LENGTH,), -100)}
TIMINGS = {"tokens_per_second", "data_seconds", "mfu"}


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random rows whose number of targets differs much from row to row."""

    def __init__(self, num_rows: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, VOCABULARY, (num_rows, LENGTH), generator=generator)
        self.labels = self.ids.clone()
        for row in range(num_rows):
            self.labels[row, : 1 + row % (LENGTH - 1)] = -100
        self.visits: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.visits.append(index)
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


class ChangingRows(Rows):
    """Rows whose tokens are others in every epoch."""

    epoch = 0
    length_changes = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ids) + self.length_changes * self.epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.visits.append(index)
        ids = 1 + (self.ids[index] + self.epoch) % (VOCABULARY - 1)
        return {"input_ids": ids, "labels": torch.where(self.labels[index] == -100, -100, ids)}


def collate_with_counts(items: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Return a batch with its counts; every row is one document, a filler is padding."""
    num_rows = sum(int(item["input_ids"].any()) for item in items)
    counts = {"num_tokens": LENGTH * num_rows, "attention_pairs": LENGTH * (LENGTH + 1) // 2 * num_rows}
    return {**default_collate(items), **counts}


def make_model(seed: int = 0, **sizes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} | sizes
    sizes = {"vocab_size": VOCABULARY, "tie_word_embeddings": True} | sizes
    return LlamaForCausalLM(LlamaConfig(pad_token_id=0, **sizes))


def make_run(directory: Path) -> Run:
    directory.mkdir(parents=True, exist_ok=True)
    return Run("01_pretrain", StageConfig(output_dir=str(directory), show_progress=False), directory, {})


def run_training(
    directory: Path,
    rows: Rows,
    config: TrainingConfig = CONFIG,
    evaluate: Any = None,
    model: LlamaForCausalLM | None = None,
    items_per_step: int = 2,
    on_validation: Callable[[int, dict[str, float]], bool] | None = None,
    **named: Any,
) -> tuple[LlamaForCausalLM, Run]:
    """Train on `rows`, validated on seven others, and return the model and the run."""
    run = make_run(directory)
    if evaluate is None:
        evaluate = partial(mean_token_loss, dataset=Rows(7, seed=5), batch_size=3)
    task = Task(rows, FILLER, evaluate, items_per_step, **named)
    with StopSignal() as stop:
        return train(model or make_model(), task, config, run, stop, on_validation=on_validation), run


def read_records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def read_metrics(directory: Path, name: str) -> dict[int, float]:
    """Return step -> value of one metric."""
    records = [record for record in read_records(directory) if record["name"] == name]
    steps = [record["step"] for record in records]
    assert len(steps) == len(set(steps)), "a step appears twice"
    return {record["step"]: record["value"] for record in records}


def read_exact(directory: Path) -> list[tuple[Any, ...]]:
    """Return every record, without the value where it is a time."""
    return [
        (*(record[key] for key in ("step", "split", "name")), None if record["name"] in TIMINGS else record["value"])
        for record in read_records(directory)
    ]
