"""Settings of 02_finetune.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import require
from clinrep.ehr.configs.sequences import SequenceConfig
from clinrep.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(SequenceConfig):
    """Fine-tune a classifier of one outcome; from a backbone the head is new, from a classifier its own."""

    outcome: str
    """Outcome to predict, a name in outcomes.parquet."""
    metric_for_best: Literal["loss", "auroc", "auprc"] = "auroc"
    """Validation metric that chooses the best weights and stops early; the last two need both classes."""
    prediction_batch_size: int = 64
    """Sequences in one forward pass of validation and prediction."""
    global_batch_size: int = 64
    """Sequences in one optimizer step, over all ranks."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse an empty batch, and compiling for batches of ever other lengths."""
        super().__post_init__()
        for name in ("prediction_batch_size", "global_batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be 1 or more", "use 64")
        why = "be false: sequences differ in length, and each new length would be compiled"
        require(not self.training.compile, "training.compile", True, why, "leave it out")
