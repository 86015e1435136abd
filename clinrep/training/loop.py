"""train: one model, one dataset, transformers.Trainer as the loop. Nothing of a modality or a task."""

from __future__ import annotations

import logging
import math
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_model
from torch.utils.data import Dataset, default_collate, get_worker_info
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from clinrep import artifacts, distributed
from clinrep.run import Run
from clinrep.training.checkpoints import Checkpoints
from clinrep.training.metrics_log import MetricsLog
from clinrep.training.progress import Progress
from clinrep.training.stop_signal import STOP_SIGNALS, StopSignal
from clinrep.training_config import TrainingConfig

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

logger = logging.getLogger("clinrep")

Evaluate = Callable[[torch.nn.Module], dict[str, float]]


def train(
    model: PreTrainedModel,
    dataset: Dataset[Any],
    filler: Any,
    evaluate: Evaluate,
    config: TrainingConfig,
    run: Run,
    stop: StopSignal,
    *,
    metric_for_best: str = "eval_loss",
    greater_is_better: bool = False,
    collate: Callable[[list[Any]], Any] = default_collate,
) -> PreTrainedModel:
    """Return `model` with the best weights; after a stop by a signal (`run.is_stopped`) with the last ones.

    The same call on a directory that holds checkpoints continues after the newest complete one, and
    every later loss is that of a run never stopped (on a CPU to the last bit). Every rank calls it.

    Args:
        model: gives `.loss` from a batch with `labels`; its loss must leave out label -100 and divide by
            `num_items_in_batch`, as those of transformers do.
        dataset: items; each counts once per epoch.
        filler: an item with no label but -100; copies of it round an epoch up to whole steps, so that
            none of the others is repeated.
        evaluate: called on every rank with the model in eval mode, without gradients; returns the same
            metrics on each, names beginning with eval_.
        config: steps, batch size and the optimizer's settings.
        run: the open run; gets `checkpoints/` and `metrics.jsonl`, and `stop` when a signal came.
        stop: entered since before the data were read, so that a signal of that time counts too.
        metric_for_best: the metric of `evaluate` that chooses the best weights and, where
            early_stopping_patience asks for it, ends the training.
        greater_is_better: whether that metric should rise.
        collate: makes a batch of a list of items.

    Raises:
        InputError: the checkpoint was saved by another number of processes.
        RuntimeError: the loss is not finite.
    """
    checkpoints = Checkpoints(run.directory / "checkpoints", config.keep_checkpoints)
    first_step = checkpoints.find_newest()
    arguments = make_arguments(config, run, metric_for_best, greater_is_better)
    multiple = distributed.get_world_size() * config.batch_size * config.gradient_accumulation_steps
    trainer = _Trainer(
        model=model, args=arguments, train_dataset=FilledDataset(dataset, multiple, filler), data_collator=collate
    )
    with ExitStack() as stack:
        if run.is_main:
            trainer.metrics_log = stack.enter_context(MetricsLog(run.directory / "metrics.jsonl", first_step))
        trainer.progress = stack.enter_context(Progress(run.is_main and run.config.show_progress))
        trainer.evaluate_with = evaluate
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Flow(config, checkpoints, stop, trainer.progress))
        state = _run_or_skip(trainer, config, checkpoints, first_step)
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if stop.name is not None:
        run.stop(state.global_step, stop.name)
        return trained
    if not state.best_global_step:
        raise RuntimeError(f"{metric_for_best} was never a finite number; lower training.learning_rate")
    load_model(trained, checkpoints.path(state.best_global_step) / "model.safetensors", device=str(trained.device))
    logger.info("best %s %.4f at step %d", metric_for_best, state.best_metric, state.best_global_step)
    return trained


def save_model(model: PreTrainedModel, run: Run, folder: str, companions: Sequence[Path]) -> None:
    """Write config.json, model.safetensors (fp32) and copies of `companions` to `folder`, at once or not at all."""
    if not run.is_main:
        return
    with artifacts.atomic_path(run.directory / folder) as temporary:
        model.save_pretrained(temporary)
        (temporary / "generation_config.json").unlink(missing_ok=True)
        for path in companions:
            shutil.copyfile(path, temporary / path.name)
    logger.info("saved %s", run.directory / folder)


