"""Settings of every stage that trains: one group, `training`, whatever the modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clinrep.config import require


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
    """Sequences (or blocks) in one forward pass of one rank."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimizer step."""
    eval_steps: int = 500
    """Validate, and save a checkpoint, every so many optimizer steps, and at the last."""
    early_stopping_patience: int | None = None
    """Stop after so many validations without improvement; null never stops early."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type; weights stay fp32 in either."""
    num_workers: int = 0
    """Processes that load batches, per rank."""
    keep_checkpoints: int = 2
    """Checkpoints kept: the best and the newest always are."""

    def __post_init__(self) -> None:
        """Refuse values no optimizer can use."""
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "be above 0", "try 2e-4")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "be in [0, 1)", "try 0.05")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "be 0 or more", "try 0.1")
        require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "be above 0", "try 1.0")
        require(self.num_epochs > 0, "num_epochs", self.num_epochs, "be above 0", "try 1")
        for name in ("batch_size", "gradient_accumulation_steps", "eval_steps", "keep_checkpoints"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be 1 or more", "try 1")
        for name in ("max_steps", "early_stopping_patience"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "be 1 or more, or null", "leave it out")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "be 0 or more", "use 0")
