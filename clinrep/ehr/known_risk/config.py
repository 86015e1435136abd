"""Settings of the known-risk report."""

from __future__ import annotations

from dataclasses import dataclass

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.dynamics_config import EmbeddingConfig, RiskFigureConfig, TrajectoryConfig  # noqa: F401
from clinrep.analysis.model_config import (  # noqa: F401  # jsonargparse looks them up here
    AnomalyConfig,
    BaselineConfig,
    LightGbmConfig,
    LogisticRegressionCvConfig,
    MapsConfig,
    NearestNeighborsConfig,
)
from clinrep.analysis.timeline_config import TimelinesConfig  # noqa: F401
from clinrep.config import require


@dataclass(frozen=True, kw_only=True)
class KnownRiskConfig(AnalyzeConfig):
    """Settings of the known-risk report: those of stage 04 for one simulated site, and where the truth is."""

    simulate_dir: str
    """Finished directory of `python -m clinrep.ehr.simulate`: the tables the timelines were made of, and the truth."""
    zero_shot_dir: str | None = None
    """Finished directory of 03_extract_reps.py with zero-shot probabilities of test stays; null: none."""
    backbone_dir: str | None = None
    """Directory of 01_pretrain.py, only to say how long it took; null: not said."""

    def __post_init__(self) -> None:
        """Refuse several sites."""
        super().__post_init__()
        sites = list(self.timelines_dir)
        require(len(sites) == 1, "timelines_dir", self.timelines_dir, "name one site", "drop the others")
