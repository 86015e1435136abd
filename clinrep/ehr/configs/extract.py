"""Settings of 03_extract_reps.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field

from clinrep.config import require
from clinrep.ehr.configs.sequences import SequenceConfig
from clinrep.extraction_config import ExtractionConfig
from clinrep.zero_shot.config import ZeroShotConfig


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionConfig, SequenceConfig):
    """Turn the observation window of every stay into vectors; of a classifier the head is left out."""

    information: bool = False
    """Whether to write how many bits of information each token of the sequences holds for the backbone."""
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    """Outcomes to predict from the backbone alone, by continuations sampled from it."""

    def __post_init__(self) -> None:
        """Refuse to ask a classifier what only a backbone's head knows."""
        super().__post_init__()
        is_asked = self.information or bool(self.zero_shot.outcomes)
        rule = "be given for information and zero_shot, which need the head that predicts the next token"
        remedy = "give a 01_pretrain.py directory: a classifier has no such head"
        require(self.backbone_dir is not None or not is_asked, "backbone_dir", self.backbone_dir, rule, remedy)
