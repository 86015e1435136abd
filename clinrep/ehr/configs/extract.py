"""Settings of 03_extract_reps.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import StageConfig, require


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(StageConfig):
    """Turn the observation window of every stay into vectors."""

    timelines_dir: str
    """Finished directory of 00_tokenize.py: timelines and index times."""
    backbone_dir: str | None = None
    """Use this backbone (a 01_pretrain.py directory); or give classifier_dir."""
    classifier_dir: str | None = None
    """Use the transformer inside this classifier (a 02_finetune.py directory); or give backbone_dir."""
    max_length: int = 1024
    """Longest sequence in tokens, as in stage 02: the static tokens and the most recent events are kept."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers to pool: 0 is the embeddings, n after layer n; negative counts from the last."""
    poolings: list[str] = field(default_factory=lambda: ["last_token", "mean"])
    """How hidden states become one vector, by name."""
    batch_tokens: int = 16_384
    """Tokens in one forward pass, padding included."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type; vectors are saved as fp32 in either."""
    subjects_per_part: int = 20_000
    """Stays per representations/<split>/part-*.parquet, at most."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        super().__post_init__()
        is_one = (self.backbone_dir is None) != (self.classifier_dir is None)
        given = [self.backbone_dir, self.classifier_dir]
        require(is_one, "[backbone_dir, classifier_dir]", given, "hold exactly one path", "give one of the two")
        require(self.max_length >= 2, "max_length", self.max_length, "be 2 or more", "use 1024")
        require(bool(self.layers), "layers", self.layers, "name a layer", "use [-1]")
        require(bool(self.poolings), "poolings", self.poolings, "name a pooling", "use [last_token, mean]")
        for name in ("batch_tokens", "subjects_per_part"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be 1 or more", "leave it out")
