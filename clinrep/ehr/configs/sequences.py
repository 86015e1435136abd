"""Settings that stages 02 and 03 share: which sequences, and which model reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clinrep.config import StageConfig, require


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(StageConfig):
    """The observation window of every stay, and the model to start from."""

    timelines_dir: str
    """Finished directory of 00_tokenize.py: timelines, index times and labels."""
    backbone_dir: str | None = None
    """Model to use: the backbone of this 01_pretrain.py directory; or give classifier_dir."""
    classifier_dir: str | None = None
    """Model to use: the classifier of this 02_finetune.py directory; or give backbone_dir."""
    max_length: int = 1024
    """Longest sequence in tokens; of a longer one the static tokens and some events are kept."""
    truncation: Literal["keep_latest", "keep_earliest"] = "keep_latest"
    """Which events of a longer sequence are kept: the most recent, or the first (as the manuscript does)."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        super().__post_init__()
        is_one = (self.backbone_dir is None) != (self.classifier_dir is None)
        given = [self.backbone_dir, self.classifier_dir]
        require(is_one, "[backbone_dir, classifier_dir]", given, "hold exactly one path", "give one of the two")
        require(self.max_length >= 2, "max_length", self.max_length, "be 2 or more", "use 1024")
