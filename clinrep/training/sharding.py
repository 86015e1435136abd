"""Training with weights, gradients and optimizer state shared out over the ranks (PyTorch FSDP2).

A rank computes with one layer's whole weights at a time; what it keeps of the training state is its share.
The weights alone must fit one device: they lie there whole before they are shared out, in validation and at
the end. Checkpoints hold whole tensors under the usual names. No mp_policy: whole weights are gathered and
gradients reduced in fp32, autocast does the rest, so the numbers are those of DDP.

Trainer has FSDP of its own (fsdp=True), which does nothing on a CPU and reduces gradients in bf16 on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from clinrep import distributed
from clinrep.training.trainer import StageTrainer

# Only rank 0 keeps or reads whole tensors, in CPU memory, so that a machine with many ranks holds them once.
_GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SCATTER = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class ShardedTrainer(StageTrainer):
    """A StageTrainer whose model is sharded: the same numbers and the same checkpoint files."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Move the model to the device, then shard it in place."""
        super().__init__(*arguments, **named)
        self._whole_class: type[PreTrainedModel] = type(self.model)
        shard(self.model)
        # Trainer's word for "neither wrap nor move it". Only now: with it __init__ would refuse save_strategy.
        self.is_distributed_loading_by_transformers = True

    def evaluate(self, *unused: Any, **named: Any) -> dict[str, float]:
        """Return the metrics of the caller's function, whose forward passes no other rank waits for."""
        with gathered(self.model):
            return super().evaluate()

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Defer nothing: whole gradients, kept until a step's last pass, would take the memory that sharding saves."""
        return nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write config.json and model.safetensors; every rank calls it."""
        state = get_model_state_dict(self.model, options=_GATHER)  # empty but on rank 0
        if self.args.should_save:
            for name in self.model.all_tied_weights_keys:
                state.pop(name, None)
            self._save(output_dir, state_dict=state)

    def return_model(self, step: int) -> PreTrainedModel:
        """Return a new, whole model with the weights of the checkpoint of `step`, on this rank's device."""
        model = self._load_or_explain(self._build_whole, str(self.checkpoints.path(step)))
        return model.to(distributed.choose_device())

    def _build_whole(self, folder: str) -> PreTrainedModel:
        model, report = self._whole_class.from_pretrained(
            folder,
            config=self.model.config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise ValueError(f"model.safetensors lacks {', '.join(sorted(report['missing_keys']))}")
        return model

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self._load_or_explain(self._load_weights, resume_from_checkpoint)

    def _load_weights(self, folder: str) -> None:
        state = read_on_main(lambda: self._read_weights(Path(folder) / "model.safetensors"))
        set_model_state_dict(self.model, state, options=_SCATTER)

    def _read_weights(self, path: Path) -> dict[str, torch.Tensor]:
        """Return the tensors of a checkpoint by the names this model has, tied ones under each of theirs."""
        state = load_file(path)
        for name, source in self.model.all_tied_weights_keys.items():
            state[name] = state[source]
        expected = self.model.state_dict()
        wrong = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
        if wrong:  # seen here, before the ranks send each other tensors: there one would wait for the other
            raise ValueError(f"{path.name} lacks {', '.join(sorted(wrong))}, or has it in another shape")
        return state

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=_GATHER)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self._load_or_explain(self._load_optimizer, checkpoint)

    def _load_optimizer(self, folder: str) -> None:
        def read() -> dict[str, Any]:
            return torch.load(Path(folder) / "optimizer.pt", map_location="cpu", weights_only=True)

        # `.optimizer`: accelerate's wrapper has another layout of state
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, read_on_main(read), options=_SCATTER)
        self.lr_scheduler.load_state_dict(torch.load(Path(folder) / "scheduler.pt", weights_only=True))


def shard(model: PreTrainedModel) -> None:
    """Shard `model` in place with the weights of rank 0; every rank calls it, after `start_process_group`.

    Each layer is a group that is gathered for its forward and its backward pass only; the rest (embedding,
    last norm, head, which may be one tensor) is one more, whole from the forward to the backward pass.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.data, 0)  # as DDP does: a seed need not mean the same weights on all machines
    layers: Any = model.model.layers
    for layer in layers:
        fully_shard(layer)
    fully_shard(model)


@contextmanager
def gathered(model: torch.nn.Module) -> Iterator[None]:
    """Hold all weights whole on every rank, so that each may do as many forward passes as it has items.

    While weights are sharded every forward pass gathers them, and a rank with one pass more waits forever.
    """
    groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.set_reshard_after_forward(group is not model, recurse=False)  # as fully_shard sets it
            group.reshard()


def read_on_main(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what rank 0 reads, {} on the others; where it cannot, every rank raises a ValueError that says why.

    If rank 0 alone raised, the others would wait for it.
    """
    content: dict[str, Any] = {}
    fault = ""
    if distributed.get_rank() == 0:
        try:
            content = read()
        except MemoryError:
            raise
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
    fault = distributed.share_from_main(fault)
    if fault:
        raise ValueError(fault)
    return content
