"""transformers.Trainer with our validation, records, order of items, and an exact stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from safetensors.torch import load_model
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clinrep.run import RunError
from clinrep.stop_signal import StopSignal
from clinrep.training.checkpoints import Checkpoints
from clinrep.training.layer_rates import split_by_rate
from clinrep.training.metrics_log import MetricsLog
from clinrep.training.progress import Progress
from clinrep.training.task import EpochSampler, Evaluate, FilledDataset
from clinrep.training.throughput import StepMeter
from clinrep.training_config import TrainingConfig

OnValidation = Callable[[int, dict[str, float]], bool]
LoadedT = TypeVar("LoadedT")

logger = logging.getLogger("clinrep")


class StageTrainer(Trainer):
    """Trainer that validates by our function and writes what it measures to metrics.jsonl."""

    metrics_log: MetricsLog | None = None
    progress: Progress
    meter: StepMeter
    sampler: EpochSampler
    evaluate_with: Evaluate
    checkpoints: Checkpoints
    control: TrainerControl
    find_rate_factor: Callable[[str], float] | None = None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return Trainer's optimizer, with a learning rate for each layer where the task asks for it."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.find_rate_factor is not None:
            names = {weight: name for name, weight in (model or self.model).named_parameters()}
            split_by_rate(optimizer, names, self.find_rate_factor)
        return optimizer

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> EpochSampler:
        return self.sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """Return the batches of one optimizer step, without the counts in them; the step's time begins here."""
        self.meter.start()
        samples: tuple[list[Any], torch.Tensor | int | None] = super().get_batch_samples(
            self.meter.watch(epoch_iterator), num_batches, device
        )
        return samples

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the loss of one batch, or of the `passes` it is divided into, after their gradients are added up."""
        passes = inputs.get("passes")
        if passes is None:
            return super().training_step(model, inputs, num_items_in_batch)
        losses = []
        for number, batch in enumerate(passes, 1):
            # ranks may have different numbers of passes: they meet in the last one alone
            alone = self.accelerator.no_sync(model) if number < len(passes) else nullcontext()
            with alone:
                losses.append(super().training_step(model, batch, num_items_in_batch))
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Return Trainer's loss, 0 rather than 0/0 for a step without any target."""
        if num_items_in_batch is not None:
            num_items_in_batch = torch.clamp(num_items_in_batch, min=1)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record one step's loss, learning rate, gradient norm and speed; Trainer's summaries are left out."""
        self.control.should_log = False
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise RunError(
                f"the training loss is {logs['loss']} at step {self.state.global_step}; lower training.learning_rate"
            )
        values: dict[str, float] = {
            name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs
        }
        values |= self.meter.finish()
        self._record("train", values)
        self.progress.update(self.state.global_step, values["loss"], values.get("tokens_per_second"))

    def evaluate(self, *unused: Any, **named: Any) -> dict[str, float]:
        """Return the metrics of the caller's function, recorded."""
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            metrics = self.evaluate_with(self.model)
        self.meter.pause()
        self._record("val", metrics)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        logger.info("step %d: %s", self.state.global_step, shown)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, *positional: Any) -> None:
        super()._save_checkpoint(*positional)
        if self.metrics_log is not None:
            self.metrics_log.sync()
        self.meter.pause()

    def _record(self, split: str, values: dict[str, float]) -> None:
        """Write to metrics.jsonl and to the trackers that report_to names."""
        if self.metrics_log is not None:
            self.metrics_log.write(self.state.global_step, split, values)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, dict(values))

    def return_model(self, step: int) -> PreTrainedModel:
        """Return the model as the caller knows it, with the weights after `step`, at which a checkpoint was saved."""
        model: PreTrainedModel = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if step != self.state.global_step:
            self._load_or_explain(
                lambda folder: load_model(model, f"{folder}/model.safetensors", device=str(model.device)),
                str(self.checkpoints.path(step)),
            )
        return model

    # A file of a complete checkpoint may still be unreadable: never a traceback, never a restart from 0.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self._load_or_explain(super()._load_from_checkpoint, resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._load_or_explain(super()._load_optimizer_and_scheduler, checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self._load_or_explain(super()._load_rng_state, checkpoint)

    def _load_or_explain(self, load: Callable[..., LoadedT], checkpoint: str | None, *more: Any) -> LoadedT:
        try:
            return load(checkpoint, *more)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if checkpoint is None:
                raise
            raise self.checkpoints.explain_unreadable(int(checkpoint.rpartition("-")[2]), error) from error


class StageFlow(TrainerCallback):
    """Decides before each epoch on the order of items, and after each step whether to validate, save, stop."""

    def __init__(
        self,
        config: TrainingConfig,
        checkpoints: Checkpoints,
        stop: StopSignal,
        progress: Progress,
        start_epoch: Callable[[int], None],
        on_validation: OnValidation | None,
    ) -> None:
        self._config, self._checkpoints, self._stop, self._progress = config, checkpoints, stop, progress
        self._start_epoch, self._on_validation = start_epoch, on_validation
        self._metrics: dict[str, float] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say what is ahead."""
        if state.global_step:
            logger.info("resuming after step %d", state.global_step)
        size, passes, ranks = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
        logger.info(
            "training: %d steps of %d items on %d ranks, each %d x %d (items in a forward pass x passes)",
            *(state.max_steps, size * passes * ranks, ranks, size, passes),
        )
        self._progress.start(state.global_step, state.max_steps)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the order of items, told from the step, before the iterator (and any worker) is made."""
        self._start_epoch(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate and save when due; save and end when any rank was asked to stop."""
        is_last = state.global_step >= state.max_steps
        if is_last or state.global_step % self._config.eval_steps == 0:
            control.should_evaluate = control.should_save = True
        if self._config.save_steps is not None and state.global_step % self._config.save_steps == 0:
            control.should_save = True
        if self._stop.agree():
            control.should_save = control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Keep what `on_validation` is told once the checkpoint is saved."""
        self._metrics = metrics

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the checkpoint, which follows the validation of the same step, and see to an early end."""
        self._checkpoints.complete(state.global_step, state.best_global_step)
        if is_patience_over(state, self._config):
            logger.info("no improvement in %d validations: early stop", self._config.early_stopping_patience)
            control.should_training_stop = True
        metrics, self._metrics = self._metrics, None
        if metrics is not None and self._on_validation is not None and self._on_validation(state.global_step, metrics):
            control.should_training_stop = True


def is_patience_over(state: TrainerState, config: TrainingConfig) -> bool:
    """Return whether too many validations passed since the best; told from the step, so a resume knows it too."""
    if config.early_stopping_patience is None:
        return False
    return state.global_step - (state.best_global_step or 0) >= config.early_stopping_patience * config.eval_steps


def make_epoch_starter(dataset: FilledDataset, sampler: EpochSampler, items_per_step: int) -> Callable[[int], None]:
    """Return what sets the epoch of the items and their order from the steps done."""
    steps_per_epoch = max(1, len(dataset) // items_per_step)

    def start_epoch(num_steps_done: int) -> None:
        epoch = num_steps_done // steps_per_epoch
        sampler.start_epoch(epoch)
        dataset.start_epoch(epoch)

    return start_epoch
