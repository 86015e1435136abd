"""Settings of the sections on what the model learned and how its states move: Figures 3 and 4, Tables 6 to 13."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import require


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """Regression of outcomes on path length, maximum jump and anomaly score (Tables 6 to 13 of the manuscript)."""

    min_events: int = 10
    """Fewest stays with the event, and without it, that three regressors and a constant are fitted to."""
    num_folds: int = 5
    """Parts of the test patients for the held-out check: each part is predicted by a fit on the others."""

    def __post_init__(self) -> None:
        """Refuse what makes no fit."""
        for name, least in (("min_events", 1), ("num_folds", 2)):
            value = getattr(self, name)
            require(value >= least, f"trajectories.{name}", value, f"be {least} or more", f"use {least}")


@dataclass(frozen=True, kw_only=True)
class RiskFigureConfig:
    """Risk over time, drawn and scored (Figure 4 of the manuscript)."""

    num_with_event: int | None = 100
    """Stays with the event that are drawn, chosen by the seed, at each site; null is all."""
    num_without_event: int | None = 100
    """Stays without it; null is all."""
    min_stays: int = 11
    """A curve ends where fewer stays contribute to it."""
    origin: Literal["admission", "first_event"] = "admission"
    """Hour 0: admission, or the earliest token of the sequence, which is the first event as in the paper where stage 00
    starts its window there and nothing was cut from the start."""
    poolings: list[str] = field(default_factory=lambda: ["random_token"])
    """Poolings whose probes are drawn; those fitted on random_token have learned from sequences of any length."""
    hours: list[float] = field(default_factory=lambda: [2.0, 4.0, 8.0, 12.0, 18.0, 24.0])
    """Hours at which the AUROC is given."""
    num_tokens: list[int] = field(default_factory=lambda: [16, 32, 64, 128, 256, 512, 1024])
    """Numbers of tokens at which the AUROC is given."""

    def __post_init__(self) -> None:
        """Refuse counts below 1 and lists that are empty or not rising."""
        for name in ("num_with_event", "num_without_event", "min_stays"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"risk_figure.{name}", value, "be 1 or more", "use 100")
        for name, least in (("hours", 0), ("num_tokens", 1)):
            values = getattr(self, name)
            is_fine = bool(values) and values[0] >= least and sorted(set(values)) == values
            rule = f"hold one number or more, rising, from {least}"
            require(is_fine, f"risk_figure.{name}", values, rule, "use [2, 4, 8]")
        require(bool(self.poolings), "risk_figure.poolings", self.poolings, "name a pooling", "use [random_token]")


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Map of the token embeddings (Figure 3 of the manuscript)."""

    method: Literal["pca", "tsne"] = "pca"
    """pca: the first two principal components; tsne: t-SNE, which keeps neighbours and no distances."""
    perplexity: float = 150.0
    """Neighbours that t-SNE counts on; lowered, and said so, where the tokens are fewer than three times as many."""
    representations_dir: dict[str, str] = field(default_factory=dict)
    """NAME: directory of 03_extract_reps.py of another model, whose embeddings are drawn too."""
    categories: list[str] | None = None
    """Categories whose bins are joined where tokens are fused (LAB_sodium for LAB_sodium_Q3); null: those with most."""
    num_categories: int = 6
    """Categories joined where none are named."""

    def __post_init__(self) -> None:
        """Refuse what t-SNE does not take, and more categories than there are colours."""
        require(self.perplexity >= 1, "embeddings.perplexity", self.perplexity, "be 1 or more", "use 150")
        number = self.num_categories
        require(1 <= number <= 7, "embeddings.num_categories", number, "be 1 to 7, as many as colours", "use 6")
        chosen = self.categories
        is_fine = chosen is None or 0 < len(chosen) <= 7
        require(is_fine, "embeddings.categories", chosen, "name 1 to 7, as many as colours", "leave it out")
