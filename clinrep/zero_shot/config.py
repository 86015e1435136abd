"""Settings of zero-shot prediction, whatever the modality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import require


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """Which outcomes to look for in continuations sampled from the backbone, and how many to sample."""

    outcomes: list[str] = field(default_factory=list)
    """Outcomes, by name, all answered by the same continuations; none: nothing is sampled."""
    num_samples: int = 20
    """Continuations of every stay; the standard error of a probability p is sqrt(p (1 - p) / num_samples)."""
    max_new_tokens: int = 2048
    """Tokens after which a continuation is given up as unfinished; so it is at the end of the positions that the
    backbone was trained on (its block_size)."""
    beyond_trained_positions: bool = False
    """Go on to the last position the model accepts, though it has seen no token as far from the start: an
    extrapolation."""
    horizon_hours: float | None = None
    """Count only what happens within this many hours after index_time, in labels likewise (needs gap_minutes in
    stage 00); null: until the end of the stay."""
    splits: list[Literal["train", "val", "test"]] = field(default_factory=lambda: ["test"])
    """Splits whose stays are continued."""
    max_subjects: int | None = None
    """Stays of each split, at most, chosen by a seeded hash of their ids; null: all."""
    batch_size: int = 1024
    """Continuations sampled at once: the more the faster, and the more memory their keys and values take."""
    subjects_per_part: int = 200
    """Stays per zero_shot/<split>/part-*.parquet: what one rank does at a time."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name in ("outcomes", "splits"):
            names = getattr(self, name)
            require(len(set(names)) == len(names), f"zero_shot.{name}", names, "name each once", "drop one")
        for name in ("num_samples", "max_new_tokens", "batch_size", "subjects_per_part"):
            require(getattr(self, name) >= 1, f"zero_shot.{name}", getattr(self, name), "be 1 or more", "leave it out")
        is_some = self.max_subjects is None or self.max_subjects >= 1
        require(is_some, "zero_shot.max_subjects", self.max_subjects, "be 1 or more", "use null for all")
        hours = self.horizon_hours
        is_ahead = hours is None or 0 < hours < float("inf")
        require(is_ahead, "zero_shot.horizon_hours", hours, "be above 0 and finite", "use null for the whole stay")
