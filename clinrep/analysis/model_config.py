"""Settings of the models that stage 04 fits: probes, baselines, anomaly scores and maps."""

from __future__ import annotations

from dataclasses import dataclass, field

from clinrep.config import require


@dataclass(frozen=True, kw_only=True)
class LogisticRegressionCvConfig:
    """Logistic regression on standardized representations, its L2 penalty chosen by cross-validation in train."""

    num_penalties: int = 10
    """Inverse strengths tried, evenly spaced in logarithm from 1e-4 to 1e4."""
    num_folds: int = 5
    """Folds of train; all stays of a patient are in one."""
    scoring: str = "log_loss"
    """What the best penalty is best in: log_loss or auroc."""

    def __post_init__(self) -> None:
        """Refuse what cannot be cross-validated."""
        for name, least in (("num_penalties", 1), ("num_folds", 2)):
            value, rule = getattr(self, name), f"be {least} or more"
            require(value >= least, f"logistic_regression_cv.{name}", value, rule, f"use {10 if least == 1 else 5}")


@dataclass(frozen=True, kw_only=True)
class LightGbmConfig:
    """LightGBM's classifier; its other settings are the library's defaults, as in the manuscript."""

    num_trees: int = 100
    """Boosting rounds; none is stopped early."""
    num_leaves: int = 31
    """Leaves of a tree, at most."""
    learning_rate: float = 0.1
    """Shrinkage of each tree."""
    num_threads: int = 1
    """Threads; results are those of the same number again."""

    def __post_init__(self) -> None:
        """Refuse what LightGBM would."""
        for name, least, remedy in (("num_trees", 1, "100"), ("num_leaves", 2, "31"), ("num_threads", 1, "1")):
            value, rule = getattr(self, name), f"be {least} or more"
            require(value >= least, f"light_gbm.{name}", value, rule, f"use {remedy}")
        require(self.learning_rate > 0, "light_gbm.learning_rate", self.learning_rate, "be above 0", "use 0.1")


@dataclass(frozen=True, kw_only=True)
class NearestNeighborsConfig:
    """The share of events among the nearest train stays, the nearer the heavier."""

    num_neighbors: int = 50
    """Train stays that decide."""

    def __post_init__(self) -> None:
        """Refuse fewer than one."""
        value = self.num_neighbors
        require(value >= 1, "k_nearest_neighbors.num_neighbors", value, "be 1 or more", "use 50")


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Models of the baselines, which read the timelines and no neural network."""

    probes: list[str] = field(default_factory=lambda: ["logistic_regression"])
    """Of each baseline: logistic_regression, light_gbm, or both."""
    c: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1])
    """Inverse strengths of the L2 penalty of logistic_regression to try; the one with the least log loss on val is
    taken."""

    def __post_init__(self) -> None:
        """Refuse an empty choice of models or penalties."""
        is_fine = 0 < len(self.probes) == len(set(self.probes))
        require(is_fine, "baseline.probes", self.probes, "name one or more, each once", "use [logistic_regression]")
        is_fine = bool(self.c) and all(c > 0 for c in self.c)
        require(is_fine, "baseline.c", self.c, "hold numbers above 0", "use [0.001, 0.01]")


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


@dataclass(frozen=True, kw_only=True)
class MapsConfig:
    """Maps of the test stays' vectors in two dimensions."""

    methods: list[str] = field(default_factory=lambda: ["pca"])
    """How to draw them: pca, t_sne (a minute for 5,000 stays), or both."""
    max_stays: int = 5000
    """Test stays of all sites together; of more, so many are drawn."""
    perplexity: float = 30.0
    """t_sne: neighbours that each stay keeps near, about."""

    def __post_init__(self) -> None:
        """Refuse maps of nobody."""
        is_fine = 0 < len(self.methods) == len(set(self.methods))
        require(is_fine, "maps.methods", self.methods, "name one or more, each once", "use [pca]")
        require(self.max_stays >= 3, "maps.max_stays", self.max_stays, "be 3 or more", "use 5000")
        require(self.perplexity >= 1, "maps.perplexity", self.perplexity, "be 1 or more", "use 30")
