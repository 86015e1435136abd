"""Settings of 03_extract_reps.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import require
from clinrep.ehr.configs.sequences import SequenceConfig
from clinrep.zero_shot.config import ZeroShotConfig


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(SequenceConfig):
    """Turn the observation window of every stay into vectors; of a classifier the head is left out."""

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
    information: bool = False
    """Whether to write how many bits of information each token of the backbone's sequences holds."""
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    """Outcomes to predict from the backbone alone, by continuations sampled from it."""

    def __post_init__(self) -> None:
        """Refuse to extract nothing."""
        super().__post_init__()
        require(bool(self.layers), "layers", self.layers, "name a layer", "use [-1]")
        is_fine = 0 < len(self.poolings) == len(set(self.poolings))
        require(is_fine, "poolings", self.poolings, "name one pooling or more, each once", "use [last_token, mean]")
        is_asked = self.information or bool(self.zero_shot.outcomes)
        rule = "be given for information and zero_shot, which need the head that predicts the next token"
        remedy = "give a 01_pretrain.py directory: a classifier has no such head"
        require(self.backbone_dir is not None or not is_asked, "backbone_dir", self.backbone_dir, rule, remedy)
        for name in ("batch_tokens", "subjects_per_part"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be 1 or more", "leave it out")
