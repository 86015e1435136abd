"""Settings of the known-risk report."""

from __future__ import annotations

from dataclasses import dataclass, field

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.model_config import AnomalyConfig  # noqa: F401  # jsonargparse looks it up here
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
    count_c: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1])
    """Inverse strengths of the L2 penalty to try for the count baseline; the best on val is taken."""

    def __post_init__(self) -> None:
        """Refuse several sites and an empty choice of penalties."""
        super().__post_init__()
        sites = list(self.timelines_dir)
        require(len(sites) == 1, "timelines_dir", self.timelines_dir, "name one site", "drop the others")
        is_fine = bool(self.count_c) and all(c > 0 for c in self.count_c)
        require(is_fine, "count_c", self.count_c, "hold numbers above 0", "use [0.001, 0.01]")
