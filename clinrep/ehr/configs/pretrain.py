"""Settings of 01_pretrain.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clinrep.config import require
from clinrep.search_config import SearchConfig, SearchedConfig, check_space
from clinrep.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Llama3Rope:
    """How Llama 3 stretches its rotary positions beyond the length it was first trained on."""

    factor: float
    """How much the slowest rotations are slowed down."""
    low_frequency_factor: float
    """Rotations with fewer turns than this in the original length are slowed down by `factor`."""
    high_frequency_factor: float
    """Rotations with more turns than this in the original length stay as they are."""
    original_positions: int
    """The original length, in tokens."""

    def __post_init__(self) -> None:
        """Refuse a stretching that is none."""
        require(self.factor >= 1, "model.rope_llama3.factor", self.factor, "be 1 or more", "Llama 3.2 has 32")
        low, high = self.low_frequency_factor, self.high_frequency_factor
        require(
            0 < low < high,
            "model.rope_llama3.low_frequency_factor",
            low,
            f"be above 0 and below high_frequency_factor ({high})",
            "Llama 3.2 has 1 and 4",
        )
        positions = self.original_positions
        require(positions >= 1, "model.rope_llama3.original_positions", positions, "be 1 or more", "Llama 3.2 has 8192")


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
    rope_llama3: Llama3Rope | None = None
    """Llama 3's stretched rotary positions; null: plain ones."""
    rms_norm_eps: float = 1.0e-6
    """Added to the mean square in every normalization."""
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
        require(self.rms_norm_eps > 0, "model.rms_norm_eps", self.rms_norm_eps, "be above 0", "try 1e-6")


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How timelines share blocks."""

    method: Literal["isolated", "cross_document"] = "isolated"
    """isolated: a timeline never sees another; cross_document: they follow one another, as in the manuscript."""
    repeat_static_tokens: bool = False
    """isolated: open each later piece of a timeline longer than a block with its static tokens, not predicted again."""
    mean_padding_tokens: float = 7.0
    """cross_document: mean of the Poisson number of PADs after each timeline."""
    predict_padding: bool = False
    """cross_document: learn to predict these PADs too, as the manuscript's code does; they then count in the loss."""
    drop_tail: bool = False
    """cross_document: leave out the tokens after the last full block of an epoch, as the manuscript's code does."""

    def __post_init__(self) -> None:
        """Refuse settings that would change nothing."""
        mean = self.mean_padding_tokens
        require(mean >= 0, "packing.mean_padding_tokens", mean, "be 0 or more", "the manuscript has 7")
        only = {"isolated": ("predict_padding", "drop_tail"), "cross_document": ("repeat_static_tokens",)}
        for name in only[self.method]:
            other = "cross_document" if self.method == "isolated" else "isolated"
            require(
                not getattr(self, name),
                f"packing.{name}",
                getattr(self, name),
                f"be false with packing.method {self.method}",
                f"leave it out, or use method {other}",
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(SearchedConfig):
    """Pretrain a causal transformer on packed timelines."""

    timelines_dir: str
    """Finished directory of 00_tokenize.py; its train and val timelines are read."""
    backbone_dir: str | None = None
    """Continue from this backbone (a 01_pretrain.py directory, same vocabulary); `model` is then ignored."""
    block_size: int = 1024
    """Tokens in one packed row; a longer timeline takes several."""
    global_batch_tokens: int = 65_536
    """Places for tokens in one optimizer step, all ranks and accumulated batches together: one recipe for any GPUs."""
    packing: PackingConfig = field(default_factory=PackingConfig)
    token_store_dir: str | None = None
    """Where the flat arrays of tokens lie, as on a fast local disk; null: token_store/ in output_dir."""
    model: LlamaShape = field(default_factory=LlamaShape)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    @property
    def shared_folders(self) -> frozenset[str]:
        """Folders of `output_dir` that workers of a search may have made before the run that takes its result."""
        return super().shared_folders | ({"token_store"} if self.search.num_trials else set())

    @property
    def items_per_step(self) -> int:
        """Blocks in one optimizer step, over all ranks."""
        return self.global_batch_tokens // self.block_size

    def explain_unsearchable(self) -> dict[str, str]:
        """Return setting or group -> why a search must not vary it."""
        reasons = super().explain_unsearchable()
        words = "it decides which tokens validation predicts, or from what, so the losses could not be compared"
        reasons |= dict.fromkeys(("block_size", "packing"), words)
        return reasons | ({"model": "--backbone_dir decides it"} if self.backbone_dir is not None else {})

    def find_store_dir(self) -> Path:
        """Return the folder of the token stores, the same for every worker and trial of a search."""
        return Path(self.token_store_dir or Path(self.output_dir) / "token_store")

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
        tokens, size = self.global_batch_tokens, self.block_size
        require(
            tokens >= size and tokens % size == 0,
            "global_batch_tokens",
            tokens,
            f"be a multiple of block_size ({size})",
            f"try {max(1, round(tokens / size)) * size}",
        )
        check_space(self)
