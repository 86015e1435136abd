"""Settings of 04_analyze.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from clinrep.analysis.dynamics_config import EmbeddingConfig, RiskFigureConfig, TrajectoryConfig
from clinrep.analysis.model_config import (
    AnomalyConfig,
    BaselineConfig,
    LightGbmConfig,
    LogisticRegressionCvConfig,
    MapsConfig,
    NearestNeighborsConfig,
)
from clinrep.analysis.suppression import MIN_CELL_COUNT
from clinrep.analysis.timeline_config import TimelinesConfig
from clinrep.config import StageConfig, lookup, require

PUBLISHED_ROLES = ("mimic", "ucmc")  # the manuscript's two sites


@dataclass(frozen=True, kw_only=True)
class LogisticRegressionConfig:
    """Logistic regression on standardized representations."""

    c: float = 1.0
    """Inverse strength of the L2 penalty on standardized inputs; smaller shrinks more."""
    max_iterations: int = 10_000
    """Newton steps allowed; a fit that has not converged by then is named in the log."""

    def __post_init__(self) -> None:
        """Refuse what no solver takes."""
        require(self.c > 0, "logistic_regression.c", self.c, "be above 0", "use 1.0")
        rule = "be 1 or more"
        require(self.max_iterations >= 1, "logistic_regression.max_iterations", self.max_iterations, rule, "use 10000")


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(StageConfig):
    """Settings of 04_analyze.py; a SITE is any short name, the same in each group."""

    timelines_dir: dict[str, str]
    """SITE: directory of 00_tokenize.py."""
    representations_dir: dict[str, str]
    """SITE: directory of 03_extract_reps.py."""
    predictions_dir: dict[str, str] = field(default_factory=dict)
    """SITE: directory of 02_finetune.py, or a folder that holds one per outcome."""
    train_site: str | None = None
    """Site whose train split the probes are fitted on; null is the first in timelines_dir."""
    outcomes: list[str] | None = None
    """Outcomes to analyze, in this order; null is all in outcomes.parquet."""
    outcome_labels: dict[str, str] = field(default_factory=dict)
    """Outcome: words for tables and figures; an outcome not named here is shown by its name."""
    layers: list[int] | None = None
    """Layers to probe; null is every layer extracted."""
    poolings: list[str] | None = None
    """Poolings to probe; null is every pooling extracted."""
    probes: list[str] = field(default_factory=lambda: ["logistic_regression"])
    """Probes to fit on each representation."""
    logistic_regression: LogisticRegressionConfig = field(default_factory=LogisticRegressionConfig)
    """Settings of the probe of this name."""
    logistic_regression_cv: LogisticRegressionCvConfig = field(default_factory=LogisticRegressionCvConfig)
    """Settings of the probe of this name."""
    light_gbm: LightGbmConfig = field(default_factory=LightGbmConfig)
    """Settings of the probe of this name."""
    k_nearest_neighbors: NearestNeighborsConfig = field(default_factory=NearestNeighborsConfig)
    """Settings of the probe of this name."""
    baselines: list[str] = field(default_factory=lambda: ["event_counts", "last_values"])
    """What to predict from without a neural network, for comparison: names as the modality has them; [] is nothing."""
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    """Settings of the models on these."""
    anomaly_methods: list[str] = field(default_factory=lambda: ["isolation_forest"])
    """Anomaly scores to give each stay; the first says who is an inlier and who an outlier."""
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    """Settings of the anomaly scores."""
    maps: MapsConfig = field(default_factory=MapsConfig)
    """Settings of the maps of the test stays."""
    sections: list[str] | None = None
    """Sections of the report to make, names as in clinrep/analysis/sections.py; null is all."""
    risk_over_time: bool = False
    """Write risk_over_time.parquet: the probes' probability after every token of the test stays whose hidden states
    stage 03 stored."""
    risk_figure: RiskFigureConfig = field(default_factory=RiskFigureConfig)
    """How risk over time is drawn and scored."""
    trajectories: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    """Settings of the regressions on trajectories."""
    embeddings: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    """How the token embeddings are drawn."""
    num_bootstraps: int = 1000
    """Bootstrap replicates, resampled by patient."""
    confidence_level: float = 0.95
    """Coverage of the percentile intervals."""
    min_events_for_estimate: int = 2
    """Fewest stays with the event, and without it, for a number to be given."""
    min_events_for_interval: int = 5
    """Fewest stays with the event, and without it, for an interval to be given; below about 40 they are too narrow."""
    comparison_reference: str | None = None
    """Model the others are compared with, as `classifier` or `logistic_regression on backbone layer 4 last_token`; null
    is the first fine-tuned classifier, or the first probe where there is none."""
    alarm_rates: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.1, 0.2])
    """Shares of the test stays that an alarm flags, for sensitivity and positive predictive value at each."""
    max_decision_threshold: float | None = None
    """Highest threshold probability of the decision curves; null chooses it for each outcome: five times the share
    of stays with the event, rounded up to a multiple of 0.05, at most 0.5."""
    published_sites: dict[str, str] = field(default_factory=dict)
    """Sites that stand beside the manuscript's numbers: mimic: SITE, ucmc: SITE, or one of the two."""
    data_notice: str = ""
    """Sentence at the foot of the report, for example what the data's licence asks for."""
    timelines: TimelinesConfig = field(default_factory=TimelinesConfig)
    """Stays shown one by one in timelines.html, without who they are."""
    num_calibration_bins: int = 10
    """Points of a calibration curve, and bins of the expected calibration error, each an equal share of the stays."""
    subgroups: list[str] | None = None
    """Attributes whose groups are scored by themselves, names as in clinrep/analysis/subgroups.py; null is all, [] is
    none."""
    age_edges: list[int] = field(default_factory=lambda: [18, 45, 65, 80])
    """Youngest age in years of each age band, rising."""
    recalibration_split: str = "val"
    """Split of each site on which predictions are recalibrated: val or train; test only judges."""
    min_events_for_recalibration: int = 20
    """Fewest stays with the event, and without it, in that split for a recalibration to be fitted."""
    min_cell_count: int = 11
    """Fewest people a cell of an exported table may count, others than 0: smaller ones, and those that would give
    them away, are hidden; 0 shows all. scores.parquet always has all."""

    def __post_init__(self) -> None:
        """Refuse sites that do not match and numbers that make no statistic."""
        super().__post_init__()
        self._check_sites()
        if self.train_site is None:  # named in the saved config: the order of sites is not compared
            object.__setattr__(self, "train_site", next(iter(self.timelines_dir)))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            require(value >= least, name, value, f"be {least} or more", f"use {least}")
        rule = "be above 0.5 and below 1"
        require(0.5 < self.confidence_level < 1, "confidence_level", self.confidence_level, rule, "use 0.95")
        is_fine = bool(self.age_edges) and self.age_edges == sorted(set(self.age_edges))
        require(is_fine, "age_edges", self.age_edges, "rise", "use [18, 45, 65, 80]")
        is_fine = self.recalibration_split in ("train", "val")
        rule = "be train or val: test only judges"
        require(is_fine, "recalibration_split", self.recalibration_split, rule, "use val")
        rule = "be one number or more above 0 and below 1, each once"
        is_fine = 0 < len(self.alarm_rates) == len(set(self.alarm_rates)) and all(
            0 < rate < 1 for rate in self.alarm_rates
        )
        require(is_fine, "alarm_rates", self.alarm_rates, rule, "use [0.01, 0.05, 0.1, 0.2]")
        is_fine = self.max_decision_threshold is None or 0 < self.max_decision_threshold < 1
        rule = "be above 0 and below 1"
        require(is_fine, "max_decision_threshold", self.max_decision_threshold, rule, "use 0.5, or leave it out")
        for name in ("outcomes", "layers", "poolings", "probes", "anomaly_methods", "sections"):
            values = getattr(self, name)
            is_fine = values is None or (0 < len(values) == len(set(values)))
            require(is_fine, name, values, "name one thing or more, each once", "leave it out for the default")
        is_fine = len(self.baselines) == len(set(self.baselines))
        require(is_fine, "baselines", self.baselines, "name each once", "use [] for none")

    def _check_sites(self) -> None:
        sites = list(self.timelines_dir)
        require(bool(sites), "timelines_dir", self.timelines_dir, "name a site", "give --timelines_dir.SITE DIR")
        for site in sites:
            # a site's name becomes part of file names
            is_fine = re.fullmatch(r"[A-Za-z0-9_-]+", site) is not None
            require(is_fine, "site", site, "be of letters, digits, _ and -", "rename it in every group")
        for group in ("representations_dir", "predictions_dir"):
            for site in getattr(self, group):
                require(
                    site in sites,
                    f"site of {group}",
                    site,
                    f"be one of timelines_dir ({', '.join(sites)})",
                    f"give --timelines_dir.{site} DIR too",
                )
        for site in sites:
            require(
                site in self.representations_dir,
                "site of timelines_dir",
                site,
                "have representations",
                f"give --representations_dir.{site} DIR too",
            )
        for role, site in self.published_sites.items():
            lookup(dict.fromkeys(PUBLISHED_ROLES), role, "role in published_sites")
            lookup(dict.fromkeys(sites), site, f"site in published_sites.{role}")
        if self.train_site is not None:
            rule = f"be a site of timelines_dir ({', '.join(sites)})"
            require(self.train_site in sites, "train_site", self.train_site, rule, "name one of these")
        if self.timelines.site is not None:
            rule = f"be a site of timelines_dir ({', '.join(sites)})"
            require(self.timelines.site in sites, "timelines.site", self.timelines.site, rule, "name one of these")

    @property
    def level(self) -> str:
        """`confidence_level` in words, `95 %`."""
        return f"{100 * self.confidence_level:g}\N{NO-BREAK SPACE}%"

    @property
    def level_ci(self) -> str:
        """Words for an interval in a heading, `95 % CI`."""
        return f"{self.level}\N{NO-BREAK SPACE}CI"

    @property
    def few_events(self) -> int:
        """Numbers from stays of fewer patients with the event, or without, are marked."""
        return self.min_cell_count or MIN_CELL_COUNT

    @property
    def fitted_site(self) -> str:
        """The site whose train split the probes are fitted on."""
        assert self.train_site is not None
        return self.train_site


_LEAST = {
    "num_bootstraps": 20,
    "min_events_for_estimate": 1,
    "min_events_for_interval": 1,
    "num_calibration_bins": 2,
    "min_cell_count": 0,
    "min_events_for_recalibration": 1,
}
