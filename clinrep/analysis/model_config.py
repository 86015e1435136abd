"""Settings of the models that stage 04 fits: probes, baselines, anomaly scores and maps."""

from __future__ import annotations

from dataclasses import dataclass

from clinrep.config import require


@dataclass(frozen=True, kw_only=True)
class AnomalyConfig:
    """How unlike the training stays a stay must be to be an outlier."""

    outlier_quantile: float = 0.95
    """Share of train stays below the threshold, for methods without one of their own (all but isolation_forest)."""
    num_neighbors: int = 10
    """knn_distance: the score is the distance to this nearest train stay."""
    max_reference_stays: int = 20_000
    """knn_distance: train stays to measure distances to; of more, so many are drawn."""

    def __post_init__(self) -> None:
        """Refuse thresholds and neighbours that cannot be."""
        rule = "be above 0 and below 1"
        require(0 < self.outlier_quantile < 1, "anomalies.outlier_quantile", self.outlier_quantile, rule, "use 0.95")
        is_fine = self.num_neighbors >= 1
        require(is_fine, "anomalies.num_neighbors", self.num_neighbors, "be 1 or more", "use 10")
        is_fine = self.max_reference_stays > self.num_neighbors
        rule = f"be above num_neighbors ({self.num_neighbors})"
        require(is_fine, "anomalies.max_reference_stays", self.max_reference_stays, rule, "use 20000")
