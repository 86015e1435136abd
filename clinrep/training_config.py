"""Settings of every stage that trains: one group, `training`, whatever the modality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import InputError, lookup, require

# Name in report_to -> the package that must be installed; transformers has a callback for each.
TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (LoRA, Hu et al. 2022): little is trained, beside weights that stay as they are."""

    rank: int = 0
    """Rank of the adapters; 0: none, all weights are trained. The head always is."""
    alpha: int = 16
    """The adapters' product counts alpha / rank times."""
    dropout: float = 0.0
    """Share of an adapter's inputs dropped in training."""
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the linear layers that get an adapter, in every transformer layer."""

    def __post_init__(self) -> None:
        """Refuse adapters that are none."""
        require(self.rank >= 0, "lora.rank", self.rank, "be 0 or more", "try 8")
        require(self.alpha > 0, "lora.alpha", self.alpha, "be above 0", "use twice the rank")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "be in [0, 1)", "use 0")
        require(bool(self.targets), "lora.targets", self.targets, "name a layer", "use [q_proj, v_proj]")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the weights are trained; each field maps onto transformers.TrainingArguments."""

    learning_rate: float = 2e-4
    """Peak learning rate of AdamW."""
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Shape of the learning rate after warm-up."""
    warmup_fraction: float = 0.0
    """Share of all steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    num_epochs: float = 1.0
    """Passes over the training data; ignored when max_steps is given."""
    max_steps: int | None = None
    """Optimizer steps in all; null means num_epochs decides."""
    batch_size: int = 8
    """Items in one forward pass of one rank, at most: the largest divisor of a rank's share of a step is taken."""
    eval_steps: int = 500
    """Validate, and save a checkpoint, every so many optimizer steps, and at the last."""
    save_steps: int | None = None
    """Also save a checkpoint every so many optimizer steps; null: only at validations."""
    early_stopping_patience: int | None = None
    """Stop after so many validations without improvement; null never stops early."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type; weights stay fp32 in either."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again backwards: less memory, about a third more work."""
    compile: bool = False
    """Compile each transformer layer with torch.compile; for batches of one shape, as in pretraining."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer state over the ranks (FSDP2): for models whose training state does not
    fit one device; needs several processes."""
    num_workers: int = 0
    """Processes that load batches, per rank."""
    keep_checkpoints: int = 2
    """Checkpoints kept: the best and the newest always are."""
    peak_tflops: float | None = None
    """Peak of one device in the compute type, for mfu: 312 for A100 bf16, 989 for H100/H200; null: no mfu."""
    report_to: list[str] = field(default_factory=list)
    """Trackers that get the metrics too: tensorboard, trackio, wandb; all write into the run directory and send nothing
    (wandb sync sends what wandb wrote, when a person calls it)."""

    def __post_init__(self) -> None:
        """Refuse values no optimizer can use."""
        is_fine = 0 < self.learning_rate < float("inf")
        require(is_fine, "learning_rate", self.learning_rate, "be above 0 and finite", "try 2e-4")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "be in [0, 1)", "try 0.05")
        is_fine = 0 <= self.weight_decay < float("inf")
        require(is_fine, "weight_decay", self.weight_decay, "be 0 or more and finite", "try 0.1")
        require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "be above 0", "try 1.0")
        is_fine = 0 < self.num_epochs < float("inf")
        require(is_fine, "num_epochs", self.num_epochs, "be above 0 and finite", "try 1")
        for name in ("batch_size", "eval_steps", "keep_checkpoints"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be 1 or more", "try 1")
        for name in ("max_steps", "early_stopping_patience", "save_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "be 1 or more, or null", "leave it out")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "be 0 or more", "use 0")
        peak = self.peak_tflops
        require(peak is None or peak > 0, "peak_tflops", peak, "be above 0, or null", "leave it out for no mfu")
        for name in self.report_to:
            lookup(TRACKERS, name, "tracker in report_to")


def divide_step(items_per_step: int, num_ranks: int, batch_size: int) -> tuple[int, int]:
    """Return the items in one forward pass of a rank, and how many passes make one optimizer step.

    What a step computes is thus the same for any number of ranks and any `batch_size`, which is a limit
    of memory only.

    Raises:
        InputError: the ranks cannot share the items of a step evenly.
    """
    share, rest = divmod(items_per_step, num_ranks)
    if rest:
        above = (share + 1) * num_ranks
        raise InputError(
            f"an optimizer step has {items_per_step} items, which {num_ranks} processes cannot share evenly; start a "
            f"number of processes that divides {items_per_step}, or make the global batch {above} items"
        )
    size = max(size for size in range(1, min(share, batch_size) + 1) if share % size == 0)
    return size, share // size
