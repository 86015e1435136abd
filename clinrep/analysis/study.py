"""What stage 04 has read, fitted and scored when it writes, and what a section of the report holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.drawing import DrawnFigure
from clinrep.analysis.inputs import Site
from clinrep.analysis.people import People, count_class_patients, count_people
from clinrep.analysis.probes import FittedProbe, Predicted
from clinrep.analysis.stay_inputs import StayInputs
from clinrep.analysis.tables import PrintedTable

T = TypeVar("T")


@dataclass(frozen=True)
class Study:
    """Everything the sections of the report are made of."""

    config: AnalyzeConfig
    directory: Path
    """The run directory; figures go to `figures/` in it."""
    sites: list[Site]
    outcomes: list[str]
    probes: list[FittedProbe]
    predicted: list[Predicted]
    anomalies: pl.DataFrame
    """What `score_anomalies` returns."""
    scores: pl.DataFrame
    """What `score_predictions` returns."""
    inputs: dict[str, StayInputs] = field(default_factory=dict)
    """What the modality reads of each site's timelines; {} where no setting needs it."""
    leaks: pl.DataFrame | None = None
    """What the modality's audit found at each site: site, severity, check, outcome, token, num_subjects, detail."""

    @cached_property
    def people(self) -> People:
        """Which numbers of stays, of labelled ones and of events all tables and figures hide alike."""
        return count_people(self.sites, self.outcomes, self.anomalies, self.config)

    @cached_property
    def class_patients(self) -> pl.DataFrame:
        """What `count_class_patients` returns."""
        return count_class_patients(self.sites, self.outcomes, self.anomalies, self.config)

    @cached_property
    def made(self) -> dict[Callable[[Study], Any], Any]:
        """What functions under `compute_once` returned of this study."""
        return {}

    def say_where(self, site: str) -> str:
        """Return `, site NAME` for the title of a figure; '' where there is one site."""
        return f", site {site}" if len(self.sites) > 1 else ""

    @property
    def figures_dir(self) -> Path:
        """Folder of the figures."""
        return self.directory / "figures"


def compute_once(make: Callable[[Study], T]) -> Callable[[Study], T]:
    """Return a function whose answer to a study is kept in it: several sections show the same numbers."""

    @wraps(make)
    def look_up(study: Study) -> T:
        if make not in study.made:
            study.made[make] = make(study)
        found: T = study.made[make]
        return found

    return look_up


@dataclass(frozen=True)
class Section:
    """One section of the report: its words, tables and figures in order."""

    name: str
    """Anchor on the page, as in `SECTIONS`."""
    title: str
    text: str = ""
    """Plain words above the tables; an empty section with words says why there is nothing."""
    tables: list[PrintedTable] = field(default_factory=list)
    figures: list[DrawnFigure] = field(default_factory=list)
    inputs: tuple[str, ...] = ("timelines_dir", "representations_dir", "predictions_dir")
    """Groups of input directories that it is made from."""
    links: dict[str, str] = field(default_factory=dict)
    """Other pages in the run directory -> words of the link."""
