"""Settings of extraction that hold for every modality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.artifacts import SPLITS
from clinrep.config import StageConfig, lookup, require


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig(StageConfig):
    """What becomes of the hidden states of every sequence of T tokens."""

    splits: list[str] = field(default_factory=lambda: list(SPLITS))
    """Splits to extract."""
    max_subjects: int | None = None
    """At most so many stays of each split, a sample that depends only on seed and ids; null: all."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers to keep: 0 is the embeddings, n after layer n; negative counts from the last."""
    poolings: list[str] = field(default_factory=lambda: ["last_token", "mean"])
    """How hidden states become one vector: last_token, mean, or random_token (one of the T, chosen by seed and id)."""
    positions: list[int] = field(default_factory=list)
    """Tokens whose hidden states to keep too, as pooling position_N: from 0 at the start, negative from the end."""
    trajectories: bool = False
    """Write trajectories.parquet: how far the hidden state moves from token to token."""
    trajectory_layer: int = -1
    """Layer of the trajectories, counted as in layers."""
    hidden_states: bool = False
    """Store the hidden states of all tokens in float16: 2 bytes x width for each token and layer."""
    hidden_state_splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits whose hidden states are stored, where hidden_states asks for it."""
    hidden_state_subjects: int | None = None
    """Store those of at most so many stays of each split, a sample as of max_subjects; null: all."""
    batch_tokens: int = 2_048
    """Tokens in one forward pass, padding included; 2,048 is what a CPU does best, a GPU wants 16,384."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of weights and hidden states; in either, means, jumps and what is saved of them are fp32."""
    subjects_per_part: int = 2_000
    """Stays per part: the unit that ranks share, that a cut-off run keeps, and whose states are in memory at once."""

    def __post_init__(self) -> None:
        """Refuse to extract nothing, or a thing twice."""
        super().__post_init__()
        require(bool(self.layers), "layers", self.layers, "name a layer", "use [-1]")
        num_asked = len(self.poolings) + len(self.positions)
        is_fine = num_asked > 0 and len(set(self.poolings)) == len(self.poolings)
        require(is_fine, "poolings", self.poolings, "name one pooling or more, each once", "use [last_token, mean]")
        is_fine = len(set(self.positions)) == len(self.positions)
        require(is_fine, "positions", self.positions, "name each position once", "leave one out")
        for name in ("splits", "hidden_state_splits"):
            self._check_splits(name)
        for name in ("batch_tokens", "subjects_per_part", "max_subjects", "hidden_state_subjects"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "be 1 or more", "leave it out")

    def _check_splits(self, name: str) -> None:
        splits = getattr(self, name)
        for split in splits:
            lookup(dict.fromkeys(SPLITS), split, f"split in {name}")
        is_fine = 0 < len(splits) == len(set(splits))
        require(is_fine, name, splits, "name one split or more, each once", f"use [{', '.join(SPLITS)}]")
        if name == "hidden_state_splits" and self.hidden_states:
            is_fine = set(splits) <= set(self.splits)
            require(is_fine, name, splits, f"be among splits {self.splits}", "add them to splits, or leave them out")

    def list_tables(self, split: str) -> list[str]:
        """Return the tables a part of this split has, in order of writing: representations last, so that it marks
        the part as complete.
        """
        is_stored = self.hidden_states and split in self.hidden_state_splits
        is_asked = {"trajectories": self.trajectories, "hidden_states": is_stored, "representations": True}
        return [name for name, is_wanted in is_asked.items() if is_wanted]

    @property
    def splits_by_table(self) -> dict[str, list[str]]:
        """Table -> splits that have it."""
        tables: dict[str, list[str]] = {}
        for split in self.splits:
            for name in self.list_tables(split):
                tables.setdefault(name, []).append(split)
        return tables
