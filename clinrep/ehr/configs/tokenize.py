"""Settings of stage 00 for hospital records: cohort, event sources, tokens, outcomes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from clinrep.config import StageConfig, lookup, require
from clinrep.ehr.configs.sources import EdgeToken, EventSource, Spelling, UnitRule

PAD_TOKEN = "PAD"  # fills batches; never in a timeline
MANUSCRIPT_OUTCOMES = ("in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event")


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """The part of a timeline that a prediction may use."""

    origin: Literal["admission", "first_event"] = "admission"
    """When the clock starts; first_event is the earlier of admission and the first event."""
    length_hours: float = 24.0
    """index_time = origin + this."""
    is_end_closed: bool = False
    """Whether what happens exactly at index_time is seen."""

    def __post_init__(self) -> None:
        """Refuse a window without length or without end."""
        is_fine = 0 < self.length_hours < float("inf")
        require(is_fine, "window.length_hours", self.length_hours, "be above 0 and finite", "use 24")


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig(StageConfig):
    """Settings of 00_tokenize.py for CLIF tables."""

    clif_dir: str
    """Folder with the CLIF tables as clif_<table>.parquet."""
    sources: list[EventSource]
    """Event sources; at one instant, events stand in this order, and those without time_column come last."""
    static_tokens: list[EdgeToken]
    """Tokens every timeline starts with."""
    discharge_tokens: list[EdgeToken]
    """Tokens every timeline ends with."""
    unit_rules: list[UnitRule] = field(default_factory=list)
    """Units of this site to rename or convert before anything is learned or looked up, each counted in the ledger."""
    tokenizer_dir: str | None = None
    """A finished stage-00 directory whose vocabulary and quantiles are applied; nothing is learned."""
    splits_path: str | None = None
    """An existing splits.parquet; null splits patients by first admission."""
    train_fraction: float = 0.7
    """Share of patients, in order of first admission, in train."""
    val_fraction: float = 0.1
    """Share of patients after those in val; the rest is test."""
    admission_window: list[str] | None = None
    """Two dates or times [first, last], UTC: only stays admitted between them, both ends included.

    A date stands for its midnight, as in the manuscript's code.
    """
    min_age_years: float = 18.0
    """Stays of younger patients are left out."""
    min_length_of_stay_hours: float = 24.0
    """Shorter stays get no timeline (after splits and tokenizer are made); 0 keeps all."""
    window: WindowConfig = field(default_factory=WindowConfig)
    """Observation window."""
    length_filter: Literal["stay", "timeline"] = "stay"
    """What min_length_of_stay_hours measures: admission to discharge, or the first to the last token's time."""
    keep_without_events: bool = True
    """Whether a stay without any event gets a timeline (of static and discharge tokens)."""
    keep_without_patient: bool = True
    """Whether a stay whose patient has no row gets a timeline (demographics missing)."""
    edge_time_sources: list[str] | None = None
    """Sources whose events move the edge tokens: the static ones are stamped min(admission, first such event), the
    discharge ones max(discharge, last such event). null: all sources, so that times never go backwards."""
    learn_from_untimed: bool = False
    """Whether rows dropped for want of a time take part in the vocabulary and the edges all the same."""
    duplicate_patients: Literal["error", "first"] = "error"
    """What several rows of one patient that differ mean: an error, or that the first row of the file counts."""
    normalize: Spelling = "snake_case"
    """How categories are spelled: lower snake_case with the names of CLIF 3.0, lower case only, or as they are."""
    token_style: Literal["separate", "fused"] = "separate"
    """An event with a value is two tokens (LAB_sodium, Q3), or one (LAB_sodium_Q3; of a category KEY=value)."""
    gap_minutes: list[float] = field(default_factory=list)
    """Least lengths, ascending, of the gaps that get a token: before an event that follows the one before it
    (or the static tokens) after 60 minutes or more, but less than the next length, stands GAP_60m with the
    event's time. Empty: none."""
    clock_hours: int = 0
    """Length of the parts of the day that get a token: 6 puts CLOCK_00, CLOCK_06, CLOCK_12 or CLOCK_18 before the
    first event of every new part. 0: none."""
    clock_offset_hours: float = 0.0
    """Hours to add to UTC to read the clock at the bedside."""
    num_bins: int = 10
    """Bins of a numeric value, named Q0, Q1, ...; 10 are deciles."""
    quantiles_include_infinite: bool = False
    """Whether infinite values take part in the edges (they are missing values in timelines all the same)."""
    unknown_token: str = "UNK"
    """Token of a category, or of the bin of a value, that train did not have."""
    missing_value_token: str = "MISSING_VALUE"
    """{value} of a numeric value that is null, NaN or infinite."""
    missing_category: str = "missing"
    """{category} of a null category that is kept."""
    bin_without_edges: Literal["unknown", "last"] = "unknown"
    """Bin of a number whose category train has, but never with a number: unknown_token, or the last bin."""
    outcomes: list[str] = field(default_factory=lambda: list(MANUSCRIPT_OUTCOMES))
    """Outcomes to label, by name in clinrep/ehr/outcomes.py; as a default, the four of the manuscript."""
    death_follow_up_days: float | None = None
    """Days after discharge over which the site's death dates are complete (MIMIC-IV: 365). null: only a later sign of
    life shows that a patient survived."""
    unknown_discharges: list[str] = field(default_factory=list)
    """Words of discharge_category, besides null, that tell nothing: [Missing] leaves these stays out of the outcomes
    that are read from it. By default they count as discharges like any other, with a warning."""
    subjects_per_part: int = 2_000
    """Stays per timelines/<split>/part-*.parquet."""
    memory_gb: float = 4.0
    """Memory (1e9 bytes) to stay within; more events than fit are kept in files under output_dir meanwhile."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        super().__post_init__()
        for name in ("train_fraction", "val_fraction"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "be in [0, 1]", "use 0.7 and 0.1")
        total = self.train_fraction + self.val_fraction
        require(total <= 1, "train_fraction + val_fraction", total, "be at most 1", "lower one of them")
        require(2 <= self.num_bins <= 1000, "num_bins", self.num_bins, "be in 2 to 1000", "use 10")
        require(self.min_age_years >= 0, "min_age_years", self.min_age_years, "be 0 or more", "use 18")
        hours = self.min_length_of_stay_hours
        require(hours >= 0, "min_length_of_stay_hours", hours, "be 0 or more", "use 24, or 0 to keep all stays")
        require(self.subjects_per_part >= 1, "subjects_per_part", self.subjects_per_part, "be 1 or more", "use 2000")
        # a stay may have no event in the window, and no model reads an empty sequence
        statics = [edge.token for edge in self.static_tokens]
        require(bool(statics), "static_tokens", statics, "hold at least one token", "start with {token: TL_START}")
        self._check_sources()
        outcomes = self.outcomes
        require(len(set(outcomes)) == len(outcomes), "outcomes", outcomes, "name each outcome once", "drop one")
        days = self.death_follow_up_days
        is_fine = days is None or 0 <= days <= 36_500
        require(is_fine, "death_follow_up_days", days, "be null or in 0 to 36,500", "use 365 for MIMIC-IV, or null")
        self._check_special_tokens()
        self._check_time_tokens()
        require(1 <= self.memory_gb <= 1e5, "memory_gb", self.memory_gb, "be in 1 to 100,000", "use 4")
        if self.admission_window is not None:
            parse_window(self.admission_window)

    def _check_sources(self) -> None:
        names = [source.name for source in self.sources]
        require(bool(names), "sources", names, "declare at least one event source", "see configs/ehr")
        require(len(set(names)) == len(names), "sources", names, "have different names", "rename one")
        for name in self.edge_time_sources or []:
            lookup(dict.fromkeys(names), name, "source in edge_time_sources")
        has_untimed = any(source.time_column is None for source in self.sources)
        is_last = self.edge_time_sources is None or not has_untimed
        remedy = "leave it out, or drop the sources without time_column"
        require(is_last, "edge_time_sources", self.edge_time_sources, "be null with such sources", remedy)
        for unit_rule in self.unit_rules:
            lookup(dict.fromkeys(names), unit_rule.source, "source in unit_rules")
        is_timed = [source.time_column is not None for source in self.sources]
        rule = "name those without time_column last: that is where their events stand"
        require(is_timed == sorted(is_timed, reverse=True), "sources", names, rule, "move them down")

    def _check_time_tokens(self) -> None:
        gaps = self.gap_minutes
        is_rising = all(0 < low < high for low, high in itertools.pairwise([*gaps, float("inf")]))
        require(is_rising, "gap_minutes", gaps, "be lengths above 0 in rising order", "write [5, 15, 60]")
        is_part = self.clock_hours == 0 or (0 < self.clock_hours <= 24 and 24 % self.clock_hours == 0)
        require(is_part, "clock_hours", self.clock_hours, "be 0 or divide 24", "use 6")
        offset = self.clock_offset_hours
        require(-24 <= offset <= 24, "clock_offset_hours", offset, "be between -24 and 24", "use -5 for UTC-5")

    def _check_special_tokens(self) -> None:
        special = [self.unknown_token, self.missing_value_token]
        require(all(special), "unknown_token, missing_value_token", special, "not be empty", "name them")
        fixed = [edge.token for edge in [*self.static_tokens, *self.discharge_tokens]]
        is_free = PAD_TOKEN not in [*special, *fixed]
        require(is_free, "tokens", [*special, *fixed], f"not hold {PAD_TOKEN}, which fills batches", "rename it")


def parse_window(window: Sequence[str]) -> tuple[datetime, datetime]:
    """Return [first, last] of `admission_window` as times without zone (UTC)."""
    rule, remedy = "be two dates or times in order", "write ['2020-03-01', '2022-03-01']"
    require(len(window) == 2, "admission_window", list(window), rule, remedy)
    try:
        first, last = (datetime.fromisoformat(text) for text in window)
    except ValueError as error:
        raise ValueError(f"admission_window is {list(window)!r} but must {rule}; {remedy}") from error
    has_zone = first.tzinfo is not None or last.tzinfo is not None
    require(not has_zone and first <= last, "admission_window", list(window), rule + ", without zone", remedy)
    return first, last
