"""Settings of 01_pretrain.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field

from clinrep.config import StageConfig, require
from clinrep.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """Size of a Llama-architecture transformer that starts from random weights."""

    hidden_size: int = 1024
    """Width of the residual stream."""
    intermediate_size: int = 2048
    """Inner width of each feed-forward layer."""
    num_layers: int = 8
    """Transformer layers."""
    num_heads: int = 8
    """Attention heads (queries) per layer."""
    num_key_value_heads: int = 8
    """Heads of keys and values; fewer than num_heads means grouped-query attention."""
    head_dim: int | None = None
    """Width of one head; null means hidden_size / num_heads."""
    rope_theta: float = 10000.0
    """Base of the rotary position encoding."""
    tie_embeddings: bool = True
    """Use the input embedding as the output layer too."""
    max_positions: int = 8192
    """Longest sequence the model declares to accept, in tokens; later stages may need more than block_size."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_key_value_heads",
            "max_positions",
        ):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "be 1 or more", "see the demo's")
        heads = self.num_heads
        require(
            self.hidden_size % heads == 0,
            "model.hidden_size",
            self.hidden_size,
            f"be a multiple of num_heads ({heads})",
            f"try {(self.hidden_size // heads + 1) * heads}",
        )
        require(
            heads % self.num_key_value_heads == 0,
            "model.num_key_value_heads",
            self.num_key_value_heads,
            f"divide num_heads ({heads})",
            f"try {heads}",
        )
        width = self.head_dim if self.head_dim is not None else self.hidden_size // heads
        require(
            width >= 2 and width % 2 == 0,
            "model.head_dim",
            width,
            "be even: rotary positions turn pairs",
            "try 64",
        )
        require(self.rope_theta > 0, "model.rope_theta", self.rope_theta, "be above 0", "try 10000")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(StageConfig):
    """Pretrain a causal transformer on packed timelines."""

    timelines_dir: str
    """Finished directory of 00_tokenize.py; its train and val timelines are read."""
    backbone_dir: str | None = None
    """Continue from this backbone (a 01_pretrain.py directory, same vocabulary); `model` is then ignored."""
    block_size: int = 1024
    """Tokens in one packed row; longer timelines continue in the next."""
    model: LlamaShape = field(default_factory=LlamaShape)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse blocks that hold no prediction or are longer than the model's positions."""
        super().__post_init__()
        require(self.block_size >= 2, "block_size", self.block_size, "be 2 or more", "try 1024")
        require(
            self.backbone_dir is not None or self.block_size <= self.model.max_positions,
            "block_size",
            self.block_size,
            f"be at most model.max_positions ({self.model.max_positions})",
            "raise model.max_positions",
        )
