"""Settings of 02_finetune.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import StageConfig, require
from clinrep.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(StageConfig):
    """Fine-tune a classifier of one outcome on the observation window of every stay."""

    timelines_dir: str
    """Finished directory of 00_tokenize.py: timelines, index times and labels."""
    outcome: str
    """Outcome to predict, a name in outcomes.parquet."""
    backbone_dir: str | None = None
    """Start from this backbone (a 01_pretrain.py directory) with a new head; or give classifier_dir."""
    classifier_dir: str | None = None
    """Start from this classifier (a 02_finetune.py directory), head included; or give backbone_dir."""
    max_length: int = 1024
    """Longest sequence in tokens: the static tokens and the most recent events are kept."""
    metric_for_best: Literal["loss", "auroc", "auprc"] = "auroc"
    """Validation metric that chooses the best weights and stops early; the last two need both classes."""
    prediction_batch_size: int = 64
    """Sequences in one forward pass of validation and prediction."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        super().__post_init__()
        is_one = (self.backbone_dir is None) != (self.classifier_dir is None)
        given = [self.backbone_dir, self.classifier_dir]
        require(is_one, "[backbone_dir, classifier_dir]", given, "hold exactly one path", "give one of the two")
        require(self.max_length >= 2, "max_length", self.max_length, "be 2 or more", "use 1024")
        size = self.prediction_batch_size
        require(size >= 1, "prediction_batch_size", size, "be 1 or more", "use 64")