def make_arguments(
    config: TrainingConfig, run: Run, metric_for_best: str, greater_is_better: bool
) -> TrainingArguments:
    """Return Trainer's arguments: ours where a setting decides, and all it would print or report off."""
    is_cpu = distributed.choose_device().type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(run.directory / "checkpoints"),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=config.warmup_fraction,  # below 1 it is a share of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        average_tokens_across_devices=True,
        bf16=config.precision == "bf16",
        dataloader_num_workers=config.num_workers,
        dataloader_pin_memory=not is_cpu,
        remove_unused_columns=False,
        eval_strategy="no",  # _Flow says when
        save_strategy="steps",  # or Trainer does not remember the best step
        save_steps=config.eval_steps,
        metric_for_best_model=metric_for_best,
        greater_is_better=greater_is_better,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=distributed.derive_seed(run.config.seed, "training"),
        data_seed=distributed.derive_seed(run.config.seed, "batches"),
        use_cpu=is_cpu,
        ddp_backend=("gloo" if is_cpu else "nccl") if distributed.get_world_size() > 1 else None,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process uses one GPU; Trainer would reach for DataParallel
    return arguments


class FilledDataset(Dataset[Any]):
    """`dataset`, then copies of `filler` up to a multiple of the items in one optimizer step.

    Without it accelerate evens out the ranks by repeating items. In a worker process of a DataLoader it
    also makes the stop signals harmless: torchrun, Slurm and Ctrl-C send them to every process, and a
    worker that died of one would end the run before it is saved.
    """

    def __init__(self, dataset: Dataset[Any], multiple: int, filler: Any) -> None:
        """Fill `dataset`, which must have a length, to a multiple of `multiple`."""
        self._dataset, self._filler = dataset, filler
        self._is_shielded = False
        self._num_items: int = len(dataset)  # type: ignore[arg-type]
        self._length = -(-self._num_items // multiple) * multiple

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if not self._is_shielded and get_worker_info() is not None:
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            self._is_shielded = True
        return self._dataset[index] if index < self._num_items else self._filler


class _Trainer(Trainer):
    """Trainer that validates by our function and writes what it measures to metrics.jsonl."""

    metrics_log: MetricsLog | None = None
    progress: Progress
    evaluate_with: Evaluate
    control: TrainerControl

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
        """Record one step's loss, learning rate and gradient norm; Trainer's summaries are left out."""
        self.control.should_log = False
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise RuntimeError(
                f"the training loss is {logs['loss']} at step {self.state.global_step}; lower training.learning_rate"
            )
        if self.metrics_log is not None:
            values: dict[str, float] = {
                name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs
            }
            self.metrics_log.write(self.state.global_step, "train", values)
        self.progress.update(self.state.global_step, logs["loss"])

    def evaluate(self, *unused: Any, **named: Any) -> dict[str, float]:
        """Return the metrics of the caller's function, recorded."""
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            metrics = self.evaluate_with(self.model)
        if self.metrics_log is not None:
            self.metrics_log.write(self.state.global_step, "val", metrics)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        logger.info("step %d: %s", self.state.global_step, shown)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Flow(TrainerCallback):
    """Decides after each step whether to validate, save, stop."""

    def __init__(self, config: TrainingConfig, checkpoints: Checkpoints, stop: StopSignal, progress: Progress) -> None:
        self._config, self._checkpoints, self._stop, self._progress = config, checkpoints, stop, progress

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say what is ahead."""
        if state.global_step:
            logger.info("resuming after step %d", state.global_step)
        logger.info(
            "training: %d steps of %d items on %d ranks",
            state.max_steps,
            args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            args.world_size,
        )
        self._progress.start(state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate and save when due; save and end when any rank was asked to stop."""
        is_last = state.global_step >= state.max_steps
        if is_last or state.global_step % self._config.eval_steps == 0:
            control.should_evaluate = control.should_save = True
        if self._stop.agree():
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the checkpoint, which follows the validation of the same step, and see to early stopping."""
        self._checkpoints.complete(state.global_step, state.best_global_step)
        if _is_patience_over(state, self._config):
            logger.info("no improvement in %d validations: early stop", self._config.early_stopping_patience)
            control.should_training_stop = True


def _is_patience_over(state: TrainerState, config: TrainingConfig) -> bool:
    """Return whether too many validations passed since the best; told from the step, so a resume knows it too."""
    if config.early_stopping_patience is None:
        return False
    return state.global_step - (state.best_global_step or 0) >= config.early_stopping_patience * config.eval_steps


def _run_or_skip(trainer: _Trainer, config: TrainingConfig, checkpoints: Checkpoints, first_step: int) -> TrainerState:
    """Train on from `first_step`, unless that checkpoint is already the end; return the last state."""
    if first_step:
        state = checkpoints.read_state(first_step)
        # A run killed after its last checkpoint: Trainer would train one step too many.
        if state.global_step >= state.max_steps or _is_patience_over(state, config):
            return state
    trainer.train(resume_from_checkpoint=str(checkpoints.path(first_step)) if first_step else None)
    return trainer.state
